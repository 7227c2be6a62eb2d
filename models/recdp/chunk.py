"""A chunk of parsed rows between two passes: its arrays, and their form on disk.

Text categories are kept as codes into the chunk's own list of distinct values, so that later passes
touch each distinct value once instead of each row. Needs numpy and pyarrow.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.recdp import criteo, sources
from models.recdp.dictionary import Dictionary
from models.recdp.problems import Problems
from models.recdp.sources import Dataset, Unit

Array = NDArray[Any]
_ALIGN = 64


class Column(Protocol):
    """A categorical column of a chunk of n rows."""

    @property
    def missing(self) -> int:
        """How many rows hold no value."""

    def counts(self, chosen: Array | None = None) -> tuple[Any, Array]:
        """The distinct values of all rows, or of those where `chosen` (bool [n]) is true, and in
        how many rows each is found: int64 [k]. Missing is not a value."""

    def coded(self) -> CodedColumn:
        """Codes into the distinct values; the same on every call."""

    def ids(self, dictionary: Dictionary) -> Array:
        """The id of each row, 0 where it is missing or unknown: int32 [n]."""


@dataclass
class CodedColumn:
    """Codes [n] (uint8, uint16 or int32) into `values`; code len(values) = missing.

    `values`: distinct, an Arrow string array for tables, uint32 numpy for criteo's keys.
    """

    codes: Array
    values: Any

    def __post_init__(self) -> None:
        count = len(self.values)
        kind = np.uint8 if count < 256 else np.uint16 if count < 65536 else np.int32
        self.codes = self.codes.astype(kind, copy=False)

    @property
    def missing(self) -> int:
        """See Column."""
        return int(np.count_nonzero(self.codes == len(self.values)))

    def counts(self, chosen: Array | None = None) -> tuple[Any, Array]:
        """See Column."""
        codes = self.codes if chosen is None else self.codes[chosen]
        count = np.bincount(codes, minlength=len(self.values) + 1)[:-1]
        seen = np.flatnonzero(count)
        return self.values.take(pa.array(seen)), count[seen]

    def coded(self) -> CodedColumn:
        """See Column."""
        return self

    def ids(self, dictionary: Dictionary) -> Array:
        """See Column."""
        found: Array = np.append(dictionary.ids(self.values), np.int32(0))[self.codes]
        return found


@dataclass
class KeyColumn:
    """Criteo's keys uint32 [n], 0 where missing, and where that is: bool [n] (None: nowhere).

    They are numbers already: sorting and looking up all rows costs less than finding codes.
    """

    keys: Array
    absent: Array | None

    @property
    def missing(self) -> int:
        """See Column."""
        return 0 if self.absent is None else int(np.count_nonzero(self.absent))

    def counts(self, chosen: Array | None = None) -> tuple[Any, Array]:
        """See Column."""
        rows = slice(None) if chosen is None else chosen
        keys = self.keys[rows]
        if self.absent is not None:
            keys = keys[~self.absent[rows]]
        return np.unique(keys, return_counts=True)

    def coded(self) -> CodedColumn:
        """See Column."""
        values, codes = np.unique(self.keys, return_inverse=True)
        if self.absent is not None:
            codes[self.absent] = len(values)
        return CodedColumn(codes, values)

    def ids(self, dictionary: Dictionary) -> Array:
        """See Column."""
        found = dictionary.ids(self.keys)
        if self.absent is not None:
            found[self.absent] = 0
        return found


@dataclass
class Chunk:
    """n rows: label uint8 [n]; numeric [n, k] (float32 ready to use for criteo, float64 with NaN
    for missing in tables); categorical columns; time float64 [n] or None."""

    label: Array
    numeric: Array
    columns: Sequence[Column]
    time: Array | None = None

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.label)


def read_chunks(
    dataset: Dataset, unit: Unit, problems: Problems, labelled: bool = True,
    keep_numbers: bool = False,
) -> Iterator[tuple[Chunk, int]]:  # fmt: skip
    """The chunks of a unit in order, each with the number of lines read for it (bad ones too).

    Bad rows are left out and listed in `problems`, with line numbers from 1 at the unit's start.
    `keep_numbers`: numeric float64 as in the data, NaN where missing, for criteo too.
    """
    if dataset.format == "table":
        from models.recdp.table import read_table

        yield from read_table(dataset, unit, problems)
        return
    reader = criteo.CriteoReader(labelled, problems)
    parts: list[tuple[Array, ...]] = []
    size = before = 0
    for text in sources.read_texts(unit, problems):
        rows = reader.read(text)
        if keep_numbers:
            numeric = np.where(rows.int_missing, np.nan, rows.ints)
        else:
            numeric = np.ascontiguousarray(log_ints(rows.ints.T).T)
        parts.append((rows.label, numeric, rows.keys, rows.key_missing))
        size += len(text)
        if size >= sources.CHUNK_BYTES:
            yield _criteo_chunk(parts), reader.lines - before
            parts, size, before = [], 0, reader.lines
    if parts:
        yield _criteo_chunk(parts), reader.lines - before


def _criteo_chunk(parts: list[tuple[Array, ...]]) -> Chunk:
    """Parts of label [n], numeric [n, 13], keys [n, 26], key_missing [n, 26], put together."""
    label, numeric = (np.concatenate([part[place] for part in parts]) for place in (0, 1))
    keys, absent = (np.concatenate([part[place].T for part in parts], axis=1) for place in (2, 3))
    columns = [
        KeyColumn(values, where if where.any() else None)
        for values, where in zip(keys, absent, strict=True)
    ]
    return Chunk(label, numeric, columns)


def log_ints(ints: Array) -> Array:
    """log1p(max(x, 0)) in float32, rounded from float64: the same on every machine."""
    table = _small_logs()
    result = table.take(ints, mode="clip")
    large = np.flatnonzero(ints >= len(table))
    if large.size:
        result.flat[large] = np.log1p(ints.flat[large].astype(np.float64))
    return result


@cache
def _small_logs() -> Array:
    return np.log1p(np.arange(1 << 14, dtype=np.float64)).astype(np.float32)


def save_chunk(path: Path, chunk: Chunk) -> None:
    """Write a chunk whole or not at all: a JSON line that says where the arrays lie, the arrays."""
    arrays = {"label": chunk.label, "numeric": chunk.numeric}
    if chunk.time is not None:
        arrays["time"] = chunk.time
    for number, column in enumerate(chunk.columns):
        if isinstance(column, KeyColumn):
            arrays[f"keys{number}"] = column.keys
            if column.absent is not None:
                arrays[f"absent{number}"] = np.packbits(column.absent)
        else:
            coded = column.coded()
            arrays[f"codes{number}"] = coded.codes
            arrays[f"text{number}"] = np.frombuffer(_pack_text(coded.values), np.uint8)
    places, offset = {}, 0
    for name, array in arrays.items():
        places[name] = [array.dtype.str, list(array.shape), offset]
        offset += -(-array.nbytes // _ALIGN) * _ALIGN
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        header = json.dumps({"columns": len(chunk.columns), "arrays": places}).encode()
        file.write(header + b" " * (-(len(header) + 1) % _ALIGN) + b"\n")
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).data)
            file.write(b"\0" * (-array.nbytes % _ALIGN))
    temporary.replace(path)


def load_chunk(path: Path) -> Chunk:
    """Read a chunk; its arrays are views of the mapped file."""
    with path.open("rb") as file:
        header = file.readline()
    content = json.loads(header)
    whole = np.memmap(path, np.uint8, "r")
    arrays = {}
    for name, (dtype, shape, offset) in content["arrays"].items():
        kind = np.dtype(dtype)
        start = len(header) + offset
        size = int(np.prod(shape)) * kind.itemsize
        arrays[name] = np.asarray(whole[start : start + size]).view(kind).reshape(shape)
    columns = [_load_column(arrays, number) for number in range(content["columns"])]
    return Chunk(arrays["label"], arrays["numeric"], columns, arrays.get("time"))


def _load_column(arrays: Mapping[str, Array], number: int) -> Column:
    if f"codes{number}" in arrays:
        return CodedColumn(arrays[f"codes{number}"], _unpack_text(arrays[f"text{number}"]))
    keys, absent = arrays[f"keys{number}"], arrays.get(f"absent{number}")
    if absent is not None:
        absent = np.unpackbits(absent, count=len(keys)).view(bool)
    return KeyColumn(keys, absent)


def _pack_text(values: Any) -> bytes:
    batch = pa.record_batch([values], names=["v"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def _unpack_text(data: Array) -> Any:
    with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
        return reader.read_next_batch().column(0)
