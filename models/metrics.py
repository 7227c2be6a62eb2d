"""The figures models are judged by: exact AUC, a histogram AUC for very many rows, log loss.

Scores may be logits or probabilities for AUC (only their order counts); log loss takes logits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]

HISTOGRAM_BINS = 1 << 20


def auc(labels: Floats, scores: Floats) -> float:
    """Area under the ROC curve by rank sums; tied scores share their average rank.

    labels [n] of 0 and 1, scores [n] finite. NaN when one of the classes is absent.
    """
    labels = np.asarray(labels).astype(bool)
    scores = np.asarray(scores)
    positives = int(labels.sum())
    negatives = labels.size - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    ends = np.append(starts[1:], labels.size)
    below = np.add.reduceat(labels[order].astype(np.int64), starts)  # positives in each tie
    rank_sum = float(np.dot(below, (starts + 1 + ends) / 2.0))
    return (rank_sum - positives * (positives + 1) / 2.0) / (positives * negatives)


def logloss(labels: Floats, logits: Floats) -> float:
    """Mean binary cross-entropy in nats of logits [n] against labels [n]."""
    logits = np.asarray(logits, dtype=np.float64)
    labels = np.asarray(labels, dtype=np.float64)
    return float(np.mean(np.logaddexp(0.0, logits) - labels * logits)) if labels.size else 0.0


class ScoreHistogram:
    """Counts of float32 scores by class, so that ranks can add theirs instead of sending rows.

    A bin holds all scores that share the top 20 bits of their float pattern (sign, exponent and
    11 bits of the fraction); scores within a bin count as tied.
    """

    def __init__(self) -> None:
        self.counts = np.zeros((2, HISTOGRAM_BINS), dtype=np.int64)

    def add(self, labels: Floats, scores: Floats) -> None:
        """Count labels [n] of 0 and 1 with scores [n]."""
        bits = np.ascontiguousarray(scores, dtype=np.float32).view(np.uint32)
        negative = bits >> 31 == 1
        # so turned, the patterns have as unsigned numbers the order of the floats
        ordered = np.where(negative, ~bits, bits | np.uint32(1 << 31))
        bins = (ordered >> np.uint32(12)).astype(np.int64)
        for value in (0, 1):
            self.counts[value] += np.bincount(bins[labels == value], minlength=HISTOGRAM_BINS)

    def auc(self) -> float:
        """Area under the ROC curve; NaN when one of the classes is absent."""
        negatives, positives = (counts.astype(np.float64) for counts in self.counts)
        pairs = negatives.sum() * positives.sum()
        if pairs == 0:
            return float("nan")
        lower = np.cumsum(negatives) - negatives
        return float(np.dot(positives, lower + negatives / 2.0) / pairs)
