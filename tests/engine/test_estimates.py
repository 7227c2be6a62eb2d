"""What a step took: counted from samples and transfers, scored against its estimate, kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

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
    assert known["runs"] == 3
    assert known["ratios"] == {"minutes": 1.5, "memory_gib": 0.5}
    said, warning = estimates.record_sentence().split("; ")
    assert said == "3 runs on record: time 1.5x, memory 0.5x of the estimate (median)"
    assert warning == f"{aiok_home / 'estimates.jsonl'}: 4 damaged lines left out"
    lines = (aiok_home / "estimates.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["run"] == "a-0"


def a_training(run: str, rows: float, share: float = 1.0) -> RunState:
    """A run of two epochs at most that took twice its built-in price."""
    terms = {"start": 4.0, "rows": 10 * rows}
    basis = estimates.Basis(group="here", terms={"cpu_s": terms}, open=True, epochs=2).to_json()
    events: list[ev.Event] = [
        ev.RunCreated(t=T0, run=run, recipe="r",
                      steps=[{"id": i, "kind": i, "title": i} for i in ("etl", "train")]),
        ev.StepEstimated(t=T0, step="train", minutes=1.0, memory_gib=1.0, disk_gib=0.1,
                         network_gib=0.0, cpu_s=14.0, within={"cpu_s": 3.0}, basis=basis),
        ev.StepReused(t=T0, step="etl", identity="e", result={"rows": {"train": 1000}}),
        ev.StepStarted(t=T0, step="train", identity="t"),
        ev.StepFinished(t=T0, step="train", identity="t", seconds=60.0,
                        result={"rows": 2000 * share},
                        actual={"cpu_s": 2 * (4 + 10 * rows * share)}),
    ]  # fmt: skip
    return fold(filter(None, (ev.decode(ev.encode(event)) for event in events)))


def test_what_runs_took_is_learned_from_the_file(aiok_home: Path) -> None:
    for number, rows in enumerate((0.5, 1.0, 2.0, 4.0)):
        estimates.keep(a_training(f"t-{number}", rows, share=0.5))
    learned = estimates.earlier().learned()
    assert [record.share for record in learned.records] == [0.5] * 4
    found = learned.forecast("here", "cpu_s", {"start": 4.0, "rows": 30.0})
    assert found.value == pytest.approx(68.0, rel=0.1) and found.runs == 4
    early = learned.forecast("here", "cpu_s", {"start": 4.0, "rows": 30.0}, is_open=True)
    assert early.value == pytest.approx(2 * (4 + 30 * 0.6), rel=0.1)


def a_search(run: str, tail: int = 0) -> RunState:
    """A search of a program: a finished trial, a pruned one, one that failed, one that was run
    twice, and `tail` more that finished."""
    basis = estimates.Basis(group="here | mine | trial", trials=True).to_json()
    step = {"id": "search", "kind": "search", "title": "search"}
    events: list[ev.Event] = [
        ev.RunCreated(t=T0, run=run, recipe="r", steps=[step]),
        ev.StepEstimated(t=T0, step="search", minutes=1.0, memory_gib=1.0, disk_gib=0.1,
                         network_gib=0.0, basis=basis),
        ev.StepStarted(t=T0, step="search", identity="s"),
    ]  # fmt: skip
    ends = [["finished"], ["pruned"], ["failed"], ["interrupted", "finished"]]
    token = 0
    for number, states in enumerate([*ends, *[["finished"]] * tail]):
        events.append(ev.TrialQueued(t=T0, step="search", trial=number, assignment={"x": number}))
        for end in states:
            token += 1
            events += [
                ev.TrialStarted(t=T0, step="search", trial=number, token=token, host="localhost",
                                cores=[0]),
                ev.TrialEnded(t=T0, step="search", trial=number, token=token, state=end,
                              values={"m": 1.0} if end == "finished" else {},
                              failure="crash" if end == "failed" else "",
                              seconds=60.0 * (number + 1)),
            ]  # fmt: skip
    events.append(ev.StepFinished(t=T0, step="search", identity="s", seconds=600.0, result={},
                                  actual={"minutes": 10.0, "memory_gib": 2.5}))  # fmt: skip
    return fold(filter(None, (ev.decode(ev.encode(event)) for event in events)))


def test_the_trials_of_a_program_are_kept_not_its_searches(aiok_home: Path) -> None:
    estimates.keep(a_search("s-1"))
    (record,) = estimates.earlier().learned().records
    assert (record.group, record.actual) == (
        "here | mine | trial", {"minutes": 1.0, "memory_gib": 2.5}
    )  # fmt: skip
    estimates.keep(a_search("s-2", tail=100))
    learned = estimates.earlier().learned()
    assert len(learned.records) == 1 + estimates.KEPT_TRIALS
    found = learned.usual("here | mine | trial", "minutes")
    assert found is not None and found.value == pytest.approx(94.0)  # of 1 and 85 to 104


HOSTILE = (
    "[]", "7", "null", '{"run": 1, "ratios": 3}', '{"run": "a", "ratios": {"minutes": NaN}}',
    '{"run": "a", "ratios": {}, "steps": 4}', '{"run": "a", "ratios": {}, "steps": [[]]}',
    '{"run": "a", "ratios": {}, "steps": [{"group": "here", "terms": {"cpu_s": {"rows": 1e999}},'
    ' "actual": {"cpu_s": 1}}]}',
    '{"run": "a", "ratios": {}, "steps": [{"group": "here", "terms": {"cpu_s": {"rows": -1}},'
    ' "actual": {"cpu_s": 1}}]}',
    '{"run": "a", "ratios": {}, "steps": [{"group": "here", "terms": {}, "actual": {},'
    ' "share": 0}]}',
    "[" * 100_000, "\x00\x1b[2J", '{"run": "torn", "rat',
)  # fmt: skip


def test_a_damaged_file_is_left_out_line_by_line_with_a_word(aiok_home: Path) -> None:
    estimates.keep(a_training("t-1", 1.0))
    path = aiok_home / "estimates.jsonl"
    with open(path, "ab") as file:
        file.write("\n".join(HOSTILE).encode() + b"\n\xff\xfe\n")
    estimates.keep(a_training("t-2", 2.0))
    known = estimates.earlier()
    assert list(known.records) == ["t-1", "t-2"]
    assert known.damaged == len(HOSTILE) + 1
    assert f"{len(HOSTILE) + 1} damaged lines left out" in estimates.record_sentence()
    path.unlink()
    path.mkdir()
    assert estimates.earlier().learned().records == ()
    assert "cannot be read" in estimates.record_sentence()


def test_only_the_end_of_a_long_file_is_read(
    aiok_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimates, "READ_BYTES", 2000)
    for number in range(20):
        estimates.keep(a_training(f"t-{number}", 1.0))
    known = estimates.earlier()
    assert 2 <= len(known.records) < 20 and known.damaged == 0
    assert list(known.records)[-1] == "t-19"


def test_an_interval_is_told_with_its_figure() -> None:
    assert estimates.in_words(2.0, 1.25, "{:.2f}") == "2.00 (1.60 to 2.50)"
    assert estimates.in_words(2.0, 1.0) == estimates.in_words(2.0, 0.0) == "2.0"
    assert estimates.in_words(0.0, 3.0) == "0.0"
    plain = {"minutes": 2.0, "cpu_s": 4.0, "within": {"minutes": 2.0, "cpu_s": "x", "odd": 2.0}}
    assert estimates.intervals(plain) == {"minutes": [1.0, 4.0]}
    assert estimates.intervals({"within": 3}) == {}
