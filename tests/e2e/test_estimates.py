"""What steps were expected to take stands beside what they took, everywhere a user looks."""

from __future__ import annotations

import json

from engine import api, estimates
from tests.e2e.conftest import Home

TIMED = ("etl", "train")


def test_estimates_are_stored_scored_and_shown_beside_the_actuals(home: Home) -> None:
    planned = home.aiok("plan", "tiny")
    assert planned.returncode == 0 and "network GiB" in planned.stdout
    assert "earlier run" not in planned.stdout
    done = home.aiok("run", "tiny", timeout_s=120)
    assert done.returncode == 0, done.stderr
    state = api.state("tiny-1")
    plan = json.loads((home.path / "runs" / "tiny-1" / "plan.json").read_text())
    for planned_step in plan["steps"]:
        assert state.steps[planned_step["id"]].estimate == planned_step["estimate"]
    for name in TIMED:
        step = state.steps[name]
        assert step.seconds is not None
        assert abs(step.actual["minutes"] - step.seconds / 60) < 1e-4
        assert 0.05 < step.actual["memory_gib"] < 8 and step.actual["disk_gib"] > 0
        assert {"minutes", "memory_gib"} <= set(estimates.ratios(step))
    scored = estimates.score(state)
    known = json.loads((home.path / "estimates.jsonl").read_text())
    assert known["run"] == "tiny-1"
    assert set(known["ratios"]) == set(scored) >= {"minutes", "memory_gib"}

    shown = home.aiok("show", "tiny-1").stdout
    assert "estimated / taken" in shown and f"this run: {estimates.sentence(scored)}" in shown
    as_json = json.loads(home.aiok("show", "tiny-1", "--json").stdout)
    assert as_json["steps"]["train"]["actual"] == state.steps["train"].actual
    assert as_json["estimates"]["record"]["runs"] == 1
    twin = json.loads((home.path / "runs/tiny-1/artifacts/report/report.json").read_text())
    for step in twin["steps"]:
        if step["id"] in TIMED:
            taken = state.steps[step["id"]].actual
            assert step["memory_gib"] == taken["memory_gib"]
            assert step["estimate"]["memory_gib"] > 0 and step["estimate"]["seconds"] > 0
            assert step["ratios"]["minutes"] > 0
    assert twin["estimates"]["run"]["minutes"] > 0
    page = (home.path / "runs/tiny-1/artifacts/report/report.html").read_text()
    assert "This run took time" in page
    assert "1 earlier run: time" in home.aiok("plan", "tiny").stdout
