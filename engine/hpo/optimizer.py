"""The interface of all optimizers: ask for an assignment, tell what became of it.

An optimizer keeps nothing on disk. A resumed search makes a new one, tells it every trial of the
journal in the order of their numbers and goes on: with the same seed and the same told trials it
asks for the same assignments, whether or not it was interrupted between.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from engine.hpo.space import Assignment
from engine.hpo.trials import TrialState
from models.settings import Scalar


class Optimizer(Protocol):
    """One implementation a file. Not thread-safe: the search calls it from one thread."""

    def ask(self, number: int) -> dict[str, Scalar] | None:
        """The assignment of trial `number`; None when there is nothing left to try.

        Trials that were asked for and not told yet are taken for running.
        """

    def pending(self, number: int, assignment: Assignment) -> None:
        """Trial `number` runs with an assignment that was not asked for here (the default one, one
        of the user's, one asked for before a restart)."""

    def tell(
        self, number: int, assignment: Assignment, state: TrialState, values: Mapping[str, float]
    ) -> None:
        """How a trial ended: FINISHED with its values, PRUNED with those it had reached (maybe
        none), FAILED with none. Also for trials that were never asked for here."""

    def close(self) -> None:
        """Give back what it holds (a process)."""
