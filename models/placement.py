"""Which embedding rows each rank holds: small tables on every rank, large ones spread by rows.

Row i of a spread table lies on rank i mod R: ids come by descending count, so every rank gets its
share of the frequent ones. A rank's local storage is a matrix of one row an id: first the tables
it has whole, in their order, then its part of each spread table. Every rank's part has room for
ceil(n / R) rows, so a row's place is the same number on all ranks. Standard library only.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

from models.worker import InputProblem

GIB = 1 << 30
PLACES = ("replicated", "sharded")


class Run(NamedTuple):
    """Local rows [at, at + rows) are the rows first, first + step, ... of the whole."""

    at: int
    first: int
    rows: int
    step: int

    def part(self, start: int, rows: int) -> Run:
        """So many of its rows, from its row `start` on."""
        return Run(self.at + start, self.first + start * self.step, rows, self.step)


class Overlap(NamedTuple):
    """The rows two runs share: local rows from `at` by `step`, in either's storage."""

    at: int
    step: int
    other_at: int
    other_step: int
    rows: int


def overlap(run: Run, other: Run) -> Overlap | None:
    """The rows that both runs hold, None when there are none."""
    apart = math.lcm(run.step, other.step)
    low = max(run.first, other.first)
    begin = run.first + -(-(low - run.first) // run.step) * run.step
    # Within one common step some row of `run` is in `other` too, or none is.
    meeting = (row for row in range(begin, begin + apart, run.step)
               if (row - other.first) % other.step == 0)  # fmt: skip
    first = next(meeting, None)
    if first is None:
        return None
    end = min(run.first + run.rows * run.step, other.first + other.rows * other.step)
    if first >= end:
        return None
    return Overlap(
        run.at + (first - run.first) // run.step, apart // run.step,
        other.at + (first - other.first) // other.step, apart // other.step,
        -(-(end - first) // apart),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The tables of a model over `ranks` ranks; table k has sizes[k] rows of `row_bytes`."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    row_bytes: int
    ranks: int
    sharded: tuple[bool, ...]

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(self.sizes)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """The first row of each table, counted through all tables."""
        return tuple(accumulate((0, *self.sizes[:-1])))

    @cached_property
    def local_starts(self) -> tuple[int, ...]:
        """The first local row of each table or part, the same on every rank."""
        order = sorted(range(len(self.sizes)), key=lambda k: self.sharded[k])
        starts, at = [0] * len(order), 0
        for k in order:
            starts[k] = at
            at += self._room(k)
        return tuple(starts)

    @cached_property
    def local_rows(self) -> int:
        """Rows of a rank's storage."""
        return sum(self._room(k) for k in range(len(self.sizes)))

    @cached_property
    def replicated_rows(self) -> int:
        """Local rows of the tables that every rank has whole; they come first."""
        return sum(n for n, spread in zip(self.sizes, self.sharded, strict=True) if not spread)

    @property
    def local_bytes(self) -> int:
        """What a rank holds of the tables and of all that is kept for each row."""
        return self.local_rows * self.row_bytes

    def run(self, table: int, rank: int) -> Run:
        """The rows of a table that a rank holds, counted through all tables."""
        start, at = self.starts[table], self.local_starts[table]
        if not self.sharded[table]:
            return Run(at, start, self.sizes[table], 1)
        count = len(range(rank, self.sizes[table], self.ranks))
        return Run(at, start + rank, count, self.ranks)

    def runs(self, rank: int) -> tuple[Run, ...]:
        """All that a rank holds."""
        return tuple(self.run(table, rank) for table in range(len(self.sizes)))

    def describe(self) -> dict[str, Any]:
        """JSON values: where each table is, and the memory of a rank in GiB with and without."""
        places = [PLACES[spread] for spread in self.sharded]
        return {
            "tables": dict(zip(self.names, places, strict=True)),
            "gib_per_rank": self.local_bytes / GIB,
            "gib_replicated": self.rows * self.row_bytes / GIB,
        }

    def sentence(self) -> str:
        """The same for people."""
        spread = [name for name, at in zip(self.names, self.sharded, strict=True) if at]
        shown = ", ".join(spread[:8]) + (", ..." if len(spread) > 8 else "")
        return (
            f"{len(spread)} of {len(self.sizes)} tables are sharded over {self.ranks} ranks"
            f" ({shown}): {gib(self.local_bytes)} of tables a rank instead of"
            f" {gib(self.rows * self.row_bytes)}"
        )

    def _room(self, table: int) -> int:
        size = self.sizes[table]
        return -(-size // self.ranks) if self.sharded[table] else size


def place(tables: Mapping[str, int], row_bytes: int, ranks: int, limit_bytes: float) -> Placement:
    """Replicate all tables {name: rows} while they fit into `limit_bytes` a rank (0: no limit).

    Otherwise the largest are sharded, one after the other, until the rest fits. Raises
    InputProblem with the numbers when that is not enough.
    """
    sizes = tuple(tables.values())
    sharded = [False] * len(sizes)
    by_size = sorted(range(len(sizes)), key=lambda k: (-sizes[k], k))
    for largest in [*by_size, None]:
        made = Placement(
            names=tuple(tables), sizes=sizes, row_bytes=row_bytes, ranks=ranks,
            sharded=tuple(sharded),
        )  # fmt: skip
        if not limit_bytes or made.local_bytes <= limit_bytes:
            return made
        if largest is None or ranks == 1:
            break
        sharded[largest] = True
    needed = ranks_needed(sizes, row_bytes, limit_bytes)
    least = gib(len(sizes) * row_bytes)
    raise InputProblem(
        f"the embedding tables do not fit: {gib(made.rows * row_bytes)} in all, at least"
        f" {gib(made.local_bytes)} a rank on {ranks} {'rank' if ranks == 1 else 'ranks'};"
        f" table_memory_gib allows {gib(limit_bytes)}",
        why="counted are weights, optimizer state and the copy of the best weights",
        todo=f"train on {needed} ranks, raise table_memory_gib or min_count, or lower"
        " embedding_size" if needed else f"raise table_memory_gib to {least} or more",
    )  # fmt: skip


def ranks_needed(sizes: Sequence[int], row_bytes: int, limit_bytes: float) -> int | None:
    """The fewest ranks over which the sharded tables fit; None when no number is enough."""
    if len(sizes) * row_bytes > limit_bytes:
        return None

    def fits(ranks: int) -> bool:
        return sum(-(-size // ranks) for size in sizes) * row_bytes <= limit_bytes

    return 1 + bisect_left(range(1, max(sizes)), True, key=fits)


def gib(count: float) -> str:
    """Bytes for people: four digits that matter."""
    return f"{count / GIB:.4g} GiB"
