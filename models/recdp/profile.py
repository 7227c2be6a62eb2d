"""What is in a data set: `python -m models.recdp.profile spec.json`. Keys: models/README.md.

Reads the files in the same strict way as the ETL, in a few processes. For each column: kind,
missing, distinct, least and greatest number, most frequent values. Distinct values are counted
exactly up to EXACT, then estimated by HyperLogLog (Flajolet et al. 2007; error about 1 %).
"""

from __future__ import annotations

import heapq
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.messages import Messenger, Progress
from models.recdp import criteo
from models.recdp.blocks import replace_file
from models.recdp.chunk import Chunk, read_chunks
from models.recdp.dictionary import hex_text
from models.recdp.pool import in_processes
from models.recdp.problems import Problems, collect, refuse
from models.recdp.sources import Dataset, Unit, plan_units
from models.recdp.split import mix
from models.worker import StopFlag, run

Array = NDArray[Any]
TOP = 5
EXACT = 100_000  # values of a column that are counted one by one
REGISTERS = 1 << 13


@dataclass
class Numbers:
    """A numeric column so far."""

    missing: int = 0
    least: float = math.inf
    greatest: float = -math.inf
    distinct: set[float] = field(default_factory=set)
    full: bool = False

    def add(self, other: Numbers) -> None:
        """Join what another reader found."""
        self.missing += other.missing
        self.least, self.greatest = min(self.least, other.least), max(self.greatest, other.greatest)
        self.full |= other.full
        if not self.full:
            self.distinct |= other.distinct
            self.full = len(self.distinct) > EXACT

    @classmethod
    def of(cls, values: Array) -> Numbers:
        """The column's values float64 [n], NaN where missing."""
        known = values[~np.isnan(values)]
        if not known.size:
            return cls(missing=len(values))
        distinct = np.unique(known)
        full = len(distinct) > EXACT
        return cls(len(values) - len(known), float(distinct[0]), float(distinct[-1]),
                   set() if full else set(distinct.tolist()), full)  # fmt: skip


@dataclass
class Values:
    """A categorical column so far: counts of its values (the frequent ones once there are too
    many), and registers of HyperLogLog uint8 [REGISTERS]."""

    missing: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    full: bool = False
    registers: Array = field(default_factory=lambda: np.zeros(REGISTERS, np.uint8))

    def add(self, other: Values) -> None:
        """Join what another reader found."""
        self.missing += other.missing
        for value, count in other.counts.items():
            self.counts[value] = self.counts.get(value, 0) + count
        self.full |= other.full
        if len(self.counts) > EXACT:
            self.full = True
            self.counts = dict(heapq.nlargest(EXACT // 2, self.counts.items(), key=lambda i: i[1]))
        np.maximum(self.registers, other.registers, out=self.registers)

    def distinct(self) -> int:
        """How many different values there are: exact, or estimated once they were too many."""
        if not self.full:
            return len(self.counts)
        zeros = int((self.registers == 0).sum())
        estimate = (
            0.7213
            / (1 + 1.079 / REGISTERS)
            * REGISTERS**2
            / np.sum(np.ldexp(1.0, -self.registers.astype(np.int32)))
        )
        if zeros and estimate < 2.5 * REGISTERS:
            estimate = REGISTERS * math.log(REGISTERS / zeros)
        return int(estimate)

    def top(self) -> list[list[Any]]:
        """The most frequent values with their counts."""
        best = heapq.nsmallest(TOP, self.counts.items(), key=lambda item: (-item[1], item[0]))
        return [[value, count] for value, count in best]


@dataclass
class Profile:
    """What one reader, or all together, found."""

    rows: int = 0
    positives: int = 0
    numbers: list[Numbers] = field(default_factory=list)
    values: list[Values] = field(default_factory=list)

    def add(self, other: Profile) -> None:
        """Join two profiles of the same columns."""
        self.rows += other.rows
        self.positives += other.positives
        if not self.numbers and not self.values:
            self.numbers, self.values = other.numbers, other.values
            return
        for mine, theirs in zip(self.numbers, other.numbers, strict=True):
            mine.add(theirs)
        for seen, more in zip(self.values, other.values, strict=True):
            seen.add(more)


def profile_unit(dataset: Dataset, unit: Unit) -> dict[str, Any]:
    """Profile one unit; runs in a process of its own."""
    problems, profile, lines = Problems(), Profile(), 0
    for chunk, read in read_chunks(dataset, unit, problems, keep_numbers=True):
        profile.add(_profile_chunk(chunk))
        lines += read
    return {"profile": profile, "lines": lines, "problems": problems.to_json(unit.file)}


def _profile_chunk(chunk: Chunk) -> Profile:
    values = []
    for column in chunk.columns:
        found, count = column.counts()
        words = (hex_text(found) if isinstance(found, np.ndarray) else found).to_pylist()
        entry = Values(column.missing, full=False)
        entry.add(Values(0, dict(zip(words, count.tolist(), strict=True))))
        np.maximum.at(entry.registers, *_registers(words))
        values.append(entry)
    numbers = [Numbers.of(column) for column in chunk.numeric.astype(np.float64).T]
    return Profile(chunk.rows, int(chunk.label.sum()), numbers, values)


def _registers(words: list[str]) -> tuple[Array, Array]:
    """Register and rank of each value."""
    raw = np.array([_fingerprint(word) for word in words], dtype=np.uint64)
    hashed = mix(raw)
    rest = (hashed >> np.uint64(13)).astype(np.float64)
    rank = 51 - np.floor(np.log2(np.maximum(rest, 0.5)))
    return (hashed & np.uint64(REGISTERS - 1)).astype(np.int64), rank.astype(np.uint8)


def _fingerprint(word: str) -> int:
    """64 bits of a text that are the same in every process, unlike hash()."""
    return int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "little")


def read_all(
    dataset: Dataset, cores: int, messenger: Messenger, stop: StopFlag, phase: str
) -> Iterator[tuple[Unit, dict[str, Any]]]:
    """The profile of each unit in order, with line numbers of problems counted from the file's
    start, and progress by bytes."""
    units = plan_units(dataset)
    lines: dict[str, int] = {}
    done = 0
    results = in_processes(profile_unit, [(dataset, unit) for unit in units], cores, stop)
    for unit, result in zip(units, results, strict=True):
        first = lines.get(unit.file, 0)
        for problem in result["problems"]["listed"]:
            problem["line"] += first if problem["line"] else 0
        lines[unit.file] = first + result["lines"]
        done += unit.size
        messenger.send(Progress(phase=phase, done=done, total=dataset.bytes, unit="bytes"))
        yield unit, result


def profile(spec: dict[str, Any], messenger: Messenger, stop: StopFlag) -> dict[str, Any]:
    """The worker. Also writes its result to output/profile.json."""
    dataset = Dataset.parse(spec["dataset"])
    whole, found = Profile(), []
    for _, result in read_all(dataset, int(spec.get("cores") or 1), messenger, stop, "profile"):
        whole.add(result["profile"])
        found.append(result["problems"])
    refuse(collect(found))
    values = describe(dataset, whole)
    if spec.get("output"):
        content = json.dumps(values, indent=1).encode() + b"\n"
        replace_file(Path(spec["output"]) / "profile.json", content)
    return values


def describe(dataset: Dataset, whole: Profile) -> dict[str, Any]:
    """The result of the worker."""
    columns = dataset.columns
    numeric = criteo.NUMERIC if columns is None else columns.numeric
    categorical = criteo.CATEGORICAL if columns is None else columns.categorical
    described: list[dict[str, Any]] = []
    for name, numbers in zip(numeric, whole.numbers, strict=True):
        known = numbers.least <= numbers.greatest
        described.append({
            "name": name, "kind": "numeric", "missing": numbers.missing,
            "distinct": None if numbers.full else len(numbers.distinct),
            "min": numbers.least if known else None, "max": numbers.greatest if known else None,
            "top": [],
        })  # fmt: skip
    for name, values in zip(categorical, whole.values, strict=True):
        described.append({
            "name": name, "kind": "categorical", "missing": values.missing,
            "distinct": values.distinct(), "min": None, "max": None, "top": values.top(),
        })  # fmt: skip
    has_label = columns is None or columns.label is not None
    rate = whole.positives / whole.rows if whole.rows and has_label else None
    return {"rows": whole.rows, "columns": described, "label_rate": rate}


if __name__ == "__main__":
    sys.exit(run(profile))
