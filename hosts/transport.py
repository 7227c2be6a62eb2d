"""How a machine is reached: one interface for every way."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def clean(text: str) -> str:
    """Text from a host or a program without control bytes; it is data, never a command."""
    return _CONTROL.sub("", text)


class HostProblem(Exception):
    """A host did not do what it was asked: what is wrong, why, what to do."""

    def __init__(self, host: str, what: str, why: str = "", todo: str = "") -> None:
        self.host, self.what, self.why, self.todo = host, clean(what), clean(why), clean(todo)
        super().__init__(f"{host}: {self.what}")


class Refusal(HostProblem):
    """A login that was refused, or a host key that was, or a host without a Python to work with:
    trying again by itself changes nothing."""


class NoAnswer(HostProblem):
    """A host that could not be reached, or whose connection was lost: it may be back later."""


@dataclass(frozen=True)
class Completed:
    """How a command ended. `code` is negative for a signal."""

    code: int
    stdout: str
    stderr: str


class Channel(ABC):
    """A running command: bytes in, lines out. One reader and one writer thread at the most."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Send bytes to the command; HostProblem when it is gone."""

    @abstractmethod
    def lines(self) -> Iterator[bytes]:
        """Whole lines of its standard output, until it ends."""

    @abstractmethod
    def close(self) -> None:
        """End of input, then let go; the command is expected to end by itself."""


class Transport(ABC):
    """A way to one host. Every call may be made from any thread."""

    host: str
    moved_bytes: int = 0  # of files that travelled, both ways

    @abstractmethod
    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout_s: float = 60.0,
    ) -> Completed:
        """Run a command to its end. HostProblem: not found, timed out, or no connection."""

    @abstractmethod
    def start(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> Channel:
        """Start a command and talk to it."""

    @abstractmethod
    def put(self, source: Path, target: str) -> None:
        """Copy a file to the host; a reader there sees all of it or none."""

    @abstractmethod
    def get(self, source: str, target: Path) -> None:
        """Copy a file from the host; the local file appears whole or not at all."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the connection; running jobs go on."""

    def __enter__(self) -> Transport:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
