"""What the command line prints: JSON that every reader accepts, text that no terminal obeys."""

from __future__ import annotations

import io
import json
import math
import os
from pathlib import Path

import pytest

from aiok_tui import cli, job_output, output
from engine import api
from engine import events as ev
from engine.errors import InputError
from engine.state import fold

ESCAPE = "\x1b[2J\x9b1m\x07"


def strictly(text: str) -> object:
    """Parse as a reader without Python's NaN and Infinity does."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def aiok(*words: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(list(words))
    return int(caught.value.code or 0)


def test_numbers_that_json_does_not_have_become_null(capsys: pytest.CaptureFixture[str]) -> None:
    nan, created = (
        math.nan,
        ev.RunCreated(
            t=1, run="a-1", recipe="a", steps=[{"id": "x", "kind": "evaluate", "title": "x"}]
        ),
    )
    ended = ev.StepFinished(
        t=2, step="x", identity="", seconds=1, result={"auc": nan, "all": [math.inf, (nan, 1.5)]}
    )
    output.print_state(fold([created, ended]), as_json=True)
    shown = strictly(capsys.readouterr().out)
    assert isinstance(shown, dict)
    assert shown["steps"]["x"]["result"] == {"auc": None, "all": [None, [None, 1.5]]}
    assert strictly(ev.encode(ended).decode()) == {
        "kind": "step_finished", "t": 2, "step": "x", "identity": "", "seconds": 1,
        "result": {"auc": None, "all": [None, [None, 1.5]]}, "actual": {},
    }  # fmt: skip


def test_plan_and_report_are_one_line_of_json(
    aiok_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert aiok("plan", "tiny", "--json") == 0
    shown = capsys.readouterr().out
    assert shown.count("\n") == 1
    plan = strictly(shown)
    assert isinstance(plan, dict)
    assert plan["steps"] == json.loads(api.plan("tiny").to_json())["steps"]
    (aiok_home / "report.json").parent.mkdir(exist_ok=True)
    (aiok_home / "report.json").write_text('{\n "figures": []\n}\n')
    output.print_report(aiok_home / "report.html", as_json=True)
    assert capsys.readouterr().out == '{"figures": []}\n'


def test_names_that_the_terminal_cannot_show_are_written_out(
    aiok_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    place = tmp_path / "größe.tsv"
    place.write_text("1\t2\n")
    assert aiok("data", "add", "mine", str(place)) == 0
    monkeypatch.setattr("sys.stdout", shown)
    assert aiok("data", "list") == 0
    shown.seek(0)
    assert "gr\\xf6\\xdfe.tsv" in shown.read()


def test_control_bytes_never_reach_the_terminal(
    aiok_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / f"x{ESCAPE}.yaml"
    recipe.write_text(f"dataset: {{path: {json.dumps('y' + ESCAPE)}}}\n")
    assert aiok("plan", "tiny", "--set", f"goal.metric={ESCAPE}") == 2
    assert aiok("plan", str(recipe)) == 2
    assert aiok("plan", f"{tmp_path}/{ESCAPE}.yaml") == 2
    assert output.tell_error(InputError(f"one\ntwo {ESCAPE}")) == 2
    words = capsys.readouterr().err
    assert "one\ntwo [2J1m\n" in words
    assert not set(words) & set(ESCAPE[0] + "\x9b\x07")
    assert output.table([[f"a{ESCAPE}", "b"]]) == "a[2J1m  b"


def test_a_full_disk_is_told_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert output.tell_error(OSError(28, "No space left on device", "/x/y")) == 3
    words = capsys.readouterr().err
    assert words.startswith("aiok: No space left on device (/x/y)\n  do:  free disk space")


def test_usage_names_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert aiok("plan") == 2
    assert capsys.readouterr().err.startswith("Usage: aiok plan ")


def test_new_refuses_a_pipe_before_it_asks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    assert aiok("new", "-o", str(tmp_path / "pipe.yaml")) == 2
    shown = capsys.readouterr()
    assert "a device or a pipe, not a file" in shown.err
    assert shown.out == ""


def test_scores_are_told_in_figures(capsys: pytest.CaptureFixture[str]) -> None:
    result = {"rows": 2000, "seconds": 0.5, "rows_per_second": 4000.0, "auc": None,
              "missing": {"C1": 0, "C2": 0}, "unseen": {"C1": 3, "C2": 1200}}  # fmt: skip
    job_output.print_predicted(result, as_json=False, done="wrote x.csv")
    assert capsys.readouterr().out.splitlines() == [
        "rows     2,000", "time     0.5 s", "rows/s   4,000", "missing  0 values",
        "unseen   1,203 values, most in C2: 1,200",
    ]  # fmt: skip
    job_output.print_predicted({**result, "auc": 0.75}, as_json=False, done="")
    assert "AUC      0.7500" in capsys.readouterr().out


def test_a_check_without_problems_lists_none(capsys: pytest.CaptureFixture[str]) -> None:
    job_output.print_result({"rows": 3, "problems": []}, False, "no problem found")
    assert capsys.readouterr() == ("rows  3\n", "no problem found\n")
