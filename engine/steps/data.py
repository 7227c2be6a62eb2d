"""Make data: a generator of the model writes the true public format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.plan import Step
from engine.steps.context import Context, run_step_worker


def run(context: Context, step: Step, output: Path) -> dict[str, Any]:
    """Generate the data set; the result says what a perfect model could reach on it."""
    spec = {
        "rows": step.settings["rows"],
        "seed": step.settings["seed"],
        "split": step.settings["split"],
        "output": str(output),
        "cores": len(context.facts.cores),
        "settings": {},
    }
    return run_step_worker(context, step, spec)
