"""What an engine at an address of the user's needs of us: our code, and the sight of our files.

Whatever runs there reads the data and reads and writes below `work` and `output`, on whichever of
its hosts a task comes to.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import models
from models.recdp.tasks import Batches, TaskFunction, result
from models.worker import InputProblem


def carried(function: TaskFunction) -> TaskFunction:
    """The same task for a server that was started without our code: it loads it where it lies.

    A nested function travels by value and knows no module of ours; the task itself travels as bytes
    that are read once our code can be found. A server that has another version of it lets it go.
    """
    from pyspark import cloudpickle

    code, packed = str(Path(models.__file__).parents[1]), cloudpickle.dumps(function)

    def run(batches: Batches) -> Batches:
        import sys

        from pyspark import cloudpickle

        loaded = sys.modules.get("models")
        if loaded is None or not str(loaded.__file__).startswith(f"{code}/"):
            for name in [n for n in sys.modules if n.partition(".")[0] == "models"]:
                del sys.modules[name]
            sys.path.insert(0, code)
        yield from cloudpickle.loads(packed)(batches)

    return run


def sight_task(paths: Sequence[str]) -> TaskFunction:
    """Where a task runs, and which of the paths it does not see there."""

    def run(batches: Batches) -> Batches:
        for batch in batches:
            for number in batch.column(0).to_pylist():
                unseen = [path for path in paths if not os.path.exists(path)]
                yield result(number, {"host": platform.node(), "unseen": unseen})

    return run


def mark(folder: Path) -> Path:
    """A file whose name nobody else has: who sees it sees this very folder."""
    path = folder / f"seen-{uuid4().hex}"
    path.touch()
    return path


def refuse_blind(address: str, answers: Sequence[dict[str, object]]) -> None:
    """InputProblem when a task at the address did not see all paths of sight_task."""
    for answer in answers:
        unseen = answer["unseen"]
        if isinstance(unseen, list) and unseen:
            raise InputProblem(
                f"{address}: {answer['host']} there does not see {unseen[0]}",
                "what runs there reads and writes the same files as this machine",
                "put AIOK_HOME and the data on storage that all its hosts have at the same path, or"
                " leave etl.address out",
            )
