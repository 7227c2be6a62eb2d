"""A rank says now and then that it is at work, so that one that hangs is noticed.

Standard library only.
"""

from __future__ import annotations

import time

from models.messages import Beat, Messenger

EVERY_S = 2.0
SLOWEST_DISK = 4e6  # bytes a second; a shared folder under load
SLOWEST_MEMORY = 2e8  # bytes a second; new pages, on a busy machine


class Pulse:
    """The heartbeat of one rank: at its first step, then at most every EVERY_S."""

    def __init__(self, messenger: Messenger) -> None:
        self._messenger = messenger
        self._at = time.monotonic()
        self._step = 0
        self._begun = False

    def begin(self, step: int) -> None:
        """The rank is about to work on from a step."""
        self._at, self._step = time.monotonic(), step

    def beat(self, step: int, quiet_s: float = 0.0) -> None:
        """`step` is reached. With `quiet_s` it is said at once: the rank may be silent for so long
        now without being taken for hung."""
        now = time.monotonic()
        if self._begun and not quiet_s and now - self._at < EVERY_S:
            return
        done = step - self._step
        step_s = (now - self._at) / done if done > 0 else 0.0
        self._messenger.send(Beat(step=step, step_s=round(step_s, 4), quiet_s=round(quiet_s, 1)))
        self._at, self._step, self._begun = now, step, True

    def writes(self, step: int, size: int) -> None:
        """So many bytes go to a disk now, by this rank or by one that it waits for."""
        self.beat(step, quiet_s=1.0 + size / SLOWEST_DISK)

    def copies(self, step: int, size: int) -> None:
        """So many bytes are copied in memory now."""
        self.beat(step, quiet_s=1.0 + size / SLOWEST_MEMORY)
