"""A host as work sees it: how it is reached, where aiok's tree lies on it, which Python runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from hosts.lockfile import Lock
from hosts.transport import Transport


@dataclass(frozen=True, kw_only=True)
class Site:
    """A reached host. `home` is $AIOK_HOME there, `python` a CPython 3.11, `address` where the
    other hosts of its cluster reach it."""

    name: str
    transport: Transport
    home: PurePosixPath
    python: str
    address: str
    slots: int | None = None

    def environment(self, lock: Lock) -> PurePosixPath:
        """The folder of an environment."""
        return self.home / "envs" / f"{lock.name}-{lock.digest[:12]}"

    def code(self, digest: str) -> PurePosixPath:
        """The folder of the workers' code; the agent lies in it."""
        return self.home / "code" / digest

    def output(self, identity: str) -> PurePosixPath:
        """The finished output of a step."""
        return self.home / "cache" / identity

    def job(self, name: str) -> PurePosixPath:
        """The folder of a job under its agent."""
        return self.home / "jobs" / name

    @property
    def ssh(self) -> PurePosixPath:
        """aiok's key, pinned host keys, client settings and `rsh` for mpirun."""
        return self.home / "ssh"
