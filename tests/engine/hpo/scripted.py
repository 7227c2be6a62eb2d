"""A world of made-up trials: it outlives the engines that are killed in it, and it counts."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from engine import events as ev
from engine.hpo.leases import Ended, Heard, Lease, Outcome, Slot
from engine.hpo.space import Assignment, Parameter, Space, Type
from engine.hpo.study import Budget, Objective, Study
from engine.hpo.trials import Failure, TrialState
from engine.state import RunState, fold
from models.settings import Scalar

X = Space(parameters=(Parameter(name="x", type=Type.DOUBLE, low=0.0, high=1.0, default=0.5),))
ACCURACY = Objective(name="accuracy", maximize=True)


def study(**fields: object) -> Study:
    """One parameter, one metric."""
    known: dict[str, object] = {"space": X, "objectives": (ACCURACY,), "budget": Budget(trials=12)}
    return Study(**{**known, **fields})  # type: ignore[arg-type]


def accuracy(assignment: Assignment) -> float:
    """What a trial comes to: best at 0.3."""
    return 1.0 - (float(assignment["x"]) - 0.3) ** 2


class Drawn:
    """An optimizer that draws each trial from (seed, number) and remembers what it was told."""

    def __init__(self, points: int | None = None, seed: int = 1) -> None:
        self.points, self.seed = points, seed
        self.told: list[tuple[int, TrialState, dict[str, float]]] = []
        self.waiting: set[int] = set()

    def ask(self, number: int) -> dict[str, Scalar] | None:
        assert number not in self.waiting, "asked twice"
        if self.points is not None and number >= self.points:
            return None
        self.waiting.add(number)
        return {"x": random.Random(self.seed * 10_007 + number).random()}

    def pending(self, number: int, assignment: Assignment) -> None:
        assert number not in self.waiting
        self.waiting.add(number)

    def tell(
        self, number: int, assignment: Assignment, state: TrialState, values: Mapping[str, float]
    ) -> None:
        assert number not in {known for known, _, _ in self.told}, "told twice"
        self.waiting.discard(number)
        self.told.append((number, state, dict(values)))

    def close(self) -> None:
        """Nothing is held."""


class Killed(BaseException):
    """kill -9 of the engine."""


@dataclass
class Journal:
    """Keeps the events as bytes, and kills the engine before or after one of them."""

    kill_at: list[int] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)
    writes: int = 0

    def append(self, event: ev.Event) -> None:
        self.writes += 1
        if self.writes * 2 in self.kill_at:
            raise Killed
        self.lines.append(ev.encode(event))
        if self.writes * 2 + 1 in self.kill_at:
            raise Killed

    def events(self) -> list[ev.Event]:
        found = [ev.decode(line) for line in self.lines]
        return [event for event in found if event is not None]

    def state(self) -> RunState:
        return fold(self.events())


@dataclass
class _Live:
    lease: Lease
    level: int = 0
    step: int = 0


FATES = ("finish", "finish", "finish", "crash", "memory", "nan", "no metric", "lost", "bad input")


class World:
    """Runs leases by the dice. `outputs`: token -> values, of leases whose output is whole."""

    def __init__(self, dice: random.Random, fates: Sequence[str] = FATES, steps: int = 3) -> None:
        self.dice, self.fates, self.steps = dice, fates, steps
        self.live: dict[int, _Live] = {}
        self.outputs: dict[int, dict[str, float]] = {}
        self.whole_numbers: set[int] = set()
        self.leases: list[Lease] = []
        self.dropped: set[int] = set()
        self.words: list[Heard | Ended] = []

    def log(self, lease: Lease) -> str:
        return f"/logs/{lease.number}.{lease.token}"

    def start(self, lease: Lease) -> None:
        busy = [live.lease for live in self.live.values()]
        assert lease.number not in {one.number for one in busy}, "a trial runs twice"
        assert all(one.slot != lease.slot for one in busy), "a slot holds two trials"
        assert lease.number not in self.whole_numbers, "a trial with a whole output runs again"
        assert all(lease.token > one.token for one in self.leases)
        self.leases.append(lease)
        self.live[lease.token] = _Live(lease)

    def stop(self, lease: Lease, level: int) -> None:
        self.live[lease.token].level = level

    def poll(self, timeout_s: float) -> Sequence[Heard | Ended]:
        said, self.words = self.words, []
        if not self.live:
            return said
        live = self.dice.choice(list(self.live.values()))
        lease = live.lease
        if live.level and self.dice.random() < 0.7:
            return [*said, self._ended(live, Outcome(state=TrialState.INTERRUPTED, seconds=1.0))]
        if live.step < self.steps:
            live.step += 1
            value = accuracy(lease.assignment) * live.step / self.steps
            return [*said, Heard(lease.number, lease.token, "accuracy", live.step, value)]
        return [*said, self._ended(live, self._fate(live))]

    def _ended(self, live: _Live, outcome: Outcome) -> Ended:
        del self.live[live.lease.token]
        return Ended(live.lease.number, live.lease.token, outcome)

    def _fate(self, live: _Live) -> Outcome:
        fate = self.dice.choice(self.fates)
        value = accuracy(live.lease.assignment)
        if fate == "finish":
            self._write(live)
            values = {"accuracy": value, "loss": 0.5}
            return Outcome(state=TrialState.FINISHED, values=values, seconds=2.0)
        if fate == "nan":
            values = {"accuracy": float("nan")}
            return Outcome(state=TrialState.FINISHED, values=values, seconds=2.0)
        if fate == "no metric":
            return Outcome(state=TrialState.FINISHED, values={"loss": 0.1}, seconds=2.0)
        if fate == "lost":
            return Outcome(state=TrialState.INTERRUPTED, what="gone", lost_host=True, seconds=1.0)
        failure = {"crash": Failure.CRASH, "memory": Failure.OUT_OF_MEMORY,
                   "bad input": Failure.BAD_INPUT}[fate]  # fmt: skip
        return Outcome(state=TrialState.FAILED, failure=failure, what=fate, seconds=1.0)

    def _write(self, live: _Live) -> None:
        self.outputs[live.lease.token] = {"accuracy": accuracy(live.lease.assignment)}
        self.whole_numbers.add(live.lease.number)

    def engine_died(self) -> None:
        """Workers without an engine: some end their work, the others are gone with it."""
        for live in self.live.values():
            if live.level == 0 and self.dice.random() < 0.4:
                self._write(live)
        self.live.clear()
        self.words.clear()

    def recover(self, lease: Lease) -> Outcome | None:
        values = self.outputs.get(lease.token)
        return values and Outcome(state=TrialState.FINISHED, values=values, seconds=2.0)

    def drop(self, number: int) -> None:
        self.dropped.add(number)


def slots(count: int) -> list[Slot]:
    """Slots of one core each."""
    return [Slot(host="localhost", cores=(core,)) for core in range(count)]
