"""Scoring streams of batches on a fixed number of processors, and what a form for inference is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

Array = NDArray[Any]
Score = Callable[[Array, Array], Array]
"""(numeric float32 [n, N], ids int32 [n, T]) -> logits float32 [n]."""

FP32, BF16, INT8 = "fp32", "bf16", "int8"


@dataclass(frozen=True)
class Form:
    """A way to score beside the eager network.

    `write(folder, numeric, ids)` leaves `files` in the bundle; the rows are training rows, for
    forms that have to see some. `load(folder, threads)` gives the scores, for `threads` callers
    at a time. A form that finds nothing to gain writes nothing. `units` are CPU flags of which one
    is needed for a gain; without any it always may. `approximate`: another function than the
    network's even in fp32. `saved(folder)`: floating point operations a row it does without.
    """

    name: str
    precision: str
    files: tuple[str, ...]
    write: Callable[[Path, Array, Array], None]
    load: Callable[[Path, int], Score]
    units: frozenset[str] = frozenset()
    approximate: bool = False
    saved: Callable[[Path], int] = lambda _folder: 0

    def may_gain(self, flags: set[str]) -> bool:
        """Whether a CPU with these flags could be faster by it, so that it is worth measuring."""
        return not self.units or bool(self.units & flags)


def stream(score: Score, batches: Iterable[tuple[Array, Array]], threads: int) -> Iterator[Array]:
    """Logits of each batch in order; at most 3 batches a thread are in memory at a time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # the batches are what is shared out, not the parts of one
    waiting: deque[Future[Array]] = deque()
    try:
        with ThreadPoolExecutor(threads) as pool:
            for numeric, ids in batches:
                waiting.append(pool.submit(score, numeric, ids))
                if len(waiting) >= 3 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        torch.set_num_threads(before)


def one_by_one(
    score: Score, batches: Iterable[tuple[Array, Array]], threads: int
) -> Iterator[Array]:
    """Logits of each batch in order, all threads at work on one batch: torch's usual way."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for numeric, ids in batches:
            yield score(numeric, ids)
    finally:
        torch.set_num_threads(before)
