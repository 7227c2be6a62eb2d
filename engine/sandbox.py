"""A place for drills: a home of its own with the user's environments, and hosts where root is had.

Hosts are those of hosts/testbed.py, in the inventory as the cluster `drill`. Nothing of the user's
runs, cache and inventory is touched; what a killed drill has left is removed by the next one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine import api
from engine.errors import AiokError, EnvironmentProblem
from engine.processes import processes_of
from engine.store import cache_folder, home, remove_tree
from hosts.inventory import LOCAL
from hosts.testbed import Testbed
from hosts.testbed_host import TestbedProblem, is_own

CLUSTER = "drill"
DISK_MIB = 5120  # of a host whose disk is to be filled, with room for torch and Spark
PREFIX = "aiok-drill-"
OURS = ("models.", "mpiexec", "hydra", "agent.py", "org.apache.spark", "pyspark")


@dataclass(frozen=True)
class Sandbox:
    """`testbed` is None where there are no hosts: then work runs on this machine alone."""

    place: Path
    testbed: Testbed | None

    @property
    def cluster(self) -> str:
        """Where the drill's runs train."""
        return CLUSTER if self.testbed else LOCAL

    @property
    def hosts(self) -> list[str]:
        """The hosts that are up, the head first."""
        return [h.name for h in self.testbed.hosts() if h.running] if self.testbed else []

    def forget(self, kinds: Sequence[str]) -> None:
        """Let the next run do the steps of these kinds anew."""
        for path in cache_folder().glob("*-*"):
            if path.name.split("-")[0] in kinds:
                remove_tree(path)

    def left_of(self, run: str) -> list[str]:
        """Processes of a run here, and of aiok on the hosts: `HOST: COMMAND`."""
        found = [f"{LOCAL}: {process.command}" for process in processes_of(run)]
        for host in self.hosts:
            assert self.testbed is not None
            found += [
                f"{host}: {process.command}"
                for process in self.testbed.processes(host)
                if any(word in process.command for word in OURS)
            ]
        return found

    def wait_until_bare(self, run: str, limit_s: float) -> list[str]:
        """What is still left of a run after so long; as soon as nothing is, []."""
        end = time.monotonic() + limit_s
        while (left := self.left_of(run)) and time.monotonic() < end:
            time.sleep(0.2)
        return left


@contextlib.contextmanager
def sandbox(hosts: int, small_disk: str | None = None) -> Iterator[Sandbox]:
    """A sandbox for the length of a with block; `hosts` 0: on this machine alone.

    `small_disk` names the host whose disk can be filled. EnvironmentProblem where the testbed
    cannot be made.
    """
    _remove_leftovers()
    shared, before = home(), os.environ.get("AIOK_HOME")
    place = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
    testbed = None
    try:
        for name in ("envs", "wheels"):
            (shared / name).mkdir(parents=True, exist_ok=True)
            (place / name).symlink_to(shared / name)
        os.environ["AIOK_HOME"] = str(place)
        if hosts:
            testbed = _hosts(place / "testbed", hosts, small_disk)
            testbed.inventory(place / "inventory.yaml", cluster=CLUSTER)
        yield Sandbox(place, testbed)
    finally:
        with contextlib.suppress(AiokError):
            _end_runs()
        if testbed is not None:
            testbed.down()
        os.environ.pop("AIOK_HOME")
        if before is not None:
            os.environ["AIOK_HOME"] = before
        shutil.rmtree(place, ignore_errors=True)


def _hosts(folder: Path, count: int, small_disk: str | None) -> Testbed:
    """Hosts that share a folder, with names and addresses that nobody uses here."""
    last: TestbedProblem | None = None
    for number in range(20):
        net = f"10.{210 + (os.getpid() + number) % 40}.{os.getpid() % 256}"
        testbed = Testbed(folder, net, prefix=f"d{os.getpid() % 0xFFFFF:x}{number:x}")
        try:
            testbed.up(count, shared=True, disk_mib={small_disk: DISK_MIB} if small_disk else None)
            return testbed
        except TestbedProblem as problem:
            last = problem
            testbed.down()
            if "choose another" not in str(problem):
                break
    raise EnvironmentProblem(f"no hosts for the drill: {last}")


def _end_runs() -> None:
    for run in api.runs():
        if run.status.is_live:
            api.stop(run.id, kill=True)
            api.wait_for_end(run.id, 30)


def _remove_leftovers() -> None:
    """Of drills whose process is gone; what others have put there is not touched."""
    for place in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        pid = place.name.removeprefix(PREFIX).partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists() and is_own(place):
            if os.geteuid() == 0:
                _remove_hosts(place / "testbed")
            shutil.rmtree(place, ignore_errors=True)


def _remove_hosts(folder: Path) -> None:
    try:
        Testbed(folder).down()
    except TestbedProblem as problem:
        raise EnvironmentProblem(
            f"the hosts that an earlier drill has left do not go: {problem}",
            todo=f"remove what is left by hand, then {folder.parent}",
        ) from None
