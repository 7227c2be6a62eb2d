"""Damaged files of a home: one bad run never hides the others, and each is told in plain words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine import api, data_jobs, datasets, housekeeping
from engine import events as ev
from engine.code import deploy
from engine.errors import EnvironmentProblem, InputError
from engine.facts import data_files
from engine.questions import questions
from engine.store import (
    RunFolder,
    create_run_folder,
    exclusive,
    home_id,
    is_locked,
    open_run_folder,
    process_identity,
)
from engine.work import run_of_job

ROOT = Path(__file__).resolve().parents[2]
GARBAGE = {
    "an unannounced step": b'{"kind":"step_started","t":1.0,"step":"etl","identity":"x"}\n',
    "no objects": b'3\n[]\n"x"\nnull\n{"kind":[],"t":1.0}\n',
    "wrong types": b'{"kind":"run_ended","t":"a","status":"done","exit_code":1}\n',
    "an impossible exit code": (
        b'{"kind":"run_ended","t":1.0,"status":"failed","exit_code":99999}\n'
    ),
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
    assert api.state("bad-1").exit_code is None


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


@pytest.mark.parametrize("plan", [*PLANS, None])
def test_resume_and_predict_tell_a_damaged_plan(aiok_home: Path, plan: str | None) -> None:
    folder = make_run(aiok_home, "bad-1", plan=plan)
    with pytest.raises(InputError) as caught:
        api.resume("bad-1")
    assert "plan.json" in caught.value.what
    (folder / "artifacts" / "optimize").mkdir(parents=True)
    (folder / "artifacts" / "optimize" / "bundle.json").write_text("{}")
    with pytest.raises(InputError, match=r"plan\.json"):
        data_jobs.predict("bad-1", aiok_home, aiok_home / "o.csv", 1, data_jobs.JobListener())


def test_names_that_only_look_like_numbers_do_not_count(aiok_home: Path) -> None:
    for tail in ("²", "٣", "9" * 40):
        (aiok_home / "runs" / f"tiny-{tail}").mkdir(parents=True)
    assert create_run_folder("tiny").id == "tiny-1"


def test_a_recipe_name_whose_run_could_not_be_opened_is_refused(aiok_home: Path) -> None:
    with pytest.raises(InputError, match="not a valid name"):
        create_run_folder("a" * 80)
    made = create_run_folder("a" * 60)
    assert open_run_folder(made.id).path == made.path


def test_a_look_at_a_lock_never_keeps_its_owner_out(tmp_path: Path) -> None:
    lock, stop = tmp_path / "lock", threading.Event()
    lock.touch()

    def look() -> None:
        while not stop.is_set():
            is_locked(lock)

    watchers = [threading.Thread(target=look) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    try:
        for _ in range(300):
            with exclusive(lock) as mine:
                assert mine
    finally:
        stop.set()
        for watcher in watchers:
            watcher.join()


@pytest.mark.parametrize("verify", [False, True])
def test_unchanged_data_is_known_again_however_it_was_hashed(aiok_home: Path, verify: bool) -> None:
    data = aiok_home / "rows.tsv"
    data.parent.mkdir(parents=True)
    data.write_bytes(b"0\t1\n" * 1000)
    recipe = aiok_home / "mine.yaml"
    recipe.write_text(f"dataset: {{path: {data}}}\n")
    made = api.plan(str(recipe), verify=verify)
    folder = RunFolder(make_run(aiok_home, "mine-1", plan=made.to_json()))
    api._check_data_unchanged(folder)
    data.write_bytes(b"0\t1\n" * 999 + b"0\t2\n")
    with pytest.raises(InputError, match="the data changed"):
        api._check_data_unchanged(folder)


def test_clean_leaves_what_is_at_work(aiok_home: Path) -> None:
    """A run with a dot in its name, a data job, and the code that both use."""
    jobs, code = aiok_home / "jobs", deploy()
    make_run(aiok_home, "my.v2-1")
    for name in (f"{home_id()}.my.v2-1.train.1", "generate-1-1", "generate-2-2"):
        (jobs / name).mkdir(parents=True)
    mine = process_identity(os.getpid())
    (jobs / "generate-1-1" / "supervisor.pid").write_text(json.dumps([mine["pid"], mine["start"]]))
    (aiok_home / "work" / f"generate-{os.getpid()}-1").mkdir(parents=True)
    (aiok_home / "work" / "generate-99999999-1").mkdir()
    cache = aiok_home / "cache"
    for step in ("train-1", "etl-1"):
        (cache / f".{step}.my.v2-1.1.7.building").mkdir(parents=True)
    with (
        exclusive(aiok_home / "runs" / "my.v2-1" / "lock") as held,
        exclusive(cache / ".train-1.lock") as building,
    ):
        assert held
        assert building
        found = housekeeping.clean()
    half = [item.path.name for item in found if item.what == "half-built"]
    assert half == [".etl-1.my.v2-1.1.7.building"]
    assert (cache / ".train-1.my.v2-1.1.7.building").is_dir()
    found = [item for item in found if item.what != "half-built"]
    assert [item.path.name for item in found] == ["generate-2-2", "generate-99999999-1"]
    assert code.is_dir()


@pytest.mark.parametrize(
    ("name", "run"),
    [("a-1.train.1", "a-1"), ("a.b-1.train.12", "a.b-1"), ("a-1.etl.2.rendezvous", "a-1"),
     ("a-1.b-1.etl.1", "a-1.b-1")],
)  # fmt: skip
def test_a_job_names_its_run_and_home(aiok_home: Path, name: str, run: str) -> None:
    assert run_of_job(f"{home_id()}.{name}") == run
    other = "".join("0" if digit != "0" else "1" for digit in home_id())
    assert run_of_job(f"{other}.{name}") == ""  # a run of that name in another home
    assert run_of_job("generate-1-1") == ""


def test_a_home_has_one_name_for_ever_and_a_damaged_one_is_told(aiok_home: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: home_id(), range(64)))
    assert found == {(aiok_home / "id").read_text()}
    assert [path.name for path in aiok_home.glob(".id*")] == []
    (aiok_home / "id").write_text("../x")
    with pytest.raises(EnvironmentProblem, match="id is damaged"):
        home_id()


def test_a_damaged_data_set_hides_no_other(aiok_home: Path) -> None:
    folder = aiok_home / "datasets"
    folder.mkdir(parents=True)
    (folder / "gone.yaml").write_text("format: criteo\npath: /gone/x.tsv\n")
    for name, data in {"a": b"- 3", "b": b"\xff", "c": b"x: [", "e": b"format: [3]\npath: 7",
                       "f g": b"format: criteo\npath: /x"}.items():  # fmt: skip
        (folder / f"{name}.yaml").write_bytes(data)
    (folder / "h.yaml").mkdir()
    found = {entry.name: entry.trouble for entry in datasets.listing()}
    damaged = dict.fromkeys(("a", "b", "c", "e", "f g", "h"), "DAMAGED")
    assert found == {**damaged, "gone": "MISSING"}
    for name in ("a", "b", "c", "e"):
        with pytest.raises(InputError, match="is damaged") as caught:
            data_jobs.check(name, "criteo", None, data_jobs.JobListener())
        assert caught.value.todo == f"aiok data remove {name}"
    assert [choice for q in questions({}) if q.key == "source" for choice, _ in q.choices] == [
        "generate", "path",
    ]  # fmt: skip


def test_a_device_is_no_data() -> None:
    with pytest.raises(InputError, match="neither a file nor a folder"):
        data_files(Path("/dev/null"))


def aiok(*words: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "aiok_tui.cli", *words], check=False,
        stdout=stdout, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_a_reader_that_left_is_no_failure(aiok_home: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = aiok("new", "--schema", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_logs_of_an_unknown_step_are_bad_input(aiok_home: Path) -> None:
    created = ev.RunCreated(
        t=1.0, run="a-1", recipe="a", steps=[{"id": "etl", "kind": "etl", "title": "ETL"}]
    )
    make_run(aiok_home, "a-1", ev.encode(created))
    done = aiok("logs", "a-1", "nosuch")
    assert b"has no step nosuch" in done.stderr
    assert done.returncode == 2


def test_what_a_killed_make_left_goes_with_the_next(
    aiok_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, alive = tmp_path / ".rows.99999999", tmp_path / f".rows.{os.getppid()}"
    left.mkdir()
    alive.mkdir()
    monkeypatch.setattr(data_jobs, "_run", lambda *_: {"rows": 1000})
    data_jobs.make("dlrm", 1000, 1, tmp_path / "rows", data_jobs.JobListener())
    assert sorted(path.name for path in tmp_path.iterdir()) == [alive.name, "rows"]
