"""Embedding tables: how wide the vectors are, and whether they are spread over the hosts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.advisor.job import Job
from engine.advisor.layout import ClusterHost
from engine.recipe import Value
from models.api import ModelSpec, RowCost

TABLE_MEMORY, TABLE_SHARE = "table_memory_gib", 0.5
WIDTH = "embedding_size"
ONE_WIDTH = "one width for all columns, whose vectors are multiplied in pairs"


def row_cost(job: Job, spec: ModelSpec, settings: Mapping[str, Any]) -> RowCost:
    """The model's own price of a training row, or its ModelSpec.cost alone."""
    if spec.row_cost is None:
        cost = spec.cost.get(f"train/{job.recipe.model.profile}", spec.cost.get("train", 1.0))
        return RowCost(dense_us=cost, tables_us=0.0, step_us=0.0, id_bytes=0.0)
    return spec.row_cost(settings, job.data.numeric, job.data.categorical)


def table_ids(job: Job, settings: Mapping[str, Any]) -> float:
    """Ids that get a row of their own: those seen often enough in the training rows."""
    part = 1 - job.recipe.split.valid - job.recipe.split.test
    return job.data.entries(int(settings.get("min_count", 1)), part)


def tables_gib(job: Job, spec: ModelSpec, settings: Mapping[str, Any]) -> float:
    """All tables once, in GiB, with their best copy and optimizer."""
    return table_ids(job, settings) * row_cost(job, spec, settings).id_bytes / 2**30


def width(job: Job, spec: ModelSpec, settings: Mapping[str, Any]) -> tuple[int, str] | None:
    """The width of the vectors and why; None for a model without tables.

    It is halved while the tables do not fit into the part of the memory that is theirs: that of
    this host, or of all hosts of the cluster where the tables can be spread.
    """
    known = next((one for one in spec.settings if one.name == WIDTH), None)
    if known is None or not job.data.categorical:
        return None
    size, least = int(settings[WIDTH]), int((known.search or (known.low or 1, 0))[0])
    if not job.data.ids:
        return size, f"no change: {ONE_WIDTH}; how many ids there are is not known before the ETL"
    room = TABLE_SHARE * _memory_gib(job, bool(settings.get("fused_tables")))
    chosen = size
    while chosen > least and tables_gib(job, spec, {**settings, WIDTH: chosen}) > room:
        chosen //= 2
    chosen = max(chosen, min(size, least))
    if chosen == size:
        return size, f"no change: {in_words(job, spec, settings)}; {ONE_WIDTH}"
    before, now = tables_gib(job, spec, settings), in_words(job, spec, {**settings, WIDTH: chosen})
    return chosen, (
        f"{size} numbers a row take {before:,.1f} GiB with copy and optimizer, {room:,.1f} GiB are "
        f"theirs: now {now}; {ONE_WIDTH}"
    )


def in_words(job: Job, spec: ModelSpec, settings: Mapping[str, Any]) -> str:
    """How large the tables are, "" where nothing is known of the ids."""
    if not job.data.ids:
        return ""
    size = 1024 * tables_gib(job, spec, settings)
    many = table_ids(job, settings)
    return f"about {many:,.0f} ids make tables of {size:,.1f} MiB with copy and optimizer"


def _memory_gib(job: Job, can_spread: bool) -> float:
    hosts: Sequence[ClusterHost] = job.cluster
    if not hosts:
        return job.facts.memory_gib
    each = [host.facts.memory_gib for host in hosts]
    return sum(each) if can_spread and job.recipe.search is None else min(each)


def table_memory(job: Job, settings: Mapping[str, Any]) -> Value | None:
    """Over several hosts tables that do not fit beside each other are spread: half of a host's
    memory is theirs, the rest for rows, gradients and the system."""
    if not job.cluster or job.recipe.search is not None or not settings.get("fused_tables"):
        return None
    room = {h.name: h.facts.memory_gib * TABLE_SHARE / h.capacity for h in job.cluster}
    least = min(room, key=lambda name: room[name])
    reason = f"half of the memory of {least}, by its ranks: larger tables are spread over ranks"
    return Value(TABLE_MEMORY, round(room[least], 2), "advisor", reason)


def copies_that_fit(job: Job, spec: ModelSpec, settings: Mapping[str, Any]) -> int | None:
    """How many ranks of this host can have all tables each; None: as many as it likes."""
    gib = tables_gib(job, spec, settings)
    return max(1, int(TABLE_SHARE * job.facts.memory_gib / gib)) if gib > 0 else None
