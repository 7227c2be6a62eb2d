"""What a step took: counted from samples and transfers, scored against its estimate, kept."""

from __future__ import annotations

import json
from pathlib import Path

from engine import estimates
from engine import events as ev
from engine.state import RunState, fold

T0 = 1_700_000_000.0


def a_run(run: str, minutes: float, twice: bool = False) -> RunState:
    """Two steps estimated at a minute each; one takes `minutes`, the other half of that."""
    events: list[ev.Event] = [
        ev.RunCreated(t=T0, run=run, recipe="r",
                      steps=[{"id": i, "kind": i, "title": i} for i in ("etl", "train", "report")]),
    ]  # fmt: skip
    for step, share in (("etl", 1.0), ("train", 0.5), ("report", 1.0)):
        events.append(ev.StepEstimated(
            t=T0, step=step, minutes=0.001 if step == "report" else 1.0, memory_gib=2.0,
            disk_gib=0.0, network_gib=0.0))  # fmt: skip
        events += [ev.StepStarted(t=T0, step=step, identity="i")] * (1 + twice)
        actual = {"minutes": share * minutes, "memory_gib": 1.0, "disk_gib": 0.5, "wild": "text"}
        events.append(ev.StepFinished(t=T0, step=step, identity="i", seconds=60 * minutes,
                                      actual=actual))  # fmt: skip
    return fold(filter(None, (ev.decode(ev.encode(event)) for event in events)))


def test_a_run_is_scored_by_the_median_of_its_steps() -> None:
    state = a_run("a-1", 2.0)
    assert state.steps["etl"].estimate["memory_gib"] == 2.0
    assert "wild" not in state.steps["etl"].actual
    assert estimates.ratios(state.steps["etl"]) == {"minutes": 2.0, "memory_gib": 0.5}
    assert estimates.score(state) == {"minutes": 1.5, "memory_gib": 0.5}
    assert estimates.sentence(estimates.score(state)) == "time 1.5x, memory 0.5x of the estimate"
    assert estimates.score(a_run("a-2", 2.0, twice=True)) == {}  # resumed: no clean time


def test_scores_of_earlier_runs_are_kept_each_once(aiok_home: Path) -> None:
    assert estimates.record_sentence() == ""
    for number, minutes in enumerate((1.0, 2.0, 4.0)):
        estimates.keep(a_run(f"a-{number}", minutes))
    estimates.keep(a_run("a-2", 6.0))  # its report was written again
    estimates.keep(RunState(id="none"))
    with open(aiok_home / "estimates.jsonl", "a", encoding="utf-8") as file:
        file.write('{"run": 3}\n[]\nnot json\n{"run": "torn", "rat')
    known = estimates.record()
    assert known == {"runs": 3, "ratios": {"minutes": 1.5, "memory_gib": 0.5}}
    said = estimates.record_sentence()
    assert said == "3 earlier runs: time 1.5x, memory 0.5x of the estimate (median)"
    lines = (aiok_home / "estimates.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["run"] == "a-0"
