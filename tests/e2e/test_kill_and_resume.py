"""kill -9 of anything, before and after the first checkpoint: `resume` ends with the same model."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import cache

import pytest

from engine import api
from engine import events as ev
from engine.processes import processes_of
from engine.state import RunStatus, StepStatus
from tests.e2e.conftest import Home, new_home, wait_for, wait_until_nothing_is_left

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def baseline(environments: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Home]:
    """An undisturbed run of `tiny` with that many ranks, in a home of its own."""

    @cache
    def make(ranks: int) -> Home:
        home = new_home(tmp_path_factory.mktemp("baseline") / "home")
        done = home.aiok("run", "tiny", "--set", f"train.ranks={ranks}")
        assert done.returncode == 0, done.stderr
        return home

    return make


def borrow(home: Home, baseline: Home, kinds: tuple[str, ...]) -> None:
    """Let a new home reuse the finished outputs of these kinds."""
    (home.path / "cache").mkdir()
    for path in (baseline.path / "cache").iterdir():
        if path.name.split("-")[0] in kinds:
            (home.path / "cache" / path.name).symlink_to(path)


def train_result(home: Home, run: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, float]:
    """The weights' hash and the test AUC of a finished run."""
    monkeypatch.setenv("AIOK_HOME", str(home.path))
    state = api.state(run)
    assert state.status is RunStatus.DONE, state.problem
    return state.result("train")["weights_sha256"], state.result("evaluate")["auc"]


def victims(run: str, who: str) -> list[int]:
    """The pids to kill."""
    role = {"runner": "runner", "rank": "rank", "mpirun": "launcher", "etl": "worker"}[who]
    return [process.pid for process in processes_of(run) if process.role == role]


def progressed(event: ev.Event) -> bool:
    return isinstance(event, ev.StepProgressed) and event.step == "train" and event.done > 0


def saved(event: ev.Event) -> bool:
    return isinstance(event, ev.CheckpointSaved)


@pytest.mark.parametrize("moment", [progressed, saved], ids=["before", "after"])
@pytest.mark.parametrize(("who", "ranks"), [("runner", 1), ("rank", 1), ("rank", 2), ("mpirun", 2)])
def test_training_killed_and_resumed(
    who: str,
    ranks: int,
    moment: Callable[[ev.Event], bool],
    home: Home,
    baseline: Callable[[int], Home],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = train_result(baseline(ranks), "tiny-1", monkeypatch)
    monkeypatch.setenv("AIOK_HOME", str(home.path))
    borrow(home, baseline(ranks), ("data", "etl"))
    run = api.start("tiny", [f"train.ranks={ranks}"])
    wait_for(run, moment)
    pids = victims(run, who)
    assert pids, processes_of(run)
    for pid in pids if who == "mpirun" else pids[-1:]:
        os.kill(pid, signal.SIGKILL)
    if who != "runner":
        assert api.wait_for_end(run, 60).status is RunStatus.FAILED
    wait_until_nothing_is_left(run, 30)
    done = home.aiok("resume", run)
    assert done.returncode == 0, done.stderr
    weights, auc = train_result(home, run, monkeypatch)
    if ranks == 1:
        assert weights == expected[0]
    assert auc == pytest.approx(expected[1], abs=0.002)
    assert_nothing_ran_twice(run)
    wait_until_nothing_is_left(run)


def assert_nothing_ran_twice(run: str) -> None:
    """No step that was whole before a resume started again after it."""
    whole: set[str] = set()
    events, _ = api.events_since(run, 0)
    for event in events:
        if isinstance(event, ev.StepStarted) and event.identity:
            assert event.step not in whole, f"{event.step} ran again"
        elif isinstance(event, ev.StepFinished | ev.StepReused):
            whole.add(event.step)


@pytest.mark.parametrize("who", ["runner", "etl"])
def test_etl_killed_and_resumed(
    who: str, home: Home, baseline: Callable[[int], Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = train_result(baseline(1), "tiny-1", monkeypatch)
    monkeypatch.setenv("AIOK_HOME", str(home.path))
    borrow(home, baseline(1), ("data",))
    run = api.start("tiny")
    wait_for(run, lambda e: isinstance(e, ev.StepProgressed) and e.step == "etl")
    pids = victims(run, who)
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    if who == "etl":
        state = api.wait_for_end(run, 60)
        assert state.status is RunStatus.FAILED
        assert state.steps["etl"].status is StepStatus.FAILED
    wait_until_nothing_is_left(run, 30)
    done = home.aiok("resume", run)
    assert done.returncode == 0, done.stderr
    assert train_result(home, run, monkeypatch) == expected
    assert_nothing_ran_twice(run)


def test_stop_then_resume_is_the_same_model(
    home: Home, baseline: Callable[[int], Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = train_result(baseline(1), "tiny-1", monkeypatch)
    monkeypatch.setenv("AIOK_HOME", str(home.path))
    borrow(home, baseline(1), ("data", "etl"))
    run = api.start("tiny")
    wait_for(run, progressed)
    assert home.aiok("stop", run).returncode == 0
    state = api.wait_for_end(run, 30)
    assert (state.status, state.exit_code) == (RunStatus.STOPPED, 4)
    assert state.checkpoint is not None
    done = home.aiok("resume", run)
    assert done.returncode == 0, done.stderr
    assert train_result(home, run, monkeypatch) == expected


def test_two_resumes_at_once_run_it_once(
    home: Home, baseline: Callable[[int], Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOK_HOME", str(home.path))
    borrow(home, baseline(1), ("data", "etl"))
    run = api.start("tiny")
    wait_for(run, progressed)
    os.kill(victims(run, "runner")[0], signal.SIGKILL)
    both = [home.popen("resume", run, "--detach") for _ in range(2)]
    said = {process.communicate(timeout=40)[1]: process.returncode for process in both}
    assert sorted(said.values()) == [0, 2]
    (refused,) = (words for words, code in said.items() if code == 2)
    assert f"{run} is already running" in refused
    assert api.wait_for_end(run, 80).status is RunStatus.DONE
    events, _ = api.events_since(run, 0)
    assert sum(isinstance(e, ev.RunStarted) for e in events) == 2
    assert sum(isinstance(e, ev.StepFinished) and e.step == "train" for e in events) == 1
