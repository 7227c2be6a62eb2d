"""Where benchmarks run: a home of their own, and hosts of the SSH testbed, in it as `lab`."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.harness import count_as_own
from engine import clusters
from engine.store import home, make_folder
from hosts.testbed import HostProcess, HostState, Testbed


@contextlib.contextmanager
def fresh_home() -> Iterator[Path]:
    """An $AIOK_HOME without runs and cache, with the environments and wheels of the usual one."""
    kept = home()
    with tempfile.TemporaryDirectory(prefix="aiok-bench-") as place:
        for name in ("wheels", "envs"):
            (Path(place) / name).symlink_to(make_folder(kept / name))
        os.environ["AIOK_HOME"] = place
        yield Path(place)


class Sandbox:
    """Hosts that share this machine. Their CPU time counts as the benchmark's own. Needs root."""

    def __init__(
        self, place: Path, count: int, net: str, prefix: str, *, shared: bool = False
    ) -> None:
        """`place` is the benchmark's AIOK_HOME; `shared`: all hosts see the same /shared."""
        self.testbed = Testbed(place / "testbed", net, prefix=prefix)
        self.place, self.count, self.shared = place, count, shared

    def __enter__(self) -> Testbed:
        self.testbed.up(self.count, shared=self.shared)
        self.testbed.inventory(self.place / "inventory.yaml", cluster="lab")
        return self.testbed

    def __exit__(self, *_: object) -> None:
        count_as_own(sum(map(self._cpu_seconds, self.testbed.hosts())))
        self.testbed.down()
        clusters.identity_path("lab").unlink(missing_ok=True)

    def _cpu_seconds(self, host: HostState) -> float:
        return sum(cpu_seconds(process) for process in self.testbed.processes(host.name))


def cpu_seconds(process: HostProcess) -> float:
    """CPU time of a process in a host, and of what it has waited for; 0 when it has ended."""
    with contextlib.suppress(OSError):
        stat = Path(f"/proc/{process.pid}/stat").read_text()
        ticks = map(int, stat.rpartition(")")[2].split()[11:15])
        return sum(ticks) / os.sysconf("SC_CLK_TCK")
    return 0.0
