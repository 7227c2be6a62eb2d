"""Damaged files of a home: one bad run never hides the others, and each is told in plain words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine import api, housekeeping
from engine import events as ev
from engine.store import RunFolder

GARBAGE = {
    "an unannounced step": b'{"kind":"step_started","t":1.0,"step":"etl","identity":"x"}\n',
    "no objects": b'3\n[]\n"x"\nnull\n{"kind":[],"t":1.0}\n',
    "wrong types": b'{"kind":"run_ended","t":"a","status":"done","exit_code":1}\n',
    "unknown status": b'{"kind":"run_ended","t":1.0,"status":"zz","exit_code":1}\n',
    "steps without names": (
        b'{"kind":"run_created","t":1.0,"run":"x","recipe":"r","steps":[{"a":1},3]}\n'
    ),
    "not UTF-8": b"\xfa\xfb\x00\n",
}
PLANS = ["[]", '{"steps":[3]}', '{"steps":3,"code":[]}', "\ufffd", '{"steps":[{"id":1}]}']


def make_run(home: Path, name: str, events: bytes = b"", plan: str | None = None) -> Path:
    folder = home / "runs" / name
    folder.mkdir(parents=True)
    (folder / "events.jsonl").write_bytes(events)
    if plan is not None:
        (folder / "plan.json").write_text(plan, encoding="utf-8")
    return folder


@pytest.mark.parametrize("what", GARBAGE)
def test_a_damaged_journal_hides_no_run(aiok_home: Path, what: str) -> None:
    created = ev.RunCreated(
        t=1.0, run="good-1", recipe="good", steps=[{"id": "a", "kind": "a", "title": "A"}]
    )
    make_run(aiok_home, "good-1", ev.encode(created))
    make_run(aiok_home, "bad-1", GARBAGE[what])
    assert {run.id for run in api.runs()} == {"good-1", "bad-1"}
    assert api.state("bad-1").id in ("bad-1", "x")


def test_a_folder_in_the_place_of_the_journal(aiok_home: Path) -> None:
    (aiok_home / "runs" / "dir-1" / "events.jsonl").mkdir(parents=True)
    assert [run.id for run in api.runs()] == ["dir-1"]


def test_events_after_a_lost_beginning_still_count(aiok_home: Path) -> None:
    done = ev.StepFinished(t=2.0, step="etl", identity="etl-1", seconds=1.5, result={"rows": 3})
    folder = make_run(aiok_home, "torn-1", b'{"kind": "run_cre\n' + ev.encode(done))
    step = RunFolder(folder).state().steps["etl"]
    assert (step.status.is_whole, step.seconds, step.result) == (True, 1.5, {"rows": 3})


@pytest.mark.parametrize("plan", PLANS)
def test_clean_meets_a_damaged_plan(aiok_home: Path, plan: str) -> None:
    make_run(aiok_home, "bad-1", plan=plan)
    whole = {"steps": [{"id": "etl", "identity": "etl-1"}], "code": "c"}
    make_run(aiok_home, "good-1", plan=json.dumps(whole))
    for name in ("etl-1", "etl-2"):
        (aiok_home / "cache" / name).mkdir(parents=True)
    assert [item.path.name for item in housekeeping.clean()] == ["etl-2"]
