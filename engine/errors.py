"""The one error tree, and the exit codes.

AiokError                what is wrong, why, what to do, where the log is
├── InputError           a recipe, a file or an argument is bad            exit 2
├── EnvironmentProblem   this machine or a host lacks something            exit 3
├── HostError            a host did not do what it was asked               exit 3
│   └── HostAway         it did not answer, or its connection was lost     exit 3
├── StepFailed           a step of a run failed                            exit 1
│   └── WorkerLost       a worker or a rank of it was killed, or hangs     exit 1
└── RunStopped           the run ended on request and can be resumed       exit 4
    └── HostLost         a host or a rank was lost; the run can be resumed exit 4
"""

from __future__ import annotations

from enum import IntEnum

from models.messages import DISK_FULL


class ExitCode(IntEnum):
    """What the process tells its caller."""

    OK = 0
    FAILED = 1
    BAD_INPUT = 2
    ENVIRONMENT = 3
    STOPPED = 4
    INTERRUPTED = 130


class AiokError(Exception):
    """Base of all errors a user reads. Each field is plain text of a sentence or less; `failure` is
    the class of a training's failure (models.messages.Failure) where one is known."""

    exit_code = ExitCode.FAILED
    failure = ""

    def __init__(self, what: str, *, why: str = "", todo: str = "", log: str = "") -> None:
        super().__init__(what)
        self.what, self.why, self.todo, self.log = what, why, todo, log

    def __str__(self) -> str:
        lines = [self.what]
        if self.why:
            lines.append(f"  why: {self.why}")
        if self.todo:
            lines.append(f"  do:  {self.todo}")
        if self.log:
            lines.append(f"  log: {self.log}")
        return "\n".join(lines)


class InputError(AiokError):
    """A recipe, a file or an argument is bad."""

    exit_code = ExitCode.BAD_INPUT


class EnvironmentProblem(AiokError):
    """This machine or a host lacks something the work needs."""

    exit_code = ExitCode.ENVIRONMENT


class HostError(AiokError):
    """A host did not do what it was asked."""

    exit_code = ExitCode.ENVIRONMENT


class HostAway(HostError):
    """A host did not answer, or its connection was lost: the same may go well later."""


class StepFailed(AiokError):
    """A step of a run failed."""


class WorkerLost(StepFailed):
    """A worker on this machine was killed or hangs; what was saved is kept, it may be repeated."""


class RunStopped(AiokError):
    """The run ended on request and can be resumed."""

    exit_code = ExitCode.STOPPED


class HostLost(RunStopped):
    """A host or a rank was lost in the middle of the work; what was saved is kept."""


def system_problem(error: OSError, doing: str = "") -> EnvironmentProblem:
    """What the system refused, with the file; what to do when a disk is full."""
    said = error.strerror or str(error)
    place = f" ({error.filename})" if error.filename else ""
    full = error.errno in DISK_FULL
    return EnvironmentProblem(
        f"{doing}: {said}" if doing else f"{said}{place}",
        todo="free disk space (aiok clean), or set AIOK_HOME to a larger disk" if full else "",
    )
