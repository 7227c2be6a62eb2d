"""AUC and log loss against their definitions."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from models.metrics import ScoreHistogram, auc, logloss

CASES = st.lists(
    st.tuples(st.booleans(), st.integers(-4, 4)), min_size=2, max_size=40
).filter(lambda rows: len({label for label, _ in rows}) == 2)  # fmt: skip


def auc_by_pairs(labels: list[bool], scores: list[float]) -> float:
    """The share of (positive, negative) pairs in the right order; ties count half."""
    pairs = [(p, n) for p, up in zip(scores, labels, strict=True) if up
             for n, down in zip(scores, labels, strict=True) if not down]  # fmt: skip
    return sum(1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs) / len(pairs)


@given(CASES)
def test_auc_is_the_share_of_ordered_pairs(rows: list[tuple[bool, int]]) -> None:
    labels, scores = [row[0] for row in rows], [float(row[1]) for row in rows]
    expected = auc_by_pairs(labels, scores)
    assert math.isclose(auc(np.array(labels), np.array(scores)), expected, abs_tol=1e-12)


@given(CASES)
def test_histogram_auc_is_exact_for_scores_in_different_bins(rows: list[tuple[bool, int]]) -> None:
    labels = np.array([row[0] for row in rows], np.uint8)
    scores = np.array([row[1] for row in rows], np.float32) * 0.7
    histogram = ScoreHistogram()
    histogram.add(labels[:1], scores[:1])
    histogram.add(labels[1:], scores[1:])
    assert math.isclose(histogram.auc(), auc(labels, scores), abs_tol=1e-12)


def test_histogram_auc_is_close_for_many_different_scores() -> None:
    rng = np.random.default_rng(1)
    labels = (rng.random(50_000) < 0.3).astype(np.uint8)
    scores = (labels + rng.normal(0, 1.5, len(labels))).astype(np.float32)
    histogram = ScoreHistogram()
    histogram.add(labels, scores)
    assert abs(histogram.auc() - auc(labels, scores)) < 2e-5


def test_auc_needs_both_classes() -> None:
    assert math.isnan(auc(np.ones(3), np.arange(3)))
    assert math.isnan(ScoreHistogram().auc())


@given(st.lists(st.tuples(st.booleans(), st.floats(-30, 30)), min_size=1, max_size=30))
def test_logloss_is_the_mean_cross_entropy(rows: list[tuple[bool, float]]) -> None:
    expected = np.mean([math.log1p(math.exp(-x if label else x)) for label, x in rows])
    value = logloss(np.array([row[0] for row in rows]), np.array([row[1] for row in rows]))
    assert math.isclose(value, expected, rel_tol=1e-9, abs_tol=1e-9)


def test_logloss_of_a_sure_and_wrong_score_is_finite() -> None:
    assert logloss(np.array([1]), np.array([-1000.0])) == 1000.0
