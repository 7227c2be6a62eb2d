"""Estimates learned from earlier runs: known factors are found, and the interval is honest."""

from __future__ import annotations

import math
import random

import pytest

from engine.learned import BUILT_IN_WITHIN, NOTHING_LEARNED, Learned, Record, Run, fit, predict

GROUP = "host | dlrm | train"


def terms(rows: float, steps: float) -> dict[str, float]:
    return {"start": 4.0, "rows": 10 * rows, "steps": steps}


def a_record(
    rows: float, steps: float, factors: dict[str, float], noise: float = 1.0, **changes: object
) -> Record:
    of = terms(rows, steps)
    taken = noise * sum(factors[name] * value for name, value in of.items())
    return Record(group=GROUP, terms={"cpu_s": of}, actual={"cpu_s": taken}, **changes)  # type: ignore[arg-type]


FACTORS = {"start": 0.5, "rows": 3.0, "steps": 1.5}
SIZES = [(r, s) for r in (0.1, 0.5, 1.0, 3.0) for s in (0.5, 2.0, 8.0)]


def test_without_runs_the_built_in_prices_hold() -> None:
    found = NOTHING_LEARNED.forecast(GROUP, "cpu_s", terms(1.0, 2.0))
    assert (found.value, found.runs) == (16.0, 0)
    assert found.within == pytest.approx(BUILT_IN_WITHIN["cpu_s"])
    other = Learned([a_record(1.0, 2.0, FACTORS)]).forecast("elsewhere", "cpu_s", terms(1.0, 2.0))
    assert (other.value, other.runs) == (16.0, 0)


def test_factors_of_each_term_are_found_and_hold_for_sizes_never_run() -> None:
    learned = Learned([a_record(r, s, FACTORS) for r, s in SIZES])
    for rows, steps in ((0.05, 1.0), (10.0, 2.0), (1.0, 30.0)):
        expected = sum(FACTORS[name] * value for name, value in terms(rows, steps).items())
        found = learned.forecast(GROUP, "cpu_s", terms(rows, steps))
        assert found.value == pytest.approx(expected, rel=0.1)
        assert 1.0 < found.within < 1.35 and found.runs == len(SIZES)


def test_one_run_moves_the_whole_and_leaves_half_of_the_doubt() -> None:
    found = Learned([a_record(1.0, 2.0, dict.fromkeys(FACTORS, 4.0))]).forecast(
        GROUP, "cpu_s", terms(2.0, 4.0)
    )
    built_in = sum(terms(2.0, 4.0).values())
    assert 2.5 * built_in < found.value < 4.0 * built_in
    assert found.within == pytest.approx(math.sqrt(BUILT_IN_WITHIN["cpu_s"]))


def test_an_outlier_changes_little() -> None:
    runs = [a_record(r, s, FACTORS) for r, s in SIZES]
    clean = Learned(runs).forecast(GROUP, "cpu_s", terms(2.0, 3.0)).value
    with_one = Learned([*runs, a_record(1.0, 2.0, FACTORS, noise=50.0)])
    assert with_one.forecast(GROUP, "cpu_s", terms(2.0, 3.0)).value == pytest.approx(clean, rel=0.1)


def test_a_factor_is_never_negative() -> None:
    runs = [Run({"a": 1.0, "b": x}, 10.0 / x) for x in (1.0, 2.0, 4.0, 8.0)]
    factors = fit(runs)
    assert all(factor > 0 for factor in factors.values())
    assert predict(factors, {"a": 0.0, "b": 100.0}) > 0


@pytest.mark.parametrize("deviation", [0.05, 0.2])
def test_the_interval_covers_nine_of_ten_runs_with_other_settings(deviation: float) -> None:
    draw = random.Random(5)
    inside = total = 0
    for _ in range(30):
        factors = {name: math.exp(draw.gauss(0, 0.5)) for name in FACTORS}
        sizes = [(draw.uniform(0.1, 3.0), draw.uniform(0.2, 10.0)) for _ in range(12)]
        records = [a_record(r, s, factors, math.exp(draw.gauss(0, deviation))) for r, s in sizes]
        for place, (rows, steps) in enumerate(sizes):
            others = Learned(records[:place] + records[place + 1 :])
            found = others.forecast(GROUP, "cpu_s", terms(rows, steps))
            taken = records[place].actual["cpu_s"]
            inside += found.value / found.within <= taken <= found.value * found.within
            total += 1
    assert 0.85 <= inside / total <= 0.99


def test_a_training_that_may_end_early_is_expected_to() -> None:
    whole = terms(10.0, 0.0)
    records = [
        Record(group=GROUP, terms={"cpu_s": whole}, actual={"cpu_s": 4.0 + 100.0 * share},
               share=share, open=True)
        for share in (0.25, 0.3, 0.2, 0.25, 0.3)
    ]  # fmt: skip
    learned = Learned(records)
    share, deviation = learned.share(GROUP)
    assert share == pytest.approx((1.3 + 1) / 6) and deviation > 0.1
    early = learned.forecast(GROUP, "cpu_s", whole, is_open=True)
    to_the_end = learned.forecast(GROUP, "cpu_s", whole)
    assert early.value == pytest.approx(4 + 100 * share, rel=0.1)
    assert to_the_end.value == pytest.approx(104.0, rel=0.1)
    assert early.within > to_the_end.within


def test_figures_that_say_nothing_are_left_out() -> None:
    empty = Record(group=GROUP, terms={"cpu_s": {}}, actual={"cpu_s": 5.0})
    none = Record(group=GROUP, terms={"cpu_s": terms(1.0, 1.0)}, actual={"cpu_s": 0.0})
    other = Record(group=GROUP, terms={"memory_gib": {"rows": 1.0}}, actual={"memory_gib": 1.0})
    found = Learned([empty, none, other]).forecast(GROUP, "cpu_s", terms(1.0, 2.0))
    assert (found.value, found.runs) == (16.0, 0)
    assert Learned([other]).forecast(GROUP, "memory_gib", {}).value == 0.0


def test_what_has_no_terms_is_told_by_its_median() -> None:
    def records(*minutes: float) -> Learned:
        return Learned([Record(group="p", terms={}, actual={"minutes": m}) for m in minutes])

    assert NOTHING_LEARNED.usual("p", "minutes") is None
    assert records(5.0).usual("other", "minutes") is None
    one, many = records(5.0).usual("p", "minutes"), records(*[5.0] * 40).usual("p", "minutes")
    unlike = records(1.0, 5.0, 25.0, 5.0).usual("p", "minutes")
    assert one and many and unlike
    assert (one.value, one.runs, many.runs, unlike.value) == (5.0, 1, 40, 5.0)
    assert many.within < 1.3 < 2.0 < one.within < unlike.within
    draw = random.Random(3)
    taken = [math.exp(draw.gauss(0.0, 0.4)) for _ in range(200)]
    found = records(*taken[:20]).usual("p", "minutes")
    assert found
    inside = sum(found.value / found.within <= t <= found.value * found.within for t in taken)
    assert 0.85 <= inside / len(taken) <= 0.98
