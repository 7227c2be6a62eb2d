"""Turn the trained model into a bundle for inference, and measure it beside the eager model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.plan import Step
from engine.steps.context import Context, run_step_worker
from engine.store import cache_folder


def run(context: Context, step: Step, output: Path) -> dict[str, Any]:
    """Export; refused forms and their reasons are part of the result."""
    spec = {
        "ipex": step.environment == "ipex",
        "model": context.plan.model,
        "data": str(context.output_of("etl")),
        "weights": str(context.output_of(context.plan.training.id)),
        "dataset": step.settings["dataset"],
        "output": str(output),
        "threads": len(context.facts.cores),
        "max_metric_drop": step.settings["max_metric_drop"],
        "metric": step.settings["metric"],
    }
    result = run_step_worker(context, step, spec)
    result["bundle"] = str(cache_folder() / step.identity)  # where it lies once it is whole
    return result
