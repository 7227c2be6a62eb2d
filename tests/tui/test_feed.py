"""The reader and the caller: what they read, how often, and what they do with errors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aiok_tui.feed import Call, Calls, Feed, snapshot
from aiok_tui.screens import parts
from aiok_tui.widgets.logfile import LogFile
from engine import api
from engine import events as ev
from engine.state import RunStatus, StepStatus, fold
from engine.store import EventLog, open_run_folder
from tests.tui import recorded
from tests.tui.conftest import RecordedEngine, Stage

WAIT_S = 20.0


class CountingEngine(RecordedEngine):
    """Counts reads and can fail."""

    def __init__(self) -> None:
        super().__init__()
        self.reads, self.failure = 0, ""

    def runs(self) -> list[api.RunSummary]:
        self.reads += 1
        if self.failure:
            raise OSError(self.failure)
        return super().runs()


def test_nothing_is_read_that_nobody_sees(runs: Path) -> None:
    engine = CountingEngine()
    feed = Feed(lambda: engine)
    feed.step(0.0)
    assert engine.reads == 0 and feed.latest.view is None
    feed.want_runs(True)
    for tick in range(50):
        feed.step(tick / 10)
    assert 2 <= engine.reads <= 5
    assert [run.id for run in feed.latest.runs or ()] == ["live-1", "bad-1", "half-1", "quick-1"]


def test_a_read_that_fails_is_told_until_it_works_again(runs: Path) -> None:
    engine = CountingEngine()
    feed = Feed(lambda: engine)
    feed.want_runs(True)
    engine.failure = "stale file handle"
    feed.step(0.0)
    assert feed.latest.problems == {"runs": "stale file handle"}
    engine.failure = ""
    feed.step(100.0)
    assert feed.latest.problems == {} and len(feed.latest.runs or ()) == 4


def test_a_run_that_is_gone_does_not_hide_the_list(runs: Path) -> None:
    feed = Feed(CountingEngine)
    feed.want_runs(True)
    feed.want_run("no-such-run")
    feed.step(0.0)
    assert "no run no-such-run" in feed.latest.problems["run"]
    assert len(feed.latest.runs or ()) == 4


def test_versions_count_changes_only(runs: Path) -> None:
    feed = Feed(CountingEngine)
    feed.want_run("live-1")
    feed.step(0.0)
    first = feed.latest.view
    assert first is not None and first.state.status is RunStatus.RUNNING
    assert len(first.samples["localhost"]) == 60
    assert [label for label, _ in first.logs] == [label for label, _ in api.log_files("live-1")]
    feed.step(1.0)
    assert feed.latest.view is first
    log = EventLog(open_run_folder("live-1").events)
    log.append(ev.StopRequested(t=recorded.T0 + 61))
    log.close()
    feed.step(2.0)
    second = feed.latest.view
    assert second is not None and second.version > first.version
    assert second.state.status is RunStatus.STOPPING
    assert first.state.status is RunStatus.RUNNING  # what was handed out does not change


def test_a_snapshot_stands_still() -> None:
    events = recorded.events_of("a-1", "running")
    state = fold(events)
    copied = snapshot(state)
    assert copied == state
    fold(recorded._after_training(Path("r.html"))[:1], state)
    fold([ev.Noted(t=1, step="etl", text="more")], state)
    fold([ev.Measured(t=1, step="train", name="auc", value=1, split="valid", rows=1 << 30,
                      step_count=1 << 30)], state)  # fmt: skip
    assert copied.steps["train"].status is StepStatus.RUNNING
    assert copied == fold(events)


def test_the_thread_reads_and_ends(runs: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("one\n", encoding="utf-8")
    engine = CountingEngine()
    feed = Feed(lambda: engine)
    seen = threading.Event()
    log = LogFile(path)
    refresh = log.refresh

    def telling(*args: Any) -> bool:
        more = refresh(*args)
        if log.lines and feed.latest.runs is not None:
            seen.set()
        return more

    log.refresh = telling  # type: ignore[method-assign]
    feed.want_runs(True)
    feed.want_log(log)
    feed.start()
    try:
        assert seen.wait(WAIT_S)
        assert log.line(0) == "one"
    finally:
        feed.close()
    assert feed._thread is not None
    feed._thread.join(WAIT_S)
    assert not feed._thread.is_alive()


# --- calls --------------------------------------------------------------------------------------


def test_of_one_group_only_the_newest_waiting_call_is_done() -> None:
    calls = Calls(lambda act: act())
    done: list[int] = []
    for number in range(5):
        calls.put(Call("check", lambda n=number: n, done.append, lambda e: None))  # type: ignore[misc]
        calls.put(Call("", lambda n=number: n * 10, done.append, lambda e: None))  # type: ignore[misc]
    calls.drain()
    assert done == [0, 10, 20, 30, 4, 40]


def test_errors_are_handed_over_and_the_thread_lives_on() -> None:
    answers: list[object] = []
    ready = threading.Event()

    def answer(act: Callable[[], None]) -> None:
        act()
        if len(answers) == 2:
            ready.set()

    def fail() -> None:
        raise OSError("no")

    calls = Calls(answer)
    calls.put(Call("", fail, answers.append, lambda error: answers.append(str(error))))
    calls.put(Call("", lambda: 7, answers.append, answers.append))
    calls.start()
    assert ready.wait(WAIT_S)
    assert answers == ["no", 7]


# --- one state, two fronts ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["running", "failed", "stopped", "done"])
def test_app_and_command_line_tell_the_same(kind: str) -> None:
    from aiok_tui import output

    state = fold(recorded.events_of("a-1", kind))
    if kind == "running":
        state.status = RunStatus.RUNNING
    mine = parts.step_rows(state, recorded.T0 + 60)
    theirs = output.step_rows(state)
    assert [row.key for row in mine] == [row[0] for row in theirs]
    for row, (_, word, seconds, _, found) in zip(mine, theirs, strict=True):
        status = state.steps[row.key].status
        if status.is_whole:
            assert row.cells[1][0].endswith(word)
            assert row.cells[3][0] == found
        if status is StepStatus.DONE:
            assert row.cells[2][0] == seconds


async def test_the_app_with_its_threads_shows_what_comes(
    runs: Path, stage: Callable[..., Stage]
) -> None:
    """The real reader, the real timer: what is appended is on the screen soon."""
    from aiok_tui.app import AiokApp
    from tests.tui.conftest import screen_text

    engine = RecordedEngine()
    app = AiokApp("live-1", engine=lambda: engine)  # type: ignore[arg-type,return-value]
    async with app.run_test(size=(120, 36)) as pilot:

        async def shown(text: str) -> bool:
            for _ in range(400):
                if text in screen_text(app):
                    return True
                await pilot.pause(0.05)
            return False

        assert await shown("● running")
        with open(open_run_folder("live-1").logs("train") / "output.log", "a") as file:
            file.write("a new line\n")
        engine.stop("live-1")
        assert await shown("stopping")
        assert await shown("a new line")
