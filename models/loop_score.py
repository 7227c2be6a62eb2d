"""Scoring a split by all ranks: AUC and log loss of every row, each scored once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from models.dist import Ranks
from models.loop_data import Rows, own_slices
from models.metrics import ScoreHistogram, auc, logloss

BATCH_ROWS = 4096
EXACT_ROWS = 4_000_000  # above it the ranks add histograms instead of gathering every score


class Scorer(Protocol):
    """What scoring needs of a task."""

    def scores(self, columns: Sequence[torch.Tensor]) -> torch.Tensor:
        """Logits [n] of rows."""

    def labels(self, columns: Sequence[torch.Tensor]) -> torch.Tensor:
        """Labels [n] of rows."""


def validate(
    task: Scorer, rows: Rows, ranks: Ranks, exact_rows: int = EXACT_ROWS,
    each_batch: Callable[[], None] = lambda: None,
) -> dict[str, float]:  # fmt: skip
    """auc and logloss of all rows, the same numbers on every rank."""
    if rows.rows > exact_rows:
        return _by_histogram(task, rows, ranks, each_batch)
    parts = []
    for part in scored(task, rows, ranks):
        each_batch()
        parts.append(part)
    labels = torch.from_numpy(np.concatenate([np.empty(0, np.uint8), *(p[0] for p in parts)]))
    logits = torch.from_numpy(np.concatenate([np.empty(0, np.float32), *(p[1] for p in parts)]))
    labels, logits = ranks.gather_rows(labels), ranks.gather_rows(logits)
    values = None
    if ranks.rank == 0:
        values = {"auc": auc(labels.numpy(), logits.numpy()),
                  "logloss": logloss(labels.numpy(), logits.numpy())}  # fmt: skip
    shared: dict[str, float] = ranks.share(values)
    return shared


def scored(
    task: Scorer, rows: Rows, ranks: Ranks, batch_rows: int = BATCH_ROWS
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """Labels and logits of this rank's rows, batch by batch, in the order of the rows.

    Every rank makes as many calls of `scores`, some without rows: its rows may lie on others.
    """
    for start, stop in own_slices(rows.rows, batch_rows, ranks.rank, ranks.size):
        columns = [torch.from_numpy(np.array(column)) for column in rows.read(start, stop)]
        logits = task.scores(columns).numpy()
        if len(logits):
            yield task.labels(columns).numpy(), logits


def _by_histogram(
    task: Scorer, rows: Rows, ranks: Ranks, each_batch: Callable[[], None]
) -> dict[str, float]:
    histogram = ScoreHistogram()
    total = torch.zeros(1, dtype=torch.float64)
    for labels, logits in scored(task, rows, ranks):
        each_batch()
        histogram.add(labels, logits)
        total += logloss(labels, logits) * len(labels)
    counts = torch.from_numpy(histogram.counts)
    ranks.sum(counts)
    ranks.sum(total)
    return {"auc": histogram.auc(), "logloss": float(total) / rows.rows}
