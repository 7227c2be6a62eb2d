"""Looking up ids: hashing finds what a plain dict finds, and both kinds of column agree."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.recdp.chunk import CodedColumn, KeyColumn, load_chunk, read_chunks, save_chunk
from models.recdp.dictionary import Dictionary, KeySlots, hex_number, hex_text
from models.recdp.problems import Problems
from models.recdp.sources import Dataset, plan_units
from tests.models.recdp_reference import SAMPLE

KEYS = st.one_of(st.integers(0, 40), st.integers(0, 2**32 - 1))


@given(st.lists(KEYS, max_size=200, unique=True), st.lists(KEYS, max_size=200))
def test_slots_find_what_a_dict_finds(known, asked):
    expected = {key: place + 1 for place, key in enumerate(known)}
    asked = np.array(asked + known, np.uint32)
    found = KeySlots(np.array(known, np.uint32)).ids(asked)
    assert found.dtype == np.int32
    assert found.tolist() == [expected.get(key, 0) for key in asked.tolist()]


@pytest.mark.parametrize("step", [1, 2**16, 3_000])
def test_slots_of_many_regular_keys_stay_small(step):
    """Keys in a row, or that share their low or high bits, find a place within a few levels."""
    known = (np.arange(50_000, dtype=np.uint64) * step % (2**32 - 5)).astype(np.uint32)
    known = known[np.sort(np.unique(known, return_index=True)[1])]
    slots = KeySlots(known)
    np.testing.assert_array_equal(slots.ids(known), np.arange(1, len(known) + 1))
    unknown = np.setdiff1d(np.arange(7, 10**6, 13, dtype=np.uint32), known)
    assert not slots.ids(unknown).any()
    assert len(slots._levels) <= 16
    assert sum(level[2].nbytes for level in slots._levels) <= 24 * len(known)


@given(st.lists(st.one_of(st.none(), st.integers(0, 5), KEYS), max_size=60), st.data())
def test_keys_and_codes_are_the_same_column(values, data):
    """Missing is no value, key 0 is one; a dictionary gives both forms the same ids."""
    absent = np.array([value is None for value in values], bool)
    column = KeyColumn(np.array([value or 0 for value in values], np.uint32),
                       absent if absent.any() else None)  # fmt: skip
    chosen = np.array([data.draw(st.booleans()) for _ in values], bool)
    counted = [
        value for value, one in zip(values, chosen, strict=True) if one and value is not None
    ]
    found, count = column.counts(chosen)
    assert dict(zip(found.tolist(), count.tolist(), strict=True)) == {
        value: counted.count(value) for value in counted
    }
    coded = column.coded()
    text = CodedColumn(coded.codes, hex_text(coded.values))
    assert column.missing == coded.missing == text.missing == values.count(None)
    assert dict(zip(text.counts()[0].to_pylist(), text.counts()[1].tolist(), strict=True)) == {
        f"{value:08x}": values.count(value) for value in values if value is not None
    }
    known = np.array(sorted({value for value in values if value is not None})[::2], np.uint32)
    np.testing.assert_array_equal(
        column.ids(Dictionary(known)), text.ids(Dictionary(hex_text(known)))
    )


def test_hex_text_and_back():
    keys = np.array([0, 1, 0xDEADBEEF, 2**32 - 1], np.uint32)
    assert hex_text(keys).to_pylist() == ["00000000", "00000001", "deadbeef", "ffffffff"]
    np.testing.assert_array_equal(hex_number(hex_text(keys)), keys)
    np.testing.assert_array_equal(hex_number(hex_text(keys)[2:]), keys[2:])
    assert not len(hex_number(pa.array([], pa.string())))


def test_a_chunk_reads_back(tmp_path):
    dataset = Dataset.parse({"format": "criteo", "paths": [str(SAMPLE)]})
    ((chunk, lines),) = read_chunks(dataset, plan_units(dataset)[0], Problems())
    save_chunk(tmp_path / "c", chunk)
    again = load_chunk(tmp_path / "c")
    assert again.rows == chunk.rows == lines == 600
    np.testing.assert_array_equal(again.numeric, chunk.numeric)
    assert sum(column.missing for column in chunk.columns) > 0
    for mine, other in zip(chunk.columns, again.columns, strict=True):
        assert isinstance(other, KeyColumn) and mine.missing == other.missing
        for a, b in zip(mine.counts(), other.counts(), strict=True):
            np.testing.assert_array_equal(a, b)
