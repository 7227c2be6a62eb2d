"""A chunk of parsed rows between two passes: its arrays, and their form on disk.

Categories are kept as codes into the chunk's own list of distinct values, so that later passes
touch each distinct value once instead of each row. Needs numpy and pyarrow.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.recdp import criteo
from models.recdp.problems import Problems
from models.recdp.sources import Dataset, Unit, read_texts

Array = NDArray[Any]
_ALIGN = 64


@dataclass
class Column:
    """Codes [n] (uint8, uint16 or int32) into `values`; code len(values) = missing.

    `values`: distinct, int64 numpy for criteo keys, an Arrow string array for tables.
    """

    codes: Array
    values: Any

    def __post_init__(self) -> None:
        count = len(self.values)
        kind = np.uint8 if count < 256 else np.uint16 if count < 65536 else np.int32
        self.codes = self.codes.astype(kind, copy=False)


@dataclass
class Chunk:
    """n rows: label uint8 [n]; numeric [n, k] (float32 ready to use for criteo, float64 with NaN
    for missing in tables); categorical columns; time float64 [n] or None."""

    label: Array
    numeric: Array
    columns: list[Column]
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
    before = 0
    for text in read_texts(unit, problems):
        rows = reader.read(text)
        chunk = _criteo_chunk(rows)
        if keep_numbers:
            chunk.numeric = np.where(rows.int_missing, np.nan, rows.ints)
        yield chunk, reader.lines - before
        before = reader.lines


def log_ints(ints: Array) -> Array:
    """log1p(max(x, 0)) in float32, rounded from float64: the same on every machine."""
    table = _small_logs()
    result = table[np.clip(ints, 0, len(table) - 1)]
    large = ints >= len(table)
    if large.any():
        result[large] = np.log1p(ints[large].astype(np.float64)).astype(np.float32)
    return result


_LOGS: list[Array] = []


def _small_logs() -> Array:
    if not _LOGS:
        _LOGS.append(np.log1p(np.arange(1 << 14, dtype=np.float64)).astype(np.float32))
    return _LOGS[0]


def _criteo_chunk(rows: criteo.CriteoRows) -> Chunk:
    columns = []
    keys = np.ascontiguousarray(rows.keys.T)
    missing = np.ascontiguousarray(rows.key_missing.T)
    for column in range(len(criteo.CATEGORICAL)):
        encoded = pa.array(keys[column]).dictionary_encode()
        values = encoded.dictionary.to_numpy().astype(np.int64)
        codes = encoded.indices.to_numpy(zero_copy_only=False)
        if missing[column].any():
            codes = np.where(missing[column], np.int32(len(values)), codes)
        columns.append(Column(codes, values))
    return Chunk(rows.label, log_ints(rows.ints), columns)


def save_chunk(path: Path, chunk: Chunk) -> None:
    """Write a chunk whole or not at all: a JSON line that says where the arrays lie, the arrays."""
    arrays = {"label": chunk.label, "numeric": chunk.numeric}
    if chunk.time is not None:
        arrays["time"] = chunk.time
    for number, column in enumerate(chunk.columns):
        arrays[f"codes{number}"] = column.codes
        values = column.values
        if isinstance(values, np.ndarray):
            arrays[f"values{number}"] = values
        else:
            arrays[f"text{number}"] = np.frombuffer(_pack_text(values), np.uint8)
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
    columns = []
    for number in range(content["columns"]):
        values = arrays.get(f"values{number}")
        if values is None:
            values = _unpack_text(arrays[f"text{number}"])
        columns.append(Column(arrays[f"codes{number}"], values))
    return Chunk(arrays["label"], arrays["numeric"], columns, arrays.get("time"))


def _pack_text(values: Any) -> bytes:
    batch = pa.record_batch([values], names=["v"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def _unpack_text(data: Array) -> Any:
    with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
        return reader.read_next_batch().column(0)
