"""What steps were expected to take stands beside what they took, everywhere a user looks."""

from __future__ import annotations

import json

from engine import api, estimates
from tests.e2e.conftest import Home

TIMED = ("etl", "train")


def test_estimates_are_stored_scored_and_shown_beside_the_actuals(home: Home) -> None:
    planned = home.aiok("plan", "tiny")
    assert planned.returncode == 0 and "network GiB" in planned.stdout
    assert "earlier run" not in planned.stdout and "built-in prices" in planned.stdout
    done = home.aiok("run", "tiny", timeout_s=120)
    assert done.returncode == 0, done.stderr
    state = api.state("tiny-1")
    plan = json.loads((home.path / "runs" / "tiny-1" / "plan.json").read_text())
    for planned_step in plan["steps"]:
        told, known = planned_step["estimate"], state.steps[planned_step["id"]]
        assert known.estimate == {key: told[key] for key in known.estimate}
        assert known.within == told["within"] and known.basis == told["basis"]
    for name in TIMED:
        step = state.steps[name]
        assert step.seconds is not None
        assert abs(step.actual["minutes"] - step.seconds / 60) < 1e-4
        assert 0.05 < step.actual["memory_gib"] < 8 and step.actual["disk_gib"] > 0
        assert {"minutes", "memory_gib"} <= set(estimates.ratios(step))
        assert 0.5 < step.actual["cpu_s"] < 120
    scored = estimates.score(state)
    known = json.loads((home.path / "estimates.jsonl").read_text())
    assert known["run"] == "tiny-1"
    assert set(known["ratios"]) == set(scored) >= {"minutes", "memory_gib"}
    learned = {kept["group"].split(" | ")[2]: kept for kept in known["steps"]}
    assert set(learned) == {"data", "etl", "roofline", "train", "evaluate", "optimize"}
    assert learned["train"]["open"] and 0 < learned["train"]["share"] <= 1

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
            low, high = step["intervals"]["memory_gib"]
            assert low < step["estimate"]["memory_gib"] < high
            assert step["cpu_s"] == taken["cpu_s"]
    assert twin["estimates"]["run"]["minutes"] > 0
    page = (home.path / "runs/tiny-1/artifacts/report/report.html").read_text()
    assert "This run took time" in page
    again = home.aiok("plan", "tiny", "--set", "dataset.generate.rows=21000")
    assert "1 run on record: time" in again.stdout and "learned from 1 earlier run" in again.stdout
    others = json.loads(home.aiok("plan", "tiny", "--set", "seed=8", "--json").stdout)
    for step in others["steps"]:
        if step["id"] == "train":
            figure, within = step["estimate"]["memory_gib"], step["estimate"]["within"]
            taken = state.steps["train"].actual["memory_gib"]
            assert figure / within["memory_gib"] < taken < figure * within["memory_gib"]
            assert within["memory_gib"] < 1.5
