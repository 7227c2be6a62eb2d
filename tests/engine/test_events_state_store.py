"""The journal: what is written is what is read, torn or not, and it folds to one state."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import events as ev
from engine import store
from engine.errors import EnvironmentProblem, InputError
from engine.state import RunStatus, StepStatus, fold
from engine.store import EventLog, RunFolder

STEPS = [
    {"id": "etl", "kind": "etl", "title": "prepare"},
    {"id": "train", "kind": "train", "title": "train"},
]


def history() -> list[ev.Event]:
    return [
        ev.RunCreated(t=1, run="job-1", recipe="job", steps=STEPS),
        ev.RunStarted(t=2, pid=10, attempt=1),
        ev.StepStarted(t=3, step="etl", identity="etl-a"),
        ev.StepProgressed(t=4, step="etl", phase="read", done=10, total=100, unit="rows"),
        ev.StepProgressed(t=6, step="etl", phase="read", done=50, total=100, unit="rows"),
        ev.StepFinished(t=7, step="etl", identity="etl-a", seconds=4, result={"rows": 100}),
        ev.StepStarted(t=8, step="train", identity="train-a"),
        ev.Measured(t=9, step="train", name="auc", value=0.7, split="valid", rows=10, step_count=1),
        ev.CheckpointSaved(t=10, step="train", step_count=1),
        ev.Measured(
            t=11, step="train", name="auc", value=0.8, split="valid", rows=20, step_count=2
        ),
    ]


def test_fold_tells_where_a_run_stands() -> None:
    state = fold(history())
    assert state.status is RunStatus.RUNNING
    assert state.steps["etl"].status is StepStatus.DONE
    assert state.result("etl") == {"rows": 100}
    assert state.current is state.steps["train"]
    assert [p.value for p in state.curves["auc", "valid"]] == [0.7, 0.8]
    assert state.checkpoint == (10, 1)


def test_eta_is_the_pace_of_the_phase() -> None:
    state = fold(history()[:5])
    step = state.steps["etl"]
    assert step.fraction == 0.5
    assert step.eta_s(now=8) == pytest.approx((100 - 50) * (8 - 4) / (50 - 10))


def test_a_resumed_step_measures_again_without_doubling_the_curve() -> None:
    again = ev.Measured(
        t=20, step="train", name="auc", value=0.75, split="valid", rows=20, step_count=2
    )
    state = fold([*history(), ev.RunStarted(t=19, pid=11, attempt=2), again])
    assert [p.step for p in state.curves["auc", "valid"]] == [1, 2]
    assert state.curves["auc", "valid"][-1].value == 0.75
    assert state.steps["etl"].status is StepStatus.DONE
    assert state.steps["train"].status is StepStatus.WAITING


def test_fold_in_pieces_is_fold_in_one() -> None:
    events = history()
    for cut in range(len(events) + 1):
        assert fold(events[cut:], fold(events[:cut])) == fold(events)


def test_every_event_survives_its_json() -> None:
    for event in history():
        assert ev.decode(ev.encode(event)) == event
    assert ev.decode(b'{"kind": "from_the_future", "t": 1}') is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(cut=st.integers(0, 2000))
def test_a_journal_torn_anywhere_reads_and_goes_on(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "events.jsonl"
    whole = b"".join(ev.encode(e) for e in history())
    path.write_bytes(whole[: min(cut, len(whole))])
    before, offset = store.read_events(path, 0)
    assert before == history()[: len(before)]
    log = EventLog(path)
    log.append(ev.StopRequested(t=99))
    log.close()
    after, _ = store.read_events(path, offset)
    assert after[-1] == ev.StopRequested(t=99)
    assert [e for e in store.read_events(path, 0)[0] if not isinstance(e, ev.StopRequested)] in (
        before, history()[: len(before) + 1],
    )  # fmt: skip


def test_run_names_are_counted_and_never_paths(aiok_home: Path) -> None:
    assert [store.create_run_folder("job").id for _ in range(3)] == ["job-1", "job-2", "job-3"]
    for bad in ("../x", "a/b", "", ".hidden", "x" * 200, "a\nb"):
        with pytest.raises(InputError):
            store.create_run_folder(bad)
        with pytest.raises(InputError):
            store.open_run_folder(bad)
    with pytest.raises(InputError, match="did you mean job-3"):
        store.open_run_folder("job-33")


def test_a_lock_ends_with_its_holder_and_names_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    code = (
        "import sys, pathlib; from engine.store import exclusive\n"
        "with exclusive(pathlib.Path(sys.argv[1])) as mine:\n"
        "    print(mine, flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"True\n"
        assert store.is_locked(lock)
        assert store.lock_holder(lock) == holder.pid
        with store.exclusive(lock) as mine:
            assert not mine
    finally:
        holder.kill()
        holder.communicate()
    assert not store.is_locked(lock)
    assert store.lock_holder(lock) is None


def test_a_run_that_ends_while_it_is_looked_at_is_not_lost(
    aiok_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = store.create_run_folder("job")
    folder.events.write_bytes(b"".join(ev.encode(e) for e in history()))

    def ends_now(_lock: Path) -> bool:
        with folder.events.open("ab") as file:
            file.write(ev.encode(ev.RunEnded(t=9e9, status="done", exit_code=0)))
        return False

    monkeypatch.setattr(store, "is_locked", ends_now)
    assert folder.state().status is RunStatus.DONE


def test_a_live_state_without_its_process_is_lost(aiok_home: Path) -> None:
    folder = store.create_run_folder("job")
    folder.events.write_bytes(b"".join(ev.encode(e) for e in history()))
    assert folder.state().status is RunStatus.LOST
    with store.exclusive(folder.lock) as mine:
        assert mine
        assert folder.state().status is RunStatus.RUNNING


def test_atomic_write_leaves_no_part(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    store.write_atomically(path, "one")
    store.write_atomically(path, "two")
    assert path.read_text() == "two"
    assert os.listdir(tmp_path) == ["x.json"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(EnvironmentProblem, match="cannot write to") as caught:
        store.make_folder(blocker / "runs")
    assert caught.value.exit_code == 3


def test_process_identity_tells_processes_apart() -> None:
    mine = store.process_identity(os.getpid())
    assert mine["pid"] == os.getpid()
    assert mine == json.loads(json.dumps(store.process_identity(os.getpid())))
    assert store.process_identity(2**22 + 1) == {}


def test_run_folder_paths_stay_inside(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "job-1")
    with pytest.raises(InputError):
        folder.logs("../../etc")
    with pytest.raises(InputError):
        folder.telemetry("a/../../b")
