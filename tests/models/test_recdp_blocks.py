"""The block files: what is written is what is read, for any cut of the rows."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.recdp.blocks import Blocks, Manifest, write_block
from models.worker import InputProblem


def make_blocks(folder: Path, sizes: list[int]) -> tuple[Blocks, list[np.ndarray]]:
    rows = sum(sizes)
    numeric = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    ids = np.arange(rows * 2, dtype=np.int32).reshape(rows, 2)
    label = (np.arange(rows) % 2).astype(np.uint8)
    blocks, start = [], 0
    for index, size in enumerate(sizes):
        cut = slice(start, start + size)
        blocks.append(write_block(folder, f"b{index}", numeric[cut], ids[cut], label[cut]))
        start += size
    return Blocks(folder, blocks, 3, 2), [numeric, ids, label]


@given(st.lists(st.integers(0, 7), max_size=5), st.data())
def test_any_range_reads_back(tmp_path_factory, sizes, data):
    folder = tmp_path_factory.mktemp("blocks")
    blocks, expected = make_blocks(folder, sizes)
    assert blocks.rows == sum(sizes)
    start = data.draw(st.integers(0, blocks.rows))
    stop = data.draw(st.integers(start, blocks.rows))
    for got, whole in zip(blocks.read(start, stop), expected, strict=True):
        assert got.dtype == whole.dtype
        np.testing.assert_array_equal(got, whole[start:stop])


def test_range_outside_is_refused(tmp_path):
    blocks, _ = make_blocks(tmp_path, [4])
    with pytest.raises(IndexError):
        blocks.read(2, 5)


def test_manifest_round_trip_and_digests(tmp_path):
    blocks, expected = make_blocks(tmp_path, [5, 2])
    manifest = Manifest(
        folder=tmp_path, label="y", numeric=("a", "b", "c"), categorical=("d", "e"),
        table_sizes=(20, 20), splits={"train": tuple(blocks.blocks)}, transform={"numeric": "none"},
    )  # fmt: skip
    manifest.save()
    again = Manifest.load(tmp_path)
    assert again == manifest or again.splits["train"] == manifest.splits["train"]
    assert again.rows() == {"train": 7, "valid": 0, "test": 0}
    np.testing.assert_array_equal(again.split("train").read(0, 7)[1], expected[1])
    assert again.split("test").read(0, 0)[0].shape == (0, 3)
    for block in again.splits["train"]:
        for part, name in block.files.items():
            assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == block.sha256[part]
    assert [b.shape[0] for _, _, b in again.split("train").batches(3)] == [3, 3, 1]


def test_damage_is_one_clear_error(tmp_path):
    with pytest.raises(InputProblem, match=r"manifest\.json"):
        Manifest.load(tmp_path)
    blocks, _ = make_blocks(tmp_path, [5])
    np.save(tmp_path / "b0-ids.npy", np.zeros((4, 2), np.int32))
    with pytest.raises(InputProblem, match="the manifest says int32"):
        blocks.read(0, 1)
    (tmp_path / "b0-ids.npy").write_bytes(b"x")
    with pytest.raises(InputProblem, match=r"b0-ids\.npy"):
        blocks.read(0, 1)
