"""What a program's result may look like, and what is never a score."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from models import program_result
from models.messages import Failure
from models.program_result import Stream, read_metrics
from models.worker import WorkFailed


def read(kind: str, text: str, names: tuple[str, ...] = ("auc",), **patterns: str) -> Any:
    """The metrics of a text that was printed."""
    return read_metrics({"format": kind, "file": "", "patterns": patterns}, names, text, {}, 0)


def refused(kind: str, text: str, names: tuple[str, ...] = ("auc",)) -> tuple[str, Failure | None]:
    with pytest.raises(WorkFailed) as caught:
        read(kind, text, names)
    return caught.value.what, caught.value.failure


def test_each_metric_has_its_own_value() -> None:
    values = {"auc": 0, "loss": 1e-3, "more": [1]}
    assert read("json", json.dumps(values), ("loss", "auc")) == {"loss": 0.001, "auc": 0.0}
    text = "'auc': 0\n\"loss\": 1e-3  # best\nmodel: here\n  auc: 9\n"
    assert read("yaml", text, ("auc", "loss")) == {"auc": 0.0, "loss": 0.001}
    assert read("regex", "auc 1 loss 2\nauc 3", ("a", "b"), a=r"auc (\d)", b=r"\d$") == {
        "a": 3.0, "b": 3.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "text", "what"),
    [
        ("json", '{"auc": true}', "auc in its output is True, no number"),
        ("json", '{"auc": "0.9"}', "auc in its output is '0.9', no number"),
        ("json", "0.9", "its output is no JSON object of metrics, but 0.9"),
        ("json", '{"auc": 1', "its output is no JSON: Expecting ',' delimiter: line 1 column 10"),
        ("json", "[" * 100_000, "its output is no JSON"),
        ("yaml", "auc: high\n", "auc in its output is 'high', no number"),
        ("float", "", "its output is empty"),
        ("float", "1\n0.9", "its output is no number: '0.9'"),
        ("last_line", "0.9\ndone", "the last line of its output is no number: 'done'"),
    ],
)
def test_what_is_no_number_is_no_metric(kind: str, text: str, what: str) -> None:
    said, failure = refused(kind, text)
    assert said.startswith(what)
    assert failure is Failure.NO_METRIC


@pytest.mark.parametrize("text", ["nan", ".nan", "inf", "-.inf", "1e999"])
def test_what_is_not_finite_is_of_the_class_nan(text: str) -> None:
    assert refused("float", text)[1] is Failure.NAN
    assert refused("json", f'{{"auc": 1{"0" * 400}}}')[1] is Failure.NAN


def test_one_number_is_never_the_value_of_two_metrics() -> None:
    said = refused("last_line", "0.9", ("auc", "loss"))
    assert said == ("its output has one number for auc, loss", Failure.NO_METRIC)


def test_all_that_is_missing_is_told(tmp_path: Path) -> None:
    assert refused("json", '{"los": 1}', ("auc", "loss"))[0] == (
        "its output has no auc, it has los: valid: los; "
        "its output has no loss, it has los: did you mean los?"
    )


def test_a_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    spec = {"format": "json", "file": str(path)}
    os.mkfifo(path)
    with pytest.raises(WorkFailed, match=r"its result\.json is not a file"):
        read_metrics(spec, ["auc"], "", {}, 0)
    path.unlink()
    path.mkdir()
    with pytest.raises(WorkFailed, match=r"its result\.json is not a file"):
        read_metrics(spec, ["auc"], "", {}, 0)
    path.rmdir()
    path.write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(WorkFailed, match=r"has 1,048,577 bytes"):
        read_metrics(spec, ["auc"], "", {}, 0)


def test_a_pattern_that_searches_for_years_is_no_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_result, "SEARCH_S", 1)
    with pytest.raises(WorkFailed, match="the pattern of auc takes longer than 1 s") as caught:
        read("regex", "a" * 60 + "b", auc="(a+)+$")
    assert caught.value.failure is Failure.NO_METRIC


def test_a_folder_in_place_of_the_stream_is_no_stream(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    stream = Stream(tmp_path)
    assert [list(stream.new()) for _ in range(3)] == [[], [], []]
    assert len(os.listdir("/proc/self/fd")) == before  # asked ten times a second: none stays open


def test_a_stream_is_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    stream = Stream(path)
    assert list(stream.new()) == []
    path.write_text('{"step": 1, "metrics": {"auc": 0.5}}\n{"step": 2, "met')
    assert list(stream.new()) == [(1, {"auc": 0.5})]
    with open(path, "a") as file:
        file.write('rics": {"auc": 0, "loss": 3}}\n')
    assert list(stream.new()) == [(2, {"auc": 0.0, "loss": 3.0})]
    assert stream.last == {"auc": 0.0, "loss": 3.0}
    path.write_text('{"step": 9, "metrics": {"auc": 1}}\n')  # written anew
    assert list(stream.new()) == [(9, {"auc": 1.0})]
    with open(path, "a") as file:
        file.write('{"step": 10, "metrics": {"auc": 0.6}}')
    assert list(stream.new()) == []  # it may be half of a line
    assert list(stream.new(ended=True)) == [(10, {"auc": 0.6})]
    assert list(stream.new(ended=True)) == []
    assert stream.last["auc"] == 0.6
    assert stream.spoiled == 0
