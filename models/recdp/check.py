"""Whether a data set is what it says: `python -m models.recdp.check spec.json`.

Reads every line in the same strict way as the ETL. Any problem ends the worker with exit code 2
and the list of the first `limit` problems.
"""

from __future__ import annotations

import sys
from typing import Any

from models.messages import Messenger, Note, Progress
from models.recdp.chunk import read_chunks
from models.recdp.pool import in_processes
from models.recdp.problems import LISTED, Problems, collect, refuse
from models.recdp.sources import Dataset, Unit, plan_units
from models.worker import InputProblem, StopFlag, run


def check_unit(dataset: Dataset, unit: Unit, limit: int) -> dict[str, Any]:
    """Read one unit; runs in a process of its own."""
    problems, rows, lines, positives = Problems(limit), 0, 0, 0
    for chunk, read in read_chunks(dataset, unit, problems):
        rows += chunk.rows
        positives += int(chunk.label.sum())
        lines += read
    found = problems.to_json(unit.file)
    return {"rows": rows, "lines": lines, "positives": positives, "problems": found}


def check(spec: dict[str, Any], messenger: Messenger, stop: StopFlag) -> dict[str, Any]:
    """The worker: rows and problems (none, else InputProblem)."""
    dataset = Dataset.parse(spec["dataset"])
    limit = int(spec.get("limit") or LISTED)
    units = plan_units(dataset)
    lines: dict[str, int] = {}
    rows = done = positives = 0
    found = []
    pieces = [(dataset, unit, limit) for unit in units]
    results = in_processes(check_unit, pieces, int(spec.get("cores") or 1), stop)
    for unit, result in zip(units, results, strict=True):
        first = lines.get(unit.file, 0)
        for problem in result["problems"]["listed"]:
            problem["line"] += first if problem["line"] else 0
        lines[unit.file] = first + result["lines"]
        rows += result["rows"]
        positives += result["positives"]
        done += unit.size
        found.append(result["problems"])
        messenger.send(Progress(phase="check", done=done, total=dataset.bytes, unit="bytes"))
    refuse(collect(found, limit))
    if not rows:
        raise InputProblem(f"{units[0].file}: the file holds no rows")
    if positives in (0, rows) and (dataset.columns is None or dataset.columns.label is not None):
        only = f"all {rows:,} rows have the label {int(positives > 0)}: nothing to learn from"
        messenger.send(Note(level="warning", text=only))
    return {"rows": rows, "problems": []}


if __name__ == "__main__":
    sys.exit(run(check))
