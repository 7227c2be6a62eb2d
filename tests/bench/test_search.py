"""The functions a search is measured on, and the test that judges it."""

from __future__ import annotations

import math

import pytest

from bench.search import wilcoxon
from bench.search_functions import ONE_METRIC, TWO_METRICS, search


def test_the_known_optima_are_reached_where_the_papers_say() -> None:
    branin, hartmann, mixed = ONE_METRIC
    at = {"x0": (math.pi + 5) / 15, "x1": 2.275 / 15}
    assert branin.values(at)[0] == pytest.approx(branin.best, abs=1e-6)
    point = (0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573)
    assert hartmann.values({str(n): x for n, x in enumerate(point)})[0] == pytest.approx(
        hartmann.best, abs=1e-5
    )
    best = {"optimizer": "sgd", "rate": 0.1, "momentum": 0.9, "width": 256, "batch": 128}
    assert mixed.values(mixed.space.check(best))[0] == pytest.approx(mixed.best, abs=1e-12)


def test_the_volumes_of_the_known_fronts() -> None:
    zdt1, fonseca = TWO_METRICS
    assert zdt1.best == pytest.approx(10 - 1 + 2 / 3, abs=1e-3)  # the integral of 10 - (1 - sqrt x)
    assert 0.33 < fonseca.best < 0.35


@pytest.mark.parametrize(
    ("differences", "chance"),
    [
        ([1, 2, 3, 4, 5], 1 / 32),
        ([-1, 2, 3, 4, 5], 2 / 32),
        ([-1, -2, -3, -4, -5], 1.0),
        ([2, 2, 0], 1 / 4),
        ([1, 1, -1], 4 / 8),
    ],
)
def test_the_signed_rank_test_is_exact(differences: list[float], chance: float) -> None:
    assert wilcoxon(differences) == pytest.approx(chance)


def test_a_search_is_repeated_by_its_seed() -> None:
    once = search(ONE_METRIC[0], "random", 3, 10)
    assert once == search(ONE_METRIC[0], "random", 3, 10)
    assert once != search(ONE_METRIC[0], "random", 4, 10)
    assert 0 < search(TWO_METRICS[0], "random", 1, 10) < 1
