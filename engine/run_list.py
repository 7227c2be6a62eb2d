"""The list of runs: one line for each run folder."""

from __future__ import annotations

import time
from dataclasses import dataclass

from engine.state import RunState, RunStatus
from engine.store import RunFolder, run_folders


@dataclass(frozen=True)
class RunSummary:
    """One line of the list of runs."""

    id: str
    recipe: str
    status: RunStatus
    step: str
    progress: float | None
    best: str
    eta_s: float | None
    created: float
    ended: float | None


def summaries() -> list[RunSummary]:
    """All runs, newest first; a damaged one is listed, never hides the others."""
    found = []
    for path in run_folders():
        now = RunFolder(path).state()
        current = now.current
        found.append(
            RunSummary(
                id=path.name,
                recipe=now.recipe,
                status=now.status,
                step=current.id if current else "",
                progress=_progress(now),
                best=_best(now),
                eta_s=current.eta_s(time.time()) if current else None,
                created=now.created or path.lstat().st_ctime,
                ended=now.ended,
            )
        )
    return found


def _progress(now: RunState) -> float | None:
    """Whole steps plus the part of the current one, of all steps."""
    if not now.steps:
        return None
    whole = sum(step.status.is_whole for step in now.steps.values())
    current = now.current
    part = (current.fraction or 0.0) if current else 0.0
    return min(1.0, (whole + part) / len(now.steps))


def _best(now: RunState) -> str:
    """The figure to show in a list: the test metric, else the best valid one so far."""
    tested = now.result("evaluate").get("auc")
    if isinstance(tested, int | float):
        return f"auc {tested:.4f}"
    curve = now.curves.get(("auc", "valid"))
    return f"auc {max(point.value for point in curve):.4f} valid" if curve else ""
