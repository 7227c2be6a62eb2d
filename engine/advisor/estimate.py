"""What each step is expected to take: time, memory, disk and network, with 90 % intervals.

Each figure is a sum of terms at built-in prices; engine/learned.py knows from earlier runs what
each term really takes on this host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.advisor.costs import (
    CHECKPOINT_GIB,
    CRITEO_COLUMNS,
    DICTIONARY_S,
    DISK_GIB,
    ENVIRONMENT_MINUTES,
    ID_GIB,
    JAVA_GIB,
    PROCESS_GIB,
    ROOFLINE_S,
    ROWS_GIB,
    SPARK_COST,
    SPARK_HOST_CPU_S,
    SPARK_HOST_GIB,
    SPARK_START_S,
    START_CPU_S,
    START_S,
    TRIALS_S,
)
from engine.advisor.etl_place import EtlPlace, place_etl
from engine.advisor.job import Job
from engine.advisor.layout import spark_cores
from engine.advisor.model_settings import batch_of, training_rows
from engine.advisor.place import place_of, this_host
from engine.advisor.tables import row_cost, tables_gib
from engine.estimates import Basis
from engine.learned import START, Terms
from engine.plan import Estimate, Step
from hosts import java
from hosts.inventory import LOCAL
from models.api import ModelSpec
from models.settings import resolve

PRICES = "prices 2"  # another number when a term or its built-in price changes: old records then
# teach nothing, for their terms mean something else
DIGITS = {"minutes": 3, "memory_gib": 3, "disk_gib": 4, "network_gib": 4, "cpu_s": 2}


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A step as its price sees it. Rows and ids in millions, `rows` those that it goes through."""

    kind: str
    environment: str
    rows: float
    cells: float  # rows, in rows of CRITEO_COLUMNS columns
    ids: float
    cores: int
    values: Mapping[str, Any]
    settings: Mapping[str, Any]  # of the model


def estimate(
    job: Job, spec: ModelSpec, kind: str, worker: str, environment: str, values: Mapping[str, Any]
) -> Estimate:
    """What a step takes, as earlier runs on the same host tell, or else by the built-in prices."""
    planned = _planned(job, spec, kind, environment, values)
    cpu = _cpu_terms(job, spec, worker, planned)
    minutes = {
        START: _start_s(job, planned) / 60,
        "work": sum(v for name, v in cpu.items() if name != START) / planned.cores / 60,
    }
    terms: dict[str, Terms] = {
        "cpu_s": cpu, "minutes": minutes, "memory_gib": _memory_terms(job, spec, planned),
        "disk_gib": _disk_terms(job, spec, planned),
        "network_gib": _network_terms(job, spec, planned, sum(minutes.values())),
    }  # fmt: skip
    is_open = kind == "train" and (int(planned.settings["epochs"]) > 1 or bool(
        job.recipe.goal.target or job.recipe.goal.minutes))  # fmt: skip
    basis = Basis(
        group=_group(job, spec, planned), terms=terms, open=is_open,
        epochs=int(planned.settings["epochs"]) if kind == "train" else 0,
    )  # fmt: skip
    found = {
        quantity: job.learned.forecast(basis.group, quantity, parts, is_open)
        for quantity, parts in terms.items()
    }
    figures = {key: round(one.value, DIGITS[key]) for key, one in found.items()}
    within = {key: round(one.within, 3) for key, one in found.items() if figures[key] > 0}
    return Estimate(**figures, within=within, basis=basis.to_json(), runs=found["cpu_s"].runs)


def _planned(
    job: Job, spec: ModelSpec, kind: str, environment: str, values: Mapping[str, Any]
) -> Planned:
    raw = {one.name: values[f"model.settings.{one.name}"] for one in spec.settings}
    settings, _ = resolve(spec.settings, raw)
    split, data = job.recipe.split, job.data
    part = {"train": 1 - split.valid - split.test, "evaluate": split.test,
            "optimize": split.valid, "roofline": 0.0}.get(kind, 1.0)  # fmt: skip
    rows = data.rows * part / 1e6
    columns = (data.numeric + data.categorical) / CRITEO_COLUMNS
    min_count = int(str(settings.get("min_count", 1)))
    ids = data.entries(min_count, 1 - split.valid - split.test) / 1e6
    cores = len(job.facts.cores) if kind in ("data", "etl") else 1
    if kind == "train":
        ranks = int(values["train.ranks"])
        there = sum(len(host.facts.cores) for host in job.cluster) or len(job.facts.cores)
        cores = min(ranks, there)
    if place := _there(job, kind):
        cores = spark_cores(job.cluster[0].slots, job.cluster[0].facts)
        if place.engine == "spark":
            cores = sum(spark_cores(host.slots, host.facts) for host in job.cluster)
    return Planned(kind=kind, environment=environment, rows=rows, cells=rows * columns, ids=ids,
                   cores=cores, values=values, settings=settings)  # fmt: skip


def _group(job: Job, spec: ModelSpec, planned: Planned) -> str:
    """What is alike: host or hosts, model, step, environment, and for a training the profile."""
    place = this_host(job)
    if job.cluster and planned.kind in ("etl", "train"):
        place = place_of(job)
        place += f"; ETL on {planned.values['etl.engine']}" * (planned.kind == "etl")
    profile = job.recipe.model.profile if planned.kind == "train" else ""
    return " | ".join((place, spec.name, planned.kind, planned.environment, profile, PRICES))


def _there(job: Job, kind: str) -> EtlPlace | None:
    """Where on the cluster a step prepares data; None for other steps, and for this machine."""
    place = place_etl(job) if kind == "etl" else None
    return place if place is not None and place.host != LOCAL else None


def _on_spark_hosts(job: Job, planned: Planned) -> bool:
    place = _there(job, planned.kind)
    return place is not None and place.engine == "spark"


def _start_s(job: Job, planned: Planned) -> float:
    return SPARK_START_S if _on_spark_hosts(job, planned) else START_S[planned.environment]


def training_s(job: Job, spec: ModelSpec, settings: Mapping[str, Any]) -> float:
    """CPU-seconds of all epochs on one rank at the built-in price, its start apart."""
    terms = _training_terms(job, spec, settings, ranks=1)
    return sum(value for name, value in terms.items() if name != START)


def _cpu_terms(job: Job, spec: ModelSpec, worker: str, planned: Planned) -> Terms:
    """CPU-seconds: microseconds a row are seconds for a million."""
    start = START_CPU_S[planned.environment]
    if planned.kind == "train":
        ranks = int(planned.values["train.ranks"])
        return _training_terms(job, spec, planned.settings, ranks, planned.environment)
    if planned.kind == "roofline":
        return {START: start + ROOFLINE_S}
    cost = spec.cost.get(worker, 1.0)
    if _on_spark_hosts(job, planned):
        cost *= SPARK_COST
        start += SPARK_HOST_CPU_S * len(job.cluster)
    if planned.kind == "etl":
        return {START: start, "rows": cost * planned.cells, "ids": DICTIONARY_S * planned.ids}
    if planned.kind == "optimize":
        return {START: start + TRIALS_S, "rows": cost * planned.rows}
    return {START: start, "rows": cost * planned.cells}


def _training_terms(
    job: Job, spec: ModelSpec, settings: Mapping[str, Any], ranks: int, environment: str = "torch"
) -> Terms:
    """Rows trained and validated, each rank's steps, and each rank's start.

    Every rank makes the whole update of the tables, so a part of their price counts for each.
    """
    row, epochs = row_cost(job, spec, settings), int(settings["epochs"])
    rows = training_rows(job) / 1e6 * epochs
    scored = job.data.rows / 1e6 * job.recipe.split.valid * epochs
    scored *= int(settings["evals_per_epoch"])
    return {
        START: START_CPU_S[environment] * ranks,
        "dense": row.dense_us * (rows + scored / 3),
        "tables": row.tables_us * (rows * (1 + 0.3 * (ranks - 1)) + scored / 3),
        "steps": row.step_us * rows / batch_of(job, settings) * ranks,
    }


def _tables_gib(job: Job, spec: ModelSpec, planned: Planned) -> float:
    """Tables of one rank with their best copy and optimizer."""
    whole = tables_gib(job, spec, planned.settings)
    limit = float(planned.settings.get("table_memory_gib", 0.0))
    return min(whole, limit) if limit else whole


def _memory_terms(job: Job, spec: ModelSpec, planned: Planned) -> Terms:
    ranks = int(planned.values["train.ranks"]) if planned.kind == "train" else 1
    ids = ID_GIB.get(planned.kind, 0.0) * planned.ids
    if planned.kind == "train":
        ids = _tables_gib(job, spec, planned) * ranks
    spark = SPARK_HOST_GIB * len(job.cluster) if _on_spark_hosts(job, planned) else 0.0
    return {
        "processes": PROCESS_GIB[planned.kind] * ranks + spark,
        "rows": ROWS_GIB.get(planned.kind, 0.0) * planned.cells,
        "ids": ids,
    }


def _disk_terms(job: Job, spec: ModelSpec, planned: Planned) -> Terms:
    if planned.kind in ("train", "optimize"):  # one copy of the weights; those and a second form
        copies = 0.5 if planned.kind == "train" else 1.0
        return {"files": 0.002, "ids": copies * _tables_gib(job, spec, planned)}
    return {"files": 0.002, "rows": DISK_GIB.get(planned.kind, 0.001) * planned.cells}


def _network_terms(job: Job, spec: ModelSpec, planned: Planned, minutes: float) -> Terms:
    """Data to the hosts, checkpoints back, and what ranks tell each other over the wire.

    Each rank must hear of every row that others train. In gloo's ring a host gets over the wire
    what all ranks say but one, so that goes once to each host.
    """
    if _there(job, planned.kind):
        return _etl_traffic(job, planned)
    hosts, ranks = len(job.cluster), int(planned.values["train.ranks"])
    if not hosts or planned.kind != "train":
        return {}
    millions = job.data.rows / 1e6
    saves = 1 + 60 * minutes // float(planned.values["train.checkpoint_s"])
    told = spec.traffic.get(job.recipe.model.profile, spec.traffic.get("", 0.0))
    rows = millions * 1e6 * int(planned.settings["epochs"])
    return {
        "data": DISK_GIB["etl"] * millions * (1 if job.shared else hosts),
        "saves": saves * CHECKPOINT_GIB * millions,
        "ranks": rows * told * (ranks - 1) / ranks * hosts / 2**30 if hosts > 1 else 0.0,
    }


def _etl_traffic(job: Job, planned: Planned) -> Terms:
    """Raw data to where the engine reads them, once, and what was made back; Java to hosts without;
    what executors tell each other."""
    raw = sum(file.size for file in job.files) / 2**30 or DISK_GIB["data"] * planned.cells
    terms = {"data": raw, "result": DISK_GIB["etl"] * planned.cells}
    if _on_spark_hosts(job, planned):
        lacking = [host for host in job.cluster if not java.is_fit(host.facts.java)]
        terms |= {"java": JAVA_GIB * len(lacking)}
    return terms


def search_traffic_gib(job: Job, one: Estimate, trials: float) -> float:
    """Training data to each host, or to the folder that all see, and each trial's output back."""
    if not job.cluster:
        return 0.0
    data = DISK_GIB["etl"] * job.data.rows / 1e6 * (1 if job.shared else len(job.cluster))
    return round(data + trials * one.disk_gib, 4)


def environment_of(spec: ModelSpec, worker: str, values: Mapping[str, Any]) -> str:
    """The environment a worker of this job runs in."""
    if worker == "etl":
        connect = str(values["etl.address"] or "").startswith("sc://")  # whose client is in etl
        return "spark" if values["etl.engine"] == "spark" and not connect else "etl"
    environment = spec.workers[worker].environment
    return str(values["train.environment"]) if environment == "torch" else environment


def environments_gib(job: Job, steps: Sequence[Step]) -> float:
    """The wheels that go to hosts of the cluster: what works there and is not there yet."""
    needed = environments_there(job, steps)
    return round(sum(host.missing_gib.get(name, 0.0) for host in job.cluster for name in needed), 3)


def hosts_minutes(job: Job, steps: Sequence[Step]) -> float:
    """How long making the hosts ready takes: they are worked on side by side."""
    needed = environments_there(job, steps)
    return max((sum(ENVIRONMENT_MINUTES[name] for name in needed if name in host.room_gib)
                for host in job.cluster), default=0.0)  # fmt: skip


def hosts_room_gib(job: Job, steps: Sequence[Step]) -> float:
    """The disk of all hosts that goes to what works there and is not there yet."""
    needed = environments_there(job, steps)
    return sum(host.room_gib.get(name, 0.0) for host in job.cluster for name in needed)


def environments_there(job: Job, steps: Sequence[Step]) -> list[str]:
    """The environments that work on the hosts of the cluster."""
    there = (step.environment for step in steps if step.host == job.recipe.cluster != LOCAL)
    return sorted({name for name in there if name})
