"""What of a program goes to hosts: all of its folder, and a sentence for what cannot go."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from engine.errors import InputError
from engine.programs import files
from engine.programs.schema import Known, Program

METRIC = {"name": "auc", "objective": "maximize"}
X = {"name": "x", "type": "int", "bounds": {"min": 0, "max": 2}}


def known(folder: Path, **fields: Any) -> Known:
    data = {"name": "p", "command": ["python3", "main.py"], "parameters": [X], "metrics": [METRIC]}
    folder.mkdir(exist_ok=True)
    (folder / "main.py").write_text("print(1)\n")
    return Known(Program.model_validate({**data, **fields}), str(folder / "program.yaml"))


def test_all_of_the_folder_goes_but_git_and_bytecode(tmp_path: Path) -> None:
    mine = known(tmp_path / "mine")
    for name in ("sub/a.txt", ".git/config", "sub/__pycache__/a.pyc", ".env"):
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_text("12345678")
    (tmp_path / "mine" / "run.sh").write_text("#!/bin/sh\n")
    (tmp_path / "mine" / "run.sh").chmod(0o755)
    assert files.check(mine, None) * 2**30 == pytest.approx(9 + 8 + 8 + 10)
    kept = files.keep(mine, tmp_path / "kept")
    found = sorted(str(p.relative_to(kept)) for p in kept.rglob("*") if p.is_file())
    assert found == [".env", "main.py", "run.sh", "sub/a.txt"]
    assert os.access(kept / "run.sh", os.X_OK)
    (tmp_path / "mine" / "main.py").write_text("changed")
    assert (files.keep(mine, kept) / "main.py").read_text() == "print(1)\n"


def test_data_count_where_they_lie_outside(tmp_path: Path) -> None:
    mine = known(tmp_path / "mine")
    (tmp_path / "rows.csv").write_text("x" * 1000)
    outside = tmp_path / "mine" / ".." / "rows.csv"
    assert files.check(mine, outside) * 2**30 == pytest.approx(1009)
    assert files.inside(mine, outside) is None
    assert files.inside(mine, tmp_path / "mine" / "main.py") == Path("main.py")
    assert files.check(mine, tmp_path / "mine" / "main.py") * 2**30 == pytest.approx(9)


def test_all_that_cannot_go_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("1")
    mine = known(tmp_path / "mine", command=["python3", "main.py", "--rows=../other.csv"])
    (tmp_path / "mine" / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "mine" / "big").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "mine" / "pipe")
    with pytest.raises(InputError) as caught:
        files.check(mine, None)
    assert caught.value.what.splitlines() == [
        f"{tmp_path}/mine/program.yaml names ../other.csv, outside of its folder: put it in there",
        f"{tmp_path}/mine/big is a link to a folder: put the folder itself there",
        f"{tmp_path}/mine/gone is a link to nothing: remove it",
        f"{tmp_path}/mine/pipe is no file: remove it",
    ]


def test_a_large_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = known(tmp_path / "mine")
    monkeypatch.setattr(files, "MOST_GIB", 8 / 2**30)
    with pytest.raises(InputError, match=r"the folder of p, .*/mine, holds 0\.0 GiB"):
        files.check(mine, None)
    monkeypatch.setattr(files, "MOST_GIB", 1.0)
    monkeypatch.setattr(files, "MOST_FILES", 3)
    for number in range(4):
        (tmp_path / "mine" / f"{number}.txt").write_text("")
    with pytest.raises(InputError, match="holds more than 3 files") as caught:
        files.check(mine, None)
    assert "dataset.path" in caught.value.todo


def test_places_of_this_machine_are_known(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("1")
    words = ["/bin/sh", f"--rows={rows}", "/nowhere", "{program_dir}/main.py"]
    mine = known(tmp_path / "mine", command=words, env={"ROWS": str(rows)})
    assert files.absolute_paths(mine) == ["/bin/sh", str(rows)]
