"""Fixtures every test may use."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("aiok", deadline=None)  # a machine may be busy: no test asserts wall time
settings.load_profile("aiok")

# Tests may be started by nohup or in the background: what they start would ignore these, too.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def aiok_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty AIOK_HOME of the test's own."""
    home = tmp_path / "aiok-home"
    monkeypatch.setenv("AIOK_HOME", str(home))
    return home
