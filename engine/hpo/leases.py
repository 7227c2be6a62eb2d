"""What a search and the one who runs its trials say to each other. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from engine.hpo.trials import Failure, TrialState
from models.settings import Scalar


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Room for one trial at a time: cores of a host."""

    host: str
    cores: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right to run a trial in a slot. `token` is larger than that of every earlier lease of
    the search; `seconds` is what earlier leases of the trial took."""

    number: int
    token: int
    assignment: Mapping[str, Scalar]
    slot: Slot
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the work of a lease ended: FINISHED with what it measured, FAILED with the class of its
    failure, or INTERRUPTED: stopped on request, or lost with its host (`lost_host`)."""

    state: TrialState
    values: Mapping[str, float] = field(default_factory=dict)
    failure: Failure | None = None
    what: str = ""
    seconds: float = 0.0
    lost_host: bool = False


@dataclass(frozen=True)
class Heard:
    """A metric of a lease's training after `step` steps, in a unit that is the same in all trials
    of the search (rows, for a model)."""

    number: int
    token: int
    name: str
    step: int
    value: float


@dataclass(frozen=True)
class Ended:
    """The work of a lease is over and none of its processes is left."""

    number: int
    token: int
    outcome: Outcome


class Runner(Protocol):
    """Runs trials. The search calls it from one thread; none of the calls waits but `poll`."""

    def log(self, lease: Lease) -> str:
        """Where the output of a lease is written."""

    def start(self, lease: Lease) -> None:
        """Begin to work on a lease; `poll` tells what comes of it, one `Ended` in any case."""

    def stop(self, lease: Lease, level: int) -> None:
        """1: end well (save a checkpoint first), 2: end at once."""

    def poll(self, timeout_s: float) -> Sequence[Heard | Ended]:
        """What was heard within the time, [] for nothing."""

    def recover(self, lease: Lease) -> Outcome | None:
        """What a lease of an earlier, killed engine had finished with, None if it had not."""

    def drop(self, number: int) -> None:
        """The output of a trial is not wanted any more."""
