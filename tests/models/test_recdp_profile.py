"""Profiler and checker: the figures a plain count gives, and problems with their lines."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.recdp import check, profile, sources
from models.recdp.profile import Values
from models.worker import InputProblem, StopFlag
from tests.models.recdp_reference import SAMPLE

pytestmark = pytest.mark.environment("etl")

CRITEO = {"format": "criteo", "columns": None}


def test_profile_of_real_log(tmp_path, recorder, criteo_10k):
    spec = {"dataset": {**CRITEO, "paths": [str(criteo_10k)]}, "output": str(tmp_path), "cores": 1}
    result = profile.profile(spec, recorder, StopFlag())
    text = gzip.decompress(criteo_10k.read_bytes()).decode()
    lines = [line.split("\t") for line in text.splitlines()]
    assert result["rows"] == 10_000
    assert result["label_rate"] == np.mean([line[0] == "1" for line in lines])
    assert len(result["columns"]) == 39
    for number, column in enumerate(result["columns"], start=1):
        cells = [line[number] for line in lines if line[number]]
        assert column["missing"] == 10_000 - len(cells)
        assert column["distinct"] == len(set(cells))
        if column["kind"] == "numeric":
            assert column["min"] == min(map(int, cells)) and column["max"] == max(map(int, cells))
        else:
            for value, count in column["top"]:
                assert cells.count(value) == count
    assert json.loads((tmp_path / "profile.json").read_text()) == result


def test_cores_and_chunks_change_nothing(tmp_path, recorder, monkeypatch):
    spec = {"dataset": {**CRITEO, "paths": [str(SAMPLE)]}, "output": str(tmp_path), "cores": 1}
    whole = profile.profile(spec, recorder, StopFlag())
    monkeypatch.setattr(sources, "CHUNK_BYTES", 20_000)
    assert profile.profile({**spec, "cores": 2}, recorder, StopFlag()) == whole


def test_many_values_are_estimated_within_three_percent(monkeypatch):
    monkeypatch.setattr(profile, "EXACT", 1000)
    whole = Values()
    for start in range(0, 40_000, 500):
        words = [str(n) for n in range(start, start + 1000)]
        part = Values(0, dict.fromkeys(words, 1))
        np.maximum.at(part.registers, *profile._registers(words))
        whole.add(part)
    assert whole.full and len(whole.counts) <= 1000
    assert whole.distinct() == pytest.approx(40_500, rel=0.03)


def test_check_counts_rows_and_lists_problems(tmp_path, recorder, monkeypatch):
    spec = {"dataset": {**CRITEO, "paths": [str(SAMPLE)]}, "cores": 2, "limit": 3}
    assert check.check(spec, recorder, StopFlag()) == {"rows": 600, "problems": []}
    monkeypatch.setattr(sources, "CHUNK_BYTES", 20_000)
    bad = tmp_path / "bad.tsv"
    bad.write_bytes(SAMPLE.read_bytes() + b"x\n" * 5)
    spec["dataset"]["paths"] = [str(bad)]
    with pytest.raises(InputProblem) as caught:
        check.check(spec, recorder, StopFlag())
    lines = caught.value.what.splitlines()
    assert len(lines) == 4 and "line 601: found 1 column" in lines[0] and lines[3] == "and 2 more"


def test_profile_of_parquet_table(tmp_path, recorder):
    table = pa.table({"y": [0, 1, 1], "a": [1.5, None, -2.0], "c": ["u", None, "u"]})
    pq.write_table(table, tmp_path / "t.parquet")
    columns = {"label": "y", "numeric": ["a"], "categorical": ["c"], "time": None}
    dataset = {"format": "table", "columns": columns, "paths": [str(tmp_path)]}
    result = profile.profile({"dataset": dataset, "cores": 1}, recorder, StopFlag())
    assert result["rows"] == 3 and result["label_rate"] == pytest.approx(2 / 3)
    assert result["columns"] == [
        {"name": "a", "kind": "numeric", "missing": 1, "distinct": 2, "min": -2.0, "max": 1.5,
         "top": []},
        {"name": "c", "kind": "categorical", "missing": 1, "distinct": 1, "min": None,
         "max": None, "top": [["u", 2]]},
    ]  # fmt: skip
