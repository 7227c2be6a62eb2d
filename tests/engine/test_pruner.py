"""Pruning on streamed metrics: who is compared, when, and what recorded trainings would save."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.advisor.pruning import saved
from engine.hpo import pruner
from engine.hpo.pruner import AshaPruner, MedianPruner, NoPruner, loss_at, replay
from engine.hpo.space import Parameter, Space, Type
from engine.hpo.study import Objective, Study
from engine.hpo.trials import Report, Trial, TrialState

AUC = Objective(name="auc", maximize=True)
LOSS = Objective(name="logloss", maximize=False)
SPACE = Space(parameters=(Parameter(name="x", type=Type.DOUBLE, low=0.0, high=1.0),))
RECORDED = Path(__file__).parents[1] / "data" / "dlrm_curves.json"


def trial(number: int, *values: float, name: str = "auc", every: int = 10,
          state: TrialState = TrialState.FINISHED, origin: str = "search") -> Trial:  # fmt: skip
    reports = [Report(every * (n + 1), value) for n, value in enumerate(values)]
    return Trial(number=number, assignment={}, state=state, origin=origin, reports={name: reports})


def running(*values: float, name: str = "auc", every: int = 10) -> Trial:
    return trial(99, *values, name=name, every=every, state=TrialState.RUNNING)


FIVE = [trial(n, 0.5 + 0.01 * n, 0.6 + 0.01 * n, 0.7 + 0.01 * n) for n in range(5)]


def test_the_median_waits_for_five_finished_trials_and_tells_why() -> None:
    rule = MedianPruner(AUC)
    assert rule.decide(running(0.1), FIVE[:4]) == ""
    pruned = [trial(n, 0.9, state=TrialState.PRUNED) for n in range(10, 20)]
    assert rule.decide(running(0.1), [*FIVE[:4], *pruned]) == ""
    assert rule.decide(running(0.1), FIVE) == (
        "auc 0.1 at step 10 is worse than the median 0.52 of 5 finished trials"
    )
    assert rule.decide(running(0.52), FIVE) == ""
    assert rule.decide(running(0.519), FIVE) != ""


def test_trials_are_compared_at_the_same_step() -> None:
    rule = MedianPruner(AUC)
    assert rule.decide(running(0.5, 0.63), FIVE) == ""  # 0.62 there, though 0.72 at their end
    assert "median 0.62" in rule.decide(running(0.5, 0.61), FIVE)
    assert rule.decide(running(0.571, every=15), FIVE) == ""  # half way between 0.52 and 0.62
    assert rule.decide(running(0.569, every=15), FIVE) != ""
    assert rule.decide(running(0.1, every=5), FIVE) == ""  # nobody has a value there yet


def test_the_best_value_so_far_counts_and_smaller_may_be_better() -> None:
    assert MedianPruner(AUC).decide(running(0.9, 0.1), FIVE) == ""
    five = [trial(n, 0.5 + 0.01 * n, name="logloss") for n in range(5)]
    assert MedianPruner(LOSS).decide(running(0.51, name="logloss"), five) == ""
    assert "median 0.52" in MedianPruner(LOSS).decide(running(0.53, name="logloss"), five)


def test_reports_that_are_no_numbers_are_never_good() -> None:
    for bad in (math.nan, math.inf, -math.inf):
        assert "no number" in MedianPruner(AUC).decide(running(bad), FIVE)
        assert "no number" in MedianPruner(LOSS).decide(
            running(bad, name="logloss"), [trial(n, 0.5, name="logloss") for n in range(5)]
        )
        assert MedianPruner(AUC).decide(running(0.9, bad), FIVE) == ""
    # five rivals of which three had none: whoever has a number is better than their median
    rivals = [trial(n, math.nan) for n in range(3)] + [trial(n, 0.9) for n in (3, 4)]
    assert MedianPruner(AUC).decide(running(0.1), rivals) == ""


def test_asha_lets_one_of_three_go_on_at_each_rung() -> None:
    rule = AshaPruner(AUC)
    rivals = [trial(n, *([0.5 + 0.01 * n] * 9)) for n in range(8)]  # best 0.57
    low, good = [0.1] * 9, [0.56] * 9
    decided = [rule.decide(running(*low[: n + 1]), rivals) for n in range(9)]
    assert [n for n, why in enumerate(decided, 1) if why] == [3, 9]
    assert decided[2] == (
        "auc 0.1 at step 30 is not among the best 3 of 9 trials there (from 0.55 on)"
    )
    assert not any(rule.decide(running(*good[: n + 1]), rivals) for n in range(9))
    assert rule.decide(running(*low[:3]), rivals[:3]) == ""  # too few rivals
    failed = [trial(n, *([0.9] * 9), state=TrialState.FAILED) for n in range(9)]
    assert rule.decide(running(*low[:3]), failed) == ""


def test_the_default_assignment_is_never_pruned() -> None:
    for rule in (MedianPruner(AUC), AshaPruner(AUC)):
        first = running(0.1, 0.1, 0.1)
        assert rule.decide(first, FIVE)
        first.origin = "default"
        assert rule.decide(first, FIVE) == ""


def test_only_a_single_objective_is_pruned() -> None:
    one, two = Study(space=SPACE, objectives=(AUC,)), Study(space=SPACE, objectives=(AUC, LOSS))
    assert isinstance(pruner.make("asha", one), AshaPruner)
    assert isinstance(pruner.make("median", one), MedianPruner)
    assert isinstance(pruner.make("none", one), NoPruner)
    assert isinstance(pruner.make("asha", two), NoPruner)


numbers = st.floats(allow_nan=True, allow_infinity=True, width=32)
curves = st.lists(st.lists(numbers, min_size=1, max_size=12), min_size=1, max_size=12)


@given(curves, st.sampled_from([AshaPruner(AUC), MedianPruner(AUC)]), st.integers(1, 4))
def test_any_curves_replay_to_the_end(
    values: list[list[float]], rule: pruner.Pruner, slots: int
) -> None:
    found = replay(
        [[Report(n + 1, value) for n, value in enumerate(curve)] for curve in values],
        rule, AUC, slots,
    )  # fmt: skip
    assert 0 < found.steps <= found.steps_of_all == sum(map(len, values))
    assert (found.steps == found.steps_of_all) or found.reasons
    assert 0 not in found.reasons
    assert not found.best > found.best_of_all
    if len(values) <= pruner.RIVALS_FIRST:
        assert not found.reasons


@given(curves, st.integers(0, 11), st.floats(0.1, 10))
def test_what_prunes_a_trial_prunes_each_one_that_is_worse(
    values: list[list[float]], at: int, less: float
) -> None:
    rivals = [trial(n, *curve) for n, curve in enumerate(values)]
    for rule in (AshaPruner(AUC), MedianPruner(AUC)):
        one = running(*[0.5] * (at + 1))
        if rule.decide(one, rivals):
            assert rule.decide(running(*[0.5 - less] * (at + 1)), rivals)


@given(st.lists(numbers, min_size=1, max_size=12), st.integers(0, 150))
def test_a_loss_at_a_step_never_rises(values: list[float], step: int) -> None:
    one = trial(0, *values)
    early, late = loss_at(one, AUC, step), loss_at(one, AUC, step + 7)
    assert (early is None) == (step < 10)
    assert early is None or (late is not None and late <= early)


def test_pruning_saves_steps_and_keeps_the_best_of_curves_that_cross() -> None:
    """60 trainings that saturate at different heights; the later ones overtake for a while."""

    def curve(number: int) -> list[Report]:
        height, speed = 0.70 + 0.002 * ((number * 37) % 50), 0.15 + 0.01 * ((number * 13) % 20)
        return [Report(n, height - 0.2 * math.exp(-speed * n)) for n in range(1, 21)]

    recorded = [curve(number) for number in range(60)]
    for rule in (AshaPruner(AUC), MedianPruner(AUC)):
        found = replay(recorded, rule, AUC)
        assert found.best_of_all - found.best <= 0.002
        assert found.saved >= 0.25
    assert replay(recorded, NoPruner(), AUC).saved == 0


@pytest.mark.parametrize("slots", [1, 2])
def test_recorded_trainings_would_be_saved_a_good_part_of_their_steps(slots: int) -> None:
    """Real DLRM trials of a random search (bench/curves.py); as recorded and in other orders."""
    trials = json.loads(RECORDED.read_text(encoding="utf-8"))["trials"]
    assert len(trials) >= 40
    assert min(len(one["reports"]) for one in trials) >= 20
    for seed in range(10):
        order = trials[:1] + random.Random(seed).sample(trials[1:], len(trials) - 1)
        chosen = order if seed else trials
        curves = [[Report(rows, value) for _, rows, value in one["reports"]] for one in chosen]
        found = replay(curves, AshaPruner(AUC), AUC, slots)
        steps = [[step for step, _, _ in one["reports"]] for one in chosen]
        done = sum(own[count - 1] for own, count in zip(steps, found.reports, strict=True))
        assert 1 - done / sum(own[-1] for own in steps) >= 0.4
        assert found.saved >= 0.4
        assert found.best_of_all - found.best <= 0.001


@pytest.mark.parametrize("name", ["asha", "median", "none"])
@pytest.mark.parametrize("trials", [10, 20, 48])
def test_what_the_advisor_expects_to_save_is_what_recorded_trainings_save(
    name: str, trials: int
) -> None:
    """The same trials as they would be with fewer validations, the mean of ten orders."""
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))["trials"]
    rule = pruner.make(name, Study(space=SPACE, objectives=(AUC,)))
    for count in (2, 3, 4, 8, 12, 24):
        found = []
        for seed in range(10):
            rest = random.Random(seed).sample(recorded[1:], trials - 1)
            seen = slice(24 // count - 1, None, 24 // count)
            curves = [
                [Report(rows, value) for _, rows, value in one["reports"][seen]]
                for one in [recorded[0], *rest]
            ]
            found.append(replay(curves, rule, AUC, slots=2).saved)
        expected = saved(name, count, trials)
        assert abs(sum(found) / len(found) - expected) <= 0.15, (count, sum(found) / len(found))
        assert expected == 0 or name != "none"
