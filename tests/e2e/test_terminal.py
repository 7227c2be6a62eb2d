"""The terminal app in a real terminal: wizard, run, close, come back, stop, resume, report."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine import api
from engine.state import RunState, RunStatus, StepStatus
from tests.e2e.conftest import Home, wait_until_nothing_is_left

pytestmark = pytest.mark.slow


class Terminal:
    """A tmux server of its own with one window of 120x36."""

    def __init__(self, home: Home) -> None:
        self._opened = 0
        self._env = {**home.env, "TERM": "xterm-256color", "LANG": "C.UTF-8"}
        self._cwd = home.path

    def tmux(self, *words: str) -> str:
        done = subprocess.run(
            ["tmux", "-L", f"aiok-test-{os.getpid()}-{self._opened}", *words],
            env=self._env, cwd=self._cwd, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.stdout

    def open(self) -> None:
        """Start the app in a new window of a new server; a shell stays after it."""
        self._opened += 1
        program = f"{sys.executable} -P -m aiok_tui; echo left with $?; exec sleep 600"
        self.tmux("new-session", "-d", "-x", "120", "-y", "36", program)

    def screen(self) -> str:
        return self.tmux("capture-pane", "-p")

    def press(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def see(self, pattern: str, limit_s: float = 30.0) -> str:
        """The screen once it shows the pattern."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            screen = self.screen()
            if re.search(pattern, screen):
                return screen
            time.sleep(0.1)
        raise AssertionError(f"{pattern!r} is not on the screen:\n{self.screen()}")

    def field(self) -> str:
        """The line above the cursor: the label of the field it is in."""
        row = int(self.tmux("display-message", "-p", "#{cursor_y}"))
        return self.screen().split("\n")[row - 1]

    def fill(self, label: str, text: str) -> None:
        """Go to the field and type, as a person does: look, then go on."""
        for _ in range(20):
            self.press("Tab")
            end = time.monotonic() + 3.0
            while time.monotonic() < end:
                if self.field().strip().startswith(label):
                    self.press("End", "C-u")
                    self.press(*text)
                    self.see(rf"{label} .*\n\s*{text}\s*\n")
                    return
                time.sleep(0.1)
        raise AssertionError(f"no field {label!r}:\n{self.screen()}")

    def close(self) -> None:
        self.tmux("kill-server")


@pytest.fixture
def terminal(home: Home) -> Iterator[Terminal]:
    made = Terminal(home)
    yield made
    made.close()


def until(wanted: Callable[[RunState], bool], limit_s: float = 80.0) -> RunState:
    """The state of job-1 once it is as wanted."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        state = api.state("my-job-1")
        if wanted(state):
            return state
        time.sleep(0.05)
    raise AssertionError(f"not so in {limit_s} s: {api.state('my-job-1')}")


def test_wizard_run_close_reattach_stop_resume_report(home: Home, terminal: Terminal) -> None:
    terminal.open()
    terminal.see("no runs yet|New run")
    terminal.press("n")
    terminal.see("where the rows come from")
    terminal.fill("Rows", "40000")
    terminal.press("F10")
    review = terminal.see("make 40,000 rows")
    assert "aiok run" in review
    terminal.press("F5")
    terminal.see(r"my-job-1 .*running")
    until(lambda s: s.steps["data"].status is StepStatus.RUNNING)

    terminal.press("q")
    left = terminal.see("left with")
    assert "aiok show my-job-1" in left
    assert api.state("my-job-1").status is RunStatus.RUNNING

    terminal.close()
    terminal.open()
    terminal.see(r"my-job-1")
    terminal.press("Enter")
    terminal.see(r"my-job-1 .*running")
    terminal.press("s")
    screen = terminal.see(r"\(y/N\)|\[y/N\]|[Ss]top my-job-1|stopping|stopped")
    if "stopp" not in screen:
        terminal.press("y")
    state = until(lambda s: s.status is RunStatus.STOPPED)
    assert state.exit_code == 4
    wait_until_nothing_is_left("my-job-1")
    terminal.see(r"my-job-1 .*stopped")

    terminal.press("r")
    until(lambda s: s.status is RunStatus.DONE)
    terminal.see(r"my-job-1 .*done")
    terminal.see("test AUC 0|auc 0")
    terminal.press("o")
    terminal.see("report.html")
    assert Path(api.report("my-job-1")).is_file()
    finished = [s.status for s in api.state("my-job-1").steps.values()]
    assert all(status.is_whole for status in finished)
    terminal.press("q")
    terminal.see("left with 0")
