"""Tables by column names: every format gives the same rows, and errors name line and column."""

from __future__ import annotations

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.recdp import table
from models.recdp.blocks import SPLITS, Manifest
from models.recdp.problems import Problems
from models.recdp.sources import Dataset, plan_units
from models.recdp.table import read_table
from models.worker import InputProblem

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
