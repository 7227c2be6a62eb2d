"""A helper process that answers one JSON line with another."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO, Any

from engine.errors import EnvironmentProblem

PATIENCE_S = 600.0  # for one answer
WORDS = 2000  # bytes of its stderr that are shown


class JsonProcess:
    """Started with the first question. It ends when its stdin does, so it outlives nobody."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        self._argv, self._env = list(argv), {**os.environ, **env}
        self._process: subprocess.Popen[bytes] | None = None
        self._words: IO[bytes] | None = None  # what it says on stderr

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """The answer; EnvironmentProblem when it has died, is silent, or says no JSON."""
        process = self._process = self._process or self._start()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(question).encode() + b"\n")
            process.stdin.flush()
            line = _line_of(process)
            return dict(json.loads(line))
        except (OSError, ValueError) as error:
            words = self._last_words()
            self.close()
            raise EnvironmentProblem(
                f"{self._argv[-1]} gave no answer", why=words or str(error),
                todo="start the run again; it goes on where it was",
            ) from None  # fmt: skip

    def close(self) -> None:
        """End it; the next question starts another."""
        process, self._process = self._process, None
        words, self._words = self._words, None
        if process is not None:
            process.kill()  # it holds nothing that is worth a farewell
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        if words is not None:
            words.close()

    def _start(self) -> subprocess.Popen[bytes]:
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        try:
            return subprocess.Popen(
                self._argv, env=self._env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=self._words, start_new_session=True, bufsize=0,
            )  # fmt: skip
        except OSError as error:
            self.close()
            raise EnvironmentProblem(
                f"{self._argv[0]} could not be started", why=str(error)
            ) from None

    def _last_words(self) -> str:
        if self._words is None:
            return ""
        self._words.seek(0)
        return self._words.read()[-WORDS:].decode(errors="replace").strip()


def _line_of(process: subprocess.Popen[bytes]) -> bytes:
    """One line of its stdout; OSError when it ends or is silent for too long."""
    assert process.stdout is not None
    line = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            if not selector.select(PATIENCE_S):
                raise OSError(f"it was silent for {PATIENCE_S:g} s")
            piece = os.read(process.stdout.fileno(), 1 << 16)
            if not piece:
                raise OSError(f"it ended with code {process.wait()}")
            line += piece
    return line
