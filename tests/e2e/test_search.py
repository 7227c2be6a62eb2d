"""A whole search of a model: from the recipe to the best trial, evaluated and exported."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from engine import api
from engine import events as ev
from engine.hpo.trials import TrialState
from engine.plan import read_plan
from engine.processes import processes_of
from engine.state import RunStatus
from engine.store import open_run_folder
from tests.e2e.conftest import Home, wait_for, wait_until_nothing_is_left

pytestmark = pytest.mark.slow

RECIPE = """\
dataset: {format: criteo, generate: {rows: 5000, seed: 1}}
model:
  name: dlrm
  profile: tiny
  settings: {epochs: 2, patience: 4, evals_per_epoch: 4, batch_size: 64}
train: {checkpoint_s: 1}
search:
  optimizer: random
  pruner: none
  trials: 4
  parallel: 2
  parameters:
    - {name: learning_rate, type: double, bounds: {min: 1.0e-3, max: 0.1}, transformation: log}
    - {name: embedding_size, type: int, grid: [2, 4]}
"""


def recipe(home: Home) -> str:
    path = home.path / "small.yaml"
    path.write_text(RECIPE)
    return str(path)


def check(run: str) -> None:
    """Every trial has one end; the step's output, result and evaluation are the best trial's."""
    state = api.state(run)
    assert state.status is RunStatus.DONE, state.problem
    trials = state.trials
    assert sorted(trials) == [0, 1, 2, 3]
    assert {trial.state for trial in trials.values()} == {TrialState.FINISHED}
    assert trials[0].origin == "default"
    assert trials[0].assignment == {"learning_rate": 0.004, "embedding_size": 4}
    assert {trial.cores for trial in trials.values()} <= {(0,), (1,), (0, 1)}
    best = max(trials.values(), key=lambda trial: trial.values["auc"])
    result = state.result("search")
    assert (result["trial"], result["values"]) == (best.number, best.values)
    assert result["best"]["valid"]["auc"] == best.values["auc"]
    model = json.loads((open_run_folder(run).artifacts("search") / "model.json").read_text())
    assert model["settings"]["learning_rate"] == best.assignment["learning_rate"]
    assert model["settings"]["embedding_size"] == best.assignment["embedding_size"]
    assert model["weights_sha256"] == result["weights_sha256"]
    assert 0.5 < state.result("evaluate")["auc"] < 0.8
    assert state.result("optimize")["auc_drop"] <= 0.001
    ends = [e for e in api.events_since(run, 0)[0] if isinstance(e, ev.TrialEnded)]
    assert sorted(e.trial for e in ends if e.state != "interrupted") == [0, 1, 2, 3]


def test_a_search_killed_and_resumed_then_reused(home: Home) -> None:
    run = api.start(recipe(home))
    wait_for(run, lambda event: isinstance(event, ev.TrialMeasured))
    runner = next(process for process in processes_of(run) if process.role == "runner")
    os.kill(runner.pid, signal.SIGKILL)
    done = home.aiok("resume", run)
    assert done.returncode == 0, done.stderr
    check(run)
    wait_until_nothing_is_left(run)
    assert not (open_run_folder(run).path / "work" / "search").exists()
    again = home.aiok("run", recipe(home))
    assert again.returncode == 0, again.stderr
    second = api.runs()[0].id
    assert second != run
    reused, first = api.state(second), api.state(run)
    assert reused.steps["search"].status.name == "REUSED"
    assert reused.trials == first.trials
    check_best_recipe(home, run)


def check_best_recipe(home: Home, run: str) -> None:
    """The recipe of the best trial trains with its settings and finds its metric again.

    A trial has the cores of its slot, the training all of this machine: sums of as many threads
    are rounded otherwise, which may swap a few of 500 validation rows.
    """
    best = max(api.state(run).trials.values(), key=lambda trial: trial.values["auc"])
    said = home.aiok("trials", run, "--best", "best.yaml")
    assert "next: aiok run best.yaml" in said.stderr, said.stderr
    assert f"# trial {best.number} of {run}: auc " in (home.path / "best.yaml").read_text()
    ran = home.aiok("run", "best.yaml")
    assert ran.returncode == 0, ran.stderr
    again = api.runs()[0].id
    of_best, of_trial = (
        json.loads((open_run_folder(one).artifacts(step) / "model.json").read_text())
        for one, step in ((again, "train"), (run, "search"))
    )
    assert of_best["settings"] == of_trial["settings"]
    assert of_best["settings"].items() >= best.assignment.items()
    state = api.state(again)
    assert state.steps["etl"].status.name == "REUSED"
    plan = read_plan(open_run_folder(again).plan)
    assert plan.value("train.ranks") == 1
    assert state.result("train")["best"]["valid"]["auc"] == pytest.approx(
        best.values["auc"], abs=0.002
    )
    assert state.result("evaluate")["auc"] == pytest.approx(
        api.state(run).result("evaluate")["auc"], abs=0.002
    )


def test_a_stopped_search_goes_on_with_what_it_had(home: Home) -> None:
    run = api.start(recipe(home))
    measured = wait_for(run, lambda event: isinstance(event, ev.TrialMeasured))
    assert isinstance(measured, ev.TrialMeasured)
    assert home.aiok("stop", run).returncode == 0
    state = api.wait_for_end(run, 40)
    assert (state.status, state.exit_code) == (RunStatus.STOPPED, 4)
    assert TrialState.RUNNING not in {trial.state for trial in state.trials.values()}
    assert state.trials[measured.trial].state in (TrialState.INTERRUPTED, TrialState.FINISHED)
    done = home.aiok("resume", run)
    assert done.returncode == 0, done.stderr
    check(run)


def test_an_experiment_file_and_warm_start(home: Home) -> None:
    assert home.aiok("run", recipe(home)).returncode == 0
    experiment = home.path / "experiment.yaml"
    experiment.write_text(
        "experiment: small\nobservation_budget: 3\n"
        "parameters:\n"
        "  - {name: learning_rate, type: double, bounds: {min: 1.0e-3, max: 0.1},"
        " transformation: log}\n"
        "  - {name: embedding_size, type: int, grid: [2, 4]}\n"
        "metrics:\n  - {name: auc, objective: maximize}\n"
    )
    path = Path(recipe(home))
    path.write_text(RECIPE.split("search:")[0] + "search: {file: experiment.yaml, warm: [small-1]}")
    done = home.aiok("run", str(path))
    assert done.returncode == 0, done.stderr
    trials = api.state(api.runs()[0].id).trials
    origins = [trials[n].origin for n in sorted(trials)]
    assert (origins[0], origins[-1]) == ("default", "search")
    assert (len(origins), origins.count("warm")) == (3 + 4, 4)
    best = api.state("small-1").result("search")["assignment"]
    assert best in [trial.assignment for trial in trials.values() if trial.origin != "warm"]
    assert {trial.state for trial in trials.values()} <= {TrialState.FINISHED, TrialState.PRUNED}
