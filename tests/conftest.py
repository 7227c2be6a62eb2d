"""Fixtures every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def aiok_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty AIOK_HOME of the test's own."""
    home = tmp_path / "aiok-home"
    monkeypatch.setenv("AIOK_HOME", str(home))
    return home
