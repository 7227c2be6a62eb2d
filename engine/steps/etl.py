"""Prepare data: raw files to training blocks, on the embedded engine or on Apache Spark."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from engine.plan import Step
from engine.recovery import with_policy
from engine.steps.context import Context, run_step_worker
from engine.steps.etl_over_hosts import etl_over_hosts
from engine.store import empty_folder
from hosts.inventory import LOCAL


def run(context: Context, step: Step, output: Path) -> dict[str, Any]:
    """Run the model's ETL; its plan for each join is part of the result."""
    plain = {"split": step.settings["split"], "settings": step.settings["settings"]}
    if step.host != LOCAL:

        def attempt() -> dict[str, Any]:
            empty_folder(output)  # of what a lost attempt has left
            return etl_over_hosts(context, step, plain, output)

        return with_policy(context, step, attempt)
    paths = (
        [str(context.output_of("data"))]
        if "data" in step.needs
        else [entry["path"] for entry in context.plan.data]
    )
    work = context.work_folder(step)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    spec = {
        **plain,
        "dataset": {**step.settings["dataset"], "paths": paths},
        "engine": context.value("etl.engine"),
        "address": context.value("etl.address"),
        "cores": len(context.facts.cores),
        "memory_gib": round(context.facts.memory_free_gib * 0.6, 2),
        "work": str(work),
        "output": str(output),
    }
    try:
        return run_step_worker(context, step, spec)
    finally:
        shutil.rmtree(work, ignore_errors=True)
