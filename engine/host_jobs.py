"""What a person does with hosts: add, remove, up, down. `check` is in engine/preflight.py."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine import clusters
from engine.clusters import Password
from engine.code import deploy
from engine.errors import AiokError, EnvironmentProblem, InputError
from engine.store import home, make_folder, remove_tree, write_atomically
from engine.strict_yaml import Source
from hosts import provision
from hosts.inventory import HostEntry, Inventory
from hosts.site import Site
from hosts.transport import HostProblem
from models.settings import nearest

if TYPE_CHECKING:
    from hosts.bringup import Member, Wanted

Progress = Callable[[str, str, float, float], None]
"""Called with (host, phase, done, total)."""


@dataclass(frozen=True)
class HostKey:
    """What a host shows before any login."""

    entry: HostEntry
    fingerprint: str
    line: str

    @property
    def to_compare(self) -> str:
        """The command that tells the fingerprint on the host itself."""
        kind = self.line.split()[1].removeprefix("ssh-").partition("-")[0]
        return f"ssh-keygen -lf /etc/ssh/ssh_host_{kind}_key.pub"


# --- the inventory --------------------------------------------------------------------------------


def next_name(known: Inventory) -> str:
    """The first of h1, h2, ... that nothing is called yet."""
    taken = {*known.hosts, *known.clusters}
    return next(name for i in itertools.count(1) if (name := f"h{i}") not in taken)


def describe(
    name: str, place: str, fields: Mapping[str, Any], cluster: str | None = None
) -> Inventory:
    """The inventory with one host more, at [USER@]ADDRESS, in a cluster if one is named.

    InputError for bad fields, all at once, or a name that is taken.
    """
    known = clusters.inventory()
    if name in known.hosts:
        raise InputError(
            f"there is already a host {name}", todo=f"aiok hosts remove {name}, or another name"
        )
    user, at, address = place.rpartition("@")
    host = {"address": address, **({"user": user} if at else {}), **fields}
    data = known.to_data()
    data = {**data, "hosts": {**data.get("hosts", {}), name: host}}
    return _checked(_joined(data, name, cluster) if cluster else data)


def joined(known: Inventory, name: str, cluster: str) -> Inventory:
    """The inventory with a host in a cluster, which is new or has others already."""
    return _checked(_joined(known.to_data(), name, cluster))


def _joined(data: Mapping[str, Any], name: str, cluster: str) -> dict[str, Any]:
    groups = data.get("clusters", {})
    group = groups.get(cluster, {"hosts": []})
    members = dict.fromkeys([*group["hosts"], name])
    return {**data, "clusters": {**groups, cluster: {**group, "hosts": list(members)}}}


def _checked(data: Mapping[str, Any]) -> Inventory:
    return clusters.checked(Source("inventory", "inventory", data))


def show_key(new: Inventory, name: str, password: Password | None = None) -> HostKey:
    """The key a host shows; HostError when it does not answer, or its key is pinned otherwise."""
    from hosts.ssh import scan_host_key

    entry = new.entry(name)
    jump = clusters.transport_to(entry.jump, new, password) if entry.jump else None
    try:
        fingerprint, line = scan_host_key(entry, clusters.known_hosts_path(), jump)
    except HostProblem as problem:
        raise clusters.unreachable([problem]) from None
    finally:
        if jump is not None:
            jump.close()
    return HostKey(entry, fingerprint, line)


def add(new: Inventory, key: HostKey) -> None:
    """Write the host into the inventory and pin its key."""
    _pin(key.line)
    if new != clusters.inventory():  # a file that only lacked the pin keeps its comments
        clusters.write_inventory(new)


def _pin(line: str) -> None:
    name = line.split()[0]
    _write_pins([*(old for old in _pins() if old.split()[:1] != [name]), line])


def _pins() -> list[str]:
    path = clusters.known_hosts_path()
    return path.read_text(encoding="ascii").splitlines() if path.exists() else []


def _write_pins(lines: Sequence[str]) -> None:
    path = clusters.known_hosts_path()
    make_folder(path.parent).chmod(0o700)
    write_atomically(path, "".join(f"{line}\n" for line in lines))
    path.chmod(0o600)


def remove(name: str) -> None:
    """Forget a host and its key; EnvironmentProblem while its cluster is up."""
    from hosts.login import known_name

    known = clusters.inventory()
    if name not in known.hosts:
        raise InputError(
            f"there is no host {name}",
            todo=nearest(name, list(known.hosts)) if known.hosts else "the inventory has none",
        )
    cluster = known.cluster_of(name)
    if clusters.identity_path(cluster or name).exists():
        what = f"{name} belongs to {cluster}, which is up" if cluster else f"{name} is up"
        raise EnvironmentProblem(what, todo=f"aiok hosts down {name} first")
    entry = known.entry(name)
    data = known.to_data()
    groups = data.get("clusters", {})
    left = {key: {**group, "hosts": [host for host in group["hosts"] if host != name]}
            for key, group in groups.items()}  # fmt: skip
    clusters.write_inventory(_checked({
        **data, "hosts": {key: host for key, host in data["hosts"].items() if key != name},
        "clusters": {key: group for key, group in left.items() if group["hosts"]},
    }))  # fmt: skip
    left_over = clusters.inventory()
    gone = known_name(entry.address, entry.port)
    used = {known_name(e.address, e.port) for e in map(left_over.entry, left_over.hosts)}
    if gone not in used:
        _write_pins([line for line in _pins() if line.split()[:1] != [gone]])


# --- up and down ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What became of one host: the paths that changed, or what went wrong."""

    host: str
    changed: Sequence[str] = ()
    problem: HostProblem | provision.ProvisionError | None = None


def up(
    name: str,
    locks: Sequence[provision.Lock],
    progress: Progress,
    password: Password | None = None,
    sites: Sequence[Site] = (),
) -> list[Outcome]:
    """Give all hosts of a cluster the environments of `locks`, side by side; a host that fails
    stops no other.

    `sites` are used when they are connected already. EnvironmentProblem when the wheels cannot be
    had here, HostError when no host can be reached.
    """
    known = clusters.inventory()
    _refuse_shared_hosts(name, known)
    wanted = _wanted(name, known, locks, progress)
    opened, outcomes = list(sites), list[Outcome]()
    if not sites:
        opened, problems = clusters.reach(clusters.entries(name, known), known, password)
        outcomes = [Outcome(problem.host, problem=problem) for problem in problems]
    try:
        outcomes += _up_each(opened, wanted, progress)
        changed = [outcome for outcome in outcomes if outcome.changed]
        if changed and len(opened) > 1:
            outcomes = _with_pairs(opened, outcomes)
    finally:
        if not sites:
            clusters.leave(opened)
    return outcomes


def _refuse_shared_hosts(name: str, known: Inventory) -> None:
    hosts = {entry.name for entry in clusters.entries(name, known)}
    shared = [
        clusters.used_twice(host, owners)
        for host, owners in known.doubly_used().items()
        if host in hosts
    ]
    if shared:
        raise clusters.unreachable(shared)


def _wanted(
    name: str, known: Inventory, locks: Sequence[provision.Lock], progress: Progress
) -> Wanted:
    from hosts.bringup import Wanted, make_key

    cluster = known.cluster_of(clusters.entries(name, known)[0].name) or name
    private, public = make_key(clusters.identity_path(cluster), f"aiok:{cluster}")
    with_wheels = []
    for lock in locks:

        def tell(phase: str, done: float, total: float, name: str = lock.name) -> None:
            progress("", f"{name}: {phase}", done, total)

        try:
            wheels = provision.collect_wheels(lock, home(), progress=tell)
        except provision.ProvisionError as error:
            raise EnvironmentProblem(error.what, why=error.why, todo=error.todo) from None
        with_wheels.append((lock, wheels))
    return Wanted(
        cluster=cluster, members=_members(cluster, known), code=deploy(), locks=with_wheels,
        private_key=private, public_key=public,
    )  # fmt: skip


def _members(cluster: str, known: Inventory) -> list[Member]:
    from hosts.bringup import Member
    from hosts.login import known_name

    pinned: dict[str, str] = {}
    for line in _pins():
        names, _, key = line.partition(" ")
        pinned |= dict.fromkeys(names.split(","), key)
    members = []
    for entry in clusters.entries(cluster, known):
        pin = pinned.get(known_name(entry.address, entry.port))
        if pin is None:
            raise EnvironmentProblem(
                f"the host key of {entry.name} is not pinned",
                todo=f"compare and pin it: aiok hosts add {entry.name}",
            )
        members.append(Member(entry=entry, host_key=pin))
    return members


def _up_each(sites: Sequence[Site], wanted: Wanted, progress: Progress) -> list[Outcome]:
    from hosts import bringup

    def one(site: Site) -> Outcome:
        try:
            changed = bringup.up(
                site, wanted, lambda phase, done, total: progress(site.name, phase, done, total)
            )
            return Outcome(site.name, changed)
        except (HostProblem, provision.ProvisionError) as problem:
            return Outcome(site.name, problem=problem)

    with ThreadPoolExecutor(clusters.AT_ONCE) as pool:
        return list(pool.map(one, sites))


def _with_pairs(sites: Sequence[Site], outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The outcomes, with what stands between hosts that are ready by themselves."""
    from hosts.bringup import check_pairs

    good = {outcome.host for outcome in outcomes if outcome.problem is None}
    problems = {p.host: p for p in check_pairs([site for site in sites if site.name in good])}
    return [
        Outcome(outcome.host, outcome.changed, problems.get(outcome.host, outcome.problem))
        for outcome in outcomes
    ]


def down(name: str, password: Password | None = None) -> list[Outcome]:
    """Take everything of aiok off the hosts of a cluster (or off one host), the key at last."""
    from hosts import bringup

    known = clusters.inventory()
    sites, problems = clusters.reach(clusters.entries(name, known), known, password)
    outcomes = [Outcome(problem.host, problem=problem) for problem in problems]

    def one(site: Site) -> Outcome:
        try:
            return Outcome(site.name, bringup.down(site))
        except HostProblem as problem:
            return Outcome(site.name, problem=problem)
        finally:
            site.transport.close()

    with ThreadPoolExecutor(clusters.AT_ONCE) as pool:
        outcomes += list(pool.map(one, sites))
    whole = name in known.clusters or known.cluster_of(name) is None
    if whole and all(outcome.problem is None for outcome in outcomes):
        remove_tree(clusters.identity_path(name).parent)
    return outcomes


def refuse(outcomes: Sequence[Outcome]) -> None:
    """HostError with every host's problem, if there is any."""
    problems = [outcome for outcome in outcomes if outcome.problem is not None]
    if problems:
        raise told(problems)


def told(problems: Sequence[Outcome]) -> AiokError:
    """Several hosts' problems as one error: a sentence each."""
    return clusters.unreachable([
        found if isinstance(found, HostProblem) else _of_host(outcome.host, found)
        for outcome in problems
        if (found := outcome.problem) is not None
    ])  # fmt: skip


def _of_host(host: str, problem: provision.ProvisionError) -> HostProblem:
    """A provisioning problem, which may name its host itself."""
    return HostProblem(host, problem.what.removeprefix(f"{host}: "), problem.why, problem.todo)
