"""A search that starts from earlier runs: what is wrong with them is told when it is planned."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from engine import api
from engine import events as ev
from engine.errors import ExitCode, InputError
from engine.hpo import warm
from engine.hpo.results import planned_search
from engine.store import EventLog, RunFolder, runs_folder
from tests.engine import searched

RECIPE = """
dataset: {format: criteo, generate: {rows: 5000}}
search: {trials: 20, warm: [%s], parameters: %s}
"""
NARROW = "[{name: learning_rate, type: double, bounds: {min: 1.0e-4, max: 2.0e-4}}]"


@pytest.fixture
def runs(aiok_home: Path) -> Path:
    """A run with a whole search, and one without any."""
    for name, search in (("old-1", searched.ONE), ("plain-1", None)):
        end_of(searched.record(runs_folder() / name, search))
    return aiok_home


def end_of(folder: RunFolder) -> None:
    log = EventLog(folder.events)
    log.append(ev.RunEnded(t=searched.T0 + 1000, status="done", exit_code=0))
    log.close()


def plan(folder: Path, run: str, parameters: str = "null") -> None:
    path = folder / "again.yaml"
    path.write_text(RECIPE % (run, parameters))
    api.plan(str(path))


def refusal(folder: Path, run: str, parameters: str = "null") -> InputError:
    before = sorted(runs_folder().iterdir())
    with pytest.raises(InputError) as refused:
        plan(folder, run, parameters)
    assert refused.value.exit_code == ExitCode.BAD_INPUT
    assert sorted(runs_folder().iterdir()) == before
    return refused.value


def test_runs_that_nothing_can_be_learned_from_are_told_at_plan_time(
    runs: Path, tmp_path: Path
) -> None:
    plan(tmp_path, "old-1")
    unknown = refusal(tmp_path, "old-2")
    assert unknown.what == "search.warm: there is no run old-2"
    assert "old-1" in unknown.todo
    nothing = "search.warm: no trial of %s has the parameters and metrics of this search"
    assert refusal(tmp_path, "plain-1").what == nothing % "plain-1"
    assert refusal(tmp_path, "old-1", NARROW).what == nothing % "old-1"


def test_a_run_that_goes_on_is_not_learned_from(runs: Path, tmp_path: Path) -> None:
    folder = searched.record(runs_folder() / "live-1", searched.ONE)
    with open(folder.lock, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert refusal(tmp_path, "live-1").what == "search.warm: the run live-1 is still going"
    plan(tmp_path, "live-1")  # its process is gone, so are the trials that could still change


def test_what_is_learned_are_the_trials_that_ended(runs: Path) -> None:
    planned = planned_search(searched.plan_of(searched.ONE))
    assert planned is not None
    found = warm.earlier(["old-1"], planned[1])
    assert [trial.number for trial in found] == [n for n in range(30) if n != 5]
