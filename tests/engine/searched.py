"""A recorded search: a run folder whose journal tells trials of every kind."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from engine import events as ev
from engine import recipe
from engine.advisor.search_budget import search_part
from engine.hpo.results import planned_search
from engine.plan import Plan, PlannedValue, Step
from engine.store import EventLog, RunFolder, write_atomically
from engine.strict_yaml import parse, to_yaml
from models import catalog
from models.settings import resolve

T0 = 1_700_000_000.0
HOSTILE = "exit 1 \x1b[31m<script>alert(1)</script>"
ONE = {"trials": 40}
TWO = {"trials": 40, "metrics": [{"name": "auc"}, {"name": "training_time"}]}
BOUNDED = {"trials": 40, "metrics": [
    {"name": "auc", "threshold": 0.68},
    {"name": "training_time", "strategy": "constraint", "threshold": 8},
]}  # fmt: skip
IMPOSSIBLE = {"trials": 40, "metrics": [{"name": "auc", "threshold": 0.99}]}


def plan_of(search: dict[str, Any] | None, path: str = "clicks.tsv") -> Plan:
    """The plan of a recipe with a search, as the planner would write its values."""
    text = to_yaml({"dataset": {"path": path}, "search": search})
    wanted, origins = recipe.load(parse(text, "job", "job.yaml"), environ={})
    spec = catalog.load("dlrm")
    values = {k: v for k, v in recipe.flatten(wanted.model_dump()).items()
              if not k.startswith("model.settings")}  # fmt: skip
    settings, _ = resolve(spec.settings, spec.profiles["optimized"])
    for name, value in settings.items():
        plain = "-".join(map(str, value)) if isinstance(value, tuple) else value
        values[f"model.settings.{name}"] = plain
    step = Step(
        id="search", kind="search", title="search",
        settings={"search": search_part(values), "settings": settings,
                  "goal": {"metric": values["goal.metric"]}, "seed": values["seed"]},
    )  # fmt: skip
    return Plan(
        recipe="job", model="dlrm", environments=("torch",), facts={},
        steps=(step,) if search is not None else (),
        values=tuple(PlannedValue(key=k, value=v, origin=origins.get(k, "built-in"))
                     for k, v in values.items()),
        data=({"path": "/data/of/mine/clicks.tsv", "size": 1, "digest": "", "verified": False},),
    )  # fmt: skip


def journal(plan: Plan, run: str, count: int = 30) -> list[ev.Event]:
    """The default trial, then drawn ones; number 3 is pruned, 4 crashes, 5 is still running."""
    told: list[ev.Event] = [
        ev.RunCreated(t=T0, run=run, recipe="job", command="aiok run job.yaml",
                      steps=[{"id": "search", "kind": "search", "title": "Search"}]),
        ev.RunStarted(t=T0, pid=1, attempt=1),
    ]  # fmt: skip
    planned = planned_search(plan)
    if planned is None:
        return told
    study = planned[1]
    first = study.space.default()
    assert first is not None
    for number in range(count):
        chosen = study.space.sample(random.Random(number)) if number else first
        t = T0 + 10 * number
        auc = 0.7 - 4 * abs(float(chosen["learning_rate"]) - 0.006)
        auc += 0.001 * float(chosen["embedding_size"])  # which costs time
        seconds = 5.0 + float(chosen["embedding_size"]) / 4
        same: dict[str, Any] = {"step": "search", "trial": number, "token": number + 1}
        told += [
            ev.TrialQueued(t=t, step="search", trial=number, assignment=chosen,
                           origin="search" if number else "default"),
            ev.TrialStarted(t=t, host="localhost", cores=[number % 2], **same),
            ev.TrialMeasured(t=t + 1, name="auc", value=auc - 0.1, step_count=1000, **same),
        ]  # fmt: skip
        ends: dict[int, dict[str, Any]] = {
            3: {"state": "pruned", "what": "auc is worse than the median"},
            4: {"state": "failed", "failure": "crash", "what": HOSTILE},
        }
        values = {"auc": auc, "training_time": seconds}
        end = ends.get(number, {"state": "finished", "values": values})
        if number != 5:
            told.append(ev.TrialEnded(t=t + 9, seconds=seconds, **same, **end))
    return told


def record(folder: Path, search: dict[str, Any] | None, count: int = 30) -> RunFolder:
    """Write plan and journal of a run with a search."""
    found = RunFolder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    plan = plan_of(search)
    write_atomically(found.plan, plan.to_json())
    log = EventLog(found.events)
    for event in journal(plan, folder.name, count):
        log.append(event)
    log.close()
    return found
