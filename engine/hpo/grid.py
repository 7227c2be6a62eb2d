"""Grid search: every point exactly once, in order, the last parameter varying fastest."""

from __future__ import annotations

import itertools

from engine.hpo.history import HistoryOptimizer
from engine.hpo.study import Study
from models.settings import Scalar


class GridSearch(HistoryOptimizer):
    """ValueError for a space that cannot be listed, or has no point: see `Space.points`."""

    def __init__(self, study: Study) -> None:
        super().__init__(study)
        points = study.space.points()
        first = next(points, None)
        if first is None:
            raise ValueError("no point of the grid keeps the linear constraints")
        self._left = itertools.chain([first], points)

    def _choose(self, number: int) -> dict[str, Scalar] | None:
        # What was begun otherwise is passed over: the default point, those before a restart.
        return next(filter(self.history.is_new, self._left), None)
