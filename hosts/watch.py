"""Live figures of a host over one channel: the agent is sent to its python, nothing is placed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from hosts import program
from hosts.job import AGENT
from hosts.transport import Channel, HostProblem, Transport


class HostWatch:
    """One host, followed from one thread.

    The agent ends by itself when its stdin ends, and when nothing was written to it for 15 s.
    """

    def __init__(self, transport: Transport, python: str = "python3") -> None:
        self._transport, self._python = transport, python
        self._channel: Channel | None = None

    def open(self) -> None:
        """Connect and send the agent; HostProblem says why not."""
        self._channel = self._transport.start(program.command(self._python, "watch"))
        with contextlib.suppress(HostProblem):  # gone at once: it will have said nothing
            self._channel.write(program.sent(AGENT))

    def samples(self) -> Iterator[dict[str, Any]]:
        """One sample a second (agent.Sampler.sample: percent, GiB, MiB/s), as long as it goes on;
        then a HostProblem."""
        host, channel = self._transport.host, self._channel
        assert channel is not None, "open it first"
        said = False
        for line in channel.lines():
            said = True
            sample = _sample(host, line)
            channel.write(b".")  # a sign of life for each one that came
            yield sample
        if not said:
            raise HostProblem(
                host, f"its {self._python} does not run the agent", "it ended without a word",
                "install Python 3.8 or newer there, or name one: python in the inventory",
            )  # fmt: skip
        raise HostProblem(host, "the connection to the agent ended")

    def close(self) -> None:
        """Let go of the channel; the agent ends."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None


def _sample(host: str, line: bytes) -> dict[str, Any]:
    """What a host says is data: anything but a sample ends the watch."""
    try:
        found = json.loads(line)
        if isinstance(found, dict) and isinstance(found["cpu"], list):
            return found
    except (ValueError, KeyError):
        pass
    raise HostProblem(host, "something else than the agent answers", repr(line[:80]))
