"""What a search looks for: the space, what is measured, how it is judged, and when it is over."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from engine.hpo.space import Assignment, Space

TRAINING_TIME = "training_time"  # a metric that the engine measures: seconds of the whole trial


class Strategy(StrEnum):
    """What a metric is for."""

    OPTIMIZE = "optimize"  # searched for; a threshold bounds the region of interest
    CONSTRAINT = "constraint"  # must keep its threshold
    STORE = "store"  # recorded


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A metric of a trial. `threshold`: the worst value that is acceptable."""

    name: str
    maximize: bool
    strategy: Strategy = Strategy.OPTIMIZE
    threshold: float | None = None

    def __post_init__(self) -> None:
        """ValueError for a constraint without a threshold."""
        if self.strategy is Strategy.CONSTRAINT and self.threshold is None:
            raise ValueError(f"the constraint {self.name} needs a threshold")

    def keeps(self, value: float) -> bool:
        """Whether a value is acceptable."""
        if self.threshold is None:
            return True
        return value >= self.threshold if self.maximize else value <= self.threshold

    def loss(self, value: float) -> float:
        """The value as something to make small."""
        return -value if self.maximize else value


@dataclass(frozen=True, kw_only=True)
class Budget:
    """When a search is over: after so many counted trials, minutes, or counted trials without a
    better one. None: no such limit."""

    trials: int | None = 20
    minutes: float | None = None
    patience: int | None = None


@dataclass(frozen=True, kw_only=True)
class Study:
    """One search. `start`: assignments to try first, the default assignment before them all;
    `target`: of the first optimized metric, nothing is begun after it is reached."""

    space: Space
    objectives: tuple[Objective, ...]
    budget: Budget = Budget()
    seed: int = 0
    start: Sequence[Assignment] = ()
    target: float | None = None

    def __post_init__(self) -> None:
        """ValueError when nothing is optimized or a metric is named twice."""
        names = [objective.name for objective in self.objectives]
        if len(set(names)) < len(names):
            raise ValueError("a metric is named twice")
        if not self.optimized:
            raise ValueError("at least one metric must be optimized")

    @property
    def optimized(self) -> tuple[Objective, ...]:
        """The metrics that are searched for."""
        return tuple(o for o in self.objectives if o.strategy is Strategy.OPTIMIZE)

    @property
    def searched(self) -> tuple[Objective, ...]:
        """The metrics that steer the search: all but those that are only stored."""
        return tuple(o for o in self.objectives if o.strategy is not Strategy.STORE)

    def first(self) -> list[Assignment]:
        """What is tried before anything is searched: the default assignment and those of `start`,
        each once."""
        default = self.space.default()
        found: list[Assignment] = [] if default is None else [default]
        for assignment in self.start:
            if assignment not in found:
                found.append(assignment)
        return found

    def most_trials(self) -> int | None:
        """How many trials there are at most; None when only time or patience ends them."""
        limits = (self.budget.trials, self.space.size())
        return min((limit for limit in limits if limit is not None), default=None)

    def is_feasible(self, values: Mapping[str, float]) -> bool:
        """Whether all thresholds are kept."""
        return all(o.keeps(values.get(o.name, math.nan)) for o in self.objectives)
