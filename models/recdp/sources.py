"""Data files, and the pieces they are read in.

A unit is what one task reads: a byte range of a plain text file (it owns the lines that start in
it), a whole compressed or quoted file, or a row group of a parquet file. Units depend on the
files alone, never on the number of cores, so the output does not either.
Needs the standard library only (pyarrow where a parquet file is opened).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.recdp.problems import DataProblem, Problems, describe_bytes
from models.settings import nearest
from models.worker import InputProblem

FORMATS = ("criteo", "table")
TEXT_ENDINGS = (".tsv", ".txt", ".csv")
ENDINGS = (*TEXT_ENDINGS, *(f"{ending}.gz" for ending in TEXT_ENDINGS), ".parquet")
CHUNK_BYTES = 32 << 20  # text of one chunk of rows
LONGEST_LINE = 1 << 20
READ_BYTES = 1 << 18  # text handled at once: what is made of it stays in the processor's cache


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What each column of a table is for."""

    label: str | None
    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    time: str | None = None

    def names(self) -> list[str]:
        """All columns that are read, without repeats."""
        wanted = [self.label, *self.numeric, *self.categorical, self.time]
        return list(dict.fromkeys(name for name in wanted if name is not None))


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Files of one format. `columns` is None for criteo."""

    format: str
    files: tuple[Path, ...]
    columns: Columns | None = None

    @classmethod
    def parse(cls, spec: Mapping[str, Any]) -> Dataset:
        """The dataset of a spec.json, its files found; InputProblem says what is wrong."""
        kind = str(spec.get("format"))
        if kind not in FORMATS:
            raise InputProblem(f"dataset.format is {kind!r}: {nearest(kind, FORMATS)}")
        columns = None
        if kind == "table":
            given = spec.get("columns")
            if not given:
                raise InputProblem(
                    "dataset.columns is missing", "a table needs to know what its columns are for",
                    "name them: columns: {label: .., numeric: [..], categorical: [..]}",
                )  # fmt: skip
            columns = Columns(
                label=given.get("label"), numeric=tuple(given.get("numeric") or ()),
                categorical=tuple(given.get("categorical") or ()), time=given.get("time"),
            )  # fmt: skip
            _check_roles(columns)
        return cls(format=kind, files=tuple(find_files(spec.get("paths") or ())), columns=columns)

    @property
    def bytes(self) -> int:
        """Size of all files on disk."""
        return sum(path.stat().st_size for path in self.files)


def _check_roles(columns: Columns) -> None:
    roles = [*columns.numeric, *columns.categorical, *([columns.label] if columns.label else [])]
    double = sorted({name for name in roles if roles.count(name) > 1})
    if double:
        raise InputProblem(f"dataset.columns names {', '.join(double)} more than once",
                           todo="give each column one role")  # fmt: skip
    if not columns.numeric and not columns.categorical:
        raise InputProblem("dataset.columns has neither numeric nor categorical columns")


def find_files(paths: Sequence[str]) -> list[Path]:
    """The data files of these paths in order; a folder means its data files in name order."""
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(
                entry for entry in path.iterdir()
                if entry.is_file() and not entry.name.startswith(".")
                and entry.name.lower().endswith(ENDINGS)
            )  # fmt: skip
            if not inside:
                raise InputProblem(f"{path}: no data file in this folder",
                                   f"data files end in {', '.join(ENDINGS)}")  # fmt: skip
            found += inside
        elif not path.exists():
            raise InputProblem(f"{path}: no such file or folder", todo="check the dataset's path")
        elif not path.name.lower().endswith(ENDINGS):
            raise InputProblem(f"{path}: not a data file by its name",
                               f"data files end in {', '.join(ENDINGS)}")  # fmt: skip
        else:
            found.append(path)
    if not found:
        raise InputProblem("the dataset has no files", todo="name a file or a folder in its path")
    for path in found:
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            raise InputProblem(f"{path}: {error.strerror}") from None
        if path.stat().st_size == 0:
            raise InputProblem(f"{path}: the file is empty")
    return found


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What one task reads. start, stop: bytes of a plain text file or row groups of a parquet
    file; 0, 0 for a file that is read as a whole. `size` is its share of the bytes on disk."""

    number: int
    file: str
    start: int
    stop: int
    size: int


def plan_units(dataset: Dataset) -> list[Unit]:
    """Cut the files into units, in the order of the input."""
    if dataset.format == "table":
        from models.recdp.table import check_columns

        check_columns(dataset)
    units: list[Unit] = []
    for path in dataset.files:
        for start, stop, size in _cuts(dataset, path):
            units.append(Unit(number=len(units), file=str(path), start=start, stop=stop, size=size))
    return units


def _cuts(dataset: Dataset, path: Path) -> Iterator[tuple[int, int, int]]:
    size = path.stat().st_size
    name = path.name.lower()
    if name.endswith(".parquet"):
        if dataset.format == "criteo":
            raise InputProblem(f"{path}: the criteo format is text",
                               todo="use format: table with columns")  # fmt: skip
        from models.recdp.table import row_groups

        groups = row_groups(path)
        for group in range(groups):
            yield group, group + 1, size // groups
    elif name.endswith(".gz") or dataset.format == "table":
        yield 0, 0, size
    else:
        for start in range(0, size, CHUNK_BYTES):
            yield start, min(start + CHUNK_BYTES, size), min(CHUNK_BYTES, size - start)


def read_texts(unit: Unit, problems: Problems) -> Iterator[bytes]:
    """The text of a unit as whole lines, about READ_BYTES at a time."""
    if unit.file.lower().endswith(".gz"):
        yield from _whole_lines(_unpacked(Path(unit.file), problems), problems)
    else:
        yield from _whole_lines(_range(unit), problems)


def _range(unit: Unit) -> Iterator[bytes]:
    """The lines that start in the unit's bytes; the last one is read to its end."""
    with Path(unit.file).open("rb") as file:
        start = unit.start
        if start:
            file.seek(start - 1)
            head = file.readline(LONGEST_LINE + 1)  # the rest of a line the unit before owns
            while head and not head.endswith(b"\n") and file.tell() < unit.stop:
                head = file.readline(LONGEST_LINE + 1)
            start = file.tell()
            if start >= unit.stop or not head.endswith(b"\n"):
                return
        file.seek(unit.stop - 1)
        file.readline(LONGEST_LINE + 1)  # the rest of the last line
        stop = file.tell()
        file.seek(start)
        while start < stop:
            text = file.read(min(READ_BYTES, stop - start))
            if not text:
                return
            start += len(text)
            yield text


def _unpacked(path: Path, problems: Problems) -> Iterator[bytes]:
    """The content of a gz file, member after member; damage is a problem of the file."""
    unpacker = zlib.decompressobj(wbits=31)
    written = 0
    try:
        with path.open("rb") as file:
            while packed := file.read(READ_BYTES):
                while packed:
                    text = unpacker.decompress(packed, READ_BYTES)
                    written += len(text)
                    if text:
                        yield text
                    packed = unpacker.unconsumed_tail
                    if unpacker.eof:
                        packed = unpacker.unused_data.lstrip(b"\0")
                        unpacker = zlib.decompressobj(wbits=31)
                        fresh = True
                    else:
                        fresh = False
        if not fresh:
            problems.add(DataProblem(found=f"a gz file that is cut short ({written:,} bytes"
                                     " unpacked)", expected="a whole gz file"))  # fmt: skip
    except zlib.error as error:
        problems.add(DataProblem(found=f"damaged gz data after {written:,} unpacked bytes"
                                 f" ({error})", expected="a whole gz file"))  # fmt: skip


def _whole_lines(texts: Iterator[bytes], problems: Problems) -> Iterator[bytes]:
    """Cut pieces of text after a line end; the rest goes to the next piece."""
    tail = b""
    for text in texts:
        cut = text.rfind(b"\n") + 1
        if cut:
            yield tail + text[:cut]
            tail = text[cut:]
        else:
            tail += text
        if len(tail) > LONGEST_LINE:  # no end in sight: do not read on
            problems.add(DataProblem(
                found=f"a line of more than {LONGEST_LINE:,} bytes: {describe_bytes(tail)}",
                expected="lines ended by LF",
            ))  # fmt: skip
            return
    if tail:
        yield tail
