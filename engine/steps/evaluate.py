"""Score the test rows, once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.plan import Step
from engine.steps.context import Context, run_step_worker


def run(context: Context, step: Step, output: Path) -> dict[str, Any]:
    """The test metric, beside what a perfect model could reach where that is known."""
    spec = {
        "ipex": step.environment == "ipex",
        "model": context.plan.model,
        "data": str(context.output_of("etl")),
        "weights": str(context.output_of(context.plan.training.id)),
        "split": step.settings["split"],
        "output": str(output),
        "threads": len(context.facts.cores),
        "batch_size": 4096,
        "truth": str(context.output_of("data")) if "data" in step.needs else None,
    }
    return run_step_worker(context, step, spec)
