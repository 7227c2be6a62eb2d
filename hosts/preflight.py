"""Whether a host can work: rights, space, clock, processors, and its ways to the other hosts.

Each check looks and changes nothing. What only a shell is needed for is found without Python, so
that a host that lacks Python, too, is told all of its problems at once.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from hosts.inventory import HostEntry
from hosts.probe import HostFacts, route_to
from hosts.site import Site
from hosts.transport import HostProblem, Transport, clean

if TYPE_CHECKING:  # it imports cryptography
    from hosts.bringup import Placed

SKEW_NOTE_S, SKEW_S = 2.0, 60.0
MEMORY_GIB = 4.0
PEER_S = 5.0


@dataclass(frozen=True)
class Finding:
    """One check. `level` is ok, note or problem."""

    level: str
    what: str
    todo: str = ""
    why: str = ""


class HostStatus(StrEnum):
    """How a host stands."""

    UNREACHABLE = "unreachable"
    BARE = "bare"
    HALF = "half-made"
    READY = "ready"


@dataclass(frozen=True, kw_only=True)
class HostReport:
    """All that was found about a host; `facts` is None where no Python could tell them.

    `placed` is what aiok has there, None where the host did not let us in; `answer_s` is how long
    it took to answer a command.
    """

    host: str
    facts: HostFacts | None
    findings: Sequence[Finding]
    placed: Placed | None = None
    answer_s: float | None = None

    @property
    def status(self) -> HostStatus:
        """Whether aiok can work there at once, after `up`, or not at all."""
        if self.placed is None:
            return HostStatus.UNREACHABLE
        if self.placed.is_ready:
            return HostStatus.READY
        return HostStatus.HALF if self.placed.entries else HostStatus.BARE

    @property
    def problems(self) -> list[HostProblem]:
        """What keeps the host from working."""
        return [HostProblem(self.host, found.what, found.why, found.todo)
                for found in self.findings if found.level == "problem"]  # fmt: skip


def told(problem: HostProblem) -> Finding:
    """A host's problem as a finding."""
    return Finding("problem", problem.what, problem.todo, problem.why)


# --- the work folder ------------------------------------------------------------------------------

PLACE = r"""
at=$1
while [ ! -e "$at" ]; do at=$(dirname -- "$at"); done
echo "there $at"
[ -d "$at" ] && echo "folder yes"
[ -w "$at" ] && [ -x "$at" ] && echo "writable yes"
line=$(df -Pk -- "$at" | tail -n 1)
echo "space $line"
mount=$(printf %s "$line" | sed 's/.*% //')
while read -r _ point _ options _; do
    [ "$point" = "$mount" ] && last=$options
done </proc/mounts
echo "options $last"
keys=$HOME/.ssh/authorized_keys
while [ ! -e "$keys" ]; do keys=$(dirname -- "$keys"); done
[ -w "$keys" ] || echo "locked $keys"
[ -z "$2" ] || { [ -d "$2" ] && [ -w "$2" ] && [ -x "$2" ]; } || echo "unshared $2"
df -Pk /dev/shm 2>/dev/null | tail -n 1 | sed 's/^/shm /'
"""


def place(
    transport: Transport, folder: PurePosixPath, need_gib: float, shared: str | None
) -> list[Finding]:
    """The rights and the space of the work folder, the user's authorized_keys, a shared folder."""
    done = transport.run(["/bin/sh", "-c", PLACE, "sh", str(folder), shared or ""], timeout_s=30)
    said = dict(line.partition(" ")[::2] for line in clean(done.stdout).splitlines())
    there, found = said.get("there", str(folder)), list[Finding]()
    choose = "choose another work_folder in the inventory"
    if "folder" not in said:
        found.append(Finding("problem", f"{there} is a file, not a folder", choose))
    elif "writable" not in said:
        todo = f"make it writable for this user, or {choose}"
        found.append(Finding("problem", f"{there} is not writable", todo))
    options = said.get("options", "").split(",")
    if "noexec" in options:
        why = "its disk is mounted noexec, and environments hold programs"
        found.append(Finding("problem", f"nothing can be run in {there}", choose, why))
    free_gib = _free_gib(said.get("space", ""))
    if free_gib is not None:
        text = f"{free_gib:.2f} GiB free in {there}"
        if free_gib < need_gib:
            todo = f"free some, or {choose}"
            found.append(Finding("problem", f"{text}, aiok needs about {need_gib:.2f}", todo))
        else:
            found.append(Finding("ok", text))
    if "locked" in said:
        why = "aiok's own key is put there while the cluster is up"
        todo = "make it writable for this user"
        found.append(Finding("problem", f"{said['locked']} is not writable", todo, why))
    if "unshared" in said:
        what = f"the shared folder {shared} is not there, or not writable"
        todo = "mount it, or correct `shared` of the cluster in the inventory"
        found.append(Finding("problem", what, todo))
    if "shm" not in said:
        found.append(Finding("note", "there is no /dev/shm", "mount a tmpfs there"))
    return found


def _free_gib(line: str) -> float | None:
    """The available space of a line of `df -Pk`."""
    match = re.search(r"\s\d+\s+\d+\s+(\d+)\s+\d+%\s", line)
    return int(match[1]) / 2**20 if match else None


# --- the clock ------------------------------------------------------------------------------------


def clock(transport: Transport) -> list[Finding]:
    """How far a host's clock is from this machine's, the way of the question taken out."""
    ahead_s, within_s = min((_ask_time(transport) for _ in range(3)), key=lambda pair: pair[1])
    size = abs(ahead_s)
    text = f"its clock is {size:.0f} s {'ahead of' if ahead_s > 0 else 'behind'} this machine's"
    todo = "set it: NTP (systemd-timesyncd or chrony), or by hand"
    if size > SKEW_S + within_s:
        why = "times of files, logs and certificates would be wrong"
        return [Finding("problem", text, todo, why)]
    if size > SKEW_NOTE_S + within_s:
        return [Finding("note", text, todo)]
    return []


def _ask_time(transport: Transport) -> tuple[float, float]:
    """(seconds a host is ahead, half of the round trip)."""
    asked = time.time()
    said = transport.run(["date", "+%s.%N"], timeout_s=20).stdout
    answered = time.time()
    match = re.match(r"\d+(\.\d+)?", said)  # busybox's date knows no %N
    if match is None:
        raise HostProblem(transport.host, "it does not tell its time", said.strip()[:80])
    coarse = 0.0 if match[1] else 0.5
    return float(match[0]) + coarse - (asked + answered) / 2, (answered - asked) / 2 + coarse


# --- what it is -----------------------------------------------------------------------------------


def machine(facts: HostFacts) -> list[Finding]:
    """Processors, memory, Java and load."""
    isa = ", ".join(facts.isa) or "no AVX2"
    nodes = f", {len(facts.numa)} NUMA nodes" if len(facts.numa) > 1 else ""
    enough = facts.memory_gib >= MEMORY_GIB
    found = [
        Finding("ok", f"{facts.cpu_model}, {facts.physical_cores} cores{nodes}, {isa}"),
        Finding("ok" if enough else "problem", f"{facts.memory_gib:.1f} GiB memory",
                "" if enough else f"{MEMORY_GIB:.0f} GiB is the least that trains"),
    ]  # fmt: skip
    if not facts.has_bf16:
        found.append(Finding("note", "no AMX or AVX512-BF16: training runs in fp32"))
    found.append(
        Finding("ok", facts.java) if facts.java else
        Finding("note", "no Java: Apache Spark would get a runtime made from a JDK here",
                "or apt-get install openjdk-17-jre-headless; the embedded engine needs none")
    )  # fmt: skip
    if facts.load1 > len(facts.cores):
        found.append(Finding("note", f"load {facts.load1:.1f} on {len(facts.cores)} cores",
                             "others work here: timings will be worse"))  # fmt: skip
    return found


# --- its ways to the others -----------------------------------------------------------------------

PEERS = """
import json, socket, sys, threading
said = {}
def look(name, address, port):
    try:
        with socket.create_connection((address, int(port)), float(sys.argv[1])) as way:
            said[name] = {"own": way.getsockname()[0], "ssh": way.recv(4) == b"SSH-"}
    except OSError as error:
        said[name] = {"problem": error.strerror or str(error)}
def resolve(name, address):
    try:
        said[name] = {"own": socket.gethostbyname(address)}
    except OSError as error:
        said[name] = {"problem": error.strerror or str(error)}
resolve("", sys.argv[2])
words = sys.argv[3:]
ways = [threading.Thread(target=look, args=words[at:at + 3]) for at in range(0, len(words), 3)]
for way in ways: way.start()
for way in ways: way.join()
print(json.dumps(said))
"""


def ways(site: Site, others: Sequence[HostEntry], interface: str | None) -> list[Finding]:
    """Whether a host reaches the SSH servers of others, by which interface, and not by loopback."""
    words = [word for e in others for word in (e.name, e.cluster_address, str(e.port))]
    done = site.transport.run(
        [site.python, "-I", "-S", "-c", PEERS, str(PEER_S), site.address, *words], timeout_s=60
    )
    try:
        said: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.code}"])[-1]
        raise HostProblem(site.name, "its network could not be looked at", last) from None
    found = [_way(entry, said[entry.name]) for entry in others]
    itself = clean(said[""].get("own", ""))
    if itself.startswith("127."):  # Debian's installer writes 127.0.1.1 HOSTNAME to /etc/hosts
        found.append(Finding(
            "problem", f"its own address {site.address} means {itself} on itself",
            "give its IP address: cluster_address in the inventory",
            "a line of its /etc/hosts; the other hosts could not reach what listens there",
        ))  # fmt: skip
    good = [entry for entry in others if said[entry.name].get("ssh")]
    if good:
        found.append(_interface(site, good, interface))
    return [finding for finding in found if finding is not None]


def _way(other: HostEntry, said: dict[str, Any]) -> Finding | None:
    place = f"{other.name} at {other.cluster_address} port {other.port}"
    todo = (
        "check the network between them; cluster_address in the inventory is where the other "
        "hosts reach a host"
    )
    if "problem" in said:
        return Finding("problem", f"it cannot reach {place}", todo, clean(said["problem"]))
    if not said["ssh"]:
        return Finding("problem", f"no SSH server answers it as {place}", todo)
    if said["own"].startswith("127."):
        why = f"{other.cluster_address} is a loopback address there"
        return Finding("problem", f"{place} is itself", todo, why)
    return None


def _interface(site: Site, others: Sequence[HostEntry], wanted: str | None) -> Finding:
    names = ", ".join(entry.name for entry in others)
    if wanted is None:
        route = route_to(site.transport, site.python, others[0].cluster_address)
        return Finding("ok", f"reaches {names} by {route.interface} from {route.address}")
    if site.transport.run(["test", "-e", f"/sys/class/net/{wanted}"]).code:
        todo = "correct `interface` of the cluster in the inventory, or leave it out"
        return Finding("problem", f"it has no network interface {wanted}", todo)
    return Finding("ok", f"reaches {names}; {wanted} is there")


def one_folder(sites: Sequence[Site], folder: str) -> list[HostProblem]:
    """Whether all hosts see the same folder: what the first one writes there, the others must see.

    Returns a problem for each host that does not; nothing is left in the folder.
    """
    first, probe_file = sites[0], f"{folder}/.aiok-probe-{secrets.token_hex(8)}"
    if first.transport.run(["/bin/sh", "-c", ': > "$1"', "sh", probe_file]).code:
        return []  # that it cannot be written is told by `place`
    try:
        blind = [site for site in sites if site.transport.run(["test", "-e", probe_file]).code]
    finally:
        first.transport.run(["rm", "-f", probe_file])
    return [
        HostProblem(
            site.name, f"{folder} is not the folder that {first.name} has there",
            "a file written on one host is not seen on the other",
            "mount the same storage on all hosts, or drop `shared` from the cluster",
        )
        for site in blind
    ]  # fmt: skip


def same_folder(homes: dict[str, str]) -> list[HostProblem]:
    """The hosts whose work folder lies elsewhere than that of the first: mpirun uses one path."""
    first, *others = homes
    return [
        HostProblem(
            name, f"its work folder is {homes[name]}, that of {first} is {homes[first]}",
            "mpirun starts the same path on all hosts",
            "give all hosts of the cluster the same absolute work_folder",
        )
        for name in others
        if homes[name] != homes[first]
    ]  # fmt: skip
