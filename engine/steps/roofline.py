"""Measure what the machine can do at most; training and inference are shown beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.plan import Step
from engine.steps.context import Context, run_step_worker


def run(context: Context, step: Step, output: Path) -> dict[str, Any]:
    """The peaks of all cores of the run; the cache keeps them for this host and torch."""
    return run_step_worker(context, step, {"threads": len(step.settings["cores"])})
