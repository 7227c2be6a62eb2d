"""A search under the real engine and agents whose processes are killed: nothing lost or doubled."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from bench import search_faults
from engine import api
from engine.state import RunStatus

pytestmark = pytest.mark.slow


def test_fifty_kills_among_32_trials_at_a_time(tmp_path: Path) -> None:
    with search_faults.fake_home(tmp_path / "home"):
        run = search_faults.new_run(trials=64, slots=32, pause_s=0.25)
        api.resume(run.id)
        done = search_faults.disturb(run.id, 50, 4, random.Random(20261125), limit_s=85)
        assert search_faults.verdict(run.id, 64) == []
        assert (done.count, done.roles["runner"], done.resumes) == (50, 4, 4)
        state = api.state(run.id)
        assert state.status is RunStatus.DONE
        assert max(trial.tries for trial in state.trials.values()) > 1
        assert sum(state.result("search")["trials"].values()) == 64
