"""SDA makes the plan: the finished recipe as steps, each with its identity and estimate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from engine import catalog, facts
from engine.advisor.choices import finish
from engine.advisor.costs import ENVIRONMENT_MINUTES
from engine.advisor.estimate import (
    environment_of,
    environments_gib,
    estimate,
    hosts_minutes,
    hosts_room_gib,
)
from engine.advisor.etl_place import engine_name, place_etl
from engine.advisor.job import Job
from engine.advisor.obstacles import obstacles
from engine.advisor.search_budget import count_trials, search_estimate, search_part
from engine.hpo import optimizers
from engine.learned import BUILT_IN_WITHIN
from engine.plan import Estimate, Plan, Step, identify
from engine.programs import files as program_files
from engine.programs import registry
from engine.recipe import NOT_OF_PROGRAMS
from hosts.inventory import LOCAL
from models.api import ModelSpec


def make_plan(job: Job) -> Plan:
    """The finished recipe as steps; what stands against running it is in `problems`."""
    spec = catalog.load(job.recipe.model.name)
    values = finish(job, spec)
    by_key = {value.key: value.value for value in values}
    is_program = catalog.is_program(spec.name)
    steps = [_program_step(job, spec, by_key)] if is_program else _steps(job, spec, by_key)
    needed = [step.environment for step in steps if step.environment]
    environments = tuple(dict.fromkeys([*needed, *optimizers.environments_for(steps)]))
    provision = Step(
        id="provision",
        kind="provision",
        title="environments " + ", ".join(environments) if environments else "nothing to install",
        estimate=_built_in(
            minutes=sum(ENVIRONMENT_MINUTES[e] for e in environments if e in job.missing_gib)
            + hosts_minutes(job, steps),
            memory_gib=0.3,
            disk_gib=round(
                sum(job.missing_gib.get(e, 0.0) for e in environments) + hosts_room_gib(job, steps),
                2,
            ),
            network_gib=environments_gib(job, steps),
        ),
    )
    report = Step(
        id="report",
        kind="report",
        title="report",
        needs=tuple(step.id for step in steps),
        estimate=_built_in(minutes=0.01, memory_gib=0.1, disk_gib=0.001),
    )
    plan_steps = (provision, *steps, report)
    return Plan(
        recipe=job.name,
        model=spec.name,
        steps=plan_steps,
        values=tuple(value for value in values if not is_program or _is_of_program(job, value.key)),
        environments=environments,
        facts={LOCAL: asdict(job.facts), **{h.name: asdict(h.facts) for h in job.cluster}},
        data=tuple(
            {"path": str(f.path), "size": f.size, "digest": f.digest, "verified": f.verified}
            for f in job.files
        ),
        problems=tuple(obstacles(job, plan_steps, by_key)),
    )


def _built_in(**figures: float) -> Estimate:
    """An estimate of what nobody learns from: downloads, and a file that is written."""
    within = {key: BUILT_IN_WITHIN[key] for key, value in figures.items() if value > 0}
    return Estimate(**figures, within=within)  # type: ignore[arg-type]


def _steps(job: Job, spec: ModelSpec, values: Mapping[str, Any]) -> list[Step]:
    """data -> etl, roofline -> train -> evaluate, optimize; each with identity and estimate."""
    recipe = job.recipe
    settings = {
        key.removeprefix("model.settings."): value
        for key, value in values.items()
        if key.startswith("model.settings.")
    }
    only_etl = set(spec.workers["etl"].settings)
    split = recipe.split.model_dump()
    dataset = {
        "format": recipe.dataset.format,
        "columns": recipe.dataset.columns.model_dump() if recipe.dataset.columns else None,
    }
    steps: list[Step] = []

    def add(kind: str, worker: str, title: str, needs: Sequence[str], own: Mapping[str, Any],
            inputs: Sequence[str] = (), host: str = LOCAL) -> None:  # fmt: skip
        environment = environment_of(spec, worker, values)
        ids = [next(s.identity for s in steps if s.id == need) for need in needs]
        steps.append(
            Step(
                id=kind,
                kind=kind,
                title=title,
                host=host,
                worker=worker,
                environment=environment,
                needs=tuple(needs),
                settings=own,
                identity=identify(
                    kind, spec.workers[worker], environment, spec, own, [*ids, *inputs]
                ),
                estimate=search_estimate(job, spec, values)
                if kind == "search"
                else estimate(job, spec, kind, worker, environment, values),
            )
        )

    generate = recipe.dataset.generate
    if generate:
        made = {**generate.model_dump(), "split": split}
        add("data", "generate", f"make {generate.rows:,} rows of {spec.title} data", (), made)
    own: dict[str, Any] = {
        "dataset": dataset,
        "split": split,
        "settings": _subset(settings, only_etl),
    }
    first = ("data",) if generate else ()
    place = place_etl(job)
    add("etl", "etl", f"prepare data on {engine_name(job, values)}", first, own,
        [f"{f.size}:{f.mtime_ns}:{f.digest}" for f in job.files],
        place.host if place else LOCAL)  # fmt: skip
    # What the peaks depend on: another host, processor or set of cores is measured anew.
    host = {"host": job.facts.hostname, "cpu": job.facts.cpu_model, "cores": job.facts.cores}
    add("roofline", "roofline", "matmul and memory peaks of this machine", (), host)
    goal = recipe.goal
    own = {
        "model": spec.name,
        "settings": {k: v for k, v in settings.items() if k not in only_etl},
        "seed": recipe.seed,
        "goal": {"metric": goal.metric, "target": goal.target, "minutes": goal.minutes},
    }
    training, title, where = _training(job, spec, values, own)
    add(training, "train", title, ("etl",), own, host=where)
    add("evaluate", "evaluate", "test metric", ("etl", training, *first), {"split": "test"})
    own = {"metric": goal.metric, "max_metric_drop": goal.max_metric_drop, "dataset": dataset}
    add("optimize", "optimize", "inference export", ("etl", training), own)
    return steps


def _training(
    job: Job, spec: ModelSpec, values: Mapping[str, Any], own: dict[str, Any]
) -> tuple[str, str, str]:
    """Kind, title and host of the step that trains, once or as a search; its own settings are
    added to `own`."""
    recipe = job.recipe
    title = f"{spec.title} ({recipe.model.profile})"
    if recipe.search is not None:
        own["search"] = search_part(values)
        return (
            "search",
            f"search {title}: {_trials(job, spec, values)}{_where(job)}",
            recipe.cluster,
        )
    ranks = own["ranks"] = values["train.ranks"]
    title = f"train {title}, {ranks} rank{'s' if ranks > 1 else ''}{_where(job)}"
    return "train", title, recipe.cluster


def _where(job: Job) -> str:
    """The hosts, as the end of a title; "" for this machine."""
    return f" on {', '.join(host.name for host in job.cluster)}" if job.cluster else ""


def _trials(job: Job, spec: ModelSpec, values: Mapping[str, Any]) -> str:
    count = count_trials(job, spec, values)
    trials = f"{count:,} trial{'s' * (count > 1)}" if count else "trials"
    return f"{trials} by {values['search.optimizer']}, {values['search.parallel']} at a time"


def _program_step(job: Job, spec: ModelSpec, values: Mapping[str, Any]) -> Step:
    """The one step of a program of the user's: it reads its own data, and trains and scores itself.

    What it computes depends on files that nobody declared: those beside its own stand for them.
    """
    known, recipe = registry.get(spec.name), job.recipe
    program_files.check_folder(known)
    own = {
        "model": spec.name,
        "program": known.program.model_dump(mode="json", exclude_unset=True),
        "file": known.file,
        "data": str(job.data_path or ""),
        "settings": {
            key.removeprefix("model.settings."): value
            for key, value in values.items() if key.startswith("model.settings.")
        },
        "search": search_part(values),
        "seed": recipe.seed,
        "goal": {"metric": recipe.goal.metric, "target": recipe.goal.target},
    }  # fmt: skip
    beside = facts.any_files(known.folder)
    sent_gib = program_files.check(known, job.data_path) if job.cluster else 0.0
    sent_gib *= 1 if job.shared else len(job.cluster)
    return Step(
        id="search", kind="search", worker="train", settings=own,
        title=f"search {spec.title}: {_trials(job, spec, values)}{_where(job)}",
        host=recipe.cluster,
        identity=identify("search", spec.workers["train"], "", spec, own,
                          [f"{f.path}:{f.size}:{f.mtime_ns}" for f in (*beside, *job.files)]),
        estimate=replace(search_estimate(job, spec, values), network_gib=round(sent_gib, 4)),
    )  # fmt: skip


def _is_of_program(job: Job, key: str) -> bool:
    """Whether a value of the recipe means anything to a program."""
    part = key.partition(".")[0]
    return part not in NOT_OF_PROGRAMS and (part != "dataset" or job.data_path is not None)


def _subset(settings: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name in names}
