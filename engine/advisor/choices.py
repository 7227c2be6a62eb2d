"""What the advisor chooses where the user left it open, and where every value comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from engine import catalog
from engine.advisor import model_settings, search_budget
from engine.advisor.data_reasons import about_columns, about_labels
from engine.advisor.estimate import training_s
from engine.advisor.etl_place import about_address, etl_values
from engine.advisor.job import Job
from engine.advisor.layout import MANY_CORES, one_host_ranks
from engine.advisor.program_cost import about_program
from engine.advisor.tables import copies_that_fit, tables_gib
from engine.plan import PlannedValue
from engine.recipe import Value, flatten
from models.api import ModelSpec
from models.settings import resolve

LEAST_WORK_S = 1.0  # CPU-seconds of training that pay for starting a second rank
PROFILES = {
    "optimized": "reaches the metric of stock in a small part of its time (bench dlrm)",
    "stock": "the public baseline, as published",
    "tiny": "for trying things out in seconds, not for a good metric",
    "terabyte": "the reference of Criteo 1TB",
}
SIDE_BY_SIDE = "trials side by side compute more than one on all cores"


def finish(job: Job, spec: ModelSpec) -> list[PlannedValue]:
    """Every value of the recipe and of the model's settings, with origin and reason."""
    profile = spec.profiles[job.recipe.model.profile]
    settings, _ = resolve(spec.settings, profile, job.recipe.model.settings)
    advised: dict[str, Value] = {}
    said: dict[str, str] = {}
    finished = settings
    if not catalog.is_program(spec.name):  # whose parameters mean what only the user knows
        advised = model_settings.advised(job, spec, settings)
        finished = {**settings, **{name: value.value for name, value in advised.items()}}
        said = model_settings.reasons(job, spec, finished)
    # Steps that a smaller batch adds are no work that a second rank shares: it was measured to pay
    # by the profile's own batch (bench advice).
    priced = {name: settings[name] if name == "batch_size" else finished[name] for name in settings}
    chosen, why = advise(job, spec, priced), _reasons(job, spec)
    found = []
    for key, value in flatten(job.recipe.model_dump()).items():
        if key.startswith("model.settings"):
            continue
        if key in chosen:
            found.append(_planned(chosen[key]))
        else:
            origin = job.origins.get(key, "built-in")
            found.append(PlannedValue(key=key, value=value, origin=origin, reason=why.get(key, "")))
    for name, setting in settings.items():
        key = f"model.settings.{name}"
        if name in advised:
            found.append(_planned(replace(advised[name], key=key)))
            continue
        origin = job.origins.get(key) or (
            f"profile {job.recipe.model.profile}" if name in profile else "built-in"
        )
        plain = "-".join(map(str, setting)) if isinstance(setting, tuple) else setting
        found.append(PlannedValue(key=key, value=plain, origin=origin, reason=said.get(name, "")))
    by_key = {value.key: value.value for value in found}
    late = {value.key: value for value in search_budget.advised(job, spec, by_key)}
    return [_planned(late[value.key]) if value.key in late else value for value in found]


def _planned(value: Value) -> PlannedValue:
    return PlannedValue(key=value.key, value=value.value, origin=value.origin, reason=value.reason)


def _reasons(job: Job, spec: ModelSpec) -> dict[str, str]:
    """Words to values that stay as they are."""
    if catalog.is_program(spec.name):
        return {"model.name": about_program(job, spec.name)}
    found = {
        "train.environment": _size_of_ipex(job),
        "etl.address": about_address(job),
        "model.profile": _about_profile(job, spec),
        "goal.metric": about_labels(job, job.recipe.goal.metric),
    }
    if job.recipe.search is not None:
        found["train.ranks"] = f"no effect on a search: {SIDE_BY_SIDE}, so each trains on one rank"
    if job.files:
        found["dataset.path"] = job.data.sentence()
        found["dataset.columns.categorical"] = about_columns(job)
    return found


def _about_profile(job: Job, spec: ModelSpec) -> str:
    """What a profile is, and its price on these data beside that of the other one to choose."""
    mine = job.recipe.model.profile
    other = "stock" if mine == "optimized" else "optimized"
    stays = "no change: " if "model.profile" not in job.origins else ""
    prices = []
    for name in (mine, other):
        if name in spec.profiles:
            settings, _ = resolve(spec.settings, spec.profiles[name])
            prices.append(f"{name} about {training_s(job, spec, settings):,.1f}")
    what = f"{PROFILES[mine]}; " if mine in PROFILES else ""
    return f"{stays}{what}CPU-seconds an epoch on these rows: {', '.join(prices)}"


def advise(job: Job, spec: ModelSpec, settings: Mapping[str, Any]) -> dict[str, Value]:
    """A value for each key of the recipe that the user left open; those of a search depend on all
    others (engine/advisor/search_budget.py)."""
    if catalog.is_program(spec.name):
        return {}
    found = (_ranks(job, spec, settings), *etl_values(job))
    return {value.key: value for value in found if value}


def _ranks(job: Job, spec: ModelSpec, settings: Mapping[str, Any]) -> Value | None:
    if job.recipe.train.ranks != "auto":
        return None
    if job.recipe.search is not None:
        return Value("train.ranks", 1, "advisor", f"of each trial: {SIDE_BY_SIDE}")
    if job.cluster:
        shares = ", ".join(f"{host.capacity} on {host.name}" for host in job.cluster)
        ranks = sum(host.capacity for host in job.cluster)
        return Value("train.ranks", ranks, "advisor", f"what the hosts take: {shares}")
    cores = job.facts.physical_cores
    work_s = training_s(job, spec, settings)
    if work_s < LEAST_WORK_S:
        reason = f"about {work_s:.1f} CPU-seconds of training: one rank ends sooner than two"
        return Value("train.ranks", 1, "advisor", reason)
    ranks = one_host_ranks(job.facts)
    copies = copies_that_fit(job, spec, settings)
    if copies is not None and copies < ranks:
        reason = f"each rank has all tables, {tables_gib(job, spec, settings):.1f} GiB: so many fit"
        return Value("train.ranks", copies, "advisor", reason)
    if cores <= MANY_CORES:
        return Value("train.ranks", ranks, "advisor", f"one rank for each of {cores} cores")
    reason = f"{cores} cores in {len(job.facts.numa)} NUMA nodes: {cores // ranks} cores a rank"
    return Value("train.ranks", ranks, "advisor", reason)


def _size_of_ipex(job: Job) -> str:
    """What the user's choice of the large environment costs, "" for the usual one."""
    if job.recipe.train.environment != "ipex":
        return ""
    if "ipex" not in job.missing_gib:
        return "Intel Extension for PyTorch; installed"
    size = job.missing_gib["ipex"]
    return f"Intel Extension for PyTorch, with CUDA libraries: {size:.1f} GiB are to be installed"
