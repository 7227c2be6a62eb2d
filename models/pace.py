"""How long the steps of a rank take: its own work, and what it waits for the others."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from models.dist import Ranks
from models.messages import Messenger, Pace

EVERY_S = 1.0


class StepClock:
    """Tells about once a second how this rank's steps went. Loading rows is its own work; what is
    done between steps, such as a validation, is not."""

    def __init__(self, ranks: Ranks, messenger: Messenger) -> None:
        self._ranks, self._messenger = ranks, messenger
        self.steps, self.own_s, self.wait_s, self.heard_bytes = 0, 0.0, 0.0, 0.0
        self.begin(0.0)

    def begin(self, paused_s: float) -> None:
        """Steps begin now; `paused_s` is what was not spent on steps so far."""
        self._since, self._paused = time.monotonic(), paused_s
        self._steps, self._wait, self._heard = 0, 0.0, 0.0

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """One step: what it waits in collectives and hears there is counted."""
        ranks = self._ranks
        wait, heard = ranks.waited_s, ranks.heard_bytes
        yield
        self._steps += 1
        self._wait += ranks.waited_s - wait
        self._heard += ranks.heard_bytes - heard

    def tell(self, step: int, paused_s: float, over: bool = False) -> None:
        """Say how the steps since the last time went, when it is time to or they are over."""
        span = time.monotonic() - self._since
        if not self._steps or (span < EVERY_S and not over):
            return
        own = max(0.0, span - (paused_s - self._paused) - self._wait)
        n = self._steps
        self.steps, self.own_s = self.steps + n, self.own_s + own
        self.wait_s, self.heard_bytes = self.wait_s + self._wait, self.heard_bytes + self._heard
        self._messenger.send(Pace(step=step, steps=n, own_s=own / n, wait_s=self._wait / n))
        self.begin(paused_s)

    def result(self) -> dict[str, float]:
        """Seconds and bytes of a mean step of this rank."""
        n = max(1, self.steps)
        return {"own_s": self.own_s / n, "wait_s": self.wait_s / n,
                "heard_bytes": self.heard_bytes / n}  # fmt: skip
