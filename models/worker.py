"""How every worker starts and ends: read spec.json, obey SIGTERM, end with a message.

Exit codes: 0 done, 1 failed, 2 bad input, 4 stopped on request (resumable).
On SIGUSR2 it writes where each of its threads is to `rank-NNNN.stack` beside its messages.
Standard library only.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from models.messages import (
    DISK_FULL,
    FOLDER_VARIABLE,
    Done,
    Failure,
    Messenger,
    Problem,
    Result,
    from_environment,
)

FAILED, BAD_INPUT, STOPPED = 1, 2, 4


class InputProblem(Exception):
    """Bad input. `what` is wrong (with file, line, column), `why` it matters, `todo` mends it."""

    def __init__(self, what: str, why: str = "", todo: str = "") -> None:
        super().__init__(what)
        self.what, self.why, self.todo = what, why, todo


class WorkFailed(Exception):
    """The work cannot go on, and it knows why: the same three sentences, exit code 1; `failure` is
    the class of the failure where there is one."""

    def __init__(
        self, what: str, why: str = "", todo: str = "", failure: Failure | None = None
    ) -> None:
        super().__init__(what)
        self.what, self.why, self.todo, self.failure = what, why, todo, failure


class ContactLost(WorkFailed):
    """Other ranks are gone; why, this one does not know."""


def write_failed(error: OSError, place: str) -> WorkFailed:
    """Why nothing can be written at `place`, and what to do."""
    full = error.errno in DISK_FULL
    return WorkFailed(
        f"{'the disk is full' if full else 'cannot write'}: {place}",
        why=f"{error}, on {os.uname().nodename}; checkpoints written before are whole and kept",
        todo="free space there and resume" if full else "make the folder writable and resume",
    )


class Stopped(Exception):
    """The worker obeyed a stop request after saving what it could."""


class StopFlag:
    """Set by SIGTERM; a worker looks at it between units of work."""

    def __init__(self) -> None:
        self.requested = False

    def install(self) -> None:
        """Take over SIGTERM; SIGINT is left to the terminal's owner, the run process."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.requested = True

    def check(self) -> None:
        """Raise Stopped when a stop was requested."""
        if self.requested:
            raise Stopped


Work = Callable[[dict[str, Any], Messenger, StopFlag], dict[str, Any]]


def read_spec(argv: list[str]) -> dict[str, Any]:
    """The JSON object in the one file named on the command line."""
    if len(argv) != 2:
        raise InputProblem(f"usage: python -m {Path(argv[0]).stem} spec.json")
    try:
        spec = json.loads(Path(argv[1]).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputProblem(f"cannot read {argv[1]}: {error}") from None
    if not isinstance(spec, dict):
        raise InputProblem(f"{argv[1]}: expected one JSON object")
    return spec


def write_outcome(path: Path, values: dict[str, Any]) -> None:
    """The values of the result as a whole file, beside an output that is whole by now: an engine
    that was killed meanwhile finds there what nobody heard."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    with open(scratch, "w", encoding="utf-8") as file:
        json.dump(values, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)


def show_stack_on_request(rank: int) -> None:
    """Let SIGUSR2 write the stacks of all threads, whatever hangs; into the log by hand."""
    target = 2
    with contextlib.suppress(KeyError, OSError):  # no folder: started by hand; a full disk
        place = Path(os.environ[FOLDER_VARIABLE], f"rank-{rank:04d}.stack")
        # never closed: the handler writes to the descriptor as long as the worker lives
        target = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    faulthandler.register(signal.SIGUSR2, file=target, all_threads=True)


def run(work: Work, argv: list[str] | None = None) -> int:
    """Run one worker to its end and return its exit code."""
    rank = int(os.environ.get("PMI_RANK", os.environ.get("RANK", "0")))
    messenger = from_environment(rank)
    stop = StopFlag()
    stop.install()
    show_stack_on_request(rank)
    try:
        spec = read_spec(argv or sys.argv)
        values = work(spec, messenger, stop)
        if rank == 0 and spec.get("outcome"):
            write_outcome(Path(spec["outcome"]), values)
        if rank == 0:
            messenger.send(Result(values=values))
        messenger.send(Done())
        return 0
    except Stopped:
        return STOPPED
    except InputProblem as problem:
        messenger.send(
            Problem(
                what=problem.what, why=problem.why, todo=problem.todo, bad_input=True,
                failure=Failure.BAD_INPUT,
            )
        )  # fmt: skip
        return BAD_INPUT
    except BaseException as error:  # noqa: BLE001 - the border: nothing may leave without a message
        messenger.send(_problem_of(error))
        return FAILED


def _problem_of(error: BaseException) -> Problem:
    """What ended the work, as a message; the stack of an error nobody expected goes to the log."""
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        error = write_failed(error, error.filename or os.getcwd())
    if isinstance(error, WorkFailed):
        return Problem(
            what=error.what, why=error.why, todo=error.todo,
            lost_contact=isinstance(error, ContactLost), failure=error.failure or "",
        )  # fmt: skip
    with contextlib.suppress(OSError):  # the disk of the log may be full, too
        traceback.print_exception(error)
    text = str(error).strip().splitlines()
    return Problem(
        what=f"{type(error).__name__}: {text[0] if text else 'no message'}",
        why="the worker met an error it does not know",
        todo="the log has the full text",
        failure=Failure.OUT_OF_MEMORY if isinstance(error, MemoryError) else "",
    )
