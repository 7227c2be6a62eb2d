"""The user's side of a job: start it under the agent of a host, follow it, end it."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hosts.transport import Channel, HostProblem, Transport

AGENT = Path(__file__).with_name("agent.py")


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """What to run. `id` is also the tag in the environment of every process of the job.

    Without `argv` nothing is started: the agent watches what others start there under that tag,
    such as the ranks that mpirun starts from another host, until `end`. `cores`: the only ones that
    it and its agent run on.
    """

    id: str
    argv: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""
    grace_s: float = 15.0
    sample_s: float = 1.0
    cores: Sequence[int] = ()


@dataclass(frozen=True)
class Frame:
    """Something a job said: `kind` is output, message, sample, stack, start or end."""

    kind: str
    data: Any
    source: str = ""


class Job:
    """A job under an agent. `poll` and `beat` belong to one thread."""

    def __init__(self, transport: Transport, python: str, agent: str, folder: str) -> None:
        self._transport, self._python, self._agent = transport, python, agent
        self.folder = folder
        self.id = Path(folder).name
        self.host = transport.host
        self._offsets: dict[str, int] = {}
        self._queue: queue.Queue[bytes | None] = queue.Queue(maxsize=1000)
        self._channel: Channel | None = None
        self.ended = False
        self.last_heard = time.monotonic()

    def start(self, spec: JobSpec) -> None:
        """Hand the job to a supervisor on the host and attach to it."""
        text = json.dumps(asdict(spec))
        command = self._command("start", self.folder)
        write = "import os,sys; os.makedirs(sys.argv[1], exist_ok=True); "
        write += "open(os.path.join(sys.argv[1], 'job.json'), 'w').write(sys.stdin.read())"
        done = self._transport.run(
            [self._python, "-I", "-S", "-c", write, self.folder], stdin=text.encode()
        )
        if done.code == 0:
            done = self._transport.run(command, env={"AIOK_SUPERVISES": self.id})
        if done.code != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise HostProblem(self.host, f"cannot start the agent: {last}")
        self.attach()

    def attach(self) -> None:
        """Follow the job from where the last connection ended."""
        channel = self._transport.start(
            self._command("attach", self.folder, json.dumps(self._offsets))
        )
        lines: queue.Queue[bytes | None] = queue.Queue(maxsize=1000)
        self._channel, self._queue = channel, lines

        def read() -> None:
            with contextlib.suppress(OSError, ValueError):  # closed under the reader
                for line in channel.lines():
                    lines.put(line)
            lines.put(None)

        threading.Thread(target=read, name=f"job {self.id}", daemon=True).start()

    def _command(self, *words: str) -> list[str]:
        return [self._python, "-I", "-S", self._agent, *words]

    def poll(self, timeout_s: float) -> list[Frame]:
        """What came within the time, [] for nothing. HostProblem when the channel broke."""
        try:
            line = self._queue.get(timeout=timeout_s)
        except queue.Empty:
            return []
        if line is None:
            if self.ended:
                return []
            raise HostProblem(self.host, "the connection to the agent ended")
        self.last_heard = time.monotonic()
        said = json.loads(line)
        if "beat" in said:
            return []
        self._offsets[said["file"]] = max(said["offset"], self._offsets.get(said["file"], 0))
        return self._frames(said["file"], said["data"])

    def _frames(self, name: str, data: str) -> list[Frame]:
        if name == "output.log":
            return [Frame("output", data)]
        frames = []
        for line in data.splitlines():
            try:
                content = json.loads(line)
            except ValueError:
                continue  # a line torn by a kill
            if name == "supervisor.jsonl":
                kind = content.pop("k")
                self.ended = self.ended or kind == "end"
                frames.append(Frame(kind, content))
            elif isinstance(content, dict):
                frames.append(Frame("message", content, Path(name).stem))
        return frames

    def beat(self) -> None:
        """Say that somebody still cares."""
        self._write(b".\n")

    def stop(self) -> None:
        """Ask for a graceful end."""
        self._write(b"stop\n")

    def kill(self) -> None:
        """End it at once."""
        self._write(b"kill\n")

    def stacks(self) -> None:
        """Ask for a frame `stack` of each rank on the host: rank, pid, state and text."""
        self._write(b"stacks\n")

    def end(self) -> None:
        """Stop watching; what is left of the job there is swept."""
        self._write(b"end\n")

    def _write(self, data: bytes) -> None:
        if self._channel is not None and not self.ended:
            self._channel.write(data)

    def sweep(self) -> int:
        """End whatever is left of the job on the host; how many processes there were."""
        done = self._transport.run(self._command("sweep", self.folder, self.id))
        return int(json.loads(done.stdout)["swept"]) if done.code == 0 else 0

    def close(self) -> None:
        """Let go of the channel."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None


AT_ONCE = 200  # jobs that one agent ends: a command line has its limits


def sweep_jobs(transport: Transport, python: str, agent: str, folders: Sequence[str]) -> int:
    """End whatever an earlier run process left of these jobs; how many processes there were."""
    swept = 0
    for first in range(0, len(folders), AT_ONCE):
        pairs = [word for f in folders[first : first + AT_ONCE] for word in (f, Path(f).name)]
        done = transport.run([python, "-I", "-S", agent, "sweep", *pairs])
        swept += int(json.loads(done.stdout)["swept"]) if done.code == 0 else 0
    return swept
