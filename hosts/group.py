"""One job on several hosts: the head starts it, agents on the others watch what arrives there.

Each host has a thread of its own here that relays, sends heartbeats and attaches again after a cut,
so that a host that hangs delays no other. Silence is measured by host; what it means is decided by
the caller.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from hosts.job import Frame, Job, JobSpec
from hosts.transport import HostProblem

BEAT_S = 0.5
RETRY_S = 0.3
FAREWELL_S = 10.0
AT_ONCE = 8  # connections opened side by side


class _Follower:
    """The thread of one host. `problem` is what the last try to attach ended with."""

    def __init__(self, job: Job, frames: queue.Queue[tuple[str, Frame]]) -> None:
        self.job, self._frames = job, frames
        self.orders: deque[str] = deque()
        self.problem: HostProblem | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"follow {job.host}", daemon=True)

    def start(self) -> None:
        """Begin to follow; the job was started before."""
        self._thread.start()

    def leave(self) -> None:
        """Let go of the host; does not wait for a connection that hangs."""
        self._over.set()
        if self._thread.is_alive():  # it was not started where another host did not answer
            self._thread.join(1.0)

    def _run(self) -> None:
        beaten = 0.0
        while not self._over.is_set() and not self.job.ended:
            try:
                if time.monotonic() - beaten >= BEAT_S:
                    self.job.beat()
                    beaten = time.monotonic()
                while self.orders:
                    getattr(self.job, self.orders[0])()
                    self.orders.popleft()
                for frame in self.job.poll(0.1):
                    self._frames.put((self.job.host, frame))
            except HostProblem as problem:
                self.problem = problem
                self._attach_again()
        self.job.close()

    def _attach_again(self) -> None:
        self.job.close()
        if self._over.wait(RETRY_S):
            return
        try:
            self.job.attach()
            self.problem = None
        except HostProblem as problem:
            self.problem = problem


class JobGroup:
    """The head's job and the watches on the other hosts. Use it from one thread."""

    def __init__(self, head: Job, others: Sequence[Job] = ()) -> None:
        self.head = head
        self._frames: queue.Queue[tuple[str, Frame]] = queue.Queue()
        self._followers = {job.host: _Follower(job, self._frames) for job in (head, *others)}

    @property
    def jobs(self) -> list[Job]:
        """The head's first."""
        return [follower.job for follower in self._followers.values()]

    def start(self, spec: JobSpec) -> None:
        """Watch on the other hosts first, then start; HostProblem when one does not answer."""
        watch = replace(spec, argv=())
        others = self.jobs[1:]
        if others:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(lambda job: job.start(watch), others))
        self.head.start(spec)
        for follower in self._followers.values():
            follower.start()

    def poll(self, timeout_s: float) -> list[tuple[str, Frame]]:
        """(host, frame) of what came within the time."""
        found = []
        with contextlib.suppress(queue.Empty):
            found.append(self._frames.get(timeout=timeout_s))
            while True:
                found.append(self._frames.get_nowait())
        return found

    def silent(self) -> dict[str, float]:
        """Seconds since each host that has not ended was heard."""
        now = time.monotonic()
        return {job.host: now - job.last_heard for job in self.jobs if not job.ended}

    def problem_of(self, host: str) -> HostProblem | None:
        """Why a silent host cannot be reached, as far as known."""
        return self._followers[host].problem

    def stop(self) -> None:
        """Ask for a graceful end: the ranks of the head tell all others."""
        self._followers[self.head.host].orders.append("stop")

    def kill(self) -> None:
        """End it at once, everywhere."""
        for follower in self._followers.values():
            follower.orders.append("kill")

    def stacks(self) -> None:
        """Ask every host where its ranks are; the answers come as frames."""
        for follower in self._followers.values():
            follower.orders.append("stacks")

    def finish(self) -> list[tuple[str, Frame]]:
        """The head has ended: end the watches; what they still had to say."""
        for follower in list(self._followers.values())[1:]:
            follower.orders.append("end")
        found, end = [], time.monotonic() + FAREWELL_S
        while any(self.silent().values()) and time.monotonic() < end:
            found += self.poll(0.1)
        return found + self.poll(0.0)

    def sweep(self) -> dict[str, int | HostProblem]:
        """End whatever is left on every host that answers: processes ended, or why not."""

        def one(job: Job) -> int | HostProblem:
            try:
                return job.sweep()
            except HostProblem as problem:
                return problem

        jobs = self.jobs
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return dict(zip([job.host for job in jobs], pool.map(one, jobs), strict=True))

    def leave(self) -> None:
        """Let go of all hosts."""
        for follower in self._followers.values():
            follower.leave()
