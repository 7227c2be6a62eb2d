"""A search as an Optuna study: in memory for Optuna's own analyses, or as a file that
optuna.load_study and optuna-dashboard open. Optuna is imported when it is used: it is slow to load.
"""

from __future__ import annotations

import datetime
import math
import warnings
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import InputError
from engine.hpo.space import Parameter, Type
from engine.hpo.study import Objective, Study
from engine.hpo.trials import Trial, TrialState
from engine.report.plaintext import plain
from engine.store import refuse_existing

if TYPE_CHECKING:
    import optuna

STATES = {
    TrialState.QUEUED: "WAITING",
    TrialState.INTERRUPTED: "WAITING",
    TrialState.RUNNING: "WAITING",  # nobody would ever end a running one of the file
    TrialState.FINISHED: "COMPLETE",
    TrialState.PRUNED: "PRUNED",
    TrialState.FAILED: "FAIL",
}


def in_memory(study: Study, trials: Sequence[Trial], objective: Objective) -> optuna.Study:
    """The finished trials under one metric, to be minimized."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    made = optuna.create_study(direction="minimize")
    for trial in trials:
        params, distributions = _parameters(study, trial)
        loss = objective.loss(trial.values[objective.name])
        made.add_trial(
            optuna.trial.create_trial(value=loss, params=params, distributions=distributions)
        )
    return made


def export(path: Path, name: str, study: Study, trials: Sequence[Trial]) -> None:
    """Write all trials as a study `name` into a new file, an Optuna journal storage.

    Numbers, states, metrics, thresholds (as constraints, in the order of the study's attribute
    `thresholds of`), what was reported on the way, times and, as user attributes, what Optuna has
    no place for. A trial that is not over waits in the file. InputError when the file is there
    already.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    refuse_existing(path)
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent}", todo="make it, or name another file")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    made = optuna.create_study(
        study_name=name,
        storage=JournalStorage(JournalFileBackend(str(path))),
        directions=["maximize" if o.maximize else "minimize" for o in study.optimized],
    )
    with warnings.catch_warnings():  # the names of metrics are experimental in Optuna
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        made.set_metric_names([objective.name for objective in study.optimized])
    if bounded := [objective.name for objective in _bounded(study)]:
        made.set_user_attr("thresholds of", bounded)
    for trial in sorted(trials, key=lambda one: one.number):
        made.add_trial(_frozen(study, trial))


def _frozen(study: Study, trial: Trial) -> optuna.trial.FrozenTrial:
    import optuna

    params, distributions = _parameters(study, trial)
    state = optuna.trial.TrialState[STATES[trial.state]]
    judged = [trial.values.get(o.name, math.nan) for o in study.searched]
    if state == optuna.trial.TrialState.COMPLETE and any(map(math.isnan, judged)):
        state = optuna.trial.TrialState.FAIL
    is_complete = state == optuna.trial.TrialState.COMPLETE
    reports = trial.reports.get(study.optimized[0].name, ()) if state.is_finished() else ()
    made = optuna.trial.create_trial(
        state=state,
        values=[trial.values[o.name] for o in study.optimized] if is_complete else None,
        params=params,
        distributions=distributions,
        user_attrs=_attributes(study, trial, params),
        intermediate_values={r.step: r.value for r in reports} if len(study.optimized) == 1 else {},
        system_attrs={"constraints": _constraints(study, trial)} if is_complete else {},
    )
    if state.is_finished() and trial.started is not None and trial.ended is not None:
        made.datetime_start = datetime.datetime.fromtimestamp(trial.started)
        made.datetime_complete = datetime.datetime.fromtimestamp(trial.ended)
    return made


def _constraints(study: Study, trial: Trial) -> list[float]:
    """How far each bounded metric is on the wrong side of its threshold; 0 or less: kept.

    A list without names: Optuna 5 and optuna-dashboard both read it, the named ones of
    FrozenTrial.set_constraint are read by Optuna alone.
    """
    return [
        o.loss(trial.values[o.name]) - o.loss(o.threshold)
        for o in _bounded(study)
        if o.threshold is not None
    ]


def _bounded(study: Study) -> list[Objective]:
    return [objective for objective in study.objectives if objective.threshold is not None]


def _attributes(study: Study, trial: Trial, params: dict[str, Any]) -> dict[str, Any]:
    """What Optuna has no place for."""
    searched = {objective.name for objective in study.optimized}
    kept = {name: value for name, value in trial.values.items() if name not in searched}
    outside = {name: value for name, value in trial.assignment.items() if name not in params}
    said = {
        "number": trial.number, "origin": trial.origin, "state": str(trial.state),
        "host": plain(trial.host), "cores": list(trial.cores), "seconds": trial.seconds,
        "failure": str(trial.failure or ""), "what": plain(trial.what),
        "metrics": kept, "outside of the space": outside,
    }  # fmt: skip
    return {name: value for name, value in said.items() if value not in ("", {}, [])}


def _parameters(
    study: Study, trial: Trial
) -> tuple[dict[str, Any], dict[str, optuna.distributions.BaseDistribution]]:
    """Values and distributions of what the trial was assigned from the space."""
    params: dict[str, Any] = {}
    distributions = {}
    for parameter in study.space.parameters:
        if parameter.name not in trial.assignment:
            continue
        try:
            value = parameter.check(trial.assignment[parameter.name])
        except ValueError:  # the default assignment may lie outside of the space
            continue
        made = distributions[parameter.name] = distribution(parameter)
        if parameter.step:
            value = min(value, made.high)  # type: ignore[attr-defined]  # rounded up by 1e-16
        params[parameter.name] = value
    return params, distributions


def distribution(parameter: Parameter) -> optuna.distributions.BaseDistribution:
    """A parameter in Optuna's words; a list of numbers becomes a categorical one."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if parameter.choices:
        return CategoricalDistribution(parameter.choices)
    low, high = parameter.range
    if parameter.step:  # the last step may end below the bound; Optuna counts steps in decimals
        steps = (parameter.count() or 1) - 1
        high = float(Decimal(str(low)) + steps * Decimal(str(parameter.step)))
    if parameter.type is Type.INT:
        step = int(parameter.step or 1)
        return IntDistribution(int(low), int(high), log=parameter.log, step=step)
    return FloatDistribution(low, high, log=parameter.log, step=parameter.step)
