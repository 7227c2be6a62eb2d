"""`python -m models.train spec.json`: one training, by 1..n ranks. The keys: models/README.md.

The story: join the other ranks, make the task, go on from a checkpoint if there is one, train,
write the best weights. Rank 0 writes, and each rank its own part of a checkpoint where tables are
spread over the ranks; the test split is never read.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from models import catalog, checkpoint, cpu, dist, ipex
from models.api import ModelSpec
from models.loop import SIGNALS, Loop, Plan, Progress
from models.messages import Messenger, Note, Workload
from models.settings import Value, resolve
from models.worker import InputProblem, StopFlag, run


def train(spec: dict[str, Any], messenger: Messenger, stop: StopFlag) -> dict[str, Any]:
    """One training as spec.json says; the values of the result on rank 0."""
    model, settings = model_settings(spec)
    extension = ipex.load(bool(spec.get("ipex")))
    cpu.prepare(int(spec["threads"]), keep_memory=bool(settings["keep_memory"]))
    with dist.joined(int(spec["ranks"]), spec.get("rendezvous")) as ranks:
        make = import_module(f"models.{model.name}.task").TASK
        task = make(settings, spec["data"], int(spec["seed"]), ranks, SIGNALS)
        if not task.rows("train").rows:
            raise InputProblem(f"{spec['data']} has no training rows", todo="check the split")
        if extension:
            task.accelerate(extension)
        if ranks.rank == 0:
            with_it = f", with {extension.note}" if extension else ""
            text = f"computes in {task.precision}: {task.precision_reason}{with_it}"
            messenger.send(Note(text=text))
            if task.placed():
                messenger.send(Note(text=task.placement.sentence()))
        made = plan(spec, model, settings, task.rows("train").rows)
        work = task.workload()
        flops = made.batch_size / ranks.size * work.flops_per_row
        torch.set_num_threads(cpu.worthwhile_threads(int(spec["threads"]), flops))
        if ranks.rank == 0 and made.batch_size != settings["batch_size"]:
            messenger.send(Note(text=f"batch of {made.batch_size} rows, for min_steps"))
        if ranks.rank == 0:
            messenger.send(work)
        loop = Loop(task, made, ranks, messenger, stop, Path(spec["checkpoints"]))
        loop.resume()
        progress = loop.run()
        best, output = loop.best_weights(), Path(spec["output"])
        sha256 = checkpoint.write_weights(output, best, ranks, task.placed())
        peak = torch.tensor([cpu.peak_rss_gib()])
        ranks.sum(peak)
        if ranks.rank:
            return {}
        messenger.send(Note(text=f"training ended: {progress.stop_reason}"))
        values = {
            **result(task, best, progress, work), "weights_sha256": sha256,
            "mean_step": loop.clock.result(), "peak_rss_gib": float(peak),
        }  # fmt: skip
        described = {
            "version": 1, "model": model.name, "settings": settings, **task.describe(),
            "seed": spec["seed"], "metrics": {"valid": values["best"]["valid"]},
            "weights_sha256": sha256,
            "versions": {"python": platform.python_version(), "torch": str(torch.__version__),
                         "ipex": extension.version if extension else None},
        }  # fmt: skip
        checkpoint.write_model(output, described)
        return values


def model_settings(spec: dict[str, Any]) -> tuple[ModelSpec, dict[str, Value]]:
    """The model of a spec and all its settings; InputProblem names every unknown or bad one."""
    if spec["model"] not in catalog.names():
        raise InputProblem(f"unknown model {spec['model']}", todo=f"valid: {catalog.names()}")
    model = catalog.load(spec["model"])
    settings, problems = resolve(model.settings, spec.get("settings") or {})
    if problems:
        raise InputProblem("; ".join(problems), todo="mend the settings")
    return model, settings


def plan(spec: dict[str, Any], model: ModelSpec, settings: dict[str, Any], rows: int) -> Plan:
    """How long to train and when to save, from the spec's goal, the settings and the rows."""
    goal = spec.get("goal") or {}
    names = ("epochs", "evals_per_epoch", "patience", "warmup", "decay", "prefetch")
    batch_size = int(settings["batch_size"])
    while batch_size > 1 and -(-rows // batch_size) < settings["min_steps"]:
        batch_size //= 2
    return Plan(
        **{name: settings[name] for name in names}, batch_size=batch_size,
        learning_rate=float(settings["learning_rate"]), seed=int(spec["seed"]),
        metric=model.metric(goal.get("metric") or "auc"), target=goal.get("target"),
        minutes=goal.get("minutes"), checkpoint_s=float(spec["checkpoint_s"]),
    )  # fmt: skip


def result(
    task: Any, weights: Mapping[str, torch.Tensor], progress: Progress, work: Workload
) -> dict[str, Any]:
    """The figures the step ends with, but for the hash of the weights."""
    placed = task.placed()
    rows = {name: placed[name].rows if name in placed else len(weights[name]) for name in weights}
    training = progress.seconds - progress.eval_seconds - progress.save_seconds
    return {
        "best": progress.best or {"step": progress.step, "epoch": None, "valid": {}},
        "steps": progress.step, "rows": progress.rows,
        "seconds": progress.seconds, "cpu_seconds": progress.cpu_seconds,
        "rows_per_second": progress.rows / training, "eval_seconds": progress.eval_seconds,
        "parameters": sum(rows[name] * tensor[0].numel() for name, tensor in weights.items()),
        "stop_reason": progress.stop_reason, **asdict(work),
        "placement": task.placement.describe(),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(run(train))
