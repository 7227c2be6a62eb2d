"""Dictionaries: which value of a column has which id.

Ids are 1.. by (count descending, value ascending) over the training rows; 0 = missing, rare or
unseen. On disk: dictionaries/COLUMN.parquet = (value string, id int32, count int64) by id.
Needs numpy and pyarrow, no Spark: inference reads dictionaries too.
"""

from __future__ import annotations

import binascii
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from models.recdp.split import mix

Array = NDArray[Any]
FOLDER = "dictionaries"
LOOKUP_ROWS = 1 << 14  # keys looked up at once: what is made of them stays in the cache
_HEX = np.frombuffer(bytes(range(256)).hex().encode(), dtype="<u2")


def dictionary_path(folder: Path, column: str) -> Path:
    """Where the dictionary of a column lies below the training data; odd names are quoted."""
    return folder / FOLDER / f"{quote(column, safe=' ')}.parquet"


def hex_text(keys: Array) -> Any:
    """Keys [n], numbers below 2^32, as an Arrow array of 8 lower-case hex digits."""
    data = _HEX[keys.astype(">u4").view(np.uint8)]
    offsets = np.arange(0, 8 * len(keys) + 1, 8, dtype=np.int32)
    return pa.Array.from_buffers(
        pa.string(), len(keys), [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    )


def hex_number(text: Any) -> Array:
    """The keys uint32 [n] of an Arrow array of 8-digit hex text without nulls."""
    if not len(text):
        return np.empty(0, np.uint32)
    _, offsets, data = text.buffers()
    first = int(np.frombuffer(offsets, np.int32)[text.offset])
    raw = binascii.unhexlify(data[first : first + 8 * len(text)])
    return np.frombuffer(raw, ">u4").astype(np.uint32)


def write_dictionary(path: Path, values: Any, counts: Any) -> None:
    """Write one column's dictionary: `values` (keys as numbers, or strings) already in id order."""
    if pa.types.is_integer(values.type):
        values = hex_text(values.to_numpy(zero_copy_only=False))
    table = pa.table({
        "value": values.cast(pa.string()),
        "id": pa.array(np.arange(1, len(values) + 1, dtype=np.int32)),
        "count": counts.cast(pa.int64()),
    })  # fmt: skip
    temporary = path.with_name(f".{path.name}")
    pq.write_table(table, temporary, compression="zstd", use_dictionary=False)
    temporary.replace(path)


class Dictionary:
    """One column's dictionary in memory: Arrow strings, or criteo's keys."""

    def __init__(self, values: Any) -> None:
        """`values` in the order of their ids: an Arrow string array, or keys uint32 [n]."""
        self._values = values
        self._slots = KeySlots(values) if isinstance(values, np.ndarray) else None

    @classmethod
    def load(cls, path: Path, as_keys: bool) -> Dictionary:
        """Read a dictionary; `as_keys`: its values are hex keys (criteo)."""
        chunks = pq.read_table(path, columns=["value"]).column(0).chunks
        values = pa.concat_arrays(chunks) if chunks else pa.array([], pa.string())
        return cls(hex_number(values) if as_keys else values)

    def __len__(self) -> int:
        return len(self._values)

    def ids(self, values: Any) -> Array:
        """The id of each value (keys uint32 [n], or Arrow strings): int32 [n], 0 where unknown."""
        if self._slots is not None:
            return self._slots.ids(values)
        found = pc.index_in(values, value_set=self._values).fill_null(-1)
        return found.to_numpy(zero_copy_only=False).astype(np.int32) + np.int32(1)


class KeySlots:
    """Finds the ids of keys by hashing, a whole array at a time.

    A level has at least two slots a key, and a slot holds one id: that of the most frequent key
    that falls into it. The others go on to the next level, a fifth of the size, with another hash
    (multiply and shift, Dietzfelbinger et al. 1997). Together 14 to 24 bytes a key.
    """

    def __init__(self, keys: Array) -> None:
        """`keys` uint32 [n], different from each other; key number i has id i + 1."""
        self._keys = np.concatenate((np.zeros(1, np.uint32), keys))  # by id
        self._levels: list[tuple[np.uint32, np.uint32, Array]] = []
        ids = np.arange(1, len(keys) + 1, dtype=np.int32)
        while ids.size or not self._levels:
            multiplier = np.uint32(mix(np.array([len(self._levels)], np.uint64))[0] >> 32 | 1)
            bits = max(1, int(2 * ids.size - 1).bit_length())
            shift = np.uint32(32 - bits)
            slots = np.zeros(1 << bits, np.int32)
            place = (self._keys[ids] * multiplier) >> shift
            slots[place[::-1]] = ids[::-1]  # the last one written stays: the first of a slot
            self._levels.append((multiplier, shift, slots))
            ids = ids[slots[place] != ids]

    def ids(self, keys: Array) -> Array:
        """The id of each key of uint32 [n]: int32 [n], 0 where it has none."""
        found = np.empty(len(keys), np.int32)
        for start in range(0, len(keys), LOOKUP_ROWS):
            rows = slice(start, start + LOOKUP_ROWS)
            found[rows] = self._search(0, keys[rows])
        return found

    def _search(self, level: int, keys: Array) -> Array:
        multiplier, shift, slots = self._levels[level]
        found: Array = slots[(keys * multiplier) >> shift]
        right = self._keys[found] == keys
        others = np.flatnonzero(~right & (found > 0))  # there another key has the slot
        found *= right
        if others.size and level + 1 < len(self._levels):
            found[others] = self._search(level + 1, keys[others])
        return found
