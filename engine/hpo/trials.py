"""Trials and what may become of them. Standard library only.

queued -> running -> finished | pruned | failed, or interrupted, which is queued again. A running
trial is leased: only a word that bears the token of its latest lease counts, so what an earlier
attempt still writes is never taken for this one's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from models.messages import Failure as Failure
from models.settings import Scalar


class TrialState(StrEnum):
    """Where a trial stands."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    PRUNED = "pruned"
    FAILED = "failed"
    INTERRUPTED = "interrupted"  # lost with its engine or host, not by its own fault: to run again

    @property
    def is_over(self) -> bool:
        """Nothing more will happen to it."""
        return self in (TrialState.FINISHED, TrialState.PRUNED, TrialState.FAILED)


OPEN = (TrialState.QUEUED, TrialState.INTERRUPTED)  # to be run, or run again


@dataclass(frozen=True)
class Report:
    """A metric at a step of the training of a trial."""

    step: int
    value: float


@dataclass
class Trial:
    """One trial as the events tell it. `origin`: default, start, warm (an earlier study) or
    search; `token`: of the latest lease, 0 before the first. `as_trial`: the one with the same
    assignment whose values it has taken, instead of being trained."""

    number: int
    assignment: Mapping[str, Scalar]
    origin: str = "search"
    state: TrialState = TrialState.QUEUED
    token: int = 0
    host: str = ""
    cores: Sequence[int] = ()
    started: float | None = None
    ended: float | None = None
    seconds: float = 0.0
    values: dict[str, float] = field(default_factory=dict)
    reports: dict[str, list[Report]] = field(default_factory=dict)  # by metric, steps rising
    failure: Failure | None = None
    what: str = ""  # why it failed or was pruned
    log: str = ""
    tries: int = 0  # leases so far
    retries: int = 0  # of them, those that failed and were tried again
    as_trial: int | None = None

    @property
    def is_leased(self) -> bool:
        """Whether its latest lease has not been told to have ended: it runs, or its run ended."""
        cut_off = self.state is TrialState.INTERRUPTED and self.ended is None
        return self.state is TrialState.RUNNING or cut_off

    @property
    def is_own(self) -> bool:
        """Whether it is a training of this search: not one of an earlier study, no repetition."""
        return self.origin != "warm" and self.as_trial is None
