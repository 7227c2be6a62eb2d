"""The report's content as one JSON document; the page is drawn from it and from nothing else.

So the page and report.json cannot differ. Every figure carries the machine, the data and the
command it came from.
"""

from __future__ import annotations

import json
import shlex
import time
from dataclasses import asdict, dataclass
from typing import Any

from engine import estimates
from engine.errors import InputError
from engine.hpo.results import judged, planned_search
from engine.plan import from_json
from engine.report import search, telemetry
from engine.report.plaintext import as_dict, as_dicts, number, plain_tree, show
from engine.roofline import rooflines
from engine.state import RunState, RunStatus, StepState, StepStatus
from engine.store import RunFolder, folder_gib

VERSION = 1
REPORT_KIND = "report"


@dataclass(frozen=True)
class FigureSource:
    """Where a figure lies: key `key` in the result of the step of kind `kind`."""

    name: str
    title: str
    kind: str
    key: str
    unit: str = ""
    split: str = ""
    headline: bool = False


FIGURES: tuple[FigureSource, ...] = (
    FigureSource("test_auc", "AUC on the test rows", "evaluate", "auc", "auc", "test", True),
    FigureSource("ceiling_auc", "AUC ceiling of the test rows", "evaluate", "ceiling_auc",
                 "auc", "test", True),
    FigureSource("bayes_auc", "AUC of the true probabilities", "evaluate", "bayes_auc", "auc",
                 "test"),
    FigureSource("test_logloss", "log loss on the test rows", "evaluate", "logloss", "nats",
                 "test"),
    FigureSource("valid_auc", "best AUC on the validation rows", "train", "best.valid.auc", "auc",
                 "valid"),
    FigureSource("valid_logloss", "log loss at the best validation", "train",
                 "best.valid.logloss", "nats", "valid"),
    FigureSource("matmul_peak_fp32", "matmul peak, fp32", "roofline", "matmul_gflops.fp32",
                 "GFLOP/s"),
    FigureSource("matmul_peak_bf16", "matmul peak, bf16", "roofline", "matmul_gflops.bf16",
                 "GFLOP/s"),
    FigureSource("matmul_peak_int8", "matmul peak, int8", "roofline", "matmul_gflops.int8",
                 "GFLOP/s"),
    FigureSource("memory_peak", "memory peak", "roofline", "memory_gb_per_s", "GB/s"),
    FigureSource("etl_rows_per_second", "ETL throughput", "etl", "rows_per_second", "rows/s",
                 "all"),
    FigureSource("etl_peak_memory", "ETL peak memory", "etl", "peak_rss_gib", "GiB", "all"),
    FigureSource("train_rows_per_second", "training throughput", "train", "rows_per_second",
                 "rows/s", "train", True),
    FigureSource("train_seconds", "training time without evaluations", "train", "seconds", "s",
                 "train"),
    FigureSource("train_eval_seconds", "time in validations", "train", "eval_seconds", "s",
                 "valid"),
    FigureSource("train_rows", "rows trained on, over all epochs", "train", "rows", "rows",
                 "train"),
    FigureSource("train_steps", "training steps", "train", "steps", "", "train"),
    FigureSource("parameters", "parameters of the model", "train", "parameters", "", "train"),
    FigureSource("train_peak_memory", "training peak memory, all ranks", "train", "peak_rss_gib",
                 "GiB", "train"),
    FigureSource("inference_rows_per_second", "inference throughput of the export", "optimize",
                 "rows_per_second", "rows/s", "valid", True),
    FigureSource("inference_rows_per_second_eager", "inference throughput before export",
                 "optimize", "rows_per_second_eager", "rows/s", "valid"),
    FigureSource("inference_rows_per_second_eager_streams",
                 "inference throughput before export, batches in parallel", "optimize",
                 "rows_per_second_eager_streams", "rows/s", "valid"),
    FigureSource("inference_speedup", "inference speed-up by export", "optimize", "speedup", "x",
                 "valid", True),
    FigureSource("inference_auc_drop", "AUC lost by the export", "optimize", "auc_drop", "auc",
                 "valid"),
    FigureSource("inference_batch_size", "inference batch size", "optimize", "batch_size",
                 "rows", "valid"),
    FigureSource("bundle_bytes", "size of the bundle", "optimize", "bytes", "bytes"),
)  # fmt: skip


def collect(folder: RunFolder, state: RunState, plan: dict[str, Any]) -> dict[str, Any]:
    """The whole report of a run as a JSON value; what a run lacks is null or empty."""
    planned = {str(step.get("id")): step for step in as_dicts(plan.get("steps"))}
    steps = [_step(folder, step, planned.get(step.id, {})) for step in _shown_steps(state)]
    for step in steps:
        step["command"] = step["command"] or state.command
    hosts = telemetry.hosts(folder.path / "telemetry")
    clock = telemetry.WorkClock([sample["t"] for _, samples in hosts for sample in samples])
    context = _Context(state, plan, steps)
    document = {
        "version": VERSION,
        "run": _run(state, folder, steps),
        "machines": context.machines,
        "data": context.data,
        "figures": _figures(context),
        "steps": steps,
        "estimates": {"run": estimates.score(state), "record": estimates.record()},
        "curves": _curves(state),
        "telemetry": {
            "seconds": round(clock.span, 3),
            "pauses": [round(at, 3) for at in clock.pauses],
            "steps": [
                {"title": step.title, "from": round(clock(step.started), 3),
                 "to": round(clock(step.ended or state.updated), 3)}
                for step in _shown_steps(state) if hosts and step.started is not None
            ],
            "hosts": [telemetry.summary(host, samples, clock) for host, samples in hosts],
        },
        "etl": _etl(state),
        "inference": _inference(state),
        "search": _search(state, plan),
        "roofline": [one.to_json() for one in rooflines(state)],
        "values": as_dicts(plan.get("values")),
        "notes": [
            {"step": step.id, "level": level, "text": text}
            for step in state.steps.values() for level, text in step.notes
        ],
        "losses": _losses(state),
        "problem": _problem(state),
    }  # fmt: skip
    clean: dict[str, Any] = plain_tree(document)
    return clean


def _shown_steps(state: RunState) -> list[StepState]:
    """All steps but the one that writes this report: it has no time of its own yet."""
    return [
        step for step in state.steps.values()
        if step.kind != REPORT_KIND or step.seconds is not None
    ]  # fmt: skip


def _run(state: RunState, folder: RunFolder, steps: list[dict[str, Any]]) -> dict[str, Any]:
    status: str = state.status
    others = [step.status for step in _shown_steps(state)]
    if state.status.is_live and others and all(one.is_whole for one in others):
        status = RunStatus.DONE  # only the report itself is still at work
    return {
        "id": state.id or folder.id,
        "recipe": state.recipe,
        "status": str(status),
        "command": state.command,
        "started": state.started,
        "written": time.time(),
        "attempts": state.attempt,
        "seconds": sum(step["seconds"] or 0.0 for step in steps),
    }


def _step(folder: RunFolder, step: StepState, planned: dict[str, Any]) -> dict[str, Any]:
    """One step: what was planned, what it took, how to repeat it."""
    estimate = as_dict(planned.get("estimate"))
    minutes = number(estimate.get("minutes"))
    output = folder.path / "artifacts" / step.id
    command = step.command or planned.get("command") or _logged_command(folder, step.id)
    return {
        "id": step.id,
        "kind": step.kind,
        "title": step.title or step.id,
        "host": step.host,
        "status": str(step.status),
        "seconds": step.seconds if step.status is not StepStatus.REUSED else None,
        "rows_per_second": number(step.result.get("rows_per_second")),
        "memory_gib": step.actual.get("memory_gib", number(step.result.get("peak_rss_gib"))),
        "disk_gib": round(folder_gib(output), 6) if output.is_dir() else None,
        "network_gib": step.actual.get("network_gib"),
        "cpu_s": step.actual.get("cpu_s"),
        "estimate": {
            "seconds": None if minutes is None else minutes * 60,
            "memory_gib": number(estimate.get("memory_gib")),
            "disk_gib": number(estimate.get("disk_gib")),
            "network_gib": number(estimate.get("network_gib")),
            "cpu_s": number(estimate.get("cpu_s")),
        },
        "intervals": {**dict.fromkeys(estimates.LEAST), **estimates.intervals(estimate)},
        "ratios": estimates.ratios(step),
        "ranks": [{"rank": rank, **asdict(pace)} for rank, pace in enumerate(step.paces)],
        "command": shlex.join(map(str, command)) if isinstance(command, list) else str(command),
    }


def _logged_command(folder: RunFolder, step: str) -> str:
    """The exact command of a step's last start, as its log tells it; "" when it never started."""
    try:
        with open(folder.logs(step) / "output.log", encoding="utf-8", errors="replace") as log:
            started = [line[2:].strip() for line in log if line.startswith("$ ")]
    except OSError:
        return ""
    return started[-1] if started else ""


class _Context:
    """What the figures of a run have in common: machines, data and commands."""

    def __init__(self, state: RunState, plan: dict[str, Any], steps: list[dict[str, Any]]) -> None:
        self.state = state
        self.steps = {step["kind"]: step for step in reversed(steps)}
        self.all_steps = steps
        self.machines = _machines(as_dict(plan.get("facts")), {step["host"] for step in steps})
        self.data = _data(state, plan)

    def machine(self, host: str) -> str:
        """The machine a step ran on, in words."""
        return next((one["text"] for one in self.machines if one["host"] == host), host)

    def data_text(self, split: str) -> str:
        """The rows behind a figure, in words."""
        rows = as_dict(self.data["rows"])
        known = [number(count) for count in rows.values()]
        count = sum(one or 0.0 for one in known) if split in ("all", "") else rows.get(split)
        part = "all" if split in ("all", "") else split
        found = number(count)
        return f"{self.data['text']}; {part}" + (f": {found:,.0f} rows" if found else " rows")

    def figure(self, name: str, title: str, value: Any, unit: str, step: dict[str, Any],
               split: str = "", headline: bool = False) -> dict[str, Any]:  # fmt: skip
        """One figure with its machine, data and command."""
        return {
            "name": name, "title": title, "value": value, "unit": unit,
            "text": show(value, unit), "step": step["id"], "headline": headline,
            "machine": self.machine(step["host"]), "data": self.data_text(split),
            "command": step["command"],
        }  # fmt: skip


def _machines(facts: dict[str, Any], hosts: set[str]) -> list[dict[str, Any]]:
    """Facts of each host; `facts` is one host's facts or a map from host to facts."""
    machines = []
    for host in sorted(hosts):
        own = as_dict(facts.get(host)) or (facts if "cores" in facts else {})
        isa = own.get("isa")
        memory, cores = number(own.get("memory_gib")), own.get("cores")
        cores = float(len(cores)) if isinstance(cores, list) else number(cores)
        parts = [str(own["cpu_model"])] if own.get("cpu_model") else []
        parts += [f"{cores:.0f} cores"] if cores else []
        parts += [f"{memory:.0f} GiB"] if memory else []
        parts += [" ".join(map(str, isa))] if isinstance(isa, list) and isa else []
        machines.append({
            "host": host, "cpu_model": own.get("cpu_model"), "cores": cores,
            "memory_gib": memory, "isa": isa if isinstance(isa, list) else [],
            "text": f"{host}: {', '.join(parts)}" if parts else host,
        })  # fmt: skip
    return machines


def _data(state: RunState, plan: dict[str, Any]) -> dict[str, Any]:
    """The run's data in words, and its rows by split."""
    values = {str(one.get("key")): one.get("value") for one in as_dicts(plan.get("values"))}
    kind = values.get("dataset.format")
    path = values.get("dataset.path") or values.get("dataset.name")
    made = next(
        (as_dict(step.get("settings")) for step in as_dicts(plan.get("steps"))
         if step.get("worker") == "generate"), None
    )  # fmt: skip
    words = [str(kind)] if kind else []
    if made is not None:
        count = number(made.get("rows"))
        words.append(f"{count:,.0f} generated rows, seed {made.get('seed')}" if count
                     else "generated rows")  # fmt: skip
    elif path:
        words.append(str(path))
    return {"format": kind, "path": path, "generated": made,
            "rows": as_dict(state.result("etl").get("rows")),
            "text": ", ".join(words) or "the run's dataset"}  # fmt: skip


def _figures(context: _Context) -> list[dict[str, Any]]:
    figures = []
    for source in FIGURES:
        step = context.steps.get(source.kind)
        value: Any = context.state.result(source.kind)
        for part in source.key.split("."):
            value = as_dict(value).get(part)
        if step is not None and number(value) is not None:
            figures.append(context.figure(
                source.name, source.title, value, source.unit, step, source.split, source.headline
            ))  # fmt: skip
    for one in rooflines(context.state):
        step = next(step for step in context.all_steps if step["id"] == one.step)
        split = "train" if one.what == "training" else "valid"
        for limit, reached in (("matmul", one.matmul), ("memory", one.memory)):
            name, title = f"{step['kind']}_{limit}_percent", f"{one.what}, part of {limit} peak"
            figures.append(context.figure(name, title, 100 * reached, "%", step, split))
    for step in context.all_steps:
        if step["seconds"] is not None:
            title = f"time of the step: {step['title']}"
            figures.append(context.figure(f"{step['id']}_step_seconds", title,
                                          step["seconds"], "s", step))  # fmt: skip
    return figures


def _curves(state: RunState) -> list[dict[str, Any]]:
    """Every curve of the run; points are [rows seen, value], thinned to 240 bucket means."""
    curves = []
    for (name, split), points in state.curves.items():
        pairs = [(point.rows, point.value) for point in points if number(point.value) is not None]
        size = max(1, -(-len(pairs) // telemetry.BUCKETS))
        chunks = [pairs[i : i + size] for i in range(0, len(pairs), size)]
        thinned = [[chunk[-1][0], sum(value for _, value in chunk) / len(chunk)]
                   for chunk in chunks]  # fmt: skip
        curves.append({"name": name, "split": split, "measured": len(points), "points": thinned})
    return curves


def _etl(state: RunState) -> dict[str, Any]:
    result = state.result("etl")
    return {
        "engine": result.get("engine"),
        "plan": as_dicts(result.get("plan")),
        "phases": as_dict(result.get("seconds")),
        "rows": as_dict(result.get("rows")),
    }


def _inference(state: RunState) -> dict[str, Any]:
    """The forms that were tried, and throughput and latency over the batch size."""
    result = state.result("optimize")
    curves = as_dict(result.get("curves"))
    return {
        "form": result.get("form"),
        "precision": result.get("precision"),
        "forms": as_dicts(result.get("forms")),
        "curves": {name: as_dicts(curves.get(name)) for name in ("kept", "eager")},
    }


def _search(state: RunState, plan: dict[str, Any]) -> dict[str, Any] | None:
    """The trials of a run that searched, None for any other one or when its plan is not whole."""
    if not state.trials:
        return None
    try:
        made = from_json(json.dumps(plan))
        planned = planned_search(made)
    except InputError:  # of another version: a report without this part is better than none
        return None
    if planned is None:
        return None
    return search.collect(judged(state.id, made, planned[1], state.trials))


def _losses(state: RunState) -> list[dict[str, Any]]:
    """Hosts and ranks that the run lost, in order, and how it went on: restarted by its policy, or
    ended and resumed by a person (`restart` 0)."""
    found = [
        {"t": loss.t, "step": loss.step, "what": loss.what, "why": loss.why, "hosts": loss.hosts,
         "policy": loss.policy, "restart": loss.restart, "restarts": loss.restarts,
         "steps_lost": loss.steps_lost, "rows_lost": loss.rows_lost}
        for loss in state.losses
    ]  # fmt: skip
    found += [
        {"t": stop.t, "step": stop.step, "what": stop.what, "why": stop.why, "hosts": [],
         "policy": "", "restart": 0, "restarts": 0, "steps_lost": None, "rows_lost": None}
        for stop in state.stops
    ]  # fmt: skip
    return sorted(found, key=lambda loss: float(loss["t"]))


def _problem(state: RunState) -> dict[str, Any] | None:
    problem = state.problem
    if problem is None:
        return None
    return {"step": problem.step, "what": problem.what, "why": problem.why,
            "todo": problem.todo, "log": problem.log}  # fmt: skip
