"""What a sample of the user's files tells about all of them: rows, ids by column, label balance.

A few pieces of at most 2 MiB together are read, with the standard library: a tenth of a second, so
the plan opens at once. Damage is the ETL's to report, with its line; here it only makes the sample
smaller. Parquet files are guessed by their size.
"""

from __future__ import annotations

import csv
import math
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.facts import FileFacts
from engine.recipe import Columns, Dataset

PIECES, PIECE_BYTES = 8, 1 << 18
CRITEO_NUMERIC, CRITEO_CATEGORICAL = 13, 26
BYTES_PER_ROW = {"criteo": 240.0, "table": 100.0}
PACKED_FACTOR = 3.5  # text for a byte of gz or parquet, where it cannot be seen
GENERATED_IDS, GENERATED_GROWTH = 152_000, 0.5  # in a million generated rows, and in more
LONGEST_COUNT = 1000  # min_count above it leaves no more ids than this


@dataclass(frozen=True)
class IdColumn:
    """A column of ids: in `known` sampled values `distinct` different ones, of which the most
    frequent is the part `top`. With n times the rows there are n ** growth times the ids."""

    name: str
    known: int
    distinct: int
    growth: float
    top: float = 0.0

    def entries(self, values: float, min_count: int) -> float:
        """Ids seen at least `min_count` times among so many values.

        Of ids that grow like n ** a the part that is seen at least m times is the product of
        (1 - a / i) for i < m (Pitman 2006, Combinatorial Stochastic Processes, 3.3).
        """
        if not self.known:
            return 0.0
        seen = self.distinct * max(1.0, values / self.known) ** self.growth
        often = math.prod(1 - self.growth / i for i in range(1, min(min_count, LONGEST_COUNT)))
        return min(seen, values) * often


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """A data set as the advisor sees it. `sampled` rows were looked at: 0 where it was only
    guessed by size; `exact` where the number of rows is known, not estimated."""

    rows: int
    numeric: int
    ids: tuple[IdColumn, ...] = ()
    categorical: int = 0
    sampled: int = 0
    exact: bool = False
    label_rate: float | None = None

    def entries(self, min_count: int, part: float = 1.0) -> float:
        """Ids of all columns that are seen `min_count` times in a part of the rows, estimated."""
        scale = self.rows * part / max(1, self.sampled)
        return sum(column.entries(column.known * scale, min_count) for column in self.ids)

    def sentence(self) -> str:
        """What is known, in words."""
        if not self.sampled or self.exact:
            return f"{self.rows:,} rows" if self.exact else f"about {self.rows:,} rows by size"
        parts = [f"about {_round(self.rows):,} rows, by a sample of {self.sampled:,}"]
        if self.ids:
            parts.append(f"{len(self.ids)} id columns with about "
                         f"{_round(self.entries(1)):,} ids")  # fmt: skip
        if self.label_rate is not None:
            parts.append(f"{100 * self.label_rate:.3g} % positive")
        return ", ".join(parts)


def _round(value: float) -> int:
    """Two digits: a sample tells no more."""
    digits = max(0, len(str(int(value))) - 2)
    return int(round(value / 10**digits) * 10**digits)


def look(dataset: Dataset, files: Sequence[FileFacts]) -> DataFacts:
    """Facts of a data set: of files by a sample, of data yet to be made as its generator is."""
    columns = dataset.columns
    numeric = CRITEO_NUMERIC if columns is None else len(columns.numeric)
    categorical = CRITEO_CATEGORICAL if columns is None else len(columns.categorical)
    if dataset.generate:
        rows = dataset.generate.rows
        made = IdColumn("all", rows, int(GENERATED_IDS * (rows / 1e6) ** GENERATED_GROWTH),
                        GENERATED_GROWTH)  # fmt: skip
        return DataFacts(rows=rows, numeric=numeric, categorical=categorical, ids=(made,),
                         sampled=rows, exact=True)  # fmt: skip
    names = [file.path.name for file in files]
    text = [file for file, name in zip(files, names, strict=True) if not name.endswith(".parquet")]
    found = Sample(columns)
    looked_at = text[:: max(1, len(text) // PIECES)][:PIECES]
    size = 0.0
    for file in looked_at:
        pieces = max(1, PIECES // len(text))
        packed = file.path.name.endswith(".gz")
        size += found.add_file(file, 1 if packed else pieces)
    guessed = sum(
        f.size * (PACKED_FACTOR if f.path.suffix in (".gz", ".parquet") else 1.0) for f in files
    )
    if not found.rows:
        rows = int(guessed / BYTES_PER_ROW[dataset.format])
        return DataFacts(rows=max(1, rows), numeric=numeric, categorical=categorical)
    # the other files are taken to be packed like those that were seen
    seen = sum(f.size for f in looked_at)
    rows = int(size / seen * sum(f.size for f in text) / (found.bytes / found.rows))
    rows += int(sum(f.size for f in files if f not in text) * PACKED_FACTOR
                / BYTES_PER_ROW[dataset.format])  # fmt: skip
    return DataFacts(
        rows=max(1, rows), numeric=numeric, categorical=categorical, ids=found.columns(),
        sampled=found.rows, label_rate=found.positives / found.labels if found.labels else None,
    )  # fmt: skip


class Sample:
    """Adds up sampled lines."""

    def __init__(self, columns: Columns | None) -> None:
        self.rows = self.bytes = self.labels = self.positives = 0
        self._columns = columns
        if columns is None:
            first = 1 + CRITEO_NUMERIC
            self._names = [f"C{i + 1}" for i in range(CRITEO_CATEGORICAL)]
            self._places: dict[str, int] = {name: first + i for i, name in enumerate(self._names)}
            self._label: int | None = 0
        else:
            self._names, self._places, self._label = list(columns.categorical), {}, None
        self._counts: dict[str, tuple[Counter[str], set[str]]] = {
            name: (Counter(), set()) for name in self._names
        }

    def add_file(self, file: FileFacts, pieces: int) -> float:
        """Take in pieces of a file; the size of its text in bytes."""
        name = file.path.name
        comma = name.removesuffix(".gz").endswith(".csv")
        try:
            if name.endswith(".gz"):
                text, ratio = _unpacked(file.path)
                self._add(text, comma, first=True)
                return file.size * ratio
            with open(file.path, "rb") as stream:
                for piece in range(pieces):
                    stream.seek(file.size * piece // pieces)
                    length = min(PIECE_BYTES, -(-file.size // pieces))  # no line is seen twice
                    self._add(stream.read(length), comma, first=piece == 0,
                              last=stream.tell() >= file.size)  # fmt: skip
        except (OSError, zlib.error, UnicodeDecodeError, csv.Error):
            pass  # unreadable there: the ETL reads all of it and says what is wrong, and where
        return float(file.size)

    def _add(self, data: bytes, comma: bool, first: bool, last: bool = False) -> None:
        """Whole lines of a piece; the cut ones at its ends are left out."""
        start = 0 if first else data.find(b"\n") + 1
        end = len(data) if last else data.rfind(b"\n") + 1
        lines = data[start:end].decode("utf-8-sig").splitlines()
        if self._columns is not None:
            rows: Iterator[list[str]] = csv.reader(lines, delimiter="," if comma else "\t")
            if first:
                self._header(next(rows, []))
        else:
            rows = (line.split("\t") for line in lines)
        for row in rows:
            self._row(row)
        self.bytes += end - start

    def _header(self, names: Sequence[str]) -> None:
        assert self._columns is not None
        self._places = {name: i for i, name in enumerate(names) if name in self._counts}
        label = self._columns.label
        self._label = names.index(label) if label in names else None

    def _row(self, row: Sequence[str]) -> None:
        self.rows += 1
        if self._label is not None and self._label < len(row):
            self.labels += 1
            self.positives += row[self._label].strip() not in ("0", "0.0", "")
        even = self.rows % 2 == 0
        for name, place in self._places.items():
            value = row[place] if place < len(row) else ""
            if value:
                counts, half = self._counts[name]
                counts[value] += 1
                if even:
                    half.add(value)

    def columns(self) -> tuple[IdColumn, ...]:
        """What the id columns look like."""
        return tuple(_describe(name, *self._counts[name]) for name in self._names)


def _describe(name: str, counts: Mapping[str, int], half: set[str]) -> IdColumn:
    """Growth is told by how many of the ids half of the rows already have (Heaps' law)."""
    known = sum(counts.values())
    if not known:
        return IdColumn(name, 0, 0, 0.0)
    growth = math.log2(len(counts) / len(half)) if half else 1.0
    return IdColumn(name, known, len(counts), min(1.0, max(0.0, growth)),
                    max(counts.values()) / known)  # fmt: skip


def _unpacked(path: Path) -> tuple[bytes, float]:
    """The first text of a gz file, and bytes of text for one of the file."""
    with open(path, "rb") as stream:
        packed = stream.read(PIECE_BYTES)
    reader = zlib.decompressobj(wbits=31)
    text = reader.decompress(packed, 4 * PIECE_BYTES)
    used = len(packed) - len(reader.unconsumed_tail) - len(reader.unused_data)
    return text, len(text) / max(1, used)
