"""Which parameters matter, and the search as a study that Optuna's own tools open."""

from __future__ import annotations

import math
import random
from pathlib import Path

import optuna
import pytest

from engine.errors import InputError
from engine.hpo.importance import importance
from engine.hpo.optuna_study import export
from engine.hpo.space import Parameter, Space, Type
from engine.hpo.study import Objective, Strategy, Study
from engine.hpo.trials import Failure, Report, Trial, TrialState

SPACE = Space(parameters=(
    Parameter(name="rate", type=Type.DOUBLE, low=1e-4, high=1.0, log=True),
    Parameter(name="width", type=Type.INT, low=4, high=64, log=True),
    Parameter(name="batch", type=Type.INT, choices=(256, 512, 1024)),
    Parameter(name="drop", type=Type.DOUBLE, low=0.0, high=1.0, step=0.3),
    Parameter(name="optimizer", type=Type.CATEGORICAL, choices=("sgd", "adam")),
    Parameter(name="momentum", type=Type.DOUBLE, low=0.0, high=0.9,
              condition={"optimizer": ("sgd",)}),
))  # fmt: skip
AUC = Objective(name="auc", maximize=True)
SECONDS = Objective(name="training_time", maximize=False, threshold=100.0)


def search(count: int) -> list[Trial]:
    """The AUC depends on the rate alone, the time on the width alone."""
    made = []
    for number in range(count):
        chosen = SPACE.sample(random.Random(number))
        auc = 0.8 - 0.05 * abs(math.log10(float(chosen["rate"])) + 2)
        values = {"auc": auc, "training_time": 2.0 * float(chosen["width"])}
        made.append(Trial(number=number, assignment=chosen, state=TrialState.FINISHED,
                          values=values, started=1000.0 + number, ended=1002.0 + number,
                          reports={"auc": [Report(10, auc - 0.1), Report(20, auc)]}))  # fmt: skip
    return made


def test_what_matters_comes_first_for_each_metric() -> None:
    study = Study(space=SPACE, objectives=(AUC, SECONDS))
    auc, seconds = importance(study, search(80))
    assert (auc.metric, seconds.metric, auc.trials) == ("auc", "training_time", 80)
    assert next(iter(auc.shares)) == "rate"
    assert next(iter(seconds.shares)) == "width"
    assert auc.shares["rate"] > 0.5
    assert sum(auc.shares.values()) == pytest.approx(1)
    assert set(auc.shares) == set(SPACE.names())


def test_a_parameter_of_few_trials_has_no_share() -> None:
    """Its condition held in four of twenty: what it seems to matter is chance."""
    study = Study(space=SPACE, objectives=(AUC,))
    made = search(200)
    some = [t for t in made if t.assignment["optimizer"] == "adam"][:16]
    some += [t for t in made if t.assignment["optimizer"] == "sgd"][:4]
    (found,) = importance(study, some)
    assert found.few == ("momentum",)
    assert set(found.shares) == set(SPACE.names()) - {"momentum"}
    assert sum(found.shares.values()) == pytest.approx(1)


def test_too_few_trials_are_said_in_words() -> None:
    study = Study(space=SPACE, objectives=(AUC,))
    some = search(12)
    for trial in some[:3]:
        trial.state = TrialState.PRUNED
    (found,) = importance(study, some)
    assert (found.shares, found.trials) == ({}, 9)
    assert found.why_not == "9 finished trials are too few to tell what matters: 10 are needed"
    for trial in some:
        trial.state, trial.values = TrialState.FINISHED, {"auc": 0.5}
    assert importance(study, some)[0].why_not == "all 12 trials have the same auc"


def loaded(path: Path, name: str) -> optuna.Study:
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    return optuna.load_study(study_name=name, storage=optuna.storages.JournalStorage(backend))


def test_an_export_is_loaded_back_by_optuna_as_it_was(tmp_path: Path) -> None:
    bound = Objective(name="training_time", maximize=False, strategy=Strategy.CONSTRAINT,
                      threshold=50.0)  # fmt: skip
    study = Study(space=SPACE, objectives=(AUC, bound))
    some = search(12)
    some[3].state, some[3].values = TrialState.PRUNED, {}
    some[4].state, some[4].values = TrialState.FAILED, {}
    some[4].failure, some[4].what = Failure.CRASH, "exit 1\x1b[31m"
    some[5].state, some[5].values = TrialState.RUNNING, {}
    some[6].assignment = {**some[6].assignment, "rate": 7.0}
    export(tmp_path / "study.log", "job-1", study, some)
    found = loaded(tmp_path / "study.log", "job-1")
    assert found.direction == optuna.study.StudyDirection.MAXIMIZE
    assert found.metric_names == ["auc"]
    assert found.user_attrs["thresholds of"] == ["training_time"]
    assert [trial.number for trial in found.trials] == list(range(12))
    states = [trial.state.name for trial in found.trials]
    assert states == [*["COMPLETE"] * 3, "PRUNED", "FAIL", "WAITING", *["COMPLETE"] * 6]
    for mine, theirs in zip(some, found.trials, strict=True):
        if mine.number != 6:
            assert theirs.params == mine.assignment
        if mine.values:
            assert theirs.values == [mine.values["auc"]]
            kept = mine.values["training_time"] <= 50
            (excess,) = theirs.constraints.values()
            assert (excess <= 0) == kept
    assert found.trials[3].intermediate_values == {r.step: r.value for r in some[3].reports["auc"]}
    assert found.trials[4].user_attrs["failure"] == "crash"
    assert found.trials[4].user_attrs["what"] == "exit 1[31m"
    assert found.trials[6].user_attrs["outside of the space"] == {"rate": 7.0}
    assert (found.trials[0].duration or 0).total_seconds() == 2
    best = max((t for t in some if t.values and t.values["training_time"] <= 50),
               key=lambda t: t.values["auc"])  # fmt: skip
    assert found.best_trial.number == best.number


def test_several_metrics_keep_their_front(tmp_path: Path) -> None:
    study = Study(space=SPACE, objectives=(AUC, Objective(name="training_time", maximize=False)))
    export(tmp_path / "study.log", "job-1", study, search(30))
    found = loaded(tmp_path / "study.log", "job-1")
    assert [d.name for d in found.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert len(found.best_trials) >= 2


def test_an_export_replaces_nothing(tmp_path: Path) -> None:
    study = Study(space=SPACE, objectives=(AUC,))
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(InputError, match="is there already"):
        export(tmp_path / "mine", "job", study, [])
    with pytest.raises(InputError, match="there is no folder"):
        export(tmp_path / "no" / "file", "job", study, [])
    assert (tmp_path / "mine").read_text() == "keep"
