"""Facts about a user's data that the engine can know without reading all of it."""

from __future__ import annotations

import csv
import gzip
import hashlib
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import InputError
from models.settings import nearest

DATA_SUFFIXES = (".tsv", ".txt", ".csv", ".parquet", ".tsv.gz", ".txt.gz", ".csv.gz")
SAMPLE = 1 << 20
MOST_FILES = 10_000


@dataclass(frozen=True)
class FileFacts:
    """What identifies a file without reading it whole."""

    path: Path
    size: int
    mtime_ns: int
    digest: str  # sha256 of the first and the last MiB, or of all with `--verify`
    verified: bool = False  # which of the two


def data_files(path: Path) -> list[Path]:
    """The data files a path means: itself, or those of a folder in name order."""
    path = path.expanduser().absolute()
    if not path.exists():
        near = _nearest_neighbour(path)
        raise InputError(
            f"there is no file or folder {path}", todo=near or "check dataset.path in the recipe"
        )
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path} is neither a file nor a folder")
    files = sorted(
        p for p in path.iterdir()
        if p.is_file() and not p.name.startswith(".") and p.name.endswith(DATA_SUFFIXES)
    )  # fmt: skip
    if not files:
        raise InputError(
            f"{path} holds no data files",
            todo=f"expected files ending in {' '.join(DATA_SUFFIXES)}",
        )
    return files


def any_files(path: Path) -> list[FileFacts]:
    """Size and time of all that a path means to a program of the user's, which reads it itself: a
    file, or all files below a folder (the first MOST_FILES in the order of their names)."""
    path = path.expanduser().absolute()
    if not path.exists():
        raise InputError(
            f"there is no file or folder {path}",
            todo=_nearest_neighbour(path) or "check dataset.path in the recipe",
        )
    found = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return [
        FileFacts(one, status.st_size, status.st_mtime_ns, "", False)
        for one in found[:MOST_FILES]
        for status in (one.stat(),)
    ]


def check_header(paths: Sequence[Path], columns: Sequence[str]) -> None:
    """InputError when the header line of a text table lacks a column; the nearest one is named.

    Parquet files are left to the worker, which can read them.
    """
    for path in paths:
        if path.name.endswith(".parquet"):
            continue
        present = _header(path)
        missing = [name for name in columns if name not in present]
        if missing:
            hints = "; ".join(f"{name}: {nearest(name, present)}" for name in missing)
            raise InputError(f"{path}: no column {', '.join(missing)}", todo=hints)


def _header(path: Path) -> list[str]:
    """The names in the first line of a .csv, .tsv or .txt file, packed or not."""
    packed = path.name.endswith(".gz")
    try:
        with gzip.open(path, "rb") if packed else open(path, "rb") as file:
            line = file.readline(SAMPLE).decode("utf-8-sig").rstrip("\r\n")
        comma = path.name.removesuffix(".gz").endswith(".csv")
        return next(csv.reader([line], delimiter="," if comma else "\t"), [])
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: the header line is not UTF-8 text (byte {error.start})",
            todo="write the table in UTF-8",
        ) from None


def _nearest_neighbour(path: Path) -> str:
    from difflib import get_close_matches

    if not path.parent.is_dir():
        return ""
    close = get_close_matches(path.name, os.listdir(path.parent), n=1)
    return f"did you mean {path.parent / close[0]}?" if close else ""


def file_facts(path: Path, verify: bool = False) -> FileFacts:
    """Size, time and digest of a file; InputError when it cannot be read or is empty."""
    try:
        status = path.stat()
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            if verify:
                while block := file.read(SAMPLE):
                    digest.update(block)
            else:
                digest.update(file.read(SAMPLE))
                file.seek(max(0, status.st_size - SAMPLE))
                digest.update(file.read(SAMPLE))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    if status.st_size == 0:
        raise InputError(f"{path} is empty", todo="a data file needs rows")
    return FileFacts(path, status.st_size, status.st_mtime_ns, digest.hexdigest(), verify)


def data_facts(paths: Sequence[Path], verify: bool = False) -> list[FileFacts]:
    """The facts of each file; all unreadable ones are reported at once."""
    facts, problems = [], []
    for path in paths:
        try:
            facts.append(file_facts(path, verify))
        except InputError as error:
            problems.append(error.what)
    if problems:
        raise InputError("\n".join(problems))
    return facts
