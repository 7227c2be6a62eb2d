"""Eight hosts followed at 1 Hz for ten minutes: gaps, and the CPU time of aiok and its agents.

`aiok hosts top --json` as a user starts it, on hosts that are namespaces of this machine. A gap is
the longest time between two samples of a host, or the greatest age at which its newest one was
shown. The clock starts when all hosts are heard: start and logins are not in it. Needs root.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bench.harness import ROOT
from bench.sandbox import Sandbox, cpu_seconds
from hosts.testbed import HostProcess, Testbed

ENVIRONMENTS = ("app",)
HOSTS, SECONDS = 8, 600.0
NET, PREFIX = "10.201.8", "aioktl"
GAP_S, OWN_PERCENT, AGENT_PERCENT = 3.0, 5.0, 1.0
FIRST_S = 60.0  # until all hosts are heard


@dataclass(frozen=True, kw_only=True)
class Followed:
    """What following hosts came to. Shares are percent of one core."""

    seconds: float
    samples: int
    gap_s: float
    own_percent: float
    agent_percent: tuple[float, ...]  # by host


def measure() -> list[dict[str, Any]]:
    """The promise: ten minutes, eight hosts."""
    return _rows(HOSTS, SECONDS)


def minute() -> list[dict[str, Any]]:
    """The same on four hosts for a minute."""
    return _rows(4, 60.0)


def _rows(hosts: int, seconds: float) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="aiok-bench-") as place:
        os.environ["AIOK_HOME"] = place
        with Sandbox(Path(place), hosts, NET, PREFIX) as testbed:
            found = follow(testbed, seconds)
    worst = max(found.agent_percent)
    data = f"{hosts} hosts, 1 Hz, {found.seconds:.0f} s, {found.samples} samples"
    return [
        {"name": name, "value": round(value, 2), "unit": unit, "goal": f"<= {goal:g}",
         "met": value <= goal, "data": data}
        for name, value, unit, goal in (
            ("largest gap", found.gap_s, "s", GAP_S),
            ("aiok", found.own_percent, "% of a core", OWN_PERCENT),
            ("the busiest agent", worst, "% of a core", AGENT_PERCENT),
        )
    ]  # fmt: skip


def follow(testbed: Testbed, seconds: float) -> Followed:
    """Follow all hosts of the inventory in $AIOK_HOME; RuntimeError when one is never heard."""
    with _top() as process:
        assert process.stdout is not None
        seen = _Seen(len(testbed.hosts()))
        begun = 0.0
        own, agents = 0.0, dict[str, float]()
        end = time.monotonic() + FIRST_S
        for line in process.stdout:
            seen.take(json.loads(line))
            now = time.monotonic()
            if not begun and seen.all_heard:
                begun, own, agents = now, _own(process.pid), _agents(testbed)
                seen.restart()
            if begun and now - begun >= seconds:
                break
            if not begun and now > end:
                raise RuntimeError(f"not all hosts were heard within {FIRST_S:g} s: {seen.last}")
        span = time.monotonic() - begun
        after = _agents(testbed)
        return Followed(
            seconds=span, samples=seen.samples, gap_s=seen.gap_s,
            own_percent=100 * (_own(process.pid) - own) / span,
            agent_percent=tuple(100 * (after[name] - agents[name]) / span for name in agents),
        )  # fmt: skip


@contextlib.contextmanager
def _top() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "aiok_tui", "hosts", "top", "--json"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
        # a shell starts its background jobs deaf to Ctrl+C, and they would hand that on
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            _drain(process.stdout)


def _drain(stream: IO[str] | None) -> None:
    """Read on to the end, so that nothing is written into a closed pipe."""
    for _ in stream or ():
        continue


class _Seen:
    """What the lines told."""

    def __init__(self, hosts: int) -> None:
        self._hosts = hosts
        self.last: dict[str, Any] = {}
        self.restart()

    def restart(self) -> None:
        """Gaps count from here on."""
        self._at: dict[str, float] = {}
        self.samples, self.gap_s = 0, 0.0

    @property
    def all_heard(self) -> bool:
        """Whether each host has told a sample."""
        return sum(line["sample"] is not None for line in self.last.values()) == self._hosts

    def take(self, line: dict[str, Any]) -> None:
        """One host at one moment."""
        host, sample = line["host"], line["sample"]
        self.last[host] = line
        if sample is None:
            return
        at = float(sample["t"])
        before = self._at.get(host, at)
        self.gap_s = max(self.gap_s, at - before, float(line["age_s"]))
        self.samples += at != before
        self._at[host] = at


def _own(pid: int) -> float:
    return cpu_seconds(HostProcess(pid=pid, uid=0, command=""))


def _agents(testbed: Testbed) -> dict[str, float]:
    """CPU-seconds of the agent on each host."""
    found = {}
    for host in testbed.hosts():
        ours = [p for p in testbed.processes(host.name) if p.command.endswith(" watch")]
        if len(ours) != 1:
            raise RuntimeError(f"{len(ours)} agents on {host.name}: {ours}")
        found[host.name] = cpu_seconds(ours[0])
    return found
