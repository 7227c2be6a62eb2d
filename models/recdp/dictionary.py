"""Dictionaries: which value of a column has which id.

Ids are 1.. by (count descending, value ascending) over the training rows; 0 = missing, rare or
unseen. On disk: dictionaries/COLUMN.parquet = (value string, id int32, count int64) by id.
Needs numpy and pyarrow, no Spark: inference reads dictionaries too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

Array = NDArray[Any]
FOLDER = "dictionaries"
_HEX = np.frombuffer(bytes(range(256)).hex().encode(), dtype="<u2")


def dictionary_path(folder: Path, column: str) -> Path:
    """Where the dictionary of a column lies below the training data; odd names are quoted."""
    return folder / FOLDER / f"{quote(column, safe=' ')}.parquet"


def hex_text(keys: Array) -> Any:
    """int64 keys [n] below 2^32 as an Arrow array of 8 lower-case hex digits."""
    data = _HEX[keys.astype(">u4").view(np.uint8)]
    offsets = np.arange(0, 8 * len(keys) + 1, 8, dtype=np.int32)
    return pa.Array.from_buffers(
        pa.string(), len(keys), [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    )


def hex_number(text: Any) -> Array:
    """The int64 keys of an Arrow array of 8-digit hex text without nulls."""
    whole = "".join(text.to_pylist())
    return np.frombuffer(bytes.fromhex(whole), dtype=">u4").astype(np.int64)


def write_dictionary(path: Path, values: Any, counts: Any) -> None:
    """Write one column's dictionary: `values` (int64 keys or strings) already in id order."""
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


@dataclass
class Dictionary:
    """One column's dictionary in memory. Keys are looked up sorted, strings by hash."""

    values: Any  # Arrow strings in id order, or None
    keys: Array | None = None  # sorted int64
    key_ids: Array | None = None

    @classmethod
    def load(cls, path: Path, as_keys: bool) -> Dictionary:
        """Read a dictionary; `as_keys`: its values are hex keys (criteo)."""
        chunks = pq.read_table(path, columns=["value"]).column(0).chunks
        values = pa.concat_arrays(chunks) if chunks else pa.array([], pa.string())
        if not as_keys:
            return cls(values)
        keys = hex_number(values)
        order = np.argsort(keys, kind="stable")
        return cls(None, keys[order], (order + 1).astype(np.int32))

    def __len__(self) -> int:
        return len(self.values) if self.keys is None else len(self.keys)

    def ids(self, values: Any) -> Array:
        """The id of each value (int64 keys or Arrow strings): int32 [n], 0 where unknown."""
        if self.keys is None or self.key_ids is None:
            found = pc.index_in(values, value_set=self.values).fill_null(-1)
            return found.to_numpy(zero_copy_only=False).astype(np.int32) + np.int32(1)
        if not len(self.keys):
            return np.zeros(len(values), np.int32)
        place = np.minimum(np.searchsorted(self.keys, values), len(self.keys) - 1)
        return np.where(self.keys[place] == values, self.key_ids[place], np.int32(0))
