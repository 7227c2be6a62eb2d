"""Tables by column names: every format gives the same rows, and errors name line and column."""

from __future__ import annotations

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.recdp import table
from models.recdp.blocks import SPLITS, Manifest
from models.recdp.check import check
from models.recdp.problems import Problems
from models.recdp.sources import Dataset, plan_units
from models.recdp.table import read_table
from models.worker import InputProblem, StopFlag
from tests.models.conftest import Recorder

pytestmark = pytest.mark.environment("etl")

COLUMNS = {"label": "y", "numeric": ["n", "x"], "categorical": ["c", "k"], "time": None}
ROWS = 400
LABEL = [n % 3 == 0 for n in range(ROWS)]
COUNT = [None if n % 7 == 0 else n for n in range(ROWS)]
REAL = [None if n % 5 == 0 else n / 4 - 20 for n in range(ROWS)]
TEXT = [None if n % 11 == 0 else ["red", "a,b", 'quote "q"', "grün"][n % 4] for n in range(ROWS)]
KEY = [n % 6 for n in range(ROWS)]


def write(path, ending: str):
    file = path / f"t{ending}"
    if ending == ".parquet":
        content = pa.table({"k": KEY, "y": LABEL, "n": pa.array(COUNT, pa.int16()), "x": REAL,
                            "c": pa.array(TEXT).dictionary_encode(), "unused": KEY})  # fmt: skip
        pq.write_table(content, file, row_group_size=90)
        return file
    separator = "," if ending.startswith(".csv") else "\t"

    def cell(value):
        text = "" if value is None else str(value)
        return '"' + text.replace('"', '""') + '"' if separator in text or '"' in text else text

    lines = [separator.join(["k", "y", "n", "x", "c", "unused"])]
    lines += [
        separator.join(map(cell, row))
        for row in zip(KEY, map(int, LABEL), COUNT, REAL, TEXT, KEY, strict=True)
    ]
    data = ("\n".join(lines) + "\n").encode()
    file.write_bytes(gzip.compress(data) if ending.endswith(".gz") else data)
    return file


@pytest.mark.parametrize("ending", [".csv", ".tsv.gz", ".parquet"])
def test_every_format_gives_the_same_rows(prepare, tmp_path, monkeypatch, ending):
    monkeypatch.setattr(table, "CHUNK_ROWS", 100)
    result, folder = prepare([write(tmp_path, ending)], format="table", columns=COLUMNS,
                             settings={"min_count": 1})  # fmt: skip
    assert result["rows"] == {"train": 280, "valid": 40, "test": 80}
    manifest = Manifest.load(folder)
    blocks = [manifest.split(name) for name in SPLITS]
    numeric, ids, label = (
        np.concatenate(part) for part in zip(*(b.read(0, b.rows) for b in blocks), strict=True)
    )
    np.testing.assert_array_equal(label, np.array(LABEL, np.uint8))
    count = np.array([0 if n is None else n for n in COUNT], np.float64)
    np.testing.assert_array_equal(numeric[:, 0], np.log1p(count).astype(np.float32))
    real = np.array([np.nan if x is None else x for x in REAL])
    mean, deviation = np.nanmean(real[:280]), np.nanstd(real[:280])
    np.testing.assert_allclose(numeric[:, 1], np.nan_to_num((real - mean) / deviation), atol=1e-6)
    rule = manifest.transform["columns"]
    assert rule["n"] == {"kind": "log1p"} and rule["x"]["kind"] == "standard"
    words = pq.read_table(folder / "dictionaries" / "c.parquet").to_pydict()
    number = {None: 0, **dict(zip(words["value"], words["id"], strict=True))}
    assert ids[:, 0].tolist() == [number[word] for word in TEXT]
    order = sorted(range(6), key=lambda k: (-KEY[:280].count(k), str(k)))
    assert ids[:, 1].tolist() == [order.index(k) + 1 for k in KEY]


def problems_of(tmp_path, content: bytes, **columns):
    (tmp_path / "t.csv").write_bytes(content)
    dataset = Dataset.parse({"format": "table", "paths": [str(tmp_path / "t.csv")],
                             "columns": {"label": "y", **columns}})  # fmt: skip
    found = Problems()
    for unit in plan_units(dataset):
        list(read_table(dataset, unit, found))
    return [str(p) for p in sorted(found.listed, key=lambda p: p.line)]


@pytest.mark.parametrize(("content", "expected"), [
    (b"y,a,c\n1,1,u\n2,1,u\n", "line 3, column y: found '2'; expected 0 or 1"),
    (b"y,a,c\n1,1,u\n,1,u\n", "line 3, column y: found nothing; expected 0 or 1"),
    (b"y,a,c\n1,1,u\n1,1,u\n0,12x,u\n", "line 4, column a: found '12x'; expected a number"),
    (b"y,a,c\n1,inf,u\n", "line 2, column a: found 'inf'; expected a finite number"),
    (b"y,a,c\n1,1,u\n1,1\n", "line 3: found 2 columns: '1,1'; expected 3 columns"),
    (b"y,a,c\n1,1,\xff\n", r"line 2, column c: found '\xff'; expected text in UTF-8"),
    (b"y,a,c\n1,1,\x1b[0m\n", r"line 2, column c: found '\x1b[0m'; expected text without control"),
    (b"y,a,c\n1,1\n1,z,u\n", "line 2: found 2 columns"),
])  # fmt: skip
def test_bad_cell(tmp_path, content, expected):
    assert expected in problems_of(tmp_path, content, numeric=["a"], categorical=["c"])[0]


def write_typed(tmp_path, **changed):
    """A parquet table of good columns, some of them replaced."""
    rows = 6
    good = {"y": pa.array([0, 1] * 3), "a": pa.array([1.0] * rows), "c": pa.array(["u"] * rows)}
    pq.write_table(pa.table({**good, **changed}), tmp_path / "t.parquet")
    return Dataset.parse({
        "format": "table", "paths": [str(tmp_path / "t.parquet")],
        "columns": {"label": "y", "numeric": ["a"], "categorical": ["c"]},
    })  # fmt: skip


def read_all(dataset):
    found, chunks = Problems(), []
    for unit in plan_units(dataset):
        chunks += [chunk for chunk, _ in read_table(dataset, unit, found)]
    return chunks, [str(problem) for problem in found.listed]


@pytest.mark.parametrize("kind", [
    pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.bool_(), pa.int8(),
    pa.uint64(), pa.float32(), pa.decimal128(21, 2),
])  # fmt: skip
def test_labels_of_every_type_that_can_hold_them(tmp_path, kind):
    label = pa.array(["0", "1"] * 3)
    if "string" not in str(kind) and "binary" not in str(kind):
        label = pa.array([0, 1] * 3)
    for column in (label.cast(kind), label.cast(kind).dictionary_encode()):
        chunks, problems = read_all(write_typed(tmp_path, y=column))
        assert problems == []
        assert chunks[0].label.tolist() == [0, 1] * 3


@pytest.mark.parametrize(("changed", "said"), [
    ({"y": pa.nulls(6)}, "line 1, column y: found nothing; expected 0 or 1"),
    ({"y": pa.nulls(6, pa.int64())}, "line 1, column y: found nothing; expected 0 or 1"),
    ({"y": pa.array([[1]] * 6)}, "column y: found values of the type list<"),
    ({"y": pa.array([0] * 6, pa.date32())}, "column y: found values of the type date32[day]"),
    ({"c": pa.array([["u"]] * 6)}, "column c: found values of the type list<"),
    ({"c": pa.array([{"u": 1}] * 6)}, "column c: found values of the type struct<"),
    ({"c": pa.array([{"u": 1}] * 6)}, "expected text or whole numbers"),
    ({"a": pa.array([[1.0]] * 6)}, "line 1, column a: found '[1.0]'; expected a number"),
])  # fmt: skip
def test_a_column_of_a_type_that_cannot_serve_is_named(tmp_path, changed, said):
    dataset = write_typed(tmp_path, **changed)
    chunks, problems = read_all(dataset)
    assert said in problems[0]
    assert [(c.rows, len(c.columns), c.numeric.shape) for c in chunks] == [(0, 1, (0, 1))]
    with pytest.raises(InputProblem, match=r"t\.parquet") as caught:
        check({"dataset": {"format": "table", "paths": [str(tmp_path / "t.parquet")],
                           "columns": {"label": "y", "numeric": ["a"], "categorical": ["c"]}}},
              Recorder(), StopFlag())  # fmt: skip
    assert said in caught.value.what


def test_a_table_in_utf_16_is_told(tmp_path):
    with pytest.raises(InputProblem, match=r"t\.csv: .*utf-8") as caught:
        problems_of(tmp_path, "y,a,c\n1,1,u\n".encode("utf-16"), numeric=["a"])
    assert caught.value.todo == "write the table as text in UTF-8"


def test_line_numbers_after_a_ragged_row(tmp_path):
    found = problems_of(tmp_path, b"y,a\n1,1\n1\n1,z\n", numeric=["a"])
    assert "line 3: found 1 column" in found[0] and "line 4, column a: found 'z'" in found[1]


def test_absent_column_gets_a_hint(prepare, tmp_path):
    with pytest.raises(InputProblem, match="no column unusd") as caught:
        prepare([write(tmp_path, ".csv")], format="table",
                columns={**COLUMNS, "categorical": ["unusd"]})  # fmt: skip
    assert "did you mean unused?" in caught.value.why
    with pytest.raises(InputProblem, match="names k more than once"):
        prepare([tmp_path / "t.csv"], format="table", name="b",
                columns={**COLUMNS, "categorical": ["k", "k"]})  # fmt: skip


def test_split_by_a_time_column(prepare, tmp_path):
    """The latest moments are test wherever their rows stand; blocks keep the order of the input."""
    times = [f"2024-01-{1 + (n * 5) % 28:02d}" for n in range(280)]
    lines = "".join(f"{n % 2},{n},{t}\n" for n, t in enumerate(times))
    (tmp_path / "t.csv").write_text("y,a,when\n" + lines)
    columns = {"label": "y", "numeric": ["a"], "categorical": [], "time": "when"}
    result, folder = prepare([tmp_path / "t.csv"], format="table", columns=columns)
    assert sum(result["rows"].values()) == 280 and result["rows"]["test"] == 50
    blocks = Manifest.load(folder).split("test")
    rows = np.expm1(blocks.read(0, 50)[0][:, 0].astype(float)).round().astype(int).tolist()
    assert rows == [n for n, t in enumerate(times) if t > "2024-01-23"]
