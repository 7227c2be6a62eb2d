"""What a search has found: fronts, their volume, and which bound to relax when none is allowed."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.hpo.front import (
    findings,
    hypervolume,
    knee,
    non_dominated,
    outward,
    reference_point,
)
from engine.hpo.space import Parameter, Space, Type
from engine.hpo.study import Objective, Strategy, Study
from engine.hpo.trials import Trial, TrialState

SPACE = Space(parameters=(Parameter(name="x", type=Type.DOUBLE, low=0.0, high=1.0),))
AUC = Objective(name="auc", maximize=True)
TIME = Objective(name="training_time", maximize=False)


def study(*objectives: Objective) -> Study:
    return Study(space=SPACE, objectives=objectives)


def trials(*values: dict[str, float]) -> list[Trial]:
    return [Trial(number=n, assignment={"x": 0.5}, state=TrialState.FINISHED, values=one)
            for n, one in enumerate(values)]  # fmt: skip


def test_one_metric_has_one_best_trial_and_the_first_of_equals() -> None:
    found = findings(study(AUC), trials({"auc": 0.7}, {"auc": 0.8}, {"auc": 0.8}))
    assert [trial.number for trial in found.front] == [1]
    assert found.chosen is found.front[0]
    assert found.words == "Best: trial 1, auc 0.8."


def test_only_finished_trials_with_their_metrics_count() -> None:
    some = trials(*[{"auc": 0.9}] * 3, {"auc": math.nan}, {}, {"auc": 0.5})
    some[0].state, some[1].state = TrialState.PRUNED, TrialState.RUNNING
    some[2].origin = "warm"  # of an earlier study
    found = findings(study(AUC), some)
    assert [t.number for t in found.finished] == [5] == [t.number for t in found.front]
    assert findings(study(AUC), []).words == "No trial has finished yet."


def test_several_metrics_have_all_of_their_front() -> None:
    points = [(0.70, 10), (0.80, 12), (0.82, 60), (0.79, 13), (0.80, 12), (0.60, 70)]
    found = findings(study(AUC, TIME), trials(*({"auc": a, "training_time": t} for a, t in points)))
    assert [trial.number for trial in found.front] == [2, 1, 4, 0]
    assert found.chosen is not None and found.chosen.number == 2  # the best in the first metric
    assert found.knee is not None and found.knee.number == 1
    assert found.words.startswith("4 trials that no other one beats in auc and training_time")


def test_a_threshold_of_the_only_metric_bounds_what_is_accepted() -> None:
    bound = Objective(name="auc", maximize=True, threshold=0.8)
    found = findings(study(bound), trials({"auc": 0.71234567}, {"auc": 0.65}))
    assert (found.feasible, found.front) == ((), ())
    one_misses = findings(study(bound), trials({"auc": 0.9}, {"auc": 0.65}))
    assert one_misses.words == "Best: trial 0, auc 0.9. 1 finished trial misses a threshold."
    assert found.chosen is not None and found.chosen.number == 0
    assert [str(one) for way in found.ways for one in way] == [
        "relax the threshold of auc from 0.8 to 0.7123 (trial 0)"
    ]
    assert found.words.startswith("None of 2 finished trials keeps all thresholds. What would help")


def test_each_threshold_that_is_alone_in_the_way_is_proposed() -> None:
    auc = Objective(name="auc", maximize=True, threshold=0.8)
    time = Objective(name="training_time", maximize=False, threshold=60)
    stored = Objective(name="memory", maximize=False, strategy=Strategy.STORE)
    some = trials(
        {"auc": 0.81, "training_time": 90.06},  # only too slow
        {"auc": 0.85, "training_time": 200},
        {"auc": 0.75, "training_time": 50},  # only too bad
        {"auc": 0.79, "training_time": 61},  # both, a little
    )
    found = findings(study(auc, time, stored), some)
    assert {(w.metric, w.value, w.number) for way in found.ways for w in way} == {
        ("training_time", 90.06, 0), ("auc", 0.75, 2)
    }  # fmt: skip
    assert found.nearest is some[3]  # by a tenth of what aucs differ, and a 150th of the times
    good = Trial(4, {"x": 0.5}, state=TrialState.FINISHED, values={"auc": 0.9, "training_time": 1})
    assert findings(study(auc, time), [*some, good]).nearest is None
    both = findings(study(auc, time), [some[3]])
    assert both.words.startswith("The one finished trial does not keep all thresholds. What would")
    assert [[w.metric for w in way] for way in both.ways] == [["auc", "training_time"]]
    assert " and relax the threshold of training_time from 60 to 61" in both.words


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(1, 100)), min_size=1, max_size=12),
       st.floats(0, 1), st.floats(1, 100))  # fmt: skip
def test_every_proposed_way_makes_a_trial_feasible(
    points: list[tuple[float, float]], least: float, most: float
) -> None:
    auc = Objective(name="auc", maximize=True, threshold=least)
    time = Objective(name="training_time", maximize=False, threshold=most)
    some = trials(*({"auc": a, "training_time": t} for a, t in points))
    found = findings(study(auc, time), some)
    assert bool(found.ways) == (not found.feasible)
    for way in found.ways:
        bounds = {o.name: o.threshold for o in (auc, time)} | {w.metric: w.value for w in way}
        relaxed = study(
            Objective(name="auc", maximize=True, threshold=bounds["auc"]),
            Objective(name="training_time", maximize=False, threshold=bounds["training_time"]),
        )
        assert way[0].number in [t.number for t in findings(relaxed, some).feasible]


@pytest.mark.parametrize(("value", "maximize", "rounded"), [
    (0.712399, True, 0.7123), (0.712301, False, 0.7124), (61.0, False, 61.0), (0.0, True, 0.0),
    (-0.712399, True, -0.7124), (123456.0, False, 123500.0), (9.99999, False, 10.0),
])  # fmt: skip
def test_a_proposed_threshold_is_rounded_to_where_it_is_kept(
    value: float, maximize: bool, rounded: float
) -> None:
    assert outward(Objective(name="m", maximize=maximize), value) == rounded


coordinates = st.integers(0, 8).map(float)
pairs = st.lists(st.tuples(coordinates, coordinates), max_size=12)
triples = st.lists(st.tuples(coordinates, coordinates, coordinates), max_size=8)


@given(triples)
def test_the_front_is_what_no_point_beats(points: list[tuple[float, float, float]]) -> None:
    front = non_dominated(points)
    for index, point in enumerate(points):
        beaten = any(all(a <= b for a, b in zip(p, point, strict=True)) and p != point
                     for p in points)  # fmt: skip
        assert (index in front) == (not beaten)


def test_a_point_that_is_no_number_is_never_on_the_front() -> None:
    assert non_dominated([(math.nan, 0.0), (1.0, 1.0)]) == [1]
    assert non_dominated([(math.inf, 0.0), (1.0, 1.0)]) == [0, 1]


@given(pairs)
def test_the_area_is_that_of_the_cells_below(points: list[tuple[float, float]]) -> None:
    cells = itertools.product(range(8), repeat=2)
    count = sum(any(x <= a and y <= b for x, y in points) for a, b in cells)
    assert hypervolume(points, (8.0, 8.0)) == count


@given(triples)
def test_the_volume_is_that_of_the_cells_below(points: list[tuple[float, float, float]]) -> None:
    cells = itertools.product(range(8), repeat=3)
    count = sum(any(x <= a and y <= b and z <= c for x, y, z in points) for a, b, c in cells)
    assert hypervolume(points, (8.0, 8.0, 8.0)) == count


def test_volumes_of_one_metric_and_of_too_many() -> None:
    assert hypervolume([(3.0,), (5.0,)], (10.0,)) == 7.0
    assert hypervolume([(3.0, 11.0)], (10.0, 10.0)) == 0.0
    with pytest.raises(ValueError, match="one to three"):
        hypervolume([(0.0,) * 4], (1.0,) * 4)


def test_the_reference_is_the_threshold_or_the_worst_value() -> None:
    time = Objective(name="training_time", maximize=False, threshold=60)
    some = trials({"auc": 0.7, "training_time": 90}, {"auc": 0.6, "training_time": 20})
    assert reference_point(study(AUC, time), some) == (-0.6, 60)


def test_a_knee_is_a_point_below_the_line_between_the_ends() -> None:
    assert knee([(0, 10), (1, 1), (10, 0)]) == 1
    assert knee([(0, 10, 5), (1, 1, 1), (10, 0, 5), (5, 5, 0)]) == 1
    assert knee([(0, 10), (5, 5), (10, 0)]) is None  # straight
    assert knee([(0, 10), (9, 9), (10, 0)]) is None  # bent the other way
    assert knee([(0, 1), (1, 0)]) is None
    assert knee([(1,), (2,), (3,)]) is None
