"""A drill on this machine, from the command line's own call to its verdict."""

from __future__ import annotations

import json

import pytest

from engine import api, drill
from tests.e2e.conftest import Home

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("policy", "end", "told"),
    [("stop", "failed", "ended failed, after resume done"), ("wait", "done", "ended done")],
)
def test_a_killed_rank_starts_again_and_the_users_home_stays_as_it_was(
    policy: str, end: str, told: str, home: Home
) -> None:
    """On this machine alone it is a failure under `stop`, and the run can be resumed."""
    before = sorted(path.name for path in home.path.iterdir())
    (verdict,) = drill.drill(["rank killed"], [policy], on_hosts=False)
    assert verdict.broken == []
    assert verdict.end == end
    assert verdict.notice_s is not None
    assert verdict.notice_s <= drill.NOTICE_S
    assert verdict.drift is not None
    assert verdict.drift <= drill.DRIFT
    assert 0 < verdict.lost_s <= verdict.interval_s
    assert f"ended without a word; {told}, attempt 2" in verdict.observation
    assert sorted(path.name for path in home.path.iterdir()) == before
    assert api.runs() == []


def test_a_fault_that_does_not_exist_is_named_with_the_nearest(home: Home) -> None:
    done = home.aiok("drill", "--faults", "rank kiled", "--json")
    assert done.returncode == 2
    assert "did you mean rank killed?" in done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == []
