"""The training worker with a rank 1 that is slow: each of its steps takes 15 ms more."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from models import worker
from models.dlrm.task import TASK
from models.train import train

plain = TASK.step


def step(self: Any, *arguments: Any) -> Any:
    """A step, after a while on rank 1."""
    if os.environ["PMI_RANK"] == "1":
        time.sleep(0.015)
    return plain(self, *arguments)


if __name__ == "__main__":
    TASK.step = step  # type: ignore[method-assign]
    sys.exit(worker.run(train))
