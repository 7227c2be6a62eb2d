"""safetensors files, written and read piece by piece: no second copy of a tensor is ever held.

The format (github.com/huggingface/safetensors): 8 bytes little-endian length of the header, the
header as JSON {name: {dtype, shape, data_offsets}} padded with spaces, then all data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch

_NAMES = {
    torch.float32: "F32", torch.float64: "F64", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.uint8: "U8",
}  # fmt: skip
_TYPES = {name: dtype for dtype, name in _NAMES.items()}
_HEADER_LIMIT = 100_000_000  # bytes; the format's own


class Entry(NamedTuple):
    """A tensor to write: its type, its shape and its data as row-major pieces in order."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    pieces: Iterable[torch.Tensor]


def whole(tensor: torch.Tensor) -> Entry:
    """A tensor in one piece."""
    return Entry(tensor.dtype, tuple(tensor.shape), (tensor,))


def write(path: Path, entries: Mapping[str, Entry]) -> str:
    """Write tensors in name order; the sha256 of the file. OSError when the disk is full."""
    header, at = {}, 0
    for name in sorted(entries):
        dtype, shape = entries[name].dtype, entries[name].shape
        size = dtype.itemsize * torch.Size(shape).numel()
        header[name] = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        pieces = (view(piece) for name in sorted(entries) for piece in entries[name].pieces)
        head: tuple[bytes | memoryview, ...] = (len(text).to_bytes(8, "little"), text)
        for data in chain(head, pieces):
            digest.update(data)
            file.write(data)
        if file.tell() != 8 + len(text) + at:
            raise ValueError(f"{path}: the pieces do not add up to the tensors")
    return digest.hexdigest()


class Reader:
    """One open file; close it, or use it as a context. ValueError when it is not one."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = open(path, "rb")  # noqa: SIM115 - closed by `close`
        length = int.from_bytes(self._file.read(8), "little")
        if length > _HEADER_LIMIT:
            raise ValueError(f"{path.name} is not a safetensors file")
        self._header = json.loads(self._file.read(length))
        self._start = 8 + length

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()

    def names(self) -> list[str]:
        """The tensors in it."""
        return [name for name in self._header if name != "__metadata__"]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return tuple(self._header[name]["shape"])

    def read(self, name: str, start: int = 0, count: int | None = None) -> torch.Tensor:
        """A new tensor: all of it, or `count` rows from row `start` on."""
        entry = self._header[name]
        shape, dtype = list(entry["shape"]), _TYPES[entry["dtype"]]
        begin, end = entry["data_offsets"]
        if count is not None:
            row_bytes = (end - begin) // max(1, shape[0])
            begin, shape[0] = begin + start * row_bytes, count
        tensor = torch.empty(shape, dtype=dtype)
        self._file.seek(self._start + begin)
        data = view(tensor)
        if self._file.readinto(data) != len(data):  # type: ignore[attr-defined]
            raise ValueError(f"{self._file.name} is cut short")
        return tensor


def view(tensor: torch.Tensor) -> memoryview:
    """The bytes of a tensor; no copy when it is contiguous."""
    flat = tensor.detach().contiguous().view(-1).view(torch.uint8)
    return memoryview(flat.numpy())
