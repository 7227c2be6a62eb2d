"""The step times of a training's ranks, and which rank holds up the others."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median

SLOW, AGAIN = 1.3, 1.2  # own work beside the others' median: from here on slow, up to here not
WINDOW_S = 10.0  # slow for so long; one slow second says nothing


@dataclass(frozen=True)
class Told:
    """What a rank told of some steps: seconds of a step, how long they took together."""

    own_s: float
    wait_s: float
    span_s: float


class RankPaces:
    """The last WINDOW_S of each rank."""

    def __init__(self) -> None:
        self._told: dict[int, deque[Told]] = {}
        self._slow: set[int] = set()

    def take(self, rank: int, steps: int, own_s: float, wait_s: float) -> None:
        """What a rank told; older than the window is forgotten."""
        told = self._told.setdefault(rank, deque())
        told.append(Told(own_s, wait_s, steps * (own_s + wait_s)))
        while sum(one.span_s for one in told) - told[0].span_s >= WINDOW_S:
            told.popleft()

    def lately(self) -> list[tuple[float, float]]:
        """(own work, waiting) of each rank in seconds a step; [] before all have said something."""
        if set(self._told) != set(range(len(self._told))):
            return []
        return [
            (median(one.own_s for one in told), median(one.wait_s for one in told))
            for _, told in sorted(self._told.items())
        ]

    def changes(self) -> dict[int, float]:
        """Ranks that have become slow, with their own work beside the median of the others'; ranks
        that keep up again, with 0."""
        paces = self.lately()
        whole = all(sum(one.span_s for one in told) >= WINDOW_S for told in self._told.values())
        if len(paces) < 2 or not whole:
            return {}
        found = {}
        for rank, (own, _) in enumerate(paces):
            others = median(other for at, (other, _) in enumerate(paces) if at != rank)
            ratio = own / max(others, 1e-9)
            if rank not in self._slow and ratio > SLOW:
                self._slow.add(rank)
                found[rank] = round(ratio, 2)
            elif rank in self._slow and ratio < AGAIN:
                self._slow.discard(rank)
                found[rank] = 0.0
        return found
