"""The order of training rows: shuffled by seed and epoch, the same for any number of ranks.

An epoch is a permutation of chunks of neighbouring rows (cheap to read), cut into windows whose
rows are permuted again. A window is a multiple of the global batch, so that only the last batch
of an epoch is short, and any batch can be found from (seed, epoch, step) alone: that is what makes
a run resumable in the middle of an epoch. Rank r of R takes rows r::R of each global batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

CHUNK_ROWS = 1024
WINDOW_ROWS = 1 << 16  # 10 MB of click logs: what is gathered from a window is still in the cache

_Result = TypeVar("_Result")


class Rows(Protocol):
    """Row-aligned columns on disk or in memory."""

    @property
    def rows(self) -> int:
        """How many rows there are."""

    def read(self, start: int, stop: int) -> tuple[NDArray[Any], ...]:
        """The rows [start, stop) of every column group, each [stop - start, ...]."""


class Batch(NamedTuple):
    """One rank's part of a global batch."""

    columns: tuple[torch.Tensor, ...]  # each [rows of this rank, ...], 0 rows are possible
    global_rows: int  # over all ranks


class ShuffledRows:
    """The batches of a training split for one rank."""

    def __init__(
        self, source: Rows, batch_size: int, seed: int, rank: int = 0, size: int = 1,
        window_rows: int = WINDOW_ROWS, chunk_rows: int = CHUNK_ROWS, *, prefetch: bool = False,
    ) -> None:  # fmt: skip
        self.source, self.batch_size, self.seed = source, batch_size, seed
        self.rank, self.size, self.chunk_rows = rank, size, chunk_rows
        self.window_rows = max(1, -(-window_rows // batch_size)) * batch_size
        self.prefetch = prefetch  # read the next window in a thread while one is trained on

    @property
    def steps(self) -> int:
        """Global batches in an epoch; the last one may be short."""
        return -(-self.source.rows // self.batch_size)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from batch number `start` on."""
        chunks = self._chunk_order(epoch)
        start_row, end = start * self.batch_size, self.source.rows
        starts = [start_row, *range(start_row - start_row % self.window_rows + self.window_rows,
                                    end, self.window_rows)]  # fmt: skip
        reads = [partial(self._own_columns, epoch, chunks, first) for first in starts]
        loaded = _ahead(reads) if self.prefetch else (read() for read in reads)
        for first, columns in zip(starts, loaded, strict=True):
            at, window_end = 0, min(end, first - first % self.window_rows + self.window_rows)
            for position in range(first, window_end, self.batch_size):
                global_rows = min(self.batch_size, window_end - position)
                count = len(range(self.rank, global_rows, self.size))
                yield Batch(tuple(column[at : at + count] for column in columns), global_rows)
                at += count

    def _chunk_order(self, epoch: int) -> NDArray[np.int64]:
        count = -(-self.source.rows // self.chunk_rows)
        return np.random.default_rng([self.seed, epoch]).permutation(count)

    def _ranges(self, chunks: NDArray[np.int64], first: int, rows: int) -> list[tuple[int, int]]:
        """The row ranges behind positions [first, first + rows) of the permuted chunks."""
        starts = chunks * self.chunk_rows
        lengths = np.minimum(starts + self.chunk_rows, self.source.rows) - starts
        ends = np.cumsum(lengths)
        found = []
        at = int(np.searchsorted(ends, first, side="right"))
        position = first
        while position < first + rows:
            offset = position - (int(ends[at]) - int(lengths[at]))
            taken = min(int(lengths[at]) - offset, first + rows - position)
            found.append((int(starts[at]) + offset, int(starts[at]) + offset + taken))
            position += taken
            at += 1
        return found

    def _own_columns(self, epoch: int, chunks: NDArray[np.int64], start: int) -> list[torch.Tensor]:
        """This rank's rows from position `start` of an epoch to the end of its window, in order."""
        window, skipped = divmod(start, self.window_rows)
        first = start - skipped
        rows = min(self.source.rows, first + self.window_rows) - first
        parts = [self.source.read(*span) for span in self._ranges(chunks, first, rows)]
        order = np.random.default_rng([self.seed, epoch, window]).permutation(rows)
        positions = np.arange(skipped, rows)
        own = order[positions[positions % self.batch_size % self.size == self.rank]]
        return [torch.from_numpy(np.concatenate(group)[own]) for group in zip(*parts, strict=True)]


def _ahead(reads: Sequence[Callable[[], _Result]]) -> Iterator[_Result]:
    """The results in order, each read by a thread while the one before is used."""
    with ThreadPoolExecutor(1) as thread:
        coming = [thread.submit(read) for read in reads[:1]]
        for read in [*reads[1:], None]:
            result = coming.pop().result()
            if read is not None:
                coming.append(thread.submit(read))
            yield result


def own_slices(rows: int, batch_size: int, rank: int, size: int) -> Iterator[tuple[int, int]]:
    """The row ranges one rank scores, in order: every size-th range of `batch_size` rows.

    All ranks get as many; the last range of some is empty.
    """
    for first in range(0, rows, size * batch_size):
        start = min(rows, first + rank * batch_size)
        yield start, min(rows, start + batch_size)
