"""Train under mpirun, from the last checkpoint if there is one, as the fault policy says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.plan import Step
from engine.recovery import with_policy
from engine.steps.context import Context, run_step_worker
from engine.steps.train_over_hosts import train_over_hosts
from engine.store import empty_folder
from engine.work import jobs_folder
from hosts import mpi
from hosts.inventory import LOCAL


def run(context: Context, step: Step, output: Path) -> dict[str, Any]:
    """Train the model; checkpoints lie in the run folder and survive anything but `clean`."""
    checkpoints = context.folder.path / "checkpoints" / step.id
    checkpoints.mkdir(parents=True, exist_ok=True)

    def attempt() -> dict[str, Any]:
        empty_folder(output)  # of what a lost attempt has left
        return _train(context, step, checkpoints, output)

    return with_policy(context, step, attempt)


def _train(context: Context, step: Step, checkpoints: Path, output: Path) -> dict[str, Any]:
    """One attempt."""
    ranks = int(step.settings["ranks"])
    if context.cluster != LOCAL:
        return train_over_hosts(
            context, step, training_spec(context, step, ranks), checkpoints, output
        )
    meeting = jobs_folder() / f"{context.folder.tag}.{step.id}.{context.attempt}.rendezvous"
    meeting.unlink(missing_ok=True)
    spec = {
        **training_spec(context, step, ranks),
        "data": str(context.output_of("etl")),
        "output": str(output),
        "checkpoints": str(checkpoints),
        "threads": mpi.plan_layout(context.facts, ranks).threads,
        "rendezvous": f"file://{meeting}",
    }
    try:
        return run_step_worker(context, step, spec, ranks=ranks)
    finally:
        meeting.unlink(missing_ok=True)


def training_spec(context: Context, step: Step, ranks: int) -> dict[str, Any]:
    """The worker's spec but for what depends on where the ranks lie."""
    return {
        "ipex": step.environment == "ipex",
        "model": step.settings["model"],
        "settings": step.settings["settings"],
        "checkpoint_s": float(context.value("train.checkpoint_s")),
        "ranks": ranks,
        "seed": step.settings["seed"],
        "goal": step.settings["goal"],
    }
