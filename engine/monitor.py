"""The hosts without a run: what each does now, or did when it was last heard.

One thread, one channel and one agent a host; nothing is placed there. A host that hangs holds up
no other.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from engine import clusters
from engine.clusters import AT_ONCE, Password, TypedOnce
from hosts.inventory import LOCAL, HostEntry, Inventory
from hosts.local import LocalTransport
from hosts.transport import HostProblem, Refusal, Transport, clean
from hosts.watch import HostWatch

__all__ = ["LOCAL", "Monitor", "Reading", "Standing"]

STALE_S = 3.0
AGAIN_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)  # waits before the next try to connect


class Standing(StrEnum):
    """How well a host is heard."""

    CONNECTING = "connecting"
    LIVE = "live"
    STALE = "stale"  # connected, and silent for STALE_S
    LOST = "lost"  # no connection


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One host at one moment. `sample` is its last (agent.Sampler.sample), `age_s` old."""

    host: str
    standing: Standing
    sample: Mapping[str, Any] | None = None
    age_s: float | None = None
    problem: str = ""  # why there is no connection, in a sentence


class _Followed:
    """The thread of one host. The monitor reads what it last heard."""

    def __init__(
        self, name: str, entry: HostEntry | None, transport: Transport, slots: threading.Semaphore
    ) -> None:
        self.name, self.entry = name, entry
        self._transport, self._slots = transport, slots
        self._python = (entry.python if entry else sys.executable) or "python3"
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._sample: Mapping[str, Any] | None = None
        self._heard = 0.0
        self._problem: HostProblem | None = None
        self.thread = threading.Thread(target=self._run, name=f"watch {name}", daemon=True)

    @property
    def gave_up(self) -> bool:
        """Whether trying again by itself would change nothing."""
        return isinstance(self._problem, Refusal)

    def leave(self) -> None:
        """Let it end: after the next sample, or when its connection is found dead."""
        self._over.set()

    def _run(self) -> None:
        tries = 0
        while not self._over.is_set():
            heard = self._heard
            try:
                self._follow()
            except HostProblem as problem:
                self._lose(problem)
            except Exception as error:  # noqa: BLE001 - the border of the thread: told, never lost
                self._lose(HostProblem(self.name, f"{type(error).__name__}: {error}"))
            if self.gave_up:
                return
            tries = 0 if self._heard > heard else tries
            self._over.wait(AGAIN_S[min(tries, len(AGAIN_S) - 1)])
            tries += 1

    def _follow(self) -> None:
        """Connect, and keep what comes until it ends."""
        watch = HostWatch(self._transport, self._python)
        try:
            with self._slots:
                watch.open()
            for sample in watch.samples():
                self._keep(sample)
                if self._over.is_set():
                    return
        finally:
            watch.close()
            self._transport.close()

    def _keep(self, sample: Mapping[str, Any]) -> None:
        with self._lock:
            self._sample, self._heard, self._problem = sample, time.monotonic(), None

    def _lose(self, problem: HostProblem) -> None:
        with self._lock:
            self._problem = problem

    def reading(self) -> Reading:
        """What is known of the host now."""
        with self._lock:
            sample, heard, problem = self._sample, self._heard, self._problem
        age = time.monotonic() - heard if sample is not None else None
        standing = Standing.LIVE if sample is not None else Standing.CONNECTING
        if age is not None and age >= STALE_S:
            standing = Standing.STALE
        said = ""
        if problem is not None:
            standing, said = Standing.LOST, clean(clusters.sentence(problem))
        return Reading(host=self.name, standing=standing, sample=sample, age_s=age, problem=said)


class Monitor:
    """Follows hosts side by side. Every call may be made from any thread."""

    def __init__(self, password: Password | None = None) -> None:
        self._ask = password
        self._password = TypedOnce(self._asked) if password else None
        self.asking = False  # a person is asked for a password just now
        self._slots = threading.Semaphore(AT_ONCE)
        self._lock = threading.Lock()
        self._hosts: dict[str, _Followed] = {}
        self._closed = False

    def follow(self, names: Sequence[str] = ()) -> None:
        """Follow these hosts and clusters (all of the inventory by default) and no others.

        Hosts that are followed already go on; those that refused to let us in are tried again.
        EnvironmentProblem for a bad inventory, InputError for an unknown name.
        """
        known = clusters.inventory()
        wanted = _wanted(names, known)
        with self._lock:
            if self._closed:
                return
            for name in list(self._hosts):
                old = self._hosts[name]
                if name not in wanted or wanted[name] != old.entry or old.gave_up:
                    self._hosts.pop(name).leave()
            for name, entry in wanted.items():
                if name not in self._hosts:
                    way = self._transport(entry, known)
                    self._hosts[name] = _Followed(name, entry, way, self._slots)
                    self._hosts[name].thread.start()
            self._hosts = {name: self._hosts[name] for name in wanted}

    def _transport(self, entry: HostEntry | None, known: Inventory) -> Transport:
        if entry is None:
            return LocalTransport()
        return clusters.transport_to(entry.name, known, self._password)

    def _asked(self, entry: HostEntry) -> str | None:
        assert self._ask is not None
        self.asking = True
        try:
            return self._ask(entry)
        finally:
            self.asking = False

    def readings(self) -> list[Reading]:
        """What is known of each host now, in the order of the inventory."""
        with self._lock:
            hosts = list(self._hosts.values())
        return [host.reading() for host in hosts]

    def close(self, patience_s: float = 0.0) -> None:
        """Let go of all hosts; waits up to `patience_s` for the threads of those that are live.

        Each ends after its next sample, one whose connection is dead when TCP says so.
        """
        with self._lock:
            self._closed = True
            hosts = list(self._hosts.values())
            self._hosts = {}
        for host in hosts:
            host.leave()
        end = time.monotonic() + patience_s
        for host in hosts:
            host.thread.join(max(0.0, end - time.monotonic()))


def _wanted(names: Sequence[str], known: Inventory) -> dict[str, HostEntry | None]:
    """The hosts by name; None stands for this machine, which is all there is without a host."""
    if not names:
        return {name: known.entry(name) for name in known.hosts} or {LOCAL: None}
    found: dict[str, HostEntry | None] = {}
    for name in names:
        if name == LOCAL and LOCAL not in known.hosts:
            found[LOCAL] = None
        else:
            found |= {entry.name: entry for entry in clusters.entries(name, known)}
    return found
