"""The training data on disk: `.npy` blocks and the `manifest.json` that lists them.

A block is a run of rows of one split in the order of the input: numeric float32 [n, numeric
columns], ids int32 [n, categorical columns], label uint8 [n]. The reader maps the files into
memory, so any number of ranks share one copy. Needs numpy only.
"""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.worker import InputProblem

VERSION = 1
MANIFEST = "manifest.json"
SPLITS = ("train", "valid", "test")
PARTS = ("numeric", "ids", "label")

Array = NDArray[Any]


@dataclass(frozen=True)
class Block:
    """One run of rows: its length, and file name and sha256 of each of its three parts."""

    rows: int
    files: Mapping[str, str]
    sha256: Mapping[str, str]

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Block:
        """The block of one entry of the manifest; KeyError when a part is missing."""
        return cls(
            rows=int(entry["rows"]),
            files={part: str(entry[part]) for part in PARTS},
            sha256=dict(entry.get("sha256", {})),
        )

    def to_json(self) -> dict[str, Any]:
        """The entry of this block in the manifest."""
        return {"rows": self.rows, **self.files, "sha256": dict(self.sha256)}


class Blocks:
    """The rows of one split. Read-only; one reader a thread.

    Files are mapped on first use and stay mapped while this object lives.
    """

    def __init__(
        self, folder: Path, blocks: Sequence[Block], numeric: int, categorical: int
    ) -> None:
        self.folder = folder
        self.blocks = list(blocks)
        self.numeric, self.categorical = numeric, categorical
        self.starts = [0]
        for block in self.blocks:
            self.starts.append(self.starts[-1] + block.rows)
        self._open: dict[int, tuple[Array, Array, Array]] = {}

    @property
    def rows(self) -> int:
        """Rows of all blocks."""
        return self.starts[-1]

    def __len__(self) -> int:
        return self.rows

    def positives(self) -> int:
        """How many rows have the label 1."""
        return sum(int(self._block(index)[2].sum()) for index in range(len(self.blocks)))

    def read(self, start: int, stop: int) -> tuple[Array, Array, Array]:
        """Rows start..stop-1: numeric float32 [n, k], ids int32 [n, c], label uint8 [n].

        A range within one block is a read-only view of the file; a range over a border is a copy.
        IndexError when the range is not within 0..rows.
        """
        if not 0 <= start <= stop <= self.rows:
            raise IndexError(f"rows {start}..{stop} of {self.rows}")
        pieces = list(self._pieces(start, stop))
        if len(pieces) == 1:
            return pieces[0]
        if not pieces:
            return (
                np.empty((0, self.numeric), np.float32),
                np.empty((0, self.categorical), np.int32),
                np.empty(0, np.uint8),
            )
        numeric, ids, label = (np.concatenate(part) for part in zip(*pieces, strict=True))
        return numeric, ids, label

    def batches(self, size: int) -> Iterator[tuple[Array, Array, Array]]:
        """All rows in order, `size` at a time; the last batch may be shorter."""
        for start in range(0, self.rows, size):
            yield self.read(start, min(start + size, self.rows))

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[Array, Array, Array]]:
        index = bisect_right(self.starts, start) - 1
        while start < stop:
            first, end = self.starts[index], min(stop, self.starts[index + 1])
            if end > start:
                numeric, ids, label = self._block(index)
                rows = slice(start - first, end - first)
                yield numeric[rows], ids[rows], label[rows]
            start, index = end, index + 1

    def _block(self, index: int) -> tuple[Array, Array, Array]:
        if index not in self._open:
            block = self.blocks[index]
            expected: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
                "numeric": (np.dtype(np.float32), (block.rows, self.numeric)),
                "ids": (np.dtype(np.int32), (block.rows, self.categorical)),
                "label": (np.dtype(np.uint8), (block.rows,)),
            }
            numeric, ids, label = (
                _map(self.folder / block.files[part], *expected[part]) for part in PARTS
            )
            self._open[index] = (numeric, ids, label)
        return self._open[index]


def _map(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    try:
        empty = 0 in shape  # numpy cannot map an array without elements
        array: Array = np.load(path, mmap_mode=None if empty else "r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputProblem(f"{path}: {error}", "a block of the training data is damaged",
                           "prepare the data again") from None  # fmt: skip
    if array.dtype != dtype or array.shape != shape:
        raise InputProblem(
            f"{path}: holds {array.dtype} {list(array.shape)}, the manifest says"
            f" {dtype} {list(shape)}",
            "the block and the manifest do not belong together", "prepare the data again",
        )  # fmt: skip
    return array


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What `manifest.json` says. `table_sizes` counts the ids of each column, id 0 included."""

    folder: Path
    label: str
    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    table_sizes: tuple[int, ...]
    splits: Mapping[str, tuple[Block, ...]]
    transform: Mapping[str, Any]

    @classmethod
    def load(cls, folder: str | Path) -> Manifest:
        """Read a folder's manifest; InputProblem when it is missing or not one of ours."""
        path = Path(folder) / MANIFEST
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["version"] != VERSION:
                raise ValueError(f"version {content['version']}, this program reads {VERSION}")
            return cls(
                folder=Path(folder),
                label=content["label"],
                numeric=tuple(content["numeric"]),
                categorical=tuple(content["categorical"]),
                table_sizes=tuple(int(size) for size in content["table_sizes"]),
                splits={
                    name: tuple(Block.from_json(block) for block in split["blocks"])
                    for name, split in content["splits"].items()
                },
                transform=content.get("transform", {}),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputProblem(f"{path}: {error}", "this folder holds no training data",
                               "prepare the data again") from None  # fmt: skip

    def split(self, name: str) -> Blocks:
        """The rows of train, valid or test; a split without rows is empty, not an error."""
        return Blocks(
            self.folder, self.splits.get(name, ()), len(self.numeric), len(self.categorical)
        )

    def rows(self) -> dict[str, int]:
        """Rows by split."""
        return {name: self.split(name).rows for name in SPLITS}

    def save(self) -> None:
        """Write `manifest.json` (temporary name, then rename): the last act of an ETL."""
        content = {
            "version": VERSION,
            "label": self.label,
            "numeric": list(self.numeric),
            "categorical": list(self.categorical),
            "table_sizes": list(self.table_sizes),
            "splits": {
                name: {
                    "rows": sum(block.rows for block in self.splits.get(name, ())),
                    "blocks": [block.to_json() for block in self.splits.get(name, ())],
                }
                for name in SPLITS
            },
            "transform": dict(self.transform),
        }
        replace_file(self.folder / MANIFEST, json.dumps(content, indent=1).encode() + b"\n")


def replace_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, and have it on the disk before the name appears."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_block(folder: Path, name: str, numeric: Array, ids: Array, label: Array) -> Block:
    """Write one block as NAME-numeric.npy, NAME-ids.npy, NAME-label.npy; returns its entry.

    numeric float32 [n, k], ids int32 [n, c], label uint8 [n]. Safe to repeat: each file appears
    whole under its name, and the same rows give the same bytes.
    """
    files, digests = {}, {}
    for part, array, dtype in (
        ("numeric", numeric, np.float32), ("ids", ids, np.int32), ("label", label, np.uint8),
    ):  # fmt: skip
        files[part] = f"{name}-{part}.npy"
        digests[part] = _write_array(folder / files[part], np.ascontiguousarray(array, dtype))
    return Block(rows=len(label), files=files, sha256=digests)


class _Digesting:
    """A file that hashes what is written to it, so that the rows are read once."""

    def __init__(self, file: Any) -> None:
        self._file, self._sha256 = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        self._sha256.update(data)
        return int(self._file.write(data))

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()


def _write_array(path: Path, array: Array) -> str:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        digesting = _Digesting(file)
        np.lib.format.write_array_header_1_0(
            digesting, np.lib.format.header_data_from_array_1_0(array)
        )
        digesting.write(array.data.cast("B") if array.size else b"")
    temporary.replace(path)
    return digesting.hexdigest()
