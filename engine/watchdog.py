"""Which ranks of a job hang: they say nothing for longer than their steps can take.

From the first `Beat` of any rank until it is done a rank is watched by itself: then all have met,
and all step together, so one that hangs silences the others too. Before it, while they import,
meet, and read data and checkpoint, a word of any rank counts for all, and START_S is the limit.
The stacks of all tell which one it is.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hosts.transport import clean
from models import messages

STEPS = 10  # so many usual steps of silence are still no sign of a hang
# Silence of all ranks before the first step: a table of 100 GB that is read from a disk at 200 MB/s
# takes half of it.
START_S = 1000.0
PAUSE_S = 5.0  # this process itself did not run for so long: nobody was listened to
# A rank that waits for the others is in one of these files.
WAITS = re.compile(r'File "[^"]*/models/dist(_memory)?\.py"')
FRAME = re.compile(r'File "[^"]*/((?:models|site-packages)/[^"]+)", line (\d+) in (\S+)')


class Watchdog:
    """Times the silence of each rank of one job; `start_s` is the limit before the first step, 0
    for work that has no steps and may be silent for as long as it takes."""

    def __init__(self, ranks: int, hang_s: float, start_s: float = 0.0) -> None:
        self._hang_s, self._start_s = hang_s, start_s or math.inf
        self._heard = dict.fromkeys(range(ranks), time.monotonic())  # of the ranks not yet done
        self._stepping = False
        self._step_s: dict[int, float] = {}
        self._quiet_s: dict[int, float] = {}
        self._looked = time.monotonic()

    def heard(self, message: messages.Message, rank: int) -> None:
        """A rank said something."""
        now = time.monotonic()
        if not self._stepping:
            self._heard = dict.fromkeys(self._heard, now)
        if isinstance(message, messages.Beat):
            self._stepping = True
            self._quiet_s[rank] = message.quiet_s
            if message.step_s > 0:
                self._step_s[rank] = message.step_s
        if isinstance(message, messages.Done | messages.Problem):
            self._heard.pop(rank, None)
        elif rank in self._heard:
            self._heard[rank] = now

    @property
    def limit_s(self) -> float:
        """The silence after which a rank is taken for hung."""
        if not self._stepping:
            return self._start_s
        slowest = max(self._step_s.values(), default=0.0)
        announced = max(self._quiet_s.values(), default=0.0)
        return max(self._hang_s + announced, STEPS * slowest)

    @property
    def watched(self) -> list[int]:
        """The ranks that are at work."""
        return sorted(self._heard)

    def restart(self) -> None:
        """Nothing could be heard: the silence counts from now."""
        self._heard = dict.fromkeys(self._heard, time.monotonic())

    def hung(self) -> dict[int, float]:
        """Seconds of silence of the ranks that are silent for too long."""
        now = time.monotonic()
        if now - self._looked > PAUSE_S:
            self.restart()
        self._looked = now
        silent = {rank: now - heard for rank, heard in self._heard.items()}
        return {rank: seconds for rank, seconds in silent.items() if seconds > self.limit_s}


@dataclass(frozen=True)
class Stack:
    """Where a rank was when it was asked: state letter of /proc, and its Python stacks, if any."""

    rank: int
    pid: int
    state: str
    text: str

    @property
    def stopped(self) -> bool:
        """SIGSTOP or a debugger holds it."""
        return self.state in ("T", "t")

    @property
    def waits(self) -> bool:
        """It is in a collective: the cause lies with another rank."""
        return bool(WAITS.search(self.text))

    @property
    def place(self) -> str:
        """What it is doing, in a few words."""
        if self.stopped:
            return f"it is stopped by a signal (state {self.state} in /proc), so it has no stack"
        before, mark, current = self.text.partition("Current thread")
        frame = FRAME.search(current if mark else before)
        if frame is None:
            return f"it gave no stack (state {self.state} in /proc)"
        return f"it was at {clean(frame[1])}:{frame[2]} in {clean(frame[3])}"


def stack_of(frame: Mapping[str, object]) -> Stack:
    """The stack that an agent told."""
    return Stack(
        int(str(frame.get("rank", -1))), int(str(frame.get("pid", 0))),
        clean(str(frame.get("state", "?")))[:1], str(frame.get("text", "")),
    )  # fmt: skip


def culprits(watched: Sequence[int], stacks: Mapping[int, Stack]) -> list[int]:
    """The ranks that hang by themselves; [] when all that are known wait for each other."""
    asked = [rank for rank in watched if rank in stacks]
    stopped = [rank for rank in asked if stacks[rank].stopped]
    return stopped or [rank for rank in asked if not stacks[rank].waits]
