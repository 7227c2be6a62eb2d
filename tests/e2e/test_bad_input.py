"""Bad input of every kind: one clear error, the right exit code, nothing half-written."""

from __future__ import annotations

import gzip
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import api
from engine import events as ev
from engine.processes import processes_of
from engine.state import RunStatus, StepStatus
from tests.e2e.conftest import Home, wait_for, wait_until_nothing_is_left

GOOD = "\t".join(["0", *["3"] * 13, *["0123abcd"] * 26])


def write_rows(path: Path, bad: str | None = None, line: int = 700, rows: int = 1500) -> Path:
    """Criteo rows, one of them replaced."""
    lines = [GOOD] * rows
    if bad is not None:
        lines[line - 1] = bad
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"))
    return path


def recipe(home: Home, data: Path, extra: str = "") -> str:
    path = home.path / "job.yaml"
    text = f"dataset: {{path: {data}}}\nmodel: {{profile: tiny}}\nfaults: {{grace_s: 3}}\n{extra}"
    path.write_text(text)
    return str(path)


def assert_nothing_half_written(home: Home) -> None:
    cache = home.path / "cache"
    left = (
        [p.name for p in cache.iterdir() if not p.name.endswith(".lock")] if cache.exists() else []
    )
    assert [name for name in left if name.startswith((".", "etl", "train"))] == []
    assert list((home.path / "jobs").glob("*")) == [] if (home.path / "jobs").exists() else True


def assert_one_error(done: subprocess.CompletedProcess[str], code: int, *said: str) -> None:
    assert done.returncode == code, done.stderr
    for text in said:
        assert text in done.stderr, done.stderr
        assert done.stderr.count(said[0]) == 1, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert "\x1b" not in done.stderr + done.stdout


def row(column: int, value: str) -> str:
    fields = GOOD.split("\t")
    fields[column] = value
    return "\t".join(fields)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (GOOD.rpartition("\t")[0], ("found 39 columns",)),
        (row(20, "xyz!1234"), ("C7", "xyz!1234")),
        (row(0, "2"), ("label", "'2'")),
        (row(3, "12a"), ("I3", "12a")),
        (row(39, "\x1b]52;c;aGk=\x07"), ("C26",)),
    ],
    ids=["39 columns", "non-hex category", "label 2", "letters in an int", "control bytes"],
)
def test_a_bad_row_is_named_by_file_line_and_column(
    bad: str, said: tuple[str, ...], home: Home, tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "data" / "rows.tsv", bad)
    done = home.aiok("run", recipe(home, data))
    assert_one_error(done, 2, f"{data}, line 700", *said)
    assert_nothing_half_written(home)


def test_a_gz_cut_short_is_named(home: Home, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "data" / "rows.tsv").rename(tmp_path / "rows.tsv")
    packed = tmp_path / "data" / "rows.tsv.gz"
    packed.write_bytes(gzip.compress(data.read_bytes())[:-40])
    done = home.aiok("run", recipe(home, packed))
    assert_one_error(done, 2, f"{packed}: found a gz file that is cut short")
    assert_nothing_half_written(home)


def test_missing_and_empty_files_end_before_a_run_begins(home: Home, tmp_path: Path) -> None:
    write_rows(tmp_path / "data" / "rows.tsv")
    missing = home.aiok("run", recipe(home, tmp_path / "data" / "row.tsv"))
    assert_one_error(missing, 2, "there is no file", "did you mean")
    empty = tmp_path / "empty.tsv"
    empty.write_text("")
    assert_one_error(home.aiok("run", recipe(home, empty)), 2, f"{empty} is empty")
    assert api.runs() == []


def test_bad_recipes_end_before_a_run_begins(home: Home, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "data" / "rows.tsv")
    unknown = home.aiok("run", recipe(home, data, "splitt: {by: time}\n"))
    assert_one_error(unknown, 2, "splitt (line 4): unknown key, did you mean split?")
    bounds = home.aiok("run", recipe(home, data), "--set", "embedding_size=1000000")
    assert_one_error(bounds, 2, "embedding_size is 1000000, the highest allowed is")
    nothing = home.aiok("run", "quickstar")
    assert_one_error(nothing, 2, "there is no recipe quickstar", "did you mean quickstart")
    assert api.runs() == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 80 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80m", "none", place], check=True)
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def use_home(home: Home, place: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    for name in ("envs", "wheels"):
        (place / name).symlink_to(home.path / name)
    monkeypatch.setenv("AIOK_HOME", str(place))
    return Home(place)


def test_a_disk_too_small_is_told_before_anything_runs(
    home: Home, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = use_home(home, small_disk, monkeypatch)
    done = small.aiok("run", "quickstart")
    assert_one_error(done, 3, "MiB free, the run needs about")
    assert api.runs() == []


def test_a_disk_that_fills_up_fails_the_run_and_resume_goes_on(
    home: Home, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = use_home(home, small_disk, monkeypatch)
    started = small.aiok("run", "tiny", "--detach", "--json")
    assert started.returncode == 0, started.stderr
    wait_for("tiny-1", lambda e: isinstance(e, ev.StepStarted) and e.step == "etl")
    filler = small_disk / "filler"
    with pytest.raises(OSError), open(filler, "wb") as file:
        while True:
            file.write(b"x" * 65536)
            file.flush()
    state = api.wait_for_end("tiny-1", 60)
    assert state.status in (RunStatus.FAILED, RunStatus.LOST)
    filler.unlink()
    wait_until_nothing_is_left("tiny-1", 30)
    done = small.aiok("resume", "tiny-1")
    assert done.returncode == 0, done.stderr


def test_a_read_only_home_is_told(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "sealed"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "none", place], check=True)
    try:
        monkeypatch.setenv("AIOK_HOME", str(place))
        done = Home(place).aiok("run", "tiny")
        assert_one_error(done, 3, f"cannot write to {place}")
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_a_second_run_in_the_same_folder_is_refused(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "my-run"
    first = home.aiok("run", "tiny", "--folder", str(folder), "--detach")
    assert first.returncode == 0, first.stderr
    second = home.aiok("run", "tiny", "--folder", str(folder))
    assert_one_error(second, 2, "already holds a run")
    again = home.aiok("resume", "my-run")
    assert_one_error(again, 2, "is already running")
    assert home.aiok("stop", "my-run", "--kill").returncode == 0
    assert api.wait_for_end("my-run", 30).status is RunStatus.STOPPED


def test_ctrl_c_at_each_step_leaves_a_resumable_run_and_no_process(home: Home) -> None:
    words: tuple[str, ...] = ("run", "tiny")
    for step in ("data", "etl", "roofline", "train", "evaluate", "optimize"):
        offset = api.journal_size("tiny-1") if words[0] == "resume" else 0
        process = home.popen(*words)
        if not offset:
            while not api.runs():
                assert process.poll() is None
        wait_for_step(step, offset)
        os.kill(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=60)
        assert process.returncode == 130, told
        assert "Traceback" not in told
        state = api.state("tiny-1")
        assert state.status is RunStatus.STOPPED
        assert state.current is not None
        wait_until_nothing_is_left("tiny-1")
        words = ("resume", "tiny-1")
    done = home.aiok(*words)
    assert done.returncode == 0, done.stderr


def wait_for_step(step: str, offset: int) -> None:
    """Until the step starts in what the journal gains after the offset."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        events, offset = api.events_since("tiny-1", offset)
        if any(isinstance(e, ev.StepStarted) and e.step == step for e in events):
            return
        time.sleep(0.01)
    raise AssertionError(f"{step} did not start: {api.state('tiny-1')}")


def test_a_run_whose_folder_is_deleted_ends_and_leaves_nothing(home: Home) -> None:
    assert home.aiok("run", "tiny", "--detach").returncode == 0
    wait_for("tiny-1", lambda e: isinstance(e, ev.StepStarted) and e.step == "etl")
    folder = api.run_path("tiny-1")
    alive = [process.pid for process in processes_of("tiny-1")]
    shutil.rmtree(folder, ignore_errors=True)
    end = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{pid}") for pid in alive):
        assert time.monotonic() < end, "its processes go on"
        time.sleep(0.1)
    assert not folder.exists()
    assert_nothing_half_written(home)


def test_a_damaged_output_is_made_again(home: Home) -> None:
    assert home.aiok("run", "tiny", "-s", "epochs=1").returncode == 0
    output = next((home.path / "cache").glob("evaluate-*"))
    (output / "result.json").write_text("{")
    done = home.aiok("run", "tiny", "-s", "epochs=1")
    assert done.returncode == 0, done.stderr
    by_step = {step.id: step.status for step in api.state("tiny-2").steps.values()}
    assert by_step["train"] is StepStatus.REUSED
    assert by_step["evaluate"] is StepStatus.DONE
    (output / "result.json").write_text("{")
    assert home.aiok("resume", "tiny-1").returncode == 0
    assert "is finished" in home.aiok("resume", "tiny-1").stderr


def test_no_java_where_the_plan_needs_it(home: Home) -> None:
    path = home.path / "bin"
    path.mkdir()
    for name in ("sh", "env", "test"):
        (path / name).symlink_to(f"/bin/{name}")
    done = subprocess.run(
        [*java_free_python(), "-P", "-m", "aiok_tui", "run", "tiny", "-s", "etl.engine=spark"],
        env={**home.env, "PATH": str(path), "JAVA_HOME": ""},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert_one_error(done, 3, "the plan needs Java 17 or 21", "etl.engine=sail")
    assert api.runs() == []


def java_free_python() -> list[str]:
    import sys

    return [sys.executable]


def test_no_cpu_build_of_torch_to_be_had(home: Home, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    env = {k: v for k, v in home.env.items() if not k.startswith("PIP_")}
    env |= {"AIOK_HOME": str(bare), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null"}
    done = subprocess.run(
        [*java_free_python(), "-P", "-m", "aiok_tui", "env", "install", "torch"],
        env=env, capture_output=True, text=True, check=False, timeout=80,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "CPU build torch==" in done.stderr
    assert "--accept-large-torch" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((bare / "envs").glob("torch-*")) if (bare / "envs").exists() else True
