"""Random search, the baseline of all others: uniform, on a log scale where there is one."""

from __future__ import annotations

from engine.hpo.history import HistoryOptimizer
from models.settings import Scalar


class RandomSearch(HistoryOptimizer):
    """Looks at nothing that it is told, but for what was tried already."""

    def _choose(self, number: int) -> dict[str, Scalar] | None:
        return self.history.draw(number, self.study.space.sample)
