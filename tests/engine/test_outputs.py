"""Where a user's output goes: into regular files alone, whole or not at all, and told if not."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from engine import api, code, data_jobs, store
from engine import events as ev
from engine.errors import EnvironmentProblem, InputError
from engine.plan import Plan, read_result
from engine.run import _seal
from engine.store import create_run_folder, run_name, write_atomically

GENERATED = "dataset: {generate: {rows: 2000}}\n"


@pytest.fixture
def finished(aiok_home: Path) -> Path:
    """A run with an exported model; returns rows to score."""
    aiok_home.mkdir()
    recipe = aiok_home / "x.yaml"
    recipe.write_text(GENERATED)
    make_finished_run(aiok_home, "done-1", api.plan(str(recipe)))
    rows = aiok_home / "new.tsv"
    rows.write_text("1\t2\n")
    return rows


def make_finished_run(aiok_home: Path, name: str, plan: Plan) -> None:
    """A run whose outputs lie whole in the cache, without a worker having made them."""
    folder = store.RunFolder(aiok_home / "runs" / name)
    folder.report.parent.mkdir(parents=True)
    folder.report.touch()
    folder.plan.write_text(plan.to_json())
    log = store.EventLog(folder.events)
    log.append(ev.RunEnded(t=1.0, status="done", exit_code=0))
    log.close()
    for step in plan.steps:
        if step.identity:
            output = aiok_home / "cache" / step.identity
            output.mkdir(parents=True)
            (output / "model.bin").write_bytes(b"0" * 100)
            _seal(output, {"rows": 3})
            folder.artifacts(step.id).symlink_to(output)


def predict(rows: Path, output: Path) -> None:
    data_jobs.predict("done-1", rows, output, 1, data_jobs.JobListener())


def test_predict_never_replaces_what_is_no_file(finished: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    link = tmp_path / "link.csv"
    link.symlink_to(pipe)
    for output in (pipe, link):
        with pytest.raises(InputError, match="a device or a pipe, not a file"):
            predict(finished, output)
    assert pipe.is_fifo()
    assert link.is_symlink()


def test_predict_never_writes_over_its_input(finished: Path) -> None:
    with pytest.raises(InputError, match="is the input"):
        predict(finished, finished)
    assert finished.read_text() == "1\t2\n"


def test_predict_writes_the_file_a_link_means(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(data_jobs, "_run", lambda worker, model, spec, *_: asked.append(spec))
    link = tmp_path / "link.csv"
    link.symlink_to(tmp_path / "real.csv")
    predict(finished, link)
    assert asked[0]["output"] == str((tmp_path / "real.csv").resolve())


def test_predict_into_an_unwritable_place_is_told_before_any_work(finished: Path) -> None:
    for place in ("/proc/self/x.csv", "/proc/sys/x.csv"):
        with pytest.raises(EnvironmentProblem, match="cannot write") as caught:
            predict(finished, Path(place))
        assert "AIOK_HOME" not in str(caught.value)


def test_a_written_file_keeps_its_link_and_replaces_no_pipe(tmp_path: Path) -> None:
    real, link, pipe = tmp_path / "real", tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(real)
    write_atomically(link, "text")
    assert link.is_symlink()
    assert real.read_text() == "text"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match="not a file"):
        write_atomically(pipe, "text")
    assert pipe.is_fifo()


def test_a_full_disk_names_the_file_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(EnvironmentProblem) as caught:
        write_atomically(tmp_path / "a.yaml", "text")
    assert f"cannot write {tmp_path / 'a.yaml'}: No space left on device" in str(caught.value)
    assert "free disk space (aiok clean)" in caught.value.todo
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("title", "name"),
    [("my rec", "my-rec"), ("grün", "grun"), ("-r", "r"), ("日本", "recipe"), ("a" * 90, "a" * 60),
     ("x\x1b[2J", "x-2J"), ("ok_1.v2", "ok_1.v2")],
)  # fmt: skip
def test_any_recipe_file_gives_its_runs_a_name(aiok_home: Path, title: str, name: str) -> None:
    assert run_name(title) == name
    assert create_run_folder(run_name(title)).id == f"{name}-1"


def test_a_result_json_of_the_program_itself_does_not_make_its_output_damaged(
    aiok_home: Path,
) -> None:
    output = aiok_home / "cache" / "search-1"
    output.mkdir(parents=True)
    for name in ("result.json", "files.json", "model.bin"):
        (output / name).write_text('{"auc": 0.5}')
    (output / "more").mkdir()
    (output / "more" / "result.json").write_text("[1]")
    _seal(output, {"trial": 2})
    assert read_result("search-1") == {"trial": 2}
    (output / "more" / "result.json").write_text("[")
    assert read_result("search-1") is None


@pytest.mark.parametrize("damage", ["{", '{"rows": 3', "3", None, "files", "short"])
def test_a_damaged_output_is_not_whole_and_can_be_made_again(
    finished: Path, aiok_home: Path, monkeypatch: pytest.MonkeyPatch, damage: str | None
) -> None:
    launched = []
    monkeypatch.setattr(api, "_launch", lambda folder, *_: launched.append(folder))
    plan = api.plan(str(aiok_home / "x.yaml"))
    output = aiok_home / "cache" / plan.step("optimize").identity
    assert read_result(output.name) == {"rows": 3}
    with pytest.raises(InputError, match="is finished"):
        api.resume("done-1")
    if damage == "files":
        (output / "files.json").unlink()
    elif damage == "short":
        (output / "model.bin").write_bytes(b"0")
    elif damage is None:
        (output / "model.bin").unlink()
    else:
        (output / "result.json").write_text(damage)
    assert read_result(output.name) is None
    assert not plan.step("optimize").reuse
    assert plan.step("train").reuse
    with pytest.raises(InputError, match="model of done-1 is damaged") as caught:
        predict(finished, aiok_home / "scores.csv")
    assert caught.value.todo == "aiok resume done-1 makes it again"
    assert api.resume("done-1") == "done-1"
    assert [folder.id for folder in launched] == ["done-1"]


def test_a_full_disk_leaves_no_half_copied_code(
    aiok_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_source: Path, _target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(code.shutil, "copyfile", full)
    with pytest.raises(EnvironmentProblem, match="No space left on device"):
        code.deploy()
    assert list((aiok_home / "code").iterdir()) == []


def test_a_data_job_that_cannot_begin_leaves_no_scratch(
    aiok_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, _spec: object) -> Path:
        raise store.cannot_write(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    monkeypatch.setattr(data_jobs, "install_environment", lambda *_: False)
    monkeypatch.setattr(data_jobs, "environment_folder", lambda _: tmp_path)
    monkeypatch.setattr(data_jobs, "write_spec", full)
    (tmp_path / "a.tsv").write_text("1\n")
    with pytest.raises(EnvironmentProblem, match=r"spec\.json: No space left"):
        data_jobs.check(str(tmp_path / "a.tsv"), "criteo", None, data_jobs.JobListener())
    assert list((aiok_home / "work").iterdir()) == []
