"""A scripted host for tests: it answers what it was told to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from hosts.transport import Channel, Completed, HostProblem, Transport

Answer = Completed | HostProblem | Callable[[Sequence[str], bytes], Completed]


class FakeChannel(Channel):
    """Says its lines, keeps what was written."""

    def __init__(self, lines: Sequence[bytes]) -> None:
        self._lines = list(lines)
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        if self.closed:
            raise HostProblem("fake", "the agent is gone")
        self.written.append(data)

    def lines(self) -> Iterator[bytes]:
        yield from self._lines

    def close(self) -> None:
        self.closed = True


class FakeTransport(Transport):
    """Answers commands by the first scripted words that occur in them; keeps a record."""

    def __init__(self, host: str = "fake") -> None:
        self.host = host
        self.commands: list[list[str]] = []
        self.files: dict[str, bytes] = {}
        self._answers: list[tuple[str, Answer]] = []
        self._channels: list[tuple[str, FakeChannel]] = []

    def answer(self, words: str, answer: Answer) -> None:
        """Commands that contain `words` end this way."""
        self._answers.append((words, answer))

    def open_with(self, words: str, lines: Sequence[bytes]) -> FakeChannel:
        """Commands that contain `words`, once started, say these lines."""
        channel = FakeChannel(lines)
        self._channels.append((words, channel))
        return channel

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout_s: float = 60.0,
    ) -> Completed:
        self.commands.append(list(argv))
        line = " ".join(argv)
        for words, answer in self._answers:
            if words in line:
                if isinstance(answer, HostProblem):
                    raise answer
                return answer(argv, stdin) if callable(answer) else answer
        raise HostProblem(self.host, f"there is no program {argv[0]}")

    def start(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> Channel:
        self.commands.append(list(argv))
        for words, channel in self._channels:
            if words in " ".join(argv):
                return channel
        raise HostProblem(self.host, f"cannot start {argv[0]}")

    def put(self, source: Path, target: str) -> None:
        self.files[target] = source.read_bytes()

    def get(self, source: str, target: Path) -> None:
        if source not in self.files:
            raise HostProblem(self.host, f"cannot copy {source}: no such file")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(self.files[source])

    def close(self) -> None:
        """Nothing is held."""
