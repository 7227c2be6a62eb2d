"""What a search has used of its budget, and the best it has found: a word for each ended trial."""

from __future__ import annotations

from collections.abc import Sequence

from engine.hpo.study import Study
from engine.hpo.trials import Trial, TrialState


class Tally:
    """Counts ended trials in the order of their ends. Those of earlier studies do not count, nor
    those that only repeat another one."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._front: list[tuple[float, ...]] = []  # losses that no other trial beats
        self._feasible = False
        self.counted = 0
        self.since_better = 0
        self.best: Trial | None = None

    def count(self, trial: Trial) -> None:
        """Take a trial that is over into account."""
        if not trial.is_own:
            return
        self.counted += 1
        self.since_better += 1
        if trial.state is not TrialState.FINISHED:
            return
        if self.best is None or self._rank(trial) < self._rank(self.best):
            self.best = trial
        if self._improves(trial):
            self.since_better = 0

    def _losses(self, trial: Trial) -> tuple[float, ...]:
        return tuple(o.loss(trial.values[o.name]) for o in self._study.optimized)

    def _rank(self, trial: Trial) -> tuple[bool, tuple[float, ...], int]:
        """What keeps the thresholds comes first, then the first of the optimized metrics."""
        return (not self._study.is_feasible(trial.values), self._losses(trial), trial.number)

    def _improves(self, trial: Trial) -> bool:
        """Whether no earlier trial is as good in every optimized metric."""
        feasible = self._study.is_feasible(trial.values)
        if self._feasible and not feasible:
            return False
        if feasible and not self._feasible:
            self._feasible, self._front = True, []
        losses = self._losses(trial)
        if any(_is_no_worse(known, losses) for known in self._front):
            return False
        self._front = [known for known in self._front if not _is_no_worse(losses, known)]
        self._front.append(losses)
        return True

    def over(self, spent_s: float) -> str:
        """Why no further trial is to be begun, "" when there is budget left; `spent_s`: seconds
        that the search has run."""
        budget = self._study.budget
        if budget.trials is not None and self.counted >= budget.trials:
            return f"all {budget.trials} trials are done"
        if budget.patience is not None and self.since_better >= budget.patience:
            return f"no better trial among the last {self.since_better}"
        if self.reached():
            best = self.best.number if self.best else 0
            return f"trial {best} reached the target of {self._study.target:g}"
        if self.is_late(spent_s):
            return f"the {budget.minutes:g} minutes are over"
        return ""

    def reached(self) -> bool:
        """Whether the best trial keeps the thresholds and the study's target."""
        study, best = self._study, self.best
        if study.target is None or best is None or not study.is_feasible(best.values):
            return False
        objective = study.optimized[0]
        return objective.loss(best.values[objective.name]) <= objective.loss(study.target)

    def is_late(self, spent_s: float) -> bool:
        """Whether the minutes of the budget are over."""
        minutes = self._study.budget.minutes
        return minutes is not None and spent_s >= 60 * minutes


def _is_no_worse(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True))
