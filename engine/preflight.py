"""Check hosts before they are used: all of them side by side, all problems at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine import clusters, environments
from engine.clusters import AT_ONCE, Password
from hosts import preflight, provision
from hosts.inventory import HostEntry, Inventory
from hosts.preflight import Finding, HostReport, HostStatus
from hosts.probe import HostFacts, probe
from hosts.site import Site
from hosts.transport import HostProblem, Transport

if TYPE_CHECKING:  # paramiko and cryptography take their time to import
    from hosts.bringup import Placed

__all__ = ["HostReport", "HostStatus", "check"]

SCRATCH_GIB = 0.2  # checkpoints and logs, where all is installed


@dataclass
class _Host:
    """A host while it is checked. `site` is there when it let us in, `python` when it has 3.11."""

    entry: HostEntry
    transport: Transport
    cluster: str | None
    site: Site | None = None
    python: str = ""
    facts: HostFacts | None = None
    placed: Placed | None = None
    answer_s: float | None = None
    findings: list[Finding] = field(default_factory=list)

    def note(self, problem: HostProblem) -> None:
        """Keep a problem, once."""
        finding = preflight.told(problem)
        if finding not in self.findings:
            self.findings.append(finding)

    def report(self) -> HostReport:
        """What is known of it so far."""
        return HostReport(
            host=self.entry.name, facts=self.facts, findings=tuple(self.findings),
            placed=self.placed, answer_s=self.answer_s,
        )  # fmt: skip


def check(
    names: Sequence[str] = (),
    password: Password | None = None,
    told: Callable[[HostReport], None] = lambda report: None,
) -> list[HostReport]:
    """What there is to say about hosts and clusters; all of the inventory when none is named.

    `told` hears of each host as soon as it was looked at by itself, from any thread.
    EnvironmentProblem for a bad inventory, InputError for an unknown name.
    """
    known = clusters.inventory()
    wanted = {entry.name: entry for name in names or known.hosts
              for entry in clusters.entries(name, known)}  # fmt: skip
    asked = clusters.TypedOnce(password) if password else None
    hosts = [
        _Host(entry, clusters.transport_to(name, known, asked), _cluster(name, names, known))
        for name, entry in wanted.items()
    ]
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda host: _look(host, known, told), hosts))
        for cluster in dict.fromkeys(host.cluster for host in hosts if host.cluster):
            _look_between([host for host in hosts if host.cluster == cluster], cluster, known)
    finally:
        for host in hosts:
            host.transport.close()
    return [host.report() for host in hosts]


def _cluster(host: str, names: Sequence[str], known: Inventory) -> str | None:
    """The cluster for which a host is looked at: one of those named, else the one it is in."""
    mine = [name for name, cluster in known.clusters.items() if host in cluster.hosts]
    return next((name for name in mine if name in names), mine[0] if mine else None)


def _look(host: _Host, known: Inventory, told: Callable[[HostReport], None]) -> None:
    """All that can be said of a host by itself."""
    owners = known.doubly_used().get(host.entry.name)
    if owners:
        host.note(clusters.used_twice(host.entry.name, owners))
    try:
        _look_inside(host, known)
    except HostProblem as problem:
        host.note(problem)
    told(host.report())


def _look_inside(host: _Host, known: Inventory) -> None:
    from hosts.bringup import placed

    entry, transport = host.entry, host.transport
    home = clusters.work_folder(entry, transport)
    began = time.perf_counter()
    transport.run(["true"])  # the channel is open by now
    host.answer_s = time.perf_counter() - began
    host.placed = placed(transport, home)
    try:
        host.python = clusters.find_python(entry, transport)
    except HostProblem as problem:
        host.note(problem)
    site = host.site = Site(
        name=entry.name, transport=transport, home=home, python=host.python or "python3",
        address=entry.cluster_address, slots=entry.slots,
    )  # fmt: skip
    shared = known.clusters[host.cluster].shared if host.cluster else None
    host.findings += preflight.place(transport, home, _need_gib(site), shared)
    host.findings += preflight.clock(transport)
    try:
        host.facts = probe(transport, site.python, str(home))
    except HostProblem:
        if host.python:
            raise
        return  # it has no Python at all, which is told already
    where = f"{entry.user}@{entry.address}, Python {host.facts.python} at {host.facts.python_path}"
    host.findings += [Finding("ok", where), *preflight.machine(host.facts)]


def _need_gib(site: Site) -> float:
    """The disk that aiok will take on a host."""
    lock = environments.lock_of(environments.WORKS_IN)
    if provision.is_installed(site.transport, site.environment(lock)):
        return SCRATCH_GIB
    return lock.wheels_gib + lock.installed_gib + SCRATCH_GIB


def _look_between(hosts: Sequence[_Host], cluster: str, known: Inventory) -> None:
    """What stands between the hosts of a cluster that let us in."""
    sites = {host.entry.name: host.site for host in hosts if host.site is not None}
    if len(sites) < 2:
        return
    by_name = {host.entry.name: host for host in hosts}
    homes = {name: str(site.home) for name, site in sites.items()}
    for problem in preflight.same_folder(homes):
        by_name[problem.host].note(problem)
    shared = known.clusters[cluster].shared
    if shared:
        for problem in preflight.one_folder(list(sites.values()), shared):
            by_name[problem.host].note(problem)
    interface = known.clusters[cluster].interface

    def look(site: Site) -> None:
        others = [by_name[name].entry for name in sites if name != site.name]
        host = by_name[site.name]
        try:
            host.findings += preflight.ways(site, others, interface)
        except HostProblem as problem:
            host.note(problem)

    able = [site for name, site in sites.items() if by_name[name].python]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(look, able))
    if clusters.identity_path(cluster).exists():
        _look_as_mpirun(able, by_name)


def _look_as_mpirun(sites: Sequence[Site], by_name: dict[str, _Host]) -> None:
    """Where the cluster is up: the very way by which ranks will be started."""
    from hosts.bringup import check_pairs

    ready = []
    for site in sites:
        try:
            there = not site.transport.run(["test", "-x", str(site.ssh / "rsh")]).code
        except HostProblem as problem:
            by_name[site.name].note(problem)
            continue
        if there:
            ready.append(site)
        else:
            by_name[site.name].findings.append(
                Finding("note", "it is not ready yet", f"aiok hosts up {site.name}")
            )
    for found in check_pairs(ready):
        by_name[found.host].note(found)
