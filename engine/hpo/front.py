"""What a search has found: the trials that no other one beats, and what to do when none is allowed.

Points are losses (smaller is better), one number a metric. Hypervolume: Zitzler and Thiele 1998,
the volume that a front dominates below a reference point.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from engine.hpo.study import Objective, Study
from engine.hpo.trials import Trial, TrialState

DIGITS = 4  # of a threshold that is proposed
Point = Sequence[float]


@dataclass(frozen=True)
class Relaxation:
    """A threshold, and the value at which trial `number` would keep it."""

    metric: str
    threshold: float
    value: float
    number: int

    def __str__(self) -> str:
        return (
            f"relax the threshold of {self.metric} from {self.threshold:g} to {self.value:g} "
            f"(trial {self.number})"
        )


@dataclass(frozen=True)
class Findings:
    """`front`: all feasible finished trials that no other one beats, in the order of the first
    metric; with one metric the best trial alone. `chosen`: the one to go on with, the best in the
    first metric (`knee`, with several, gives up little of each). When nothing is feasible, `front`
    is empty, `chosen` the best of the infeasible, `nearest` the one that misses the thresholds by
    least, and each of `ways` would be a way out."""

    study: Study
    finished: tuple[Trial, ...] = ()
    feasible: tuple[Trial, ...] = ()
    front: tuple[Trial, ...] = ()
    chosen: Trial | None = None
    knee: Trial | None = None
    nearest: Trial | None = None
    ways: tuple[tuple[Relaxation, ...], ...] = ()

    @property
    def words(self) -> str:
        """One or two sentences for a person."""
        if not self.finished:
            return "No trial has finished yet."
        if not self.feasible:
            ways = "; or ".join(" and ".join(map(str, way)) for way in self.ways)
            none = f"None of {len(self.finished)} finished trials keeps all thresholds."
            if len(self.finished) == 1:
                none = "The one finished trial does not keep all thresholds."
            return f"{none} What would help: {ways}." if ways else none
        assert self.chosen is not None
        if len(self.study.optimized) == 1:
            name = self.study.optimized[0].name
            text = f"Best: trial {self.chosen.number}, {name} {self.chosen.values[name]:.6g}."
        else:
            names = " and ".join(o.name for o in self.study.optimized)
            count = "One trial" if len(self.front) == 1 else f"{len(self.front)} trials"
            text = f"{count} that no other one beats in {names}"
            text += f"; knee point: trial {self.knee.number}." if self.knee else "."
        dropped = len(self.finished) - len(self.feasible)
        missing = "1 finished trial misses" if dropped == 1 else f"{dropped} finished trials miss"
        return text + (f" {missing} a threshold." if dropped else "")


def findings(study: Study, trials: Iterable[Trial]) -> Findings:
    """Judge all trials of a study; only its own finished ones with every optimized metric count,
    not what it learnt from earlier studies, and no assignment twice."""
    names = [objective.name for objective in study.optimized]
    finished = tuple(
        trial for trial in sorted(trials, key=lambda t: t.number)
        if trial.state is TrialState.FINISHED and trial.is_own
        and all(math.isfinite(trial.values.get(name, math.nan)) for name in names)
    )  # fmt: skip
    feasible = tuple(trial for trial in finished if study.is_feasible(trial.values))
    losses = {trial.number: losses_of(study, trial) for trial in finished}
    candidates = sorted(feasible or finished, key=lambda t: (losses[t.number], t.number))
    chosen = candidates[0] if candidates else None
    if not feasible:
        near, ways = _ways(study, finished)
        return Findings(study, finished, chosen=chosen, nearest=near or chosen, ways=ways)
    best = {feasible[index].number for index in non_dominated([losses[t.number] for t in feasible])}
    front = [trial for trial in candidates if trial.number in best]
    if len(names) == 1:
        front = front[:1]
    at = knee([losses[trial.number] for trial in front])
    return Findings(study, finished, feasible, tuple(front), chosen,
                    None if at is None else front[at])  # fmt: skip


def losses_of(study: Study, trial: Trial) -> tuple[float, ...]:
    """The optimized metrics of a finished trial as losses."""
    return tuple(objective.loss(trial.values[objective.name]) for objective in study.optimized)


def non_dominated(points: Sequence[Point]) -> list[int]:
    """The indices of the points that no other one beats: as good everywhere, better somewhere.

    Equal points do not beat each other; one with a NaN is never among them.
    """
    sound = [index for index, point in enumerate(points) if not any(map(math.isnan, point))]
    front: list[int] = []
    for index in sorted(sound, key=lambda index: tuple(points[index])):  # who beats it comes before
        if not any(_beats(points[other], points[index]) for other in front):
            front.append(index)
    return sorted(front)


def _beats(one: Point, other: Point) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def hypervolume(points: Iterable[Point], reference: Point) -> float:
    """The volume between a set of points and a reference point, for one to three metrics.

    Points that are not better than the reference in every metric add nothing. ValueError for more
    than three metrics.
    """
    inside = [tuple(p) for p in points if all(a < b for a, b in zip(p, reference, strict=True))]
    if not inside:
        return 0.0
    if len(reference) == 1:
        return reference[0] - min(inside)[0]
    if len(reference) == 2:
        return _area(inside, reference)
    if len(reference) > 3:
        raise ValueError("the hypervolume is computed for one to three metrics")
    volume, level = 0.0, sorted({point[2] for point in inside})
    for low, high in zip(level, [*level[1:], reference[2]], strict=True):
        slab = [point[:2] for point in inside if point[2] <= low]
        volume += _area(slab, reference[:2]) * (high - low)
    return volume


def _area(points: Sequence[Point], reference: Point) -> float:
    area, ceiling = 0.0, reference[1]
    for x, y in sorted(map(tuple, points)):
        if y < ceiling:
            area += (reference[0] - x) * (ceiling - y)
            ceiling = y
    return area


def reference_point(study: Study, trials: Sequence[Trial]) -> tuple[float, ...]:
    """Losses that bound the hypervolume of a study: each metric's threshold, else its worst value
    among these trials."""
    losses = [losses_of(study, trial) for trial in trials]
    return tuple(
        objective.loss(objective.threshold) if objective.threshold is not None
        else max((loss[place] for loss in losses), default=0.0)
        for place, objective in enumerate(study.optimized)
    )  # fmt: skip


def knee(front: Sequence[Point]) -> int | None:
    """The index of the point that gives up little of each metric: over the metrics, each scaled to
    0..1 over the front, its losses have the smallest sum. None when the front is no more than its
    ends, or is straight."""
    if len(front) < 3 or len(front[0]) < 2:
        return None
    axes = list(zip(*front, strict=True))
    spans = [(min(axis), (max(axis) - min(axis)) or 1.0) for axis in axes]
    sums = [
        sum((value - low) / span for value, (low, span) in zip(point, spans, strict=True))
        for point in front
    ]
    ends = min(sums[axis.index(min(axis))] for axis in axes)
    best = min(range(len(front)), key=sums.__getitem__)
    return best if sums[best] < ends - 1e-9 else None


def _ways(
    study: Study, finished: Sequence[Trial]
) -> tuple[Trial | None, tuple[tuple[Relaxation, ...], ...]]:
    """The trial nearest to the thresholds (None where none has all of these metrics), and what to
    relax so that a trial is allowed: each threshold that is alone in the way of some trial, the
    smallest step first; if there is none, what the nearest trial needs."""
    broken = {
        trial.number: [o for o in study.objectives
                       if not o.keeps(trial.values.get(o.name, math.nan))]
        for trial in finished
        if all(math.isfinite(trial.values.get(o.name, math.nan)) for o in study.objectives
               if o.threshold is not None)
    }  # fmt: skip
    by_number = {trial.number: trial for trial in finished}
    spans = {o.name: _span(o, finished) for o in study.objectives}

    def distance(number: int) -> float:
        values = by_number[number].values
        return sum(_miss(o, values[o.name]) / spans[o.name] for o in broken[number])

    near = sorted(broken, key=lambda number: (distance(number), number))
    alone: dict[str, int] = {}
    for number in near:
        if len(broken[number]) == 1:
            alone.setdefault(broken[number][0].name, number)

    def relaxed(number: int) -> tuple[Relaxation, ...]:
        values = by_number[number].values
        return tuple(
            Relaxation(o.name, o.threshold or 0.0, outward(o, values[o.name]), number)
            for o in broken[number]
        )

    ways = tuple(relaxed(number) for number in list(alone.values()) or near[:1])
    return by_number[near[0]] if near else None, ways


def _miss(objective: Objective, value: float) -> float:
    """How far a value is on the wrong side of the threshold."""
    return objective.loss(value) - objective.loss(objective.threshold or 0.0)


def _span(objective: Objective, trials: Sequence[Trial]) -> float:
    """The range of a metric over trials and threshold, by which distances are compared."""
    values = [t.values[objective.name] for t in trials if objective.name in t.values]
    values = [*filter(math.isfinite, values), objective.threshold or 0.0]
    return (max(values) - min(values)) or 1.0


def outward(objective: Objective, value: float) -> float:
    """A value rounded to a few digits, to the side on which the value itself is still kept."""
    exact = Decimal(repr(value))
    if not exact:
        return 0.0
    place = Decimal(1).scaleb(exact.adjusted() - DIGITS + 1)
    rounding = ROUND_FLOOR if objective.maximize else ROUND_CEILING
    return float(exact.quantize(place, rounding=rounding))
