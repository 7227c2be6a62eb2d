"""What a worker says while it works: JSON lines in a file of its own, one file a rank.

The agent on the host relays the lines; stdout and stderr of a worker are log text only.
Standard library only: the engine imports this file to know the names.

A line is one object with `kind` and the fields of the matching class below, plus `t`
(seconds since the epoch) and `rank`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

FOLDER_VARIABLE = "AIOK_MESSAGES"
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
RESERVED_BYTES = 1 << 13  # for the last words of a rank; a longer problem is cut


class Failure(StrEnum):
    """Why a training, or a trial of a search, failed."""

    NAN = "nan"  # a metric that is no number
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"
    CRASH = "crash"  # a non-zero exit code, a signal
    NO_METRIC = "no_metric"  # ended well and did not say its metrics
    BAD_INPUT = "bad_input"  # the program refuses the assignment


@dataclass(frozen=True, kw_only=True)
class Message:
    """Base of all messages."""

    kind: ClassVar[str]


@dataclass(frozen=True, kw_only=True)
class Progress(Message):
    """How far a phase is: `done` of `total` (total 0: unknown) in `unit`."""

    kind: ClassVar[str] = "progress"
    phase: str
    done: float
    total: float
    unit: str = "rows"


@dataclass(frozen=True, kw_only=True)
class Scalar(Message):
    """One point of a curve. `split` is train, valid or test; `rows` counts rows seen."""

    kind: ClassVar[str] = "scalar"
    name: str
    value: float
    split: str
    step: int
    rows: int
    epoch: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Pace(Message):
    """How the last `steps` steps of a rank went, up to `step`: seconds of a step in its own work
    and in waiting for the others."""

    kind: ClassVar[str] = "pace"
    step: int
    steps: int
    own_s: float
    wait_s: float


@dataclass(frozen=True, kw_only=True)
class Workload(Message):
    """The least that a row costs: operations, and bytes between CPU and memory."""

    kind: ClassVar[str] = "workload"
    flops_per_row: float
    bytes_per_row: float
    precision: str  # of the matmuls: fp32, bf16 or int8


@dataclass(frozen=True, kw_only=True)
class Note(Message):
    """A decision or a warning a person should read. `level` is info or warning."""

    kind: ClassVar[str] = "note"
    text: str
    level: str = "info"


@dataclass(frozen=True, kw_only=True)
class Problem(Message):
    """Why the worker cannot go on: what is wrong, where, and what to do. `failure` is its class, a
    value of Failure, where the worker knows it."""

    kind: ClassVar[str] = "problem"
    what: str
    why: str = ""
    todo: str = ""
    bad_input: bool = False
    lost_contact: bool = False  # only that other ranks are gone: the cause lies with them
    failure: str = ""


@dataclass(frozen=True, kw_only=True)
class Beat(Message):
    """This rank is at work at `step`; a step takes it about `step_s` (0: not known).

    It may be silent for `quiet_s` now, because it writes or waits for one that does.
    """

    kind: ClassVar[str] = "beat"
    step: int
    step_s: float = 0.0
    quiet_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Saved(Message):
    """A checkpoint is whole on disk."""

    kind: ClassVar[str] = "saved"
    path: str
    step: int


@dataclass(frozen=True, kw_only=True)
class Result(Message):
    """The figures the step ends with (JSON values only)."""

    kind: ClassVar[str] = "result"
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Done(Message):
    """The last line of every rank that ended well; without it the rank is lost."""

    kind: ClassVar[str] = "done"


KINDS: dict[str, type[Message]] = {
    cls.kind: cls
    for cls in (Progress, Scalar, Pace, Workload, Note, Problem, Beat, Saved, Result, Done)
}


def parse(line: dict[str, Any]) -> Message:
    """Rebuild a message from its JSON object; ValueError when it is not one."""
    cls = KINDS.get(str(line.get("kind")))
    if cls is None:
        raise ValueError(f"unknown message kind {line.get('kind')!r}")
    names = {f.name for f in fields(cls)}
    try:
        return cls(**{key: value for key, value in line.items() if key in names})
    except TypeError as error:
        raise ValueError(f"message {cls.kind}: {error}") from None


class Messenger:
    """Appends the messages of one rank to its file. One writer a file; not thread-safe.

    Without a folder (a worker started by hand) the lines go to standard output. Space for one
    Problem is reserved, so that a full disk can be told; anything else raises OSError then.
    """

    def __init__(self, folder: str | Path | None, rank: int = 0) -> None:
        self.rank = rank
        self._descriptor = 1
        self._path = Path(folder) / f"rank-{rank:04d}.jsonl" if folder is not None else None
        self._torn = False  # the last line has no end: the disk became full in the middle of it
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            self._reserve(self._path.with_suffix(".reserve"))

    def _reserve(self, place: Path) -> None:
        with contextlib.suppress(OSError):  # full already: what is sent next says so
            descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
            try:
                os.posix_fallocate(descriptor, 0, RESERVED_BYTES)
            finally:
                os.close(descriptor)

    def send(self, message: Message) -> None:
        """Write one message as one line, in one system call where the disk has room."""
        try:
            self._append(self._line(message))
        except OSError as error:
            if error.errno not in DISK_FULL or not isinstance(message, Problem):
                raise
            self._last_words(message)

    def _line(self, message: Message) -> bytes:
        line = {"kind": message.kind, "t": time.time(), "rank": self.rank, **asdict(message)}
        return (json.dumps(line) + "\n").encode()

    def _append(self, line: bytes) -> None:
        """The whole line; OSError names the file. After half a line a new one is begun."""
        rest = b"\n" + line if self._torn else line
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
                self._torn = bool(rest)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path or "")) from None

    def _last_words(self, problem: Problem) -> None:
        """Into the reserved space, which then becomes a file of messages."""
        if self._path is None:
            return
        line = self._line(problem)
        if len(line) > RESERVED_BYTES:
            line = self._line(replace(problem, why=problem.why[:500], what=problem.what[:500]))
        reserve = self._path.with_suffix(".reserve")
        with contextlib.suppress(OSError):
            descriptor = os.open(reserve, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, line)
                os.ftruncate(descriptor, len(line))
            finally:
                os.close(descriptor)
            reserve.rename(self._path.with_suffix(".last.jsonl"))


def from_environment(rank: int = 0) -> Messenger:
    """The messenger for this process: the folder comes from AIOK_MESSAGES."""
    return Messenger(os.environ.get(FOLDER_VARIABLE), rank)
