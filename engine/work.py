"""One worker as a job on a host: start it under the agent, follow it, judge how it ended."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import AiokError, HostError, InputError, RunStopped, StepFailed
from engine.store import home, make_folder, write_atomically
from hosts.job import Frame, Job, JobSpec
from hosts.transport import HostProblem, Transport
from models import messages

BEAT_S = 0.5
SILENT_S = 3.0
STOP_PATIENCE_S = 60.0
JOB_NAME = re.compile(r"(.+)\.[^.]+\.[0-9]+(?:\.rendezvous)?")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def clean(text: str) -> str:
    """Text from a host or a program without control bytes; it is data, never a command."""
    return CONTROL.sub("", text)


def jobs_folder() -> Path:
    """Where the agent keeps what belongs to running jobs."""
    return home() / "jobs"


def run_of_job(name: str) -> str:
    """The run that a job RUN.STEP.ATTEMPT (or its rendezvous) belongs to; "" for a data job."""
    found = JOB_NAME.fullmatch(name)
    return found[1] if found else ""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A worker to start. `ranks` is how many `done` messages make a success."""

    job: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    ranks: int = 1
    grace_s: float = 15.0


class Listener:
    """Gets what a worker says. The base ignores all of it."""

    def message(self, message: messages.Message, rank: int) -> None:
        """A message of a rank."""

    def output(self, text: str) -> None:
        """A piece of its stdout and stderr."""

    def sample(self, host: str, sample: Mapping[str, Any]) -> None:
        """One second of the host's resources."""

    def silent(self, host: str, seconds: float) -> None:
        """Nothing was heard from the host for a while."""


class _Outcome:
    """What the frames of a job add up to."""

    def __init__(self) -> None:
        self.done: set[int] = set()
        self.result: dict[str, Any] = {}
        self.problem: messages.Problem | None = None
        self.end: Mapping[str, Any] | None = None
        self.tail = ""

    def take(self, frame: Frame, host: str, listener: Listener) -> None:
        if frame.kind == "output":
            self.tail = (self.tail + frame.data)[-4000:]
            listener.output(frame.data)
        elif frame.kind == "sample":
            listener.sample(host, frame.data)
        elif frame.kind == "end":
            self.end = frame.data
        elif frame.kind == "message":
            with contextlib.suppress(ValueError):
                message = messages.parse(frame.data)
                rank = int(frame.data.get("rank", 0))
                if isinstance(message, messages.Done):
                    self.done.add(rank)
                elif isinstance(message, messages.Result):
                    self.result = message.values
                elif isinstance(message, messages.Problem) and (
                    # A rank that lost its peers also complains; the first one knows the cause.
                    self.problem is None or message.bad_input
                ):
                    self.problem = message
                listener.message(message, rank)


def run_worker(
    transport: Transport,
    agent: Path,
    launch: Launch,
    listener: Listener,
    stop_level: Callable[[], int] = lambda: 0,
    log: str = "",
) -> dict[str, Any]:
    """Run a worker to its end and return its result values.

    `stop_level` is 0 to go on, 1 to end well, 2 to end at once. Raises InputError, StepFailed,
    HostError or RunStopped; whatever happens, no process of the job is left on the host.
    """
    folder = make_folder(jobs_folder()) / launch.job
    shutil.rmtree(folder, ignore_errors=True)
    job = Job(transport, sys.executable, str(agent), str(folder))
    outcome = _Outcome()
    try:
        job.start(
            JobSpec(
                id=launch.job, argv=list(launch.argv), env=dict(launch.env), grace_s=launch.grace_s
            )
        )
        _follow(job, launch, outcome, listener, stop_level)
    except HostProblem as problem:
        with contextlib.suppress(HostProblem):
            job.sweep()
        raise HostError(
            f"{problem.host}: {problem.what}", why=problem.why, todo=problem.todo, log=log
        ) from None
    except BaseException:
        with contextlib.suppress(HostProblem):
            job.sweep()
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        job.close()
    shutil.rmtree(folder, ignore_errors=True)
    return _judge(outcome, launch, transport.host, stop_level(), log)


def _follow(
    job: Job, launch: Launch, outcome: _Outcome, listener: Listener, stop_level: Callable[[], int]
) -> None:
    """Relay until the agent says that the job has ended."""
    told, heard, beaten, told_at = 0, time.monotonic(), 0.0, 0.0
    while outcome.end is None:
        now = time.monotonic()
        try:
            if now - beaten >= BEAT_S:
                job.beat()
                beaten = now
            level = stop_level()
            if told and level == 1 and now - told_at > STOP_PATIENCE_S:
                level = 2
            if level > told:
                job.kill() if level >= 2 else job.stop()
                told, told_at = level, now
            for frame in job.poll(0.1):
                outcome.take(frame, job.host, listener)
            if job.last_heard > heard:
                heard = job.last_heard
            elif now - heard > SILENT_S:
                listener.silent(job.host, now - heard)
        except HostProblem:
            if time.monotonic() - heard > launch.grace_s:
                raise
            job.close()
            time.sleep(0.2)
            job.attach()


def _judge(
    outcome: _Outcome, launch: Launch, host: str, stop_level: int, log: str
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
    if problem is not None:
        raise StepFailed(
            clean_lines(problem.what), why=clean(problem.why), todo=clean(problem.todo), log=log
        )
    raise _unexplained(outcome, launch, host, log)


def clean_lines(text: str) -> str:
    """`clean`, line by line."""
    return "\n".join(clean(line) for line in text.split("\n"))


def _unexplained(outcome: _Outcome, launch: Launch, host: str, log: str) -> AiokError:
    end = outcome.end or {}
    code = int(end.get("code", -1))
    lost = sorted(set(range(launch.ranks)) - outcome.done)
    who = f"rank {', '.join(map(str, lost))}" if launch.ranks > 1 else "the worker"
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    if end.get("why"):
        how = f"was ended: {end['why']}"
    lines = [clean(line) for line in outcome.tail.splitlines() if line.strip()][-10:]
    return StepFailed(
        f"{who} on {host} {how} without a result",
        why="last lines of its output:\n       " + "\n       ".join(lines) if lines else "",
        todo="look at the log; `aiok resume` goes on from the last checkpoint" if log else "",
        log=log,
    )


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
