"""One worker as a job on a host: start it under the agent, follow it, judge how it ended."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from engine.clusters import unreachable
from engine.errors import (
    AiokError,
    HostLost,
    InputError,
    RunStopped,
    StepFailed,
    WorkerLost,
)
from engine.store import home, home_id, make_folder, write_atomically
from engine.watchdog import Stack, Watchdog, culprits, stack_of
from hosts.group import JobGroup
from hosts.job import Frame, Job, JobSpec
from hosts.site import Site
from hosts.transport import HostProblem, clean
from models import messages
from models.messages import Failure

__all__ = ["clean"]  # for the front ends, which see no hosts

SILENT_S = 3.0
STOP_PATIENCE_S = 60.0
NO_PROGRESS = "no progress for"  # so many seconds: what a person reads of a rank that hangs
STACKS_S = 5.0  # for the agents to say where the ranks are
NO_PROGRAM = 127  # the agent's code for a program that could not be started
FIRST_TO_END = re.compile(r"^=   RANK (\d+) PID \d+ RUNNING AT ", re.MULTILINE)  # Intel MPI
JOB_NAME = re.compile(r"([0-9a-f]{8})\.(.+)\.[^.]+\.[0-9]+(?:\.rendezvous)?")


def jobs_folder() -> Path:
    """Where the agent keeps what belongs to running jobs."""
    return home() / "jobs"


def run_of_job(name: str) -> str:
    """The run that a job HOME.RUN.STEP.ATTEMPT (or its rendezvous) belongs to; "" for a data job
    and for those of another home."""
    found = JOB_NAME.fullmatch(name)
    return found[2] if found and found[1] == home_id() else ""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A worker to start. `code` names the copy of the workers' code, `ranks` is how many `done`
    messages make a success; over several hosts `hosts` names that of each rank. A rank that has
    begun to step and then is silent for `hang_s`, or ten of its steps, is taken for hung; before
    that, all ranks that are silent for `start_s` (0: no limit). `cores` are those it may use (all,
    where there are none); the host is sampled each `sample_s`."""

    job: str
    code: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    ranks: int = 1
    grace_s: float = 15.0
    hang_s: float = 10.0
    start_s: float = 0.0
    hosts: Sequence[str] = ()
    cores: Sequence[int] = ()
    sample_s: float = 1.0

    def place_of(self, rank: int, head: str) -> str:
        """Rank and host, as people read it."""
        return f"rank {rank} on {self.hosts[rank] if self.hosts else head}"


def worker_environment(code: PurePath) -> dict[str, str]:
    """What every worker is started with; `code` is the folder of the workers' code on its host.

    No .pyc is written into that shared folder, and output is seen when it is said. OpenMP's threads
    sleep when they have nothing to do: cores are shared by ranks, or by trials.
    """
    return {
        "PYTHONPATH": str(code), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1",
        "KMP_BLOCKTIME": "1",
    }  # fmt: skip


class Listener:
    """Gets what a worker says. The base ignores all of it."""

    def message(self, message: messages.Message, rank: int) -> None:
        """A message of a rank."""

    def output(self, text: str) -> None:
        """A piece of its stdout and stderr."""

    def sample(self, host: str, sample: Mapping[str, Any]) -> None:
        """One second of the host's resources."""

    def ended(self, host: str, end: Mapping[str, Any]) -> None:
        """The job is over on the host: exit code, CPU-seconds and memory of its largest process."""

    def silent(self, host: str, seconds: float) -> None:
        """Nothing was heard from the host for so long; 0: it is heard again."""


class _Outcome:
    """What the frames of a job add up to."""

    def __init__(self, launch: Launch) -> None:
        self.watchdog = Watchdog(launch.ranks, launch.hang_s, launch.start_s)
        self.stacks: dict[int, Stack] = {}
        self.done: set[int] = set()
        self.complained: set[int] = set()
        self.result: dict[str, Any] = {}
        self.problem: messages.Problem | None = None
        self.end: Mapping[str, Any] | None = None
        self.tail = ""

    def take(self, frame: Frame, host: str, head: str, listener: Listener) -> None:
        """Fold in one frame of a host; only the head's end is the job's."""
        if frame.kind == "output" and host == head:
            self.tail = (self.tail + frame.data)[-4000:]
            listener.output(frame.data)
        elif frame.kind == "sample":
            listener.sample(host, frame.data)
        elif frame.kind == "end":
            listener.ended(host, frame.data)
            self.end = frame.data if host == head else self.end
        elif frame.kind == "stack":
            stack = stack_of(frame.data)
            self.stacks[stack.rank] = stack
            listener.output(f"\nrank {stack.rank}, pid {stack.pid}: {stack.place}\n{stack.text}\n")
        elif frame.kind == "message":
            with contextlib.suppress(ValueError):
                message = messages.parse(frame.data)
                rank = int(frame.data.get("rank", 0))
                self.watchdog.heard(message, rank)
                if isinstance(message, messages.Done):
                    self.done.add(rank)
                elif isinstance(message, messages.Result):
                    self.result = message.values
                elif isinstance(message, messages.Problem):
                    self.complained.add(rank)
                    # A rank that lost its peers also complains; the first one knows the cause.
                    known = self.problem
                    if known is None or known.lost_contact or message.bad_input:
                        self.problem = message
                listener.message(message, rank)


def run_worker(
    sites: Sequence[Site],
    launch: Launch,
    listener: Listener,
    stop_level: Callable[[], int] = lambda: 0,
    log: str = "",
    fetch: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Run a worker to its end and return its result values.

    It starts on the first of `sites`; on the others agents watch the ranks that arrive there.
    `stop_level` is 0 to go on, 1 to end well, 2 to end at once; `fetch` is called after a success,
    before the job's folder goes. Raises InputError, StepFailed, WorkerLost (on this machine alone),
    HostError, HostLost or RunStopped; whatever happens, no process of the job is left on a host
    that can be reached, and none for longer than `grace_s` on one that cannot.
    """
    group = JobGroup(*_jobs(sites, launch))
    outcome = _Outcome(launch)
    swept = False
    try:
        group.start(
            JobSpec(
                id=launch.job,
                argv=list(launch.argv),
                env=dict(launch.env),
                grace_s=launch.grace_s,
                sample_s=launch.sample_s,
                cores=list(launch.cores),
            )
        )
        _follow(group, launch, outcome, listener, stop_level, log)
        swept = True
    except HostProblem as problem:
        raise unreachable([problem], log) from None
    finally:
        if not swept:
            group.sweep()
        group.leave()
    try:
        result = _judge(outcome, launch, sites[0].name, stop_level(), log)
        fetch()
        return result
    except HostProblem as problem:
        raise HostLost(f"{problem.host}: {problem.what}", why=problem.why, log=log) from None
    finally:
        for site in sites:
            with contextlib.suppress(HostProblem):  # what is left is cleared at the next start
                site.transport.run(["rm", "-rf", str(site.job(launch.job))])


def _jobs(sites: Sequence[Site], launch: Launch) -> tuple[Job, list[Job]]:
    jobs = [
        Job(site.transport, site.python, str(site.code(launch.code) / "agent.py"),
            str(site.job(launch.job)))
        for site in sites
    ]  # fmt: skip
    return jobs[0], jobs[1:]


def _follow(
    group: JobGroup, launch: Launch, outcome: _Outcome, listener: Listener,
    stop_level: Callable[[], int], log: str,
) -> None:  # fmt: skip
    """Relay until the head's agent says that the job has ended; HostLost for a silent host."""
    told, told_at = 0, 0.0
    quiet: set[str] = set()
    head = group.head.host
    while outcome.end is None:
        now = time.monotonic()
        level = stop_level()
        if told and level == 1 and now - told_at > STOP_PATIENCE_S:
            level = 2
        if level > told:
            group.kill() if level >= 2 else group.stop()
            told, told_at = level, now
        for host, frame in group.poll(0.1):
            outcome.take(frame, host, head, listener)
        for host, seconds in group.silent().items():
            if seconds > SILENT_S:
                quiet.add(host)
                listener.silent(host, seconds)
            elif host in quiet:
                quiet.discard(host)
                listener.silent(host, 0.0)
            if seconds > launch.grace_s:
                raise _lost_host(host, seconds, group.problem_of(host), outcome, log)
        if quiet:
            outcome.watchdog.restart()  # the silence of a host has a limit of its own
        elif silent := outcome.watchdog.hung():
            raise _hung(group, launch, silent, outcome, listener, log)
    for host, frame in group.finish():
        outcome.take(frame, host, head, listener)


def _lost_host(
    host: str, seconds: float, problem: HostProblem | None, outcome: _Outcome, log: str
) -> HostLost:
    reason = f" ({problem.what})" if problem else ""
    return HostLost(
        f"{host} was lost: nothing was heard from it for {seconds:.0f} s{reason}",
        why=_last_lines(outcome.tail),
        todo="bring it back, or leave it out: aiok resume RUN --without " + host,
        log=log,
    )


def _hung(
    group: JobGroup, launch: Launch, silent: Mapping[int, float], outcome: _Outcome,
    listener: Listener, log: str,
) -> AiokError:  # fmt: skip
    """Tell of the silence, ask where the ranks are, and name those that hang; the caller ends the
    job."""
    head = group.head.host
    rank, seconds = max(silent.items(), key=lambda item: item[1])
    text = f"{launch.place_of(rank, head)}: {NO_PROGRESS} {seconds:.0f} s; all ranks are looked at"
    listener.message(messages.Note(text=text, level="warning"), rank)
    group.stacks()
    end = time.monotonic() + STACKS_S
    watched = outcome.watchdog.watched  # the guilty one may have spoken last
    while len(outcome.stacks) < len(watched) and time.monotonic() < end:
        for host, frame in group.poll(0.1):
            outcome.take(frame, host, head, listener)
    guilty = culprits(watched, outcome.stacks) or sorted(silent)
    who = " and ".join(launch.place_of(rank, head) for rank in guilty[:4])
    places = [
        f"rank {rank}: {outcome.stacks[rank].place}"
        for rank in guilty[:4]
        if rank in outcome.stacks
    ]
    kind = HostLost if launch.hosts else WorkerLost
    return kind(
        f"{who} {'hang' if len(guilty) > 1 else 'hangs'}: "
        f"{NO_PROGRESS} {max(silent.values()):.0f} s",
        why="\n       ".join(places) or "no agent could say where the ranks are",
        todo="the log has the stacks; `aiok resume` goes on from the last checkpoint",
        log=log,
    )


def _judge(
    outcome: _Outcome, launch: Launch, head: str, stop_level: int, log: str
) -> dict[str, Any]:
    """Success is a `done` of every rank and a result, never the launcher's exit code alone."""
    if len(outcome.done) == launch.ranks:
        return outcome.result
    problem = outcome.problem
    if problem is not None and problem.bad_input:
        raise InputError(
            clean_lines(problem.what), why=clean(problem.why), todo=clean(problem.todo), log=log
        )
    if stop_level:
        raise RunStopped("stopped on request")
    # A rank that was killed says nothing; the others complain that they lost it.
    silent = sorted(set(range(launch.ranks)) - outcome.done - outcome.complained)
    if problem is not None and not (silent and problem.lost_contact):
        kind: type[AiokError] = StepFailed
        if problem.lost_contact:
            kind = HostLost if launch.hosts else WorkerLost
        error = kind(
            clean_lines(problem.what), why=clean(problem.why), todo=clean(problem.todo), log=log
        )
        error.failure = clean(problem.failure)
        raise error
    raise _unexplained(outcome, launch, silent, head, log)


def clean_lines(text: str) -> str:
    """`clean`, line by line."""
    return "\n".join(clean(line) for line in text.split("\n"))


def _last_lines(tail: str) -> str:
    lines = [clean(line) for line in tail.splitlines() if line.strip()][-10:]
    return "last lines of its output:\n       " + "\n       ".join(lines) if lines else ""


def _unexplained(
    outcome: _Outcome, launch: Launch, silent: Sequence[int], head: str, log: str
) -> AiokError:
    end = outcome.end or {}
    code = int(end.get("code", -1))
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    if end.get("why"):
        how = f"was ended: {end['why']}"
    why = _last_lines(outcome.tail)
    todo = "look at the log; `aiok resume` goes on from the last checkpoint" if log else ""
    if silent and (launch.hosts or outcome.complained):
        # The launcher ends the others, too, before they can complain; it names the first.
        named = {int(found) for found in FIRST_TO_END.findall(outcome.tail)}
        silent = [rank for rank in silent if rank in named] or silent
        lost = " and ".join(launch.place_of(rank, head) for rank in silent[:4])
        kind = HostLost if launch.hosts else WorkerLost
        return kind(f"{lost} ended without a word", why=why, todo=todo, log=log)
    missing = sorted(set(range(launch.ranks)) - outcome.done)
    who = f"rank {', '.join(map(str, missing))}" if launch.ranks > 1 else "the worker"
    lost_it = StepFailed if code == NO_PROGRAM else WorkerLost
    starved = code == -signal.SIGKILL and int(end.get("oom_kills", 0)) > 0
    how += " for want of memory" if starved else ""
    error = lost_it(f"{who} on {head} {how} without a result", why=why, todo=todo, log=log)
    error.failure = Failure.OUT_OF_MEMORY if starved else Failure.CRASH
    return error


class LogFile:
    """Appends output to a file, control bytes kept out of no one's terminal: they stay data."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a", encoding="utf-8", errors="replace")  # noqa: SIM115

    def write(self, text: str) -> None:
        """Append and flush; a full disk must not end the run through its log."""
        with contextlib.suppress(OSError):
            self._file.write(text)
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):
            self._file.close()


def write_spec(path: Path, spec: Mapping[str, Any]) -> Path:
    """The one JSON file a worker gets."""
    make_folder(path.parent)
    write_atomically(path, json.dumps(spec, indent=1))
    return path
