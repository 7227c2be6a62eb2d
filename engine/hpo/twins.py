"""Trials of one search with equal assignments: one of them is trained, the others end as it did.

Only a trial of this run spares a training: what an earlier study knows has no weights here. One
that failed or was pruned spares none either: it has no values to take.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from engine.hpo.trials import OPEN, Trial, TrialState


class Twins:
    """All trials of a search by their assignments."""

    def __init__(self, trials: Iterable[Trial]) -> None:
        self._alike: dict[str, list[Trial]] = {}
        for trial in trials:
            self.add(trial)

    def add(self, trial: Trial) -> None:
        """A trial is queued, or known from the journal."""
        if trial.origin != "warm" and trial.as_trial is None:
            self._alike.setdefault(_point(trial), []).append(trial)

    def has_later(self, trial: Trial) -> bool:
        """Whether a later trial of this run has the assignment of a trial."""
        return any(one.number > trial.number for one in self._alike.get(_point(trial), ()))

    def of(self, trial: Trial) -> Trial | None:
        """The trial whose values a waiting one takes: it has finished, or is to be waited for, for
        it runs, or waits with a lower number. None: the trial is to be trained itself."""
        others = [one for one in self._alike.get(_point(trial), ())
                  if one.number != trial.number and one.as_trial is None]  # fmt: skip
        finished = (one for one in others if one.state is TrialState.FINISHED)
        coming = (one for one in others if one.state is TrialState.RUNNING
                  or (one.state in OPEN and one.number < trial.number))  # fmt: skip
        return next(finished, None) or next(coming, None)


def _point(trial: Trial) -> str:
    return json.dumps(dict(trial.assignment), sort_keys=True)
