"""Registered data sets, and table columns compared with the header before anything runs."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from engine import api, data_jobs, datasets
from engine.errors import InputError

COLUMNS = {"label": "y", "numeric": ["a"], "categorical": ["c"]}


@pytest.fixture
def rows(aiok_home: Path, tmp_path: Path) -> Path:
    path = tmp_path / "t.csv"
    path.write_text('y,a,"c"\n1,2,u\n')
    return path


def test_a_table_without_columns_is_told_in_words(rows: Path) -> None:
    with pytest.raises(InputError) as caught:
        datasets.add("t", rows, "table", None)
    assert caught.value.what == "t: format table needs columns: {label, numeric, categorical}"
    with pytest.raises(InputError, match="t: format: should be 'criteo' or 'table'"):
        datasets.add("t", rows, "json", None)
    assert datasets.listing() == []


def test_columns_on_the_command_line_are_told_in_words() -> None:
    with pytest.raises(InputError) as caught:
        data_jobs.parse_columns("label=y")
    assert caught.value.what == "--columns: at least one numeric or categorical column is needed"
    with pytest.raises(InputError, match="--columns: label: Field required"):
        data_jobs.parse_columns("numeric=a")


def test_a_name_is_never_taken_twice(rows: Path) -> None:
    datasets.add("t", rows, "table", COLUMNS)
    with pytest.raises(InputError, match="already a data set named t") as caught:
        datasets.add("t", rows, "table", COLUMNS)
    assert caught.value.todo == "aiok data remove t first"
    datasets.remove("t")
    assert datasets.add("t", rows, "table", COLUMNS).columns == COLUMNS


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".txt.gz", ".csv.gz"])
def test_a_column_that_is_not_there_is_told_by_plan_and_add(
    aiok_home: Path, tmp_path: Path, ending: str
) -> None:
    path, separator = tmp_path / f"t{ending}", "," if "csv" in ending else "\t"
    data = f"\ufefflabel{separator}a{separator}c\r\n1{separator}2{separator}u\r\n".encode()
    path.write_bytes(gzip.compress(data) if ending.endswith(".gz") else data)
    with pytest.raises(InputError, match=f"{path}: no column lable, b") as caught:
        datasets.add("t", path, "table", {"label": "lable", "numeric": ["b"]})
    assert "lable: did you mean label?" in caught.value.todo
    recipe = tmp_path / "r.yaml"
    text = "dataset: {format: table, path: %s, columns: {label: %s, numeric: [a]}}\n"
    recipe.write_text(text % (path, "nope"))
    with pytest.raises(InputError, match=f"{path}: no column nope"):
        api.plan(str(recipe))
    recipe.write_text(text % (path, "label"))
    assert api.plan(str(recipe)).value("dataset.columns.label") == "label"


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("t.csv", "y,a,c\n".encode("utf-16"), "the header line is not UTF-8 text"),
        ("t.csv", b'"' + b"x" * 200_000, "field larger than field limit"),
        ("t.csv.gz", gzip.compress(b"y,a,c\n")[:12], "cannot read"),
    ],
)
def test_a_header_that_cannot_be_read_is_told(
    aiok_home: Path, tmp_path: Path, name: str, data: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=said) as caught:
        datasets.add("t", tmp_path / name, "table", COLUMNS)
    assert str(tmp_path / name) in caught.value.what
