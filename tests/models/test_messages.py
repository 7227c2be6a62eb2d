"""Messages of a rank while the disk becomes full: the last words arrive, and whole."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.messages import Done, Messenger, Note, Problem

ROOT = Path(__file__).resolve().parents[2]
WORK = """
import sys
from models import worker
from models.messages import Note
def work(spec, messenger, stop):
    with open(spec["filler"], "wb", buffering=0) as filler:
        try:
            while filler.write(bytes(512)):
                pass
        except OSError:
            pass
    for step in range(1000):  # until the block of the file is full, too
        messenger.send(Note(text=f"step {step} " + "." * 90))
    return {}
sys.exit(worker.run(work))
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    if os.geteuid() != 0:
        pytest.skip("a disk of its own needs root")
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "aiok", place], check=True)
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)  # its file is still open


def fill(place: Path) -> None:
    with (place / "filler").open("ab", buffering=0) as file, pytest.raises(OSError, match="space"):
        while True:
            file.write(bytes(512))


def lines_of(folder: Path) -> list[dict[str, object]]:
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return found


def test_a_problem_is_told_on_a_full_disk_and_anything_else_is_an_error(disk: Path) -> None:
    messenger = Messenger(disk / "messages", 3)
    fill(disk)
    with pytest.raises(OSError, match=r"rank-0003\.jsonl") as caught:
        for _ in range(1000):
            messenger.send(Note(text="." * 100))
    assert caught.value.errno == errno.ENOSPC
    messenger.send(Problem(what="w" * 9000, why="y" * 9000, todo="free space"))
    problem = lines_of(disk / "messages")[-1]
    assert (problem["kind"], problem["rank"], problem["todo"]) == ("problem", 3, "free space")


def test_a_line_that_was_torn_does_not_take_the_next_with_it(disk: Path) -> None:
    messenger = Messenger(disk / "messages")
    fill(disk)
    with pytest.raises(OSError, match="space"):
        for _ in range(1000):
            messenger.send(Note(text="." * 100))
    (disk / "filler").unlink()
    messenger.send(Done())
    assert lines_of(disk / "messages")[-1]["kind"] == "done"


def test_a_worker_whose_disk_is_full_says_so(disk: Path, tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"filler": str(disk / "filler")}))
    env = {**os.environ, "AIOK_MESSAGES": str(disk / "messages"), "PYTHONPATH": str(ROOT)}
    with (disk / "log").open("wb") as log:
        done = subprocess.run(
            [sys.executable, "-c", WORK, spec],
            env=env, stdout=log, stderr=log, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    problem = lines_of(disk / "messages")[-1]
    assert str(problem["what"]).startswith("the disk is full: ")
    assert "No space left on device" in str(problem["why"])
    assert f"on {os.uname().nodename}" in str(problem["why"])
