"""What a model tells the rest of aiok about itself. Standard library only.

A worker is `python -m MODULE spec.json`. The keys of each worker's spec.json are listed in
models/README.md; every path in it is absolute, every worker writes only below `output`
(and `checkpoints` and `work`, where given).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from models.settings import Setting


class Goal(StrEnum):
    """Which direction of a metric is better."""

    MAXIMIZE = "maximize"
    MINIMIZE = "minimize"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A figure a model is judged by."""

    name: str
    goal: Goal
    help: str
    unit: str = ""

    def better(self, new: float, old: float) -> bool:
        """Whether `new` beats `old`."""
        return new > old if self.goal is Goal.MAXIMIZE else new < old


@dataclass(frozen=True, kw_only=True)
class Worker:
    """An entry point that runs on a host, inside one of the environments."""

    module: str
    environment: str
    ranks: bool = False  # started under mpirun
    settings: tuple[str, ...] = ()  # settings of the model that only this worker reads


@dataclass(frozen=True, kw_only=True)
class RowCost:
    """Training one row: CPU-microseconds of its dense layers and of its tables; those of a step
    whatever its rows; bytes of memory for each id."""

    dense_us: float
    tables_us: float
    step_us: float
    id_bytes: float


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model of the catalog: its settings, profiles, metrics and workers."""

    name: str
    title: str
    summary: str
    task: str
    formats: tuple[str, ...]
    settings: tuple[Setting, ...]
    profiles: Mapping[str, Mapping[str, Any]]
    metrics: tuple[Metric, ...]
    workers: Mapping[str, Worker]
    paper: str = ""
    # CPU-seconds for a million rows, by worker and, where it matters, by "worker/profile"
    cost: Mapping[str, float] = field(default_factory=dict)
    # bytes that a rank tells the others for each row it trains, by profile ("" = any other)
    traffic: Mapping[str, float] = field(default_factory=dict)
    # (parsed settings, numeric columns, id columns) -> what training a row costs
    row_cost: Callable[[Mapping[str, Any], int, int], RowCost] | None = None
    # by profile: steps that an epoch of data with many rare ids should have, and the smallest batch
    # that was measured to be worth it, where the goal is balanced; twice and half for accuracy
    steps_for_tails: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def metric(self, name: str) -> Metric:
        """The metric of that name; KeyError lists the known ones."""
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise KeyError(f"{self.name} has no metric {name}; it has {[m.name for m in self.metrics]}")
