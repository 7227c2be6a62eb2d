"""The ETL on the embedded engine: right ids, in the order of the input, whatever the plan."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from models.dlrm.generator import to_text
from models.dlrm.teacher import Teacher
from models.recdp import sources
from models.recdp.blocks import SPLITS, Manifest
from models.recdp.split import Split
from tests.models.recdp_reference import SAMPLE, assert_equal_to_reference, expected_manifest

pytestmark = pytest.mark.environment("etl")


def make_log(rows: int, seed: int = 3) -> bytes:
    return to_text(Teacher(seed, rows).draw(0, rows, 0))


@pytest.mark.parametrize("by", ["time", "random"])
def test_files_are_those_of_apache_spark(prepare, monkeypatch, by):
    """test_etl_spark.py holds Apache Spark to the same manifests and digests."""
    monkeypatch.setattr(sources, "CHUNK_BYTES", 20_000)
    _, folder = prepare([SAMPLE], split={"by": by, "valid": 0.1, "test": 0.2})
    assert json.loads((folder / "manifest.json").read_text()) == expected_manifest(by)
    if by == "time":
        assert_equal_to_reference(folder, SAMPLE.read_bytes())


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
    parts = Split.parse(split).parts(0, 2000, 2000)
    label = np.array([int(line[:1]) for line in text.splitlines()])
    manifest = Manifest.load(folder)
    for number, name in enumerate(SPLITS):
        blocks = manifest.split(name)
        np.testing.assert_array_equal(blocks.read(0, blocks.rows)[2], label[parts == number])
