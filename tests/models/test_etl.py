"""The ETL on the embedded engine: right ids, in the order of the input, whatever the plan."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from models.dlrm.teacher import Teacher
from models.dlrm.generator import to_text
from models.recdp import sources
from models.recdp.blocks import SPLITS, Manifest
from tests.models.recdp_reference import prepare_lines

pytestmark = pytest.mark.environment("etl")


def read_all(folder: Path):
    manifest = Manifest.load(folder)
    parts = [manifest.split(name) for name in SPLITS]
    return [np.concatenate(a) for a in zip(*(p.read(0, p.rows) for p in parts), strict=True)]


def assert_equal_to_reference(folder: Path, text: bytes, min_count: int = 2) -> None:
    lines = text.decode().splitlines()
    manifest = Manifest.load(folder)
    rows = manifest.rows()
    borders = (rows["train"], rows["train"] + rows["valid"])
    numeric, ids, label, dictionaries = prepare_lines(lines, borders, min_count)
    for got, expected in zip(read_all(folder), (numeric, ids, label), strict=True):
        np.testing.assert_array_equal(got, expected)
    for name, size, expected in zip(
        manifest.categorical, manifest.table_sizes, dictionaries, strict=True
    ):
        table = pq.read_table(folder / "dictionaries" / f"{name}.parquet").to_pydict()
        assert table["value"] == list(expected)
        assert table["count"] == [count for _, count in expected.values()]
        assert table["id"] == list(range(1, size))


def make_log(rows: int, seed: int = 3) -> bytes:
    return to_text(Teacher(seed, rows).draw(0, rows, 0))


def test_real_log_equals_reference(prepare, criteo_10k):
    result, folder = prepare([criteo_10k])
    assert result["rows"] == {"train": 7000, "valid": 1000, "test": 2000}
    assert_equal_to_reference(folder, gzip.decompress(criteo_10k.read_bytes()))


def test_any_cut_into_chunks_and_files_gives_the_same_rows(prepare, tmp_path, monkeypatch):
    """Byte ranges that cut lines anywhere, two files, one of them packed, no last line end."""
    text = make_log(3000)
    cut = text.index(b"\n", len(text) // 3) + 1
    (tmp_path / "a.tsv").write_bytes(text[: cut - 1])
    (tmp_path / "b.tsv.gz").write_bytes(gzip.compress(text[cut:]))
    monkeypatch.setattr(sources, "CHUNK_BYTES", 50_003)
    monkeypatch.setattr(sources, "READ_BYTES", 20_001)
    result, folder = prepare([tmp_path / "a.tsv", tmp_path / "b.tsv.gz"])
    assert result["rows"] == {"train": 2100, "valid": 300, "test": 600}
    assert len(Manifest.load(folder).splits["train"]) > 8
    assert_equal_to_reference(folder, text)


@pytest.mark.parametrize("cores", [1, 3])
def test_plans_and_cores_change_nothing(prepare, tmp_path, monkeypatch, cores):
    (tmp_path / "a.tsv").write_bytes(make_log(2000))
    monkeypatch.setattr(sources, "CHUNK_BYTES", 100_000)
    _, lookup = prepare([tmp_path / "a.tsv"], name="lookup", cores=2)
    for plan in ("broadcast join", "shuffle join"):
        result, joined = prepare([tmp_path / "a.tsv"], name=plan, forced=plan, cores=cores)
        assert {entry["plan"] for entry in result["plan"]} == {plan}
        assert (joined / "manifest.json").read_bytes() == (lookup / "manifest.json").read_bytes()


def test_random_split_keeps_order_and_is_repeatable(prepare, tmp_path):
    text = make_log(2000)
    (tmp_path / "a.tsv").write_bytes(text)
    split = {"by": "random", "valid": 0.1, "test": 0.3}
    first, folder = prepare([tmp_path / "a.tsv"], split=split, name="one")
    second, again = prepare([tmp_path / "a.tsv"], split=split, name="two")
    assert (folder / "manifest.json").read_bytes() == (again / "manifest.json").read_bytes()
    rows = first["rows"]
    assert first["rows"] == second["rows"]
    assert abs(rows["test"] - 600) < 80 and abs(rows["valid"] - 200) < 55
    from models.recdp.split import Split

    parts = Split.parse(split).parts(0, 2000, 2000)
    label = np.array([int(line[:1]) for line in text.splitlines()])
    manifest = Manifest.load(folder)
    for number, name in enumerate(SPLITS):
        blocks = manifest.split(name)
        np.testing.assert_array_equal(blocks.read(0, blocks.rows)[2], label[parts == number])
