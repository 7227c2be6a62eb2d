"""What the advisor chooses where the user left it open, and where every value comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from engine import catalog
from engine.advisor import model_settings, search_budget
from engine.advisor.estimate import training_s
from engine.advisor.etl_place import about_address, etl_values
from engine.advisor.job import Job
from engine.advisor.layout import MANY_CORES, one_host_ranks
from engine.plan import PlannedValue
from engine.recipe import Value, flatten
from models.api import ModelSpec
from models.settings import resolve

LEAST_WORK_S = 1.0  # CPU-seconds of training that pay for starting a second rank
PROFILE_REASONS = {
    "optimized": "reaches the metric of stock in a small part of its time (bench dlrm)",
}


def finish(job: Job, spec: ModelSpec) -> list[PlannedValue]:
    """Every value of the recipe and of the model's settings, with origin and reason."""
    profile = spec.profiles[job.recipe.model.profile]
    settings, _ = resolve(spec.settings, profile, job.recipe.model.settings)
    chosen, why = advise(job, spec, settings), _reasons(job)
    found = []
    for key, value in flatten(job.recipe.model_dump()).items():
        if key.startswith("model.settings"):
            continue
        if key in chosen:
            found.append(_planned(chosen[key]))
        else:
            origin = job.origins.get(key, "built-in")
            found.append(PlannedValue(key=key, value=value, origin=origin, reason=why.get(key, "")))
    advised: dict[str, Value] = {}
    said: dict[str, str] = {}
    if not catalog.is_program(spec.name):  # whose parameters mean what only the user knows
        advised = model_settings.advised(job, spec, settings)
        said = model_settings.reasons(job, {**settings, **{n: v.value for n, v in advised.items()}})
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


def _reasons(job: Job) -> dict[str, str]:
    """Words to values that stay as they are."""
    found = {"train.environment": _size_of_ipex(job), "etl.address": about_address(job)}
    if job.files:
        found["dataset.path"] = job.data.sentence()
        found["dataset.columns.categorical"] = model_settings.about_columns(job)
    if "model.profile" not in job.origins:
        found["model.profile"] = PROFILE_REASONS.get(job.recipe.model.profile, "")
    return found


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
