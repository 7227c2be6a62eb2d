"""This machine, reached by subprocess: the same interface as a remote host."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hosts.transport import Channel, Completed, HostProblem, Transport


class LocalChannel(Channel):
    """A child process in a session of its own, so that a terminal's Ctrl+C does not reach it."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            list(argv),
            env=dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def write(self, data: bytes) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(data)
            stdin.flush()
        except (BrokenPipeError, ValueError):
            raise HostProblem("localhost", "the agent is gone") from None

    def lines(self) -> Iterator[bytes]:
        stdout = self._process.stdout
        assert stdout is not None
        yield from stdout

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


class LocalTransport(Transport):
    """Commands on this machine."""

    host = "localhost"

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout_s: float = 60.0,
    ) -> Completed:
        try:
            done = subprocess.run(
                list(argv),
                env={**os.environ, **(env or {})},
                input=stdin,
                capture_output=True,
                timeout=timeout_s,
                check=False,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise HostProblem(self.host, f"there is no program {argv[0]}") from None
        except PermissionError:
            raise HostProblem(self.host, f"{argv[0]} may not be run") from None
        except subprocess.TimeoutExpired:
            raise HostProblem(self.host, f"{argv[0]} took longer than {timeout_s:g} s") from None
        return Completed(
            done.returncode,
            done.stdout.decode(errors="replace"),
            done.stderr.decode(errors="replace"),
        )

    def start(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> Channel:
        try:
            return LocalChannel(argv, {**os.environ, **(env or {})})
        except OSError as error:
            raise HostProblem(self.host, f"cannot start {argv[0]}: {error.strerror}") from None

    def put(self, source: Path, target: str) -> None:
        _copy_whole(source, Path(target))

    def get(self, source: str, target: Path) -> None:
        _copy_whole(Path(source), target)

    def close(self) -> None:
        """Nothing is held."""


def _copy_whole(source: Path, target: Path) -> None:
    """Copy to a neighbour first, then rename."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.copy2(source, scratch)
        os.replace(scratch, target)
    except OSError as error:
        raise HostProblem("localhost", f"cannot copy {source} to {target}: {error}") from None
