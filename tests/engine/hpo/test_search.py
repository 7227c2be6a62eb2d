"""The scheduler of a search: whatever ends, fails or is killed, every trial has one end."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import events as ev
from engine.errors import HostLost, RunStopped, StepFailed
from engine.hpo import optimizers
from engine.hpo import search as search_module
from engine.hpo.leases import Ended, Heard, Lease, Outcome
from engine.hpo.search import Policy, Search
from engine.hpo.space import Parameter, Space, Type
from engine.hpo.study import TRAINING_TIME, Budget, Objective, Strategy
from engine.hpo.trials import Failure, Trial, TrialState
from tests.engine.hpo.scripted import (
    FATES,
    Drawn,
    Journal,
    Killed,
    World,
    X,
    accuracy,
    slots,
    study,
)


@pytest.fixture(autouse=True)
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot whose host was lost may be used again at once, and for ever."""
    monkeypatch.setattr(search_module, "REST_S", 0.0)
    monkeypatch.setattr(search_module, "MOST_LOSSES", 10**6)


def make(world: World, journal: Journal, count: int = 3, **fields: Any) -> Search:
    known = {"study": study(), "optimizer": Drawn(), "runner": world, "slots": slots(count)}
    state = journal.state()
    fields = {"trials": state.trials, "died": state.updated, **fields}
    return Search(**{**known, "journal": journal.append, **fields})


def search(fates: Sequence[str] = ("finish",), seed: int = 0, **fields: Any) -> tuple[
    Trial | None, Journal, World
]:  # fmt: skip
    world, journal = World(random.Random(seed), fates), Journal()
    return make(world, journal, **fields).run(), journal, world


def check(journal: Journal) -> dict[int, list[str]]:
    """What must hold of every journal, read without the fold; number -> its terminal states."""
    token: dict[int, int] = {}
    ends: dict[int, list[str]] = {}
    over, highest = set(), 0
    for event in journal.events():
        if isinstance(event, ev.TrialQueued):
            assert event.trial not in ends, "queued twice"
            ends[event.trial] = []
        elif isinstance(event, ev.TrialStarted):
            assert not ends[event.trial], "runs after its end"
            assert event.token > highest
            token[event.trial] = highest = event.token
            over.discard(event.trial)
        elif isinstance(event, ev.TrialEnded):
            assert event.token == token.get(event.trial, 0)
            assert event.trial not in over or event.state == "pruned", "the same lease ends twice"
            over.add(event.trial)
            if event.state != "interrupted":
                ends[event.trial].append(event.state)
    return ends


def test_all_trials_finish_and_the_best_is_returned() -> None:
    best, journal, world = search()
    ends = check(journal)
    assert ends == {number: ["finished"] for number in range(12)}
    trials = journal.state().trials
    assert best is not None
    assert best.values["accuracy"] == max(accuracy(t.assignment) for t in trials.values())
    assert world.dropped == set(range(12)) - {best.number}
    assert [r.step for r in trials[4].reports["accuracy"]] == [1, 2, 3]
    assert trials[4].reports["accuracy"][-1].value == accuracy(trials[4].assignment)
    assert trials[4].log == f"/logs/4.{trials[4].token}"


def test_the_progress_counts_no_trials_that_there_cannot_be() -> None:
    sizes = (Parameter(name="x", type=Type.DOUBLE, choices=(0.1, 0.2, 0.3, 0.4)),)
    for space, budget, total in (
        (Space(parameters=sizes), Budget(trials=100), 4),
        (Space(parameters=sizes), Budget(trials=None), 4),
        (Space(parameters=sizes), Budget(trials=3), 3),
        (X, Budget(trials=5), 5),
    ):
        searched = study(space=space, budget=budget)
        _, journal, _ = search(study=searched, optimizer=optimizers.make("grid", searched)
                               if space is not X else Drawn())  # fmt: skip
        told = [e for e in journal.events() if isinstance(e, ev.StepProgressed)]
        assert [(e.done, e.total) for e in told] == [(n, total) for n in range(1, total + 1)]


def test_the_default_assignment_comes_first_then_those_of_the_user() -> None:
    _, journal, _ = search(study=study(start=[{"x": 0.1}, {"x": 0.9}]))
    trials = journal.state().trials
    assert [(trials[n].origin, trials[n].assignment["x"]) for n in range(3)] == [
        ("default", 0.5), ("start", 0.1), ("start", 0.9)
    ]  # fmt: skip
    assert {trials[n].origin for n in range(3, 12)} == {"search"}


def is_tried_again(trial: Trial, trials: Mapping[int, Trial]) -> bool:
    """Whether a later trial has taken the place of one that the search had failed of."""
    later = (t for n, t in trials.items() if n > trial.number)
    failed = trial.state is TrialState.FAILED
    return failed and any(t.assignment == trial.assignment for t in later)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    kills=st.lists(st.integers(2, 260), max_size=8),
    count=st.integers(1, 5),
    retries=st.integers(0, 2),
    stops=st.lists(st.integers(1, 60), max_size=2),
)
def test_whatever_happens_every_trial_has_one_end(
    seed: int, kills: list[int], count: int, retries: int, stops: list[int]
) -> None:
    """Any order of ends, failures, lost hosts, stops and kills -9 of the engine, each resumed."""
    world = World(random.Random(seed), [*FATES, *["finish"] * 12])
    journal = Journal(kill_at=kills)
    best = None
    for _ in range(len(kills) + len(stops) + 8):
        asked = iter([0] * stops.pop() + [1] * 10_000) if stops else iter(lambda: 0, 1)
        made = make(
            world, journal, count, policy=Policy(retries=retries), optimizer=Drawn(),
            stop_level=lambda asked=asked: next(asked),
        )  # fmt: skip
        try:
            best = made.run()
            break
        except Killed:
            world.engine_died()
        except RunStopped:
            assert not world.live, "left running after a stop"
        except StepFailed as failure:
            assert "of the first" in failure.what
            assert not world.live
    assert best is not None, "too few resumes"
    ends = check(journal)
    trials = journal.state().trials
    again = [t for t in trials.values() if is_tried_again(t, trials)]
    assert sorted(ends) == list(range(12 + len(again)))
    assert all(len(states) == 1 for states in ends.values()), ends
    finished = [t for t in trials.values() if t.state is TrialState.FINISHED]
    assert not any(t.state is TrialState.PRUNED for t in trials.values())
    assert all(t.values == {"accuracy": accuracy(t.assignment)} for t in finished)
    assert best.number in {t.number for t in finished}
    assert best.values["accuracy"] == max(accuracy(t.assignment) for t in finished)
    assert best.number not in world.dropped
    assert world.whole_numbers <= {t.number for t in finished}
    for trial in trials.values():
        assert trial.retries <= retries
        drawn = {"x": 0.5} if trial.number == 0 else Drawn().ask(trial.number)
        assert trial.assignment == drawn or trial.assignment in [t.assignment for t in again]


def test_a_kill_changes_nothing_of_what_is_asked_and_told() -> None:
    """The resumed optimizer hears every ended trial once, and of all that wait."""
    world, journal = World(random.Random(3), ["finish"]), Journal(kill_at=[80])
    with pytest.raises(Killed):
        make(world, journal).run()
    before = {n for n, t in journal.state().trials.items() if t.state is TrialState.FINISHED}
    world.engine_died()
    again = Drawn()
    make(world, journal, optimizer=again).run()
    told = [number for number, _, _ in again.told]
    assert before and before <= set(told[: len(before) + 3])
    assert sorted(told) == list(range(12))
    assert not again.waiting


def test_what_ran_when_its_run_ended_is_interrupted_and_judged_by_the_next_engine() -> None:
    world, journal = World(random.Random(3), ["finish"]), Journal(kill_at=[80])
    with pytest.raises(Killed):
        make(world, journal).run()
    world.engine_died()
    before = journal.state().trials
    running = {n for n, trial in before.items() if trial.state is TrialState.RUNNING}
    assert running
    journal.append(ev.RunEnded(t=time.time(), status="failed", exit_code=1))
    after = journal.state().trials
    assert {n for n, t in after.items() if t.state is TrialState.INTERRUPTED} == running
    assert not any(trial.state is TrialState.RUNNING for trial in after.values())
    make(world, journal).run()
    assert check(journal) == {number: ["finished"] for number in range(12)}
    ended = [e for e in journal.events() if isinstance(e, ev.TrialEnded)]
    told = {(e.trial, e.token) for e in ended}
    assert {(n, before[n].token) for n in running} <= told  # each of these leases has its end


class Silent(World):
    """Its trials say and end nothing by themselves; stopped ones obey."""

    def poll(self, timeout_s: float) -> Sequence[Heard | Ended]:
        time.sleep(0.002)
        found: list[Heard | Ended] = list(self.words)
        self.words = []
        for live in list(self.live.values()):
            if live.level:
                outcome = Outcome(state=TrialState.INTERRUPTED, seconds=1.0)
                found.append(self._ended(live, outcome))
        return found


def test_a_word_of_an_earlier_lease_changes_nothing() -> None:
    world, journal = World(random.Random(1), ["finish"]), Journal(kill_at=[9])
    with pytest.raises(Killed):
        make(world, journal, 1).run()
    stale = world.leases[0]
    world.live.clear()
    world.words = [
        Heard(stale.number, stale.token, "accuracy", 99, 7.0),
        Ended(stale.number, stale.token,
              Outcome(state=TrialState.FINISHED, values={"accuracy": 7.0})),
    ]  # fmt: skip
    make(world, journal, 1).run()
    trial = journal.state().trials[stale.number]
    assert trial.values == {"accuracy": accuracy(trial.assignment)}
    assert max(report.value for report in trial.reports["accuracy"]) < 1.1
    late = [
        ev.TrialEnded(t=9, step="search", trial=0, token=stale.token, state="failed"),
        ev.TrialMeasured(t=9, step="search", trial=0, token=stale.token, name="accuracy",
                         value=7.0, step_count=99),
        ev.TrialEnded(t=9, step="search", trial=0, token=trial.token, state="failed"),
    ]  # fmt: skip
    for event in late:
        journal.append(event)
    assert journal.state().trials[0] == trial


def test_a_crash_is_tried_again_and_nan_is_not() -> None:
    for fate, tries, failure in [
        ("crash", 3, Failure.CRASH), ("memory", 3, Failure.OUT_OF_MEMORY), ("nan", 1, Failure.NAN),
        ("no metric", 1, Failure.NO_METRIC), ("bad input", 1, Failure.BAD_INPUT),
    ]:  # fmt: skip
        world, journal = World(random.Random(0), [fate]), Journal()
        with pytest.raises(StepFailed, match="3 of the first 3 trials failed") as caught:
            make(world, journal, 1, policy=Policy(retries=2)).run()
        trials = journal.state().trials
        assert {t.state for t in list(trials.values())[:3]} == {TrialState.FAILED}
        assert {(t.tries, t.failure) for t in list(trials.values())[:3]} == {(tries, failure)}
        assert str(failure) in caught.value.why
        assert len(world.leases) == 3 * tries


def test_interrupted_trials_run_again_without_using_the_budget() -> None:
    _, journal, world = search(fates=["finish", "lost"], seed=4, policy=Policy(retries=0))
    lost = Counter(e.state for e in journal.events() if isinstance(e, ev.TrialEnded))
    assert lost["interrupted"] > 0
    assert lost["finished"] == 12
    assert len(world.leases) == 12 + lost["interrupted"]


def test_a_host_that_is_lost_again_and_again_gets_no_more_trials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search_module, "MOST_LOSSES", 3)
    world, journal = World(random.Random(0), ["lost"]), Journal()
    with pytest.raises(HostLost, match="no host is left"):
        make(world, journal, 2).run()
    assert Counter(lease.slot.cores for lease in world.leases) == {(0,): 3, (1,): 3}
    assert {t.state for t in journal.state().trials.values()} == {TrialState.INTERRUPTED}


def test_a_pruned_trial_is_stopped_and_keeps_what_it_had_reached() -> None:
    class Never:
        def decide(self, trial: Trial, others: Sequence[Trial]) -> str:
            assert trial not in others
            step = trial.reports["accuracy"][-1].step
            return "it is hopeless" if trial.number % 2 and step == 2 else ""

    world, journal = World(random.Random(0), ["finish"], steps=1000), Journal()
    world.steps = 40
    best = make(world, journal, pruner=Never()).run()
    trials = journal.state().trials
    assert best.number % 2 == 0
    for number in range(1, 12, 2):
        if trials[number].state is TrialState.PRUNED:
            assert trials[number].what == "it is hopeless"
            assert trials[number].values["accuracy"] == trials[number].reports["accuracy"][-1].value
    assert sum(t.state is TrialState.PRUNED for t in trials.values()) >= 5
    assert check(journal).keys() == set(range(12))


def test_a_metric_that_is_no_number_ends_a_trial_at_once() -> None:
    class Diverging(Silent):
        def start(self, lease: Lease) -> None:
            super().start(lease)
            self.words.append(Heard(lease.number, lease.token, "accuracy", 5, float("nan")))

    world, journal = Diverging(random.Random(0)), Journal()
    with pytest.raises(StepFailed, match="3 of the first 3") as caught:
        make(world, journal, 1).run()
    assert "accuracy is nan at step 5" in caught.value.why
    assert journal.state().trials[0].failure is Failure.NAN


def test_a_trial_that_takes_too_long_is_a_failed_one() -> None:
    world, journal = Silent(random.Random(0)), Journal()
    with pytest.raises(StepFailed, match="3 of the first 3") as caught:
        make(world, journal, 1, policy=Policy(timeout_s=0.02)).run()
    assert journal.state().trials[2].failure is Failure.TIMEOUT
    assert "longer than" in caught.value.why


@pytest.mark.parametrize(("count", "trials"), [(1, 2), (1, 12), (3, 12)])
def test_what_a_search_failed_of_is_tried_again_once_its_cause_is_mended(
    count: int, trials: int
) -> None:
    """Also when it was not mended the first time; the budget is that of the trials that count."""
    world, journal = World(random.Random(0), ["crash"]), Journal()
    searched = study(budget=Budget(trials=trials), start=[{"x": 0.1}])
    for _ in range(2):
        with pytest.raises(StepFailed, match="resume") as caught:
            make(world, journal, count, study=searched, policy=Policy(retries=0)).run()
        assert "trials failed" in caught.value.what or "no trial" in caught.value.what
        assert not world.live
    failed = [t for t in journal.state().trials.values() if t.state is TrialState.FAILED]
    world.fates = ["finish"]
    again = Drawn()
    best = make(world, journal, count, study=searched, optimizer=again).run()
    ends = check(journal)
    assert best.values["accuracy"] == max(
        t.values["accuracy"] for t in journal.state().trials.values() if t.values
    )
    assert [ends[t.number] for t in failed] == [["failed"]] * len(failed)
    finished = [t for t in journal.state().trials.values() if t.state is TrialState.FINISHED]
    assert len(finished) == trials
    assert len(ends) == trials + len(failed)
    assert {"default", "start"} <= {t.origin for t in finished}
    assert {t.assignment["x"] for t in failed} <= {t.assignment["x"] for t in finished}
    assert not again.waiting


def test_a_stop_interrupts_what_runs_and_resume_goes_on() -> None:
    world, journal = Silent(random.Random(0)), Journal()
    levels = iter([0] * 12 + [1] * 1000)
    with pytest.raises(RunStopped):
        make(world, journal, stop_level=lambda: next(levels)).run()
    assert not world.live
    trials = journal.state().trials
    assert {t.state for t in trials.values() if t.tries} == {TrialState.INTERRUPTED}
    leased = {t.number for t in trials.values() if t.tries}
    healthy = World(random.Random(1), ["finish"])
    make(healthy, journal).run()
    assert leased <= {lease.number for lease in healthy.leases}
    assert all(states == ["finished"] for states in check(journal).values())


def test_patience_ends_a_search_without_a_better_trial() -> None:
    world, journal = World(random.Random(0), ["finish"]), Journal()
    budget = Budget(trials=None, patience=7)
    best = make(world, journal, 1, study=study(budget=budget)).run()
    values = [t.values["accuracy"] for t in journal.state().trials.values()]
    assert best.number == len(values) - 8
    assert max(values) == values[-8]


def test_minutes_end_a_search_and_what_runs_then_is_pruned() -> None:
    class OneEnds(Silent):
        def poll(self, timeout_s: float) -> Sequence[Heard | Ended]:
            found = list(super().poll(timeout_s))
            first = next((x for x in self.live.values() if x.lease.number == 0), None)
            if first is not None:
                time.sleep(0.06)
                values = {"accuracy": 0.9}
                outcome = Outcome(state=TrialState.FINISHED, values=values, seconds=0.06)
                found.append(self._ended(first, outcome))
            return found

    world, journal = OneEnds(random.Random(0)), Journal()
    budget = Budget(trials=None, minutes=0.05 / 60)
    best = make(world, journal, 3, study=study(budget=budget)).run()
    trials = journal.state().trials
    assert best.number == 0
    assert {n: t.state for n, t in trials.items()} == {
        0: TrialState.FINISHED, 1: TrialState.PRUNED, 2: TrialState.PRUNED
    }  # fmt: skip
    assert "minutes" in trials[1].what


def test_minutes_end_a_search_all_of_whose_trials_hang() -> None:
    world, journal = Silent(random.Random(0)), Journal()
    budget = Budget(trials=None, minutes=0.05 / 60)
    with pytest.raises(StepFailed, match="no trial of the search finished"):
        make(world, journal, 3, study=study(budget=budget)).run()
    trials = journal.state().trials
    assert [trial.state for trial in trials.values()] == [TrialState.PRUNED] * 3
    assert world.live == {}


def test_nothing_is_begun_after_the_target_is_reached() -> None:
    _, journal, _ = search(study=study(target=0.99))
    values = [trial.values["accuracy"] for trial in journal.state().trials.values()]
    assert [value >= 0.99 for value in values].index(True) >= len(values) - 3 > 0
    assert len(values) < 12
    best = max(range(len(values)), key=values.__getitem__)
    assert told(journal) == [f"the search ends: trial {best} reached the target of 0.99"]


def told(journal: Journal) -> list[str]:
    return [event.text for event in journal.events() if isinstance(event, ev.Noted)]


def test_why_a_search_ends_before_its_number_of_trials_is_told() -> None:
    _, journal, _ = search(study=study(budget=Budget(trials=200, patience=5)))
    (said,) = told(journal)
    since = int(said.removeprefix("the search ends: no better trial among the last "))
    assert since >= 5
    _, journal, _ = search()
    assert told(journal) == []  # all 12 were tried


def test_an_exhausted_optimizer_ends_the_search() -> None:
    _, journal, _ = search(optimizer=Drawn(points=5))
    assert len(journal.state().trials) == 5


def test_trials_of_earlier_searches_are_learnt_from_and_not_counted() -> None:
    known = [
        Trial(7, {"x": 0.31}, state=TrialState.FINISHED, values={"accuracy": 0.99995}),
        Trial(9, {"x": 0.8}, state=TrialState.FAILED, failure=Failure.NAN),
    ]
    optimizer = Drawn()
    best, journal, _ = search(earlier=lambda: known, optimizer=optimizer)
    trials = journal.state().trials
    assert len(trials) == 14
    assert [(trials[n].origin, trials[n].state) for n in (2, 3)] == [
        ("warm", TrialState.FINISHED), ("warm", TrialState.FAILED)
    ]  # fmt: skip
    assert optimizer.told[0] == (2, TrialState.FINISHED, {"accuracy": 0.99995})
    assert best is not None
    assert best.origin != "warm"
    # The best that was known is trained here, too: the search never ends with less than that.
    assert (trials[1].origin, trials[1].assignment) == ("start", {"x": 0.31})
    assert best.values["accuracy"] >= accuracy({"x": 0.31})
    _, journal_of_one, _ = search(earlier=lambda: known, study=study(budget=Budget(trials=1)))
    origins = [trial.origin for trial in journal_of_one.state().trials.values()]
    assert origins == ["default", "warm", "warm"]
    resumed = Drawn()
    gone = pytest.fail  # the earlier searches may have been removed since
    make(World(random.Random(0)), journal, optimizer=resumed, earlier=gone).run()
    assert [number for number, _, _ in resumed.told] == list(range(14))


def test_thresholds_come_before_the_metric() -> None:
    fast = Objective(name=TRAINING_TIME, maximize=False, strategy=Strategy.CONSTRAINT, threshold=2)
    strict = Objective(name="accuracy", maximize=True, threshold=0.99)
    made = study(objectives=(strict, fast))
    best, _, _ = search(study=made)
    assert best is not None
    assert best.values[TRAINING_TIME] == 2.0
    assert made.is_feasible(best.values)
    assert X.check(best.assignment)
