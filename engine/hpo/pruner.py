"""Which running trials are not worth their time: decided from the metric they stream.

Trials are compared at the same step, each by the best value it has reached until there: what a
training keeps is its best state. A step is any amount of training that means the same in every
trial (rows seen, where the batch size is searched). A report that is no number never counts as
good. The trial of the default assignment is the yardstick and is never pruned.

Asynchronous successive halving: Li et al. 2020, A System for Massively Parallel Hyperparameter
Tuning, arXiv 1810.05934. Median rule: Golovin et al. 2017, Google Vizier.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Protocol

from engine.hpo.study import Objective, Study
from engine.hpo.trials import Report, Trial, TrialState

FINISHED_FIRST = 5  # finished trials before the median means anything
RIVALS_FIRST = 4  # other trials at a rung before its best part means anything
FIRST_RUNG = 3  # reports of a trial before its first rung
KEPT = 3  # one of so many trials goes on after a rung


class Pruner(Protocol):
    """Keeps nothing between calls, so a resumed search decides the same."""

    def decide(self, trial: Trial, others: Sequence[Trial]) -> str:
        """Called after each report of a running trial: "" = go on, else the reason in words."""


@dataclass(frozen=True)
class NoPruner:
    """Lets every trial run to its end."""

    def decide(self, trial: Trial, others: Sequence[Trial]) -> str:
        """Always "" ."""
        return ""


@dataclass(frozen=True)
class MedianPruner:
    """Ends a trial whose best value is worse than the median of the finished ones at its step."""

    objective: Objective
    finished_first: int = FINISHED_FIRST

    def decide(self, trial: Trial, others: Sequence[Trial]) -> str:
        """The reason to end the trial now, "" to go on."""
        step = _last_step(trial, self.objective)
        if step is None or trial.origin == "default":
            return ""
        done = [other for other in others if other.state is TrialState.FINISHED]
        rivals = _losses_at(done, self.objective, step)
        if len(rivals) < self.finished_first:
            return ""
        own, middle = loss_at(trial, self.objective, step), median(rivals)
        if own is None or own <= middle:
            return ""
        return (
            f"{_shown(self.objective, own)} at step {step:,} is worse than the median "
            f"{_value(self.objective, middle)} of {len(rivals)} finished trials"
        )


@dataclass(frozen=True)
class AshaPruner:
    """Asynchronous successive halving: at rungs that lie `kept` times as far apart each, one of
    `kept` trials goes on; the first rung is at a trial's report number `first_rung`."""

    objective: Objective
    kept: int = KEPT
    first_rung: int = FIRST_RUNG
    rivals_first: int = RIVALS_FIRST

    def decide(self, trial: Trial, others: Sequence[Trial]) -> str:
        """The reason to end the trial now, "" to go on."""
        step = _last_step(trial, self.objective)
        if step is None or trial.origin == "default" or not self._at_rung(trial):
            return ""
        rivals = _losses_at(others, self.objective, step)
        if len(rivals) < self.rivals_first:
            return ""
        own = loss_at(trial, self.objective, step)
        places = math.ceil((len(rivals) + 1) / self.kept)
        bar = sorted(rivals)[places - 1]
        if own is None or own <= bar:
            return ""
        return (
            f"{_shown(self.objective, own)} at step {step:,} is not among the best {places} of "
            f"{len(rivals) + 1} trials there (from {_value(self.objective, bar)} on)"
        )

    def _at_rung(self, trial: Trial) -> bool:
        """Whether the last report is the first one at or after a rung."""
        steps = [report.step for report in trial.reports[self.objective.name]]
        if len(steps) < self.first_rung:
            return False
        rung = max(steps[self.first_rung - 1], 1)
        while rung * self.kept <= steps[-1]:
            rung *= self.kept
        return len(steps) == self.first_rung or steps[-2] < rung


def make(name: str, study: Study) -> Pruner:
    """The pruner of that name (asha, median, none) for a study.

    With several metrics to optimize there is no order of trials: none is pruned.
    """
    if name == "none" or len(study.optimized) > 1:
        return NoPruner()
    return AshaPruner(study.optimized[0]) if name == "asha" else MedianPruner(study.optimized[0])


def loss_at(trial: Trial, objective: Objective, step: int) -> float | None:
    """The best loss a trial had reached at a step: inf when no report was a number, between two
    reports in proportion; None when it was not yet there.

    A finished trial keeps its last value: with another batch size the last step differs a little.
    """
    reports = trial.reports.get(objective.name, [])
    if not reports or step < reports[0].step:
        return None
    at = bisect_right(reports, step, key=lambda report: report.step)  # how many up to the step
    best = min((objective.loss(r.value) for r in reports[:at] if math.isfinite(r.value)),
               default=math.inf)  # fmt: skip
    last = reports[at - 1]
    if at == len(reports):
        return best if step == last.step or trial.state is TrialState.FINISHED else None
    following = reports[at]
    if not math.isfinite(best) or not math.isfinite(following.value):
        return best
    better = min(best, objective.loss(following.value))
    return best + (better - best) * (step - last.step) / (following.step - last.step)


def _losses_at(trials: Sequence[Trial], objective: Objective, step: int) -> list[float]:
    """The losses of those that were there and did not fail."""
    sound = (trial for trial in trials if trial.state is not TrialState.FAILED)
    found = (loss_at(trial, objective, step) for trial in sound)
    return [loss for loss in found if loss is not None]


def _last_step(trial: Trial, objective: Objective) -> int | None:
    reports = trial.reports.get(objective.name)
    return reports[-1].step if reports else None


def _value(objective: Objective, loss: float) -> str:
    if not math.isfinite(loss):
        return "no number"
    return f"{objective.loss(loss):.6g}"  # its own inverse


def _shown(objective: Objective, loss: float) -> str:
    return f"{objective.name} {_value(objective, loss)}"


@dataclass(frozen=True)
class Replay:
    """What a pruner would have done to recorded trials. Steps are those of all trials together;
    `best` and `best_of_all` are the best values with and without pruning, `reports` tells how many
    each trial came to."""

    steps: int
    steps_of_all: int
    best: float
    best_of_all: float
    reports: tuple[int, ...]
    reasons: dict[int, str] = field(default_factory=dict)  # by number of the pruned trial

    @property
    def saved(self) -> float:
        """The part of all steps that was not trained."""
        return 1 - self.steps / self.steps_of_all


def replay(
    curves: Sequence[Sequence[Report]], pruner: Pruner, objective: Objective, slots: int = 1
) -> Replay:
    """Let a pruner decide over recorded curves, `slots` trials side by side, one report at a time.

    The curves are those of whole trainings, the first one of the default assignment. ValueError
    for an empty curve.
    """
    if not curves or not all(curves):
        raise ValueError("a replay needs at least one curve, each with a report")
    waiting = [Trial(number=n, assignment={}, origin="search" if n else "default")
               for n in range(len(curves))]  # fmt: skip
    shown: list[Trial] = []
    active: list[Trial] = []
    reasons: dict[int, str] = {}
    while waiting or active:
        while waiting and len(active) < slots:
            active.append(waiting.pop(0))
            shown.append(active[-1])
            active[-1].state = TrialState.RUNNING
        for trial in list(active):
            reports = trial.reports.setdefault(objective.name, [])
            reports.append(curves[trial.number][len(reports)])
            why = pruner.decide(trial, [other for other in shown if other is not trial])
            if why:
                trial.state, reasons[trial.number] = TrialState.PRUNED, why
            elif len(reports) == len(curves[trial.number]):
                trial.state = TrialState.FINISHED
            if trial.state.is_over:
                active.remove(trial)
    finished = [trial.number for trial in shown if trial.state is TrialState.FINISHED]
    return Replay(
        steps=sum(trial.reports[objective.name][-1].step for trial in shown),
        steps_of_all=sum(curve[-1].step for curve in curves),
        best=_best([curves[number] for number in finished], objective),
        best_of_all=_best(curves, objective),
        reports=tuple(len(trial.reports[objective.name]) for trial in shown),
        reasons=reasons,
    )


def _best(curves: Sequence[Sequence[Report]], objective: Objective) -> float:
    """The best value of all, NaN when none is a number."""
    values = [r.value for curve in curves for r in curve if math.isfinite(r.value)]
    return min(values, key=objective.loss, default=math.nan)
