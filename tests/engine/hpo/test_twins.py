"""An assignment that has finished in a search is not trained in it again."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import events as ev
from engine.hpo import front
from engine.hpo import search as search_module
from engine.hpo.grid import GridSearch
from engine.hpo.results import counts
from engine.hpo.search import MOST_REPEATS, Policy, Search
from engine.hpo.space import Parameter, Space, Type
from engine.hpo.study import Budget
from engine.hpo.trials import Trial, TrialState
from models.settings import Scalar
from tests.engine.hpo.scripted import FATES, Drawn, Journal, Killed, World, accuracy, slots, study

TENTHS = Space(
    parameters=(
        Parameter(name="x", type=Type.DOUBLE, choices=tuple(n / 10 for n in range(6)), default=0.5),
    )
)


@pytest.fixture(autouse=True)
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot whose host was lost may be used again at once, and for ever."""
    monkeypatch.setattr(search_module, "REST_S", 0.0)
    monkeypatch.setattr(search_module, "MOST_LOSSES", 10**6)


class Repeating(Drawn):
    """Draws one of few points for each trial, whatever was tried."""

    def __init__(self, points: Sequence[float]) -> None:
        super().__init__()
        self.choices = points

    def ask(self, number: int) -> dict[str, Scalar] | None:
        super().ask(number)
        return {"x": random.Random(number).choice(self.choices)}


def make(world: World, journal: Journal, count: int = 3, **fields: Any) -> Search:
    state = journal.state()
    known: dict[str, Any] = {
        "study": study(space=TENTHS), "optimizer": Repeating([0.1, 0.2, 0.3]), "runner": world,
        "slots": slots(count), "trials": state.trials, "died": state.updated,
    }  # fmt: skip
    return Search(**{**known, "journal": journal.append, **fields})


def trained(world: World) -> Counter[float]:
    """By value of x how many trials were begun with it."""
    begun = {lease.number: float(lease.assignment["x"]) for lease in world.leases}
    return Counter(begun.values())


def test_a_repeated_assignment_takes_the_values_of_the_first() -> None:
    world, journal, optimizer = World(random.Random(0), ["finish"]), Journal(), Repeating([0.2])
    best = make(world, journal, optimizer=optimizer).run()
    trials = journal.state().trials
    assert trained(world) == {0.5: 1, 0.2: 1}
    assert best.number == 1
    assert best.as_trial is None
    assert trials[2].as_trial == 1
    assert (trials[2].state, trials[2].what) == (TrialState.FINISHED, "as trial 1")
    assert trials[2].values == trials[1].values == {"accuracy": accuracy({"x": 0.2})}
    assert (trials[2].tries, trials[2].seconds) == (0, 0.0)
    assert (2, TrialState.FINISHED, trials[1].values) in optimizer.told


def test_an_optimizer_that_only_repeats_ends_the_search_with_a_sentence() -> None:
    world, journal = World(random.Random(0), ["finish"]), Journal()
    make(world, journal, 1, optimizer=Repeating([0.1])).run()
    trials = journal.state().trials
    assert counts(list(trials.values())) == {"finished": 2, "repeated": MOST_REPEATS}
    notes = [event.text for event in journal.events() if isinstance(event, ev.Noted)]
    assert notes == [
        f"the search ends before its budget is used: its last {MOST_REPEATS} proposals had all "
        "been tried before"
    ]
    again = Repeating([0.1])
    make(world, journal, 1, optimizer=again).run()
    assert journal.state().trials == trials, "a resumed search asks no more"
    assert len(again.told) == len(trials)


def test_repetitions_use_no_budget_and_no_patience() -> None:
    world, journal = World(random.Random(0), ["finish"]), Journal()
    budget = Budget(trials=4, patience=3)
    make(world, journal, 2, study=study(space=TENTHS, budget=budget)).run()
    assert trained(world) == {0.5: 1, 0.1: 1, 0.2: 1, 0.3: 1}
    found = front.findings(study(space=TENTHS), journal.state().trials.values())
    assert len(found.finished) == 4


def test_start_points_that_are_equal_are_trained_once() -> None:
    world, journal = World(random.Random(3), ["finish"]), Journal()
    made = study(space=TENTHS, start=[{"x": 0.5}, {"x": 0.2}, {"x": 0.2}], budget=Budget(trials=2))
    make(world, journal, 4, study=made).run()
    trials = journal.state().trials
    assert [(trials[n].origin, trials[n].as_trial) for n in range(4)] == [
        ("default", None), ("start", 0), ("start", None), ("start", 2)
    ]  # fmt: skip
    assert trained(world) == {0.5: 1, 0.2: 1}


def test_a_grid_with_start_points_trains_every_point_once() -> None:
    made = study(space=TENTHS, start=[{"x": 0.2}, {"x": 0.5}], budget=Budget(trials=None))
    world, journal = World(random.Random(5), ["finish"]), Journal()
    make(world, journal, 3, study=made, optimizer=GridSearch(made)).run()
    assert trained(world) == {n / 10: 1 for n in range(6)}
    assert [t.as_trial for t in journal.state().trials.values() if t.as_trial is not None] == [0]
    assert not [event for event in journal.events() if isinstance(event, ev.Noted)]


def test_what_an_earlier_search_knows_is_trained_where_the_user_asks_for_it() -> None:
    """Its weights are not here; it is no twin, also not for the default assignment."""
    known = [Trial(3, {"x": 0.5}, state=TrialState.FINISHED, values={"accuracy": 0.96})]
    world, journal = World(random.Random(0), ["finish"]), Journal()
    made = study(space=TENTHS, budget=Budget(trials=2))
    make(world, journal, study=made, earlier=lambda: known).run()
    assert trained(world)[0.5] == 1
    assert journal.state().trials[1].origin == "warm"


def test_a_pruned_twin_and_a_failed_one_spare_nothing() -> None:
    world, journal = World(random.Random(0), ["bad input", "finish"]), Journal()
    made = study(space=TENTHS, start=[{"x": 0.5}] * 3, budget=Budget(trials=4))
    for _ in range(5):
        try:
            make(world, journal, 1, study=made).run()
            break
        except search_module.StepFailed:
            continue
    alike = [t for t in journal.state().trials.values() if t.assignment["x"] == 0.5]
    finished = [t for t in alike if t.state is TrialState.FINISHED and t.as_trial is None]
    assert len(finished) == 1
    assert all(t.number < finished[0].number for t in alike if t.state is TrialState.FAILED)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    kills=st.lists(st.integers(2, 120), max_size=6),
    count=st.integers(1, 5),
    start=st.lists(st.sampled_from([0.1, 0.3, 0.5]), max_size=4),
)
def test_no_assignment_is_trained_twice_whatever_is_killed(
    seed: int, kills: list[int], count: int, start: list[float]
) -> None:
    """Every finished assignment has one training; the others of it bear its number and values."""
    world, journal = World(random.Random(seed), [*FATES, *["finish"] * 12]), Journal(kill_at=kills)
    made = study(space=TENTHS, start=[{"x": x} for x in start], budget=Budget(trials=8))
    best = None
    for _ in range(len(kills) + 10):
        run = make(world, journal, count, study=made, policy=Policy(retries=2),
                   optimizer=Repeating([n / 10 for n in range(6)]))  # fmt: skip
        try:
            best = run.run()
            break
        except Killed:
            world.engine_died()
        except search_module.StepFailed:
            continue
    assert best is not None
    trials = journal.state().trials
    own = [t for t in trials.values() if t.state is TrialState.FINISHED and t.as_trial is None]
    once = Counter(t.assignment["x"] for t in own)
    assert set(once.values()) == {1}
    assert best in own
    for trial in trials.values():
        assert trial.state.is_over
        if trial.as_trial is not None:
            twin = trials[trial.as_trial]
            assert (twin.assignment, twin.values) == (trial.assignment, trial.values)
            assert twin.as_trial is None
