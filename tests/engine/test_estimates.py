"""What a step took: counted from samples and transfers, scored against its estimate, kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine import estimates
from engine import events as ev
from engine.estimates import Usage
from engine.state import RunState, fold
from hosts.inventory import LOCAL

T0 = 1_700_000_000.0


def sample(t: float, memory: float, received: float = 0.0) -> dict[str, float]:
    return {"t": t, "job_memory_gib": memory, "net_rx_mib_s": received}


def test_peak_memory_is_that_of_all_hosts_and_of_what_the_worker_saw(tmp_path: Path) -> None:
    usage = Usage()
    for t, memory in enumerate((0.1, 0.7, 0.3)):
        usage.sample("h1", sample(T0 + t, memory))
        usage.sample("h2", sample(T0 + t, memory / 2))
    (tmp_path / "part").write_bytes(b"x" * 2**20)
    took = usage.actual(90.0, {}, tmp_path)
    assert took == {"minutes": 1.5, "memory_gib": 1.05, "disk_gib": round(1 / 1024, 6),
                    "network_gib": 0.0}  # fmt: skip
    assert usage.actual(1.0, {"peak_rss_gib": 2.5}, tmp_path)["memory_gib"] == 2.5
    nothing = Usage().actual(1.2, {}, tmp_path / "none")
    assert nothing == {"minutes": 0.02, "network_gib": 0.0}


def test_network_is_what_reaches_the_hosts_of_a_cluster_and_what_was_sent(tmp_path: Path) -> None:
    usage = Usage()
    for second in range(11):
        usage.sample("h1", sample(T0 + second, 0.1, received=64.0))
        usage.sample(LOCAL, sample(T0 + second, 0.1, received=999.0))  # not of this run
    usage.sample("h1", sample(T0 + 1000, 0.1, received=64.0))  # after a long silence
    usage.moved(2**30)
    sent = usage.actual(1.0, {}, tmp_path)["network_gib"]
    assert sent == pytest.approx(1.0 + 64 * (10 + estimates.LONGEST_S) / 1024, abs=1e-5)


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
