"""Optuna's TPE sampler, in memory: https://optuna.org, TPE: Watanabe 2023, arXiv:2304.11127.

Optuna sees the axes of the parameters, not their values (engine/hpo/axis.py). A parameter under a
condition is suggested only where it is active. Running trials count as bad ones (Optuna's constant
liar), so parallel suggestions keep apart. A threshold is one of Optuna's constraints. A failed
trial is told as pruned before its first step, which ranks below all others: Optuna would forget a
trial that is told as failed, and try the same again.
"""

from __future__ import annotations

import random

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import TPESampler
from optuna.storages import InMemoryStorage

from engine.hpo.axis import Axis, Kind
from engine.hpo.history import HistoryOptimizer, Known
from engine.hpo.study import Objective, Strategy, Study
from engine.hpo.trials import TrialState
from models.settings import Scalar

STARTUP = 10  # random trials first; Optuna's own default
LAST_STEP = 1  # of pruned trials: the step itself is not told, so all count as equally long

optuna.logging.set_verbosity(optuna.logging.WARNING)


class OptunaSearch(HistoryOptimizer):
    """Holds a copy of the history as a study of Optuna, in order of the trials' numbers: the age
    of a trial is its weight."""

    def __init__(self, study: Study) -> None:
        super().__init__(study)
        self._copy = _empty(study)
        self._trials: dict[int, optuna.Trial] = {}
        self._failed = 0
        axes = [self.history.axes[p.name] for p in study.space.parameters if not p.condition]
        self._joint = {axis.name: _distribution(axis) for axis in axes if not axis.is_constant}

    def _choose(self, number: int) -> dict[str, Scalar] | None:
        if list(self._trials) != sorted(self._trials):
            self._copy_again()
        asked: list[optuna.Trial] = []

        def propose(numbers: random.Random) -> dict[str, Scalar]:
            # A sampler of its own for each: what it holds must depend on the history alone.
            self._copy.sampler = _Sampler(
                numbers.getrandbits(32), STARTUP + self._failed, self._joint
            )
            asked.append(self._copy.ask())
            return self._suggested(asked[-1])

        chosen = self.history.draw(number, propose)
        for trial in asked:
            if chosen is not None and trial is asked[-1] and self._suggested(trial) == chosen:
                self._trials[number] = trial
            else:
                self._copy.tell(trial, state=optuna.trial.TrialState.FAIL)
        return chosen

    def _suggested(self, trial: optuna.Trial) -> dict[str, Scalar]:
        chosen: dict[str, Scalar] = {}
        for parameter in self.study.space.parameters:
            if self.study.space.is_active(parameter, chosen):
                axis = self.history.axes[parameter.name]
                chosen[parameter.name] = axis.decode(_suggest(trial, axis))
        return chosen

    def _begun(self, known: Known) -> None:
        if known.number not in self._trials:
            axes = self.history.axes
            fixed = {name: axes[name].encode(value) for name, value in known.assignment.items()}
            self._copy.enqueue_trial(fixed)
            trial = self._trials[known.number] = self._copy.ask()
            self._suggested(trial)

    def _ended(self, known: Known) -> None:
        trial = self._trials[known.number]
        if known.state is TrialState.FINISHED:
            for objective in self.study.searched:
                if (excess := _excess(objective, known.values[objective.name])) is not None:
                    trial.set_constraint(objective.name, excess)
            self._copy.tell(trial, [known.values[o.name] for o in self.study.optimized])
            return
        self._failed += known.state is TrialState.FAILED
        reached = known.values.get(self.study.optimized[0].name)
        if reached is not None and len(self.study.optimized) == 1:
            trial.report(reached, LAST_STEP)
        self._copy.tell(trial, state=optuna.trial.TrialState.PRUNED)

    def _copy_again(self) -> None:
        """After trials that came out of order."""
        self._copy, self._trials, self._failed = _empty(self.study), {}, 0
        for known in self.history.trials():
            self._begun(known)
            if known.state.is_over:
                self._ended(known)


class _Sampler(TPESampler):
    """TPE that is told what all trials have in common: finding that out is a walk over them all."""

    def __init__(self, seed: int, startup: int, joint: dict[str, BaseDistribution]) -> None:
        super().__init__(seed=seed, n_startup_trials=startup)
        self._joint = joint

    def infer_relative_search_space(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The parameters that are sampled together; Optuna's default for several metrics: none."""
        return self._joint if len(study.directions) == 1 else {}


def _empty(study: Study) -> optuna.Study:
    return optuna.create_study(
        storage=InMemoryStorage(),
        directions=["maximize" if o.maximize else "minimize" for o in study.optimized],
    )


def _distribution(axis: Axis) -> BaseDistribution:
    if axis.kind is Kind.OPTION:
        return CategoricalDistribution(list(range(int(axis.high) + 1)))
    if axis.kind is Kind.WHOLE:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return FloatDistribution(axis.low, axis.high, log=axis.log)


def _suggest(trial: optuna.Trial, axis: Axis) -> float:
    if axis.kind is Kind.OPTION:
        return trial.suggest_categorical(axis.name, list(range(int(axis.high) + 1)))
    if axis.kind is Kind.WHOLE:
        return trial.suggest_int(axis.name, int(axis.low), int(axis.high), log=axis.log)
    return trial.suggest_float(axis.name, axis.low, axis.high, log=axis.log)


def _excess(objective: Objective, value: float) -> float | None:
    """How far a value is past its threshold, as Optuna wants it: above 0 is bad."""
    if objective.threshold is None or objective.strategy is Strategy.STORE:
        return None
    return objective.loss(value) - objective.loss(objective.threshold)
