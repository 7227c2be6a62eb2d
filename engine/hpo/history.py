"""What an optimizer knows of its study: every trial that was begun, and how it ended.

Each optimizer is a function of that history and of the number of the trial it is asked for: so the
same history gives the same assignment, in whatever order and by whichever process it was told.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from engine.hpo.axis import Axis
from engine.hpo.space import Assignment
from engine.hpo.study import Study
from engine.hpo.trials import TrialState
from models.settings import Scalar

LISTED = 10_000  # points of a space that are listed to find the last ones that are left


@dataclass
class Known:
    """A trial as its optimizer knows it. `values`: of the metrics with a meaning for the search,
    finite, by name."""

    number: int
    assignment: dict[str, Scalar]
    state: TrialState = TrialState.RUNNING
    values: dict[str, float] = field(default_factory=dict)


class History:
    """All trials of a study by number."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.axes = {p.name: Axis.of(p) for p in study.space.parameters}
        self._known: dict[int, Known] = {}
        self._visited: set[tuple[tuple[str, float], ...]] = set()
        self._listed: list[dict[str, Scalar]] | None = None

    def trials(self) -> list[Known]:
        """In the order of their numbers."""
        return [self._known[number] for number in sorted(self._known)]

    def begin(self, number: int, assignment: Assignment) -> Known:
        """Trial `number` runs. ValueError: the assignment is not of the space, or the trial was
        begun with another one."""
        checked = self.study.space.check(assignment)
        known = self._known.setdefault(number, Known(number, checked))
        if known.assignment != checked:
            raise ValueError(f"trial {number} was begun with another assignment")
        self._visited.add(self._point(checked))
        return known

    def end(
        self, number: int, assignment: Assignment, state: TrialState, values: Mapping[str, float]
    ) -> Known:
        """Trial `number` ended. A finished one without a finite value of each metric that counts
        is taken for failed. ValueError: see `begin`; or it is not over, or was over before."""
        if not state.is_over:
            raise ValueError(f"trial {number} is {state}: that is no end")
        known = self.begin(number, assignment)
        if known.state.is_over:
            raise ValueError(f"trial {number} has ended before")
        wanted = {o.name for o in self.study.searched}
        known.values = {n: float(v) for n, v in values.items() if n in wanted and math.isfinite(v)}
        known.state = state
        if state is TrialState.FAILED or (
            state is TrialState.FINISHED and len(known.values) < len(wanted)
        ):
            known.state, known.values = TrialState.FAILED, {}
        return known

    def draw(
        self, number: int, propose: Callable[[random.Random], Assignment], tries: int = 32
    ) -> dict[str, Scalar] | None:
        """An assignment for trial `number` that keeps the constraints and was not tried yet.

        `propose` is called up to `tries` times with the trial's own random numbers. When it only
        repeats itself: one of the points that are left in a space of LISTED points at most (None
        when none is), a random one in a larger space.
        """
        space = self.study.space
        numbers = random.Random(f"{self.study.seed}/{number}")
        for _ in range(tries):
            proposed = propose(numbers)
            if self.is_new(proposed):
                return space.check(proposed)
        if math.prod(p.count() or LISTED + 1 for p in space.parameters) <= LISTED:
            self._listed = [p for p in self._listed or space.points() if self.is_new(p)]
            return numbers.choice(self._listed) if self._listed else None
        return space.sample(numbers)

    def is_new(self, assignment: Assignment) -> bool:
        """Whether it keeps the constraints and was not begun yet."""
        return self.study.space.allows(assignment) and self._point(assignment) not in self._visited

    def _point(self, assignment: Assignment) -> tuple[tuple[str, float], ...]:
        return tuple((name, self.axes[name].encode(value)) for name, value in assignment.items())


class HistoryOptimizer:
    """What all optimizers share; see `Optimizer` for the contract."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.history = History(study)

    def ask(self, number: int) -> dict[str, Scalar] | None:
        """See `Optimizer.ask`."""
        chosen = self._choose(number)
        if chosen is not None:
            self._begun(self.history.begin(number, chosen))
            return dict(chosen)
        return None

    def pending(self, number: int, assignment: Assignment) -> None:
        """See `Optimizer.pending`."""
        self._begun(self.history.begin(number, assignment))

    def tell(
        self, number: int, assignment: Assignment, state: TrialState, values: Mapping[str, float]
    ) -> None:
        """See `Optimizer.tell`."""
        known = self.history.end(number, assignment, state, values)
        self._begun(known)
        self._ended(known)

    def close(self) -> None:
        """See `Optimizer.close`."""

    def _choose(self, number: int) -> dict[str, Scalar] | None:
        """The assignment to try as trial `number`; None when nothing is left."""
        raise NotImplementedError

    def _begun(self, known: Known) -> None:
        """A trial was begun; called at least once for each, before it has ended."""

    def _ended(self, known: Known) -> None:
        """A trial has ended."""
