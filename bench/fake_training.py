"""Stands in for `models/train.py` where the engine is tried, not a model: it sleeps instead.

A real worker otherwise: it streams its metric, saves a checkpoint after each step and goes on from
it, obeys a stop, and ends with an output, an outcome and a result. Standard library only.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.messages import Messenger, Saved, Scalar
from models.worker import StopFlag, run

STEPS = 10


def auc(settings: Mapping[str, Any]) -> float:
    """What a trial comes to: the model's learning rate and table width decide."""
    rate, width = float(settings["learning_rate"]), int(settings["embedding_size"])
    return round(0.9 - abs(rate - 0.03) - width / 10_000, 9)


def _save(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(text)
    os.replace(scratch, path)


def train(spec: dict[str, Any], messenger: Messenger, stop: StopFlag) -> dict[str, Any]:
    """Count to STEPS, from the last checkpoint on."""
    saved, output = Path(spec["checkpoints"]) / "step", Path(spec["output"])
    began = int(saved.read_text()) if saved.exists() else 0
    pause_s = float(Path(spec["data"], "pause_s").read_text())
    best = auc(spec["settings"])
    for step in range(began + 1, STEPS + 1):
        stop.check()
        time.sleep(pause_s)
        value = best * step / STEPS
        messenger.send(Scalar(name="auc", value=value, split="valid", step=step, rows=100 * step))
        _save(saved, str(step))
        messenger.send(Saved(path=str(saved), step=step))
    _save(output / "model.json", json.dumps({"settings": spec["settings"], "auc": best}))
    return {"best": {"step": STEPS, "valid": {"auc": best}}, "steps": STEPS, "began": began}


if __name__ == "__main__":
    code = run(train)
    if code == 0:  # a trial that is here twice was run again after its end
        arguments = json.loads(Path(sys.argv[1]).read_text())
        with open(Path(arguments["data"], "ended"), "a") as ledger:
            ledger.write(str(Path(arguments["output"]).parent.parent.name) + "\n")
    sys.exit(code)
