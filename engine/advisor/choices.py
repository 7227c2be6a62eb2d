"""What the advisor chooses where the user left it open, and where every value comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.advisor.etl_place import etl_values
from engine.advisor.job import Job
from engine.advisor.layout import MANY_CORES, one_host_ranks
from engine.plan import PlannedValue
from engine.recipe import Value, flatten
from models.api import ModelSpec
from models.settings import resolve

TABLE_MEMORY, TABLE_SHARE = "model.settings.table_memory_gib", 0.5


def finish(job: Job, spec: ModelSpec) -> list[PlannedValue]:
    """Every value of the recipe and of the model's settings, with origin and reason."""
    advised = advise(job)
    found = []
    for key, value in flatten(job.recipe.model_dump()).items():
        if key.startswith("model.settings"):
            continue
        origin = job.origins.get(key, "built-in")
        if key in advised:
            chosen = advised[key]
            found.append(
                PlannedValue(
                    key=key, value=chosen.value, origin=chosen.origin, reason=chosen.reason
                )
            )
        else:
            reason = _size_of_ipex(job) if key == "train.environment" else ""
            found.append(PlannedValue(key=key, value=value, origin=origin, reason=reason))
    profile = spec.profiles[job.recipe.model.profile]
    settings, _ = resolve(spec.settings, profile, job.recipe.model.settings)
    for name, setting in settings.items():
        key = f"model.settings.{name}"
        origin = job.origins.get(key) or (
            f"profile {job.recipe.model.profile}" if name in profile else "built-in"
        )
        limit = _table_memory(job, settings) if key == TABLE_MEMORY else None
        if limit is not None and key not in job.origins:
            found.append(limit)
            continue
        plain = "-".join(map(str, setting)) if isinstance(setting, tuple) else setting
        found.append(PlannedValue(key=key, value=plain, origin=origin))
    return found


def advise(job: Job) -> dict[str, Value]:
    """A value for each key the user left open."""
    return {value.key: value for value in (_ranks(job), *etl_values(job)) if value}


def _ranks(job: Job) -> Value | None:
    if job.recipe.train.ranks != "auto":
        return None
    if job.cluster:
        shares = ", ".join(f"{host.capacity} on {host.name}" for host in job.cluster)
        ranks = sum(host.capacity for host in job.cluster)
        return Value("train.ranks", ranks, "advisor", f"what the hosts take: {shares}")
    cores = job.facts.physical_cores
    rows = job.data.rows
    if rows < 20_000:
        return Value("train.ranks", 1, "advisor", f"{rows:,} rows: one rank ends sooner than two")
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


def _table_memory(job: Job, settings: Mapping[str, Any]) -> PlannedValue | None:
    """Over several hosts tables that do not fit beside each other are spread: half of a host's
    memory is theirs, the rest for rows, gradients and the system."""
    if not job.cluster or not settings.get("fused_tables"):
        return None
    room = {h.name: h.facts.memory_gib * TABLE_SHARE / h.capacity for h in job.cluster}
    least = min(room, key=lambda name: room[name])
    return PlannedValue(
        key=TABLE_MEMORY, value=round(room[least], 2), origin="advisor",
        reason=f"half of the memory of {least}, by its ranks: larger tables are spread over ranks",
    )  # fmt: skip
