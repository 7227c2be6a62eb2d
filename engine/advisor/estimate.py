"""What each step is expected to take: time, memory, disk and network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.advisor.costs import (
    CHECKPOINT_GIB,
    DISK_GIB,
    SPARK_COST,
    SPARK_START_S,
    START_S,
)
from engine.advisor.etl_place import place_etl
from engine.advisor.job import Job, row_count
from engine.advisor.layout import spark_cores
from engine.plan import Estimate, Step
from hosts.inventory import LOCAL
from models.api import ModelSpec


def estimate(
    job: Job, spec: ModelSpec, kind: str, worker: str, environment: str, values: Mapping[str, Any]
) -> Estimate:
    """CPU-seconds a million rows (ModelSpec.cost) over the cores, plus the start of Python."""
    millions = 0.0 if kind == "roofline" else row_count(job) / 1e6  # it reads no data
    cost = spec.cost.get(f"{worker}/{job.recipe.model.profile}", spec.cost.get(worker, 1.0))
    epochs = int(values["model.settings.epochs"]) if kind == "train" else 1
    cores = len(job.facts.cores) if kind in ("etl", "train") else 1
    if kind == "train" and job.cluster:
        cores = sum(len(host.facts.cores) for host in job.cluster)
    start_s, place = START_S[environment], place_etl(job) if kind == "etl" else None
    if place is not None and place.host != LOCAL:
        cores = spark_cores(job.cluster[0].slots, job.cluster[0].facts)
        if place.engine == "spark":
            cores = sum(spark_cores(host.slots, host.facts) for host in job.cluster)
            start_s, cost = SPARK_START_S, cost * SPARK_COST
    seconds = start_s + millions * cost * epochs / cores
    disk = DISK_GIB.get(kind, 0.001) * millions
    memory = {"data": 0.3, "etl": 1.0 + 0.25 * millions, "train": 0.6 * values["train.ranks"]}
    network = _training_gib(job, spec, values, millions, seconds) if kind == "train" else 0.0
    return Estimate(
        minutes=round(seconds / 60, 3),
        memory_gib=round(memory.get(kind, 0.8) + (0.16 * millions if kind != "data" else 0), 2),
        disk_gib=round(disk + 0.002, 3),
        network_gib=round(network, 4),
    )


def _training_gib(
    job: Job, spec: ModelSpec, values: Mapping[str, Any], millions: float, seconds: float
) -> float:
    """Data to the hosts, checkpoints back, and what ranks tell each other over the wire.

    Each rank must hear of every row that others train. In gloo's ring a host gets over the wire
    what all ranks say but one, so that goes once to each host.
    """
    hosts, ranks = len(job.cluster), int(values["train.ranks"])
    if not hosts:
        return 0.0
    data = DISK_GIB["etl"] * millions * (1 if job.shared else hosts)
    saves = 1 + seconds // float(values["train.checkpoint_s"])
    told = spec.traffic.get(job.recipe.model.profile, spec.traffic.get("", 0.0))
    rows = millions * 1e6 * int(values["model.settings.epochs"])
    between = rows * told * (ranks - 1) / ranks * hosts / 2**30 if hosts > 1 else 0.0
    return data + saves * CHECKPOINT_GIB * millions + between


def environments_gib(job: Job, steps: Sequence[Step]) -> float:
    """The wheels that go to hosts of the cluster: what works there and is not there yet."""
    needed = {step.environment for step in steps if step.host == job.recipe.cluster != LOCAL}
    return round(sum(host.missing_gib.get(name, 0.0) for host in job.cluster for name in needed), 3)
