"""Ranks that are threads of one process: the collectives without a launcher."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from models.dist import Ranks

T = TypeVar("T")


class ThreadRanks(Ranks):
    """One of `size` ranks; all have the same board to write on and wait for each other."""

    def __init__(self, rank: int, board: list[Any], barrier: threading.Barrier) -> None:
        super().__init__(rank, len(board))
        self._board, self._barrier = board, barrier

    def _everyone(self, value: Any) -> list[Any]:
        self._board[self.rank] = value
        self._barrier.wait()
        values = list(self._board)
        self._barrier.wait()
        return values

    def collect(self, value: Any) -> list[Any]:
        return [json.loads(text) for text in self._everyone(json.dumps(value))]

    def share(self, value: Any) -> Any:
        return self.collect(value)[0]

    def gather_equal(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        return self._everyone(tensor.clone())

    def swap(self, rows: torch.Tensor, counts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        assert len(rows) == sum(counts[self.rank])
        everyone = self._everyone(rows.clone())
        return [given.split(list(split))[self.rank]
                for given, split in zip(everyone, counts, strict=True)]  # fmt: skip


def on_ranks(size: int, act: Callable[[Ranks], T]) -> list[T]:
    """What `act` gave on each of `size` ranks; an error of one ends all."""
    board: list[Any] = [None] * size
    barrier = threading.Barrier(size, timeout=20)

    def run(rank: int) -> T:
        try:
            return act(ThreadRanks(rank, board, barrier))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(run, rank) for rank in range(size)]
    broken = [f for f in futures if isinstance(f.exception(), threading.BrokenBarrierError)]
    return [future.result() for future in futures if future not in broken] + [
        future.result() for future in broken
    ]
