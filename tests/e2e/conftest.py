"""Whole runs: homes with installed environments, the command line, the search for leftovers."""

from __future__ import annotations

import filecmp
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine import api
from engine import events as ev
from engine.environments import install_here
from engine.processes import processes_of
from engine.state import RunState
from tests.testbed import own_testbed, testbeds  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]
TEST_HOME = Path(os.environ.get("AIOK_TEST_HOME") or ROOT / ".test-envs").absolute()
LIMIT_S = 85.0
NOT_DATA = ("result.json", "files.json")


@dataclass(frozen=True)
class Home:
    """An AIOK_HOME of a test's own, with shared environments."""

    path: Path

    @property
    def env(self) -> dict[str, str]:
        """The environment of a new user's shell."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("AIOK_")}
        return {**kept, "AIOK_HOME": str(self.path), "PYTHONPATH": str(ROOT)}

    def aiok(self, *words: str, timeout_s: float = LIMIT_S) -> subprocess.CompletedProcess[str]:
        """Run the command line to its end."""
        return subprocess.run(
            [sys.executable, "-P", "-m", "aiok_tui", *words],
            env=self.env, capture_output=True, text=True, timeout=timeout_s, check=False,
            stdin=subprocess.DEVNULL, cwd=self.path,
        )  # fmt: skip

    def popen(self, *words: str) -> subprocess.Popen[str]:
        """Start the command line in a session of its own."""
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "aiok_tui", *words],
            env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            stdin=subprocess.DEVNULL, cwd=self.path, start_new_session=True,
        )  # fmt: skip

    def state(self, run: str) -> RunState:
        """The state of one of this home's runs."""
        return api.state(run)


def new_home(path: Path) -> Home:
    """A home whose environments and wheels are the shared ones."""
    path.mkdir(parents=True)
    for name in ("envs", "wheels"):
        (TEST_HOME / name).mkdir(parents=True, exist_ok=True)
        (path / name).symlink_to(TEST_HOME / name)
    return Home(path)


@pytest.fixture(scope="session")
def environments() -> None:
    """The product's own environments, installed once for all tests."""
    before = os.environ.get("AIOK_HOME")
    os.environ["AIOK_HOME"] = str(TEST_HOME)
    try:
        for name in ("etl", "torch"):
            install_here(name, lambda phase, done, total: None, [], False)
    finally:
        os.environ.pop("AIOK_HOME")
        if before is not None:
            os.environ["AIOK_HOME"] = before


@pytest.fixture
def home(environments: None, bare_home: Home) -> Home:
    """An empty home with the product's own environments."""
    return bare_home


@pytest.fixture
def bare_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """An empty home; whatever a test leaves running is ended."""
    made = new_home(tmp_path / "home")
    monkeypatch.setenv("AIOK_HOME", str(made.path))
    yield made
    for run in api.runs():
        api.stop(run.id, kill=True)
        api.wait_for_end(run.id, 30)


def wait_for(run: str, wanted: Callable[[ev.Event], bool], limit_s: float = 60.0) -> ev.Event:
    """The first event of a run that `wanted` accepts."""
    offset, end = 0, time.monotonic() + limit_s
    while time.monotonic() < end:
        events, offset = api.events_since(run, offset)
        for event in events:
            if wanted(event):
                return event
            assert not isinstance(event, ev.RunEnded), f"{run} ended: {api.state(run).problem}"
        time.sleep(0.01)
    raise AssertionError(f"{run}: not seen in {limit_s} s; state {api.state(run)}")


def wait_until_nothing_is_left(run: str, limit_s: float = 20.0) -> None:
    """Every process of a run must end."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        left = processes_of(run)
        if not left:
            return
        time.sleep(0.05)
    raise AssertionError(f"left of {run}: {left}")


def assert_same(reference: Path, made: Path) -> None:
    """Every file of training data is the same, byte by byte: so is every row."""
    found = (path for path in reference.rglob("*") if path.is_file())
    names = sorted(str(path.relative_to(reference)) for path in found if path.name not in NOT_DATA)
    assert len(names) > 26  # dictionaries, and blocks
    assert filecmp.cmpfiles(reference, made, names, shallow=False)[0] == names
