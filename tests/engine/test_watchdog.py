"""Ranks that hang are found, their stacks are shown, and nothing of them is left."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from engine import watchdog
from engine.clusters import local_site
from engine.code import deploy
from engine.errors import WorkerLost
from engine.watchdog import Stack, Watchdog, culprits
from engine.work import Launch, Listener, run_worker
from hosts import agent
from models.messages import Beat, Done, Message, Note

ROOT = Path(__file__).resolve().parents[2]
WORKER = """
import os, signal, sys, time
from models.messages import Beat
from models.worker import run

def work(spec, messenger, stop):
    messenger.send(Beat(step=1))
    {act}
    return {{}}

def wait_for_ever():
    time.sleep(1000)

sys.exit(run(work))
"""


class Log(Listener):
    def __init__(self) -> None:
        self.text = ""
        self.notes: list[Note] = []

    def message(self, message: Message, rank: int) -> None:
        if isinstance(message, Note):
            self.notes.append(message)

    def output(self, text: str) -> None:
        self.text += text


def hang(tmp_path: Path, act: str, begins: bool = True) -> tuple[WorkerLost, str]:
    """The error and the log of a rank that begins to step, or not, and then does this."""
    program, log = tmp_path / "worker.py", Log()
    text = WORKER if begins else WORKER.replace("    messenger.send(Beat(step=1))\n", "")
    program.write_text(text.format(act=act))
    (tmp_path / "spec.json").write_text("{}")
    launch = Launch(
        job=f"hang-{os.getpid()}.x", code=deploy().name,
        argv=[sys.executable, str(program), str(tmp_path / "spec.json")],
        env={"PYTHONPATH": str(ROOT), "PMI_RANK": "0", "PMI_SIZE": "1"},
        hang_s=1.0 if begins else 1000.0, start_s=2.0,
    )  # fmt: skip
    with pytest.raises(WorkerLost, match="rank 0 on localhost hangs: no progress for") as caught:
        run_worker([local_site()], launch, log, log="/the/log")
    assert agent.tagged(launch.job) == []
    (warning,) = log.notes  # at once: before the stacks are there and the ranks are ended
    assert warning.level == "warning"
    assert warning.text.startswith("rank 0 on localhost: no progress for")
    return caught.value, log.text


@pytest.mark.usefixtures("aiok_home")
def test_a_rank_that_hangs_is_ended_and_its_stack_is_in_the_log(tmp_path: Path) -> None:
    error, log = hang(tmp_path, "wait_for_ever()")
    assert "in wait_for_ever" in log
    assert "in work" in log
    assert "rank 0: " in error.why
    assert error.log == "/the/log"


@pytest.mark.usefixtures("aiok_home")
def test_a_stopped_rank_is_ended_and_told_as_stopped(tmp_path: Path) -> None:
    error, log = hang(tmp_path, "os.kill(os.getpid(), signal.SIGSTOP)")
    assert error.why == ("rank 0: it is stopped by a signal (state T in /proc), so it has no stack")
    assert "state T in /proc" in log


@pytest.mark.usefixtures("aiok_home")
def test_a_rank_that_hangs_before_its_first_step_is_ended_too(tmp_path: Path) -> None:
    error, log = hang(tmp_path, "wait_for_ever()", begins=False)
    assert "in wait_for_ever" in log
    assert error.why.startswith("rank 0: ")


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(watchdog.time, "monotonic", lambda: self.now)

    def wait(self, dog: Watchdog, seconds: int) -> dict[int, float]:
        """The ranks that are taken for hung after so long, looked at each second."""
        found: dict[int, float] = {}
        for _ in range(seconds):
            self.now += 1
            found = dog.hung()
        return found


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_the_start_has_a_limit_of_its_own_and_any_word_counts_for_all(clock: Clock) -> None:
    dog = Watchdog(2, 30, 1000)
    assert clock.wait(dog, 900) == {}
    dog.heard(Note(text="starts"), 0)
    assert clock.wait(dog, 1000) == {}
    assert clock.wait(dog, 1) == {0: 1001.0, 1: 1001.0}
    assert dog.watched == [0, 1]
    dog.restart()
    dog.heard(Beat(step=1), 0)
    assert clock.wait(dog, 30) == {}
    assert clock.wait(dog, 1) == {0: 31.0, 1: 31.0}


def test_work_without_steps_may_be_silent(clock: Clock) -> None:
    dog = Watchdog(1, 30)
    assert clock.wait(dog, 100_000) == {}
    dog.heard(Beat(step=1), 0)
    assert list(clock.wait(dog, 31)) == [0]


def test_before_the_first_beat_nobody_is_watched_by_itself(clock: Clock) -> None:
    dog = Watchdog(2, 30)
    dog.heard(Note(text="starts"), 0)
    assert clock.wait(dog, 1000) == {}
    dog.heard(Beat(step=1), 0)
    assert clock.wait(dog, 30) == {}
    assert clock.wait(dog, 1) == {0: 31.0, 1: 31.0}


def test_slow_steps_and_announced_writing_are_no_hang(clock: Clock) -> None:
    dog = Watchdog(1, 30)
    dog.heard(Beat(step=2, step_s=8.0), 0)
    assert clock.wait(dog, 80) == {}
    assert clock.wait(dog, 1) == {0: 81.0}
    dog.heard(Beat(step=3, step_s=0.1, quiet_s=100.0), 0)
    assert clock.wait(dog, 130) == {}
    assert list(clock.wait(dog, 1)) == [0]
    dog.heard(Beat(step=4, step_s=0.1), 0)
    assert dog.limit_s == 30


def test_a_rank_that_is_done_may_be_silent(clock: Clock) -> None:
    dog = Watchdog(2, 30)
    dog.heard(Beat(step=1), 1)
    dog.heard(Done(), 0)
    assert list(clock.wait(dog, 31)) == [1]


def test_time_in_which_nobody_listened_does_not_count(clock: Clock) -> None:
    dog = Watchdog(1, 30)
    dog.heard(Beat(step=1), 0)
    clock.now += 500  # this process was stopped
    assert dog.hung() == {}
    dog.restart()
    assert clock.wait(dog, 30) == {}
    assert list(clock.wait(dog, 1)) == [0]


FRAMES = 'Current thread 0x1 (most recent call first):\n  File "/h/code/a1/models/{}", line 7 in f'


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ({0: ("S", "dist.py"), 1: ("T", "")}, [1]),
        ({0: ("S", "dist_memory.py"), 1: ("R", "loop_data.py")}, [1]),
        ({0: ("S", "dist.py"), 1: ("S", "dist.py")}, []),
        ({1: ("S", "dist.py")}, []),
    ],
)
def test_the_rank_for_which_the_others_wait_is_named(
    states: dict[int, tuple[str, str]], expected: list[int]
) -> None:
    stacks = {
        rank: Stack(rank, 1, state, FRAMES.format(file) if file else "")
        for rank, (state, file) in states.items()
    }
    assert culprits([0, 1], stacks) == expected


def test_a_stack_says_where_in_few_words() -> None:
    where: dict[str, Any] = {"rank": 3, "pid": 7, "state": "R", "text": FRAMES.format("loop.py")}
    assert watchdog.stack_of(where).place == "it was at models/loop.py:7 in f"
    assert watchdog.stack_of({}).place == "it gave no stack (state ? in /proc)"
