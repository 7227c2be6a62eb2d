"""The ETL again, slow and plain, to compare with: pure Python over the lines of a file."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from models.recdp.blocks import SPLITS, Manifest

DATA = Path(__file__).resolve().parents[1] / "data"
SAMPLE = DATA / "criteo_sample.tsv"


def expected_manifest(by: str) -> dict[str, Any]:
    """What any engine makes of the sample, cut into chunks of 20,000 bytes, min_count 2."""
    content: dict[str, Any] = json.loads((DATA / f"criteo_sample_{by}.json").read_text())
    return content


def prepare_lines(lines: list[str], borders: tuple[int, int], min_count: int):
    """numeric, ids, label of all rows in order, and the dictionaries, of Criteo lines."""
    fields = [line.rstrip("\n").split("\t") for line in lines]
    train = fields[: borders[0]]
    dictionaries = []
    for column in range(14, 40):
        counts = Counter(row[column].lower() for row in train if row[column])
        kept = [(value, n) for value, n in counts.items() if n >= min_count]
        kept.sort(key=lambda item: (-item[1], item[0]))
        dictionaries.append({value: (place + 1, n) for place, (value, n) in enumerate(kept)})
    numeric = np.array(
        [[np.float32(np.log1p(max(int(x or 0), 0))) for x in row[1:14]] for row in fields],
        np.float32,
    )
    ids = np.array(
        [[d.get(row[14 + c].lower(), (0, 0))[0] for c, d in enumerate(dictionaries)]
         for row in fields], np.int32,
    )  # fmt: skip
    label = np.array([int(row[0]) for row in fields], np.uint8)
    return numeric, ids, label, dictionaries


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
