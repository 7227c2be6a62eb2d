"""Earlier runs that a search starts from: what may be learned from them, or why nothing may."""

from __future__ import annotations

from collections.abc import Sequence

from engine.errors import InputError
from engine.hpo.study import Study
from engine.hpo.trials import Trial
from engine.store import open_run_folder


def earlier(runs: Sequence[str], study: Study) -> list[Trial]:
    """The ended trials of other runs that have this search's parameters and metrics, in the order
    of the runs. InputError: there is no such run, it is still going, or none of its trials fits."""
    found: list[Trial] = []
    for run in runs:
        fitting = [trial for trial in _ended(run) if _fits(trial, study)]
        if not fitting:
            raise InputError(
                f"search.warm: no trial of {run} has the parameters and metrics of this search",
                todo="leave it out of search.warm",
            )
        found += fitting
    return found


def _ended(run: str) -> list[Trial]:
    """The trials that a run has trained itself; those of one that goes on could still change."""
    try:
        state = open_run_folder(run).state()
    except InputError as error:
        raise InputError(f"search.warm: {error.what}", why=error.why, todo=error.todo) from None
    if state.status.is_live:
        raise InputError(
            f"search.warm: the run {run} is still going",
            todo="wait for its end, stop it, or leave it out of search.warm",
        )
    return [trial for trial in state.trials.values() if trial.is_own and trial.state.is_over]


def _fits(trial: Trial, study: Study) -> bool:
    try:
        study.space.check(trial.assignment)
    except ValueError:
        return False
    return not trial.values or all(o.name in trial.values for o in study.objectives)
