"""Recorded hosts: an inventory as a person writes it, and what checks of such hosts told."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from engine import api, new_host
from engine import events as ev
from engine.clusters import HostEntry, Password
from engine.host_jobs import HostKey
from engine.monitor import Reading, Standing
from engine.store import EventLog, open_run_folder
from hosts.bringup import Entry, Placed
from hosts.preflight import Finding, HostReport
from hosts.probe import HostFacts
from hosts.transport import HostProblem
from tests.tui import recorded

INVENTORY = """\
defaults: {user: ann}
hosts:
  h1: {address: 10.0.0.11}
  h2: {address: 10.0.0.12, slots: 1}
  h3: {address: 10.0.0.13}
  spare: {address: 10.0.0.20, port: 2222}
clusters:
  lab: {hosts: [h1, h2, h3]}
"""
HOME = "/home/ann/.local/share/aiok"
ENTRIES = (
    Entry("folder", HOME),
    Entry("folder", f"{HOME}/ssh"),
    Entry("file", f"{HOME}/ssh/rsh"),
    Entry("line", "/home/ann/.ssh/authorized_keys"),
    Entry("tree", f"{HOME}/code"),
    Entry("tree", f"{HOME}/envs"),
)
BARE = Placed(entries=(), whole=())
HALF = Placed(entries=ENTRIES, whole=(f"{HOME}/code/1a2b3c4d",))
READY = Placed(entries=ENTRIES, whole=(f"{HOME}/code/1a2b3c4d", f"{HOME}/envs/torch-0f1e2d3c4b5a"))
FACTS = HostFacts(
    hostname="node", cpu_model="Xeon Gold 6430", cores=[0, 1, 2, 3], physical_cores=4, sockets=1,
    numa=[[0, 1], [2, 3]], isa=["avx2", "avx512f"], memory_gib=15.6, memory_free_gib=12.1,
    disk_free_gib=96.0, disk_total_gib=200.0, python="3.11.2", python_path="/usr/bin/python3.11",
    kernel="6.1.0", java="", clock=0.0, load1=0.4,
)  # fmt: skip
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ3mvzXzY0Uq0aXo0cT3uJ1Qv3m1m8b0rW2s4x6y8z0A"
FINGERPRINT = "SHA256:9vQ0m1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6q7r8s9t"
OK = (Finding("ok", "4 cores"), Finding("note", "no Java", "apt-get install openjdk-17"))
TIMEOUT = Finding("problem", "no answer from 10.0.0.13 port 22", "is it on? check the address",
                  "timed out after 10 s")  # fmt: skip
FULL = Finding("problem", "0.20 GiB free in /home/ann, aiok needs about 3.10",
               "free some, or choose another work_folder")  # fmt: skip


def report(host: str, placed: Placed | None, *findings: Finding) -> HostReport:
    """What a check told of a host; `placed` None: it did not let us in."""
    known = FACTS if placed is not None else None
    return HostReport(host=host, facts=known, findings=findings or OK, placed=placed,
                      answer_s=0.004 if placed is not None else None)  # fmt: skip


def sample(cpu: float, **changes: float) -> dict[str, object]:
    """One second of a host."""
    return {"t": recorded.T0, "cpu": [cpu, cpu + 2], "load1": 1.2, "memory_used_gib": 4.0,
            "memory_total_gib": 16.0, "disk_read_mib_s": 0.5, "disk_write_mib_s": 12.0,
            "net_rx_mib_s": 10.0, "net_tx_mib_s": 2.5, **changes}  # fmt: skip


class RecordedMonitor:
    """One host that is live, one that was lost, one never heard, one that is being connected."""

    def __init__(self) -> None:
        self.found = {
            "h1": Reading(host="h1", standing=Standing.LIVE, sample=sample(90), age_s=0.4),
            "h2": Reading(host="h2", standing=Standing.LOST, sample=sample(11), age_s=41.0,
                          problem="h2: the connection to the agent ended"),
            "h3": Reading(host="h3", standing=Standing.LOST, problem="h3: no answer"),
            "spare": Reading(host="spare", standing=Standing.CONNECTING),
        }  # fmt: skip
        self.followed, self.closed = 0, False

    def follow(self) -> None:
        """All of them."""
        self.followed += 1

    def readings(self) -> list[Reading]:
        """As recorded."""
        return list(self.found.values())

    def close(self) -> None:
        """No thread to end."""
        self.closed = True


class RecordedHosts:
    """The engine's calls on hosts; what they do is written down in `asked`."""

    def __init__(self, asked: list[tuple[object, ...]]) -> None:
        self.asked = asked
        self.reports = {
            "h1": report("h1", READY),
            "h2": report("h2", BARE, *OK, FULL),
            "h3": report("h3", None, TIMEOUT),
            "spare": report("spare", HALF),
        }
        self.failing: dict[str, HostProblem] = {}
        self.typed: dict[str, str | None] = {}  # passwords, by host
        self.monitors: list[RecordedMonitor] = []

    def Monitor(self) -> RecordedMonitor:
        """Hosts that say what they do."""
        self.monitors.append(RecordedMonitor())
        return self.monitors[-1]

    def meet_host(self, answers: Mapping[str, str], password: Password) -> HostKey:
        """The host shows FINGERPRINT; its check finds it bare."""
        name, new = new_host.described(answers)
        self.asked.append(("meet", name))
        entry = new.entry(name)
        if entry.jump:
            self._log_in(new.entry(entry.jump), password)
        self.reports[name] = report(name, BARE)
        return HostKey(entry, FINGERPRINT, f"{entry.address} {KEY}")

    def _log_in(self, entry: HostEntry, password: Password) -> HostProblem | None:
        """What a host that wants a password says."""
        if not entry.password:
            return None
        self.typed[entry.name] = password(entry)
        wanted = f"it wants the password of {entry.user} and none was typed"
        return None if self.typed[entry.name] else HostProblem(entry.name, wanted)

    def check_hosts(
        self, names: Sequence[str], password: Password, *, told: Callable[[HostReport], None]
    ) -> list[HostReport]:
        """As recorded; a host whose password is not typed lets nobody in."""
        self.asked.append(("check", *names))
        found = []
        for name in names:
            problem = self._log_in(api.inventory().entry(name), password)
            if problem is not None:
                self.reports[name] = report(name, None, Finding("problem", problem.what))
            found.append(self.reports[name])
        for each in found:
            told(each)
        return found

    def hosts_up(
        self,
        name: str,
        environments: Sequence[str],
        progress: Callable[..., None],
        password: Password,
    ) -> list[api.Outcome]:
        """Each host is ready, but for those that fail."""
        self.asked.append(("up", name, *environments))
        progress("", "torch: collecting wheels", 1, 2)
        return [self._change(host, READY, password, progress) for host in self._members(name)]

    def hosts_down(self, name: str, password: Password) -> list[api.Outcome]:
        """Each host is bare."""
        self.asked.append(("down", name))
        return [self._change(host, BARE, password) for host in self._members(name)]

    def _members(self, name: str) -> list[str]:
        return [entry.name for entry in api.inventory().entries(name)]

    def _change(
        self,
        host: str,
        placed: Placed,
        password: Password,
        progress: Callable[..., None] = lambda *_: None,
    ) -> api.Outcome:
        progress(host, "code", 1, 4)
        entry = api.inventory().entry(host)
        problem = self.failing.get(host) or self._log_in(entry, password)
        if problem is not None:
            return api.Outcome(host, problem=problem)
        self.reports[host] = report(host, placed)
        return api.Outcome(host, changed=(HOME,))


def spread_over_hosts(run: str, hosts: Sequence[str], silent: str = "") -> None:
    """Add to a recorded run the telemetry of the hosts of its cluster; one may be silent."""
    folder = open_run_folder(run)
    for number, host in enumerate(hosts):
        last = 40 if host == silent else 60
        with open(folder.telemetry(host), "w", encoding="utf-8") as file:
            for i in range(last):
                second = {
                    "host": host, "t": recorded.T0 + i + 3600, "heard": recorded.T0 + i,
                    "cpu": [50 + 40 * math.sin(i / 5 + number), 90.0], "net_rx_mib_s": 10.0,
                    "net_tx_mib_s": 2.5, "memory_used_gib": 4 + number, "memory_total_gib": 16.0,
                    "job_cpu": 190.0 - number, "job_memory_gib": 2.0,
                }  # fmt: skip
                file.write(json.dumps(second) + "\n")
    if silent:
        log = EventLog(folder.events)
        log.append(ev.HostSilent(t=recorded.T0 + 55, host=silent, seconds=12.0))
        log.close()


def write_inventory(home: Path) -> None:
    """The recorded inventory, as the user's own."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "inventory.yaml").write_text(INVENTORY, encoding="utf-8")
