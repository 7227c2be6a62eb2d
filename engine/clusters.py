"""The user's hosts and clusters: the inventory file, and the way to a cluster's hosts."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pydantic import ValidationError

from engine.errors import EnvironmentProblem, HostAway, HostError, InputError
from engine.store import home, make_folder, write_atomically
from engine.strict_yaml import Source, read, refuse, sentences, to_yaml
from hosts.inventory import LOCAL, HostEntry, Inventory, reference_problems
from hosts.local import LocalTransport
from hosts.site import Site
from hosts.transport import HostProblem, NoAnswer, Refusal, Transport
from models.settings import nearest

if TYPE_CHECKING:  # paramiko takes a fifth of a second to import
    from hosts.ssh import SshTransport

__all__ = ["HostEntry", "Inventory"]  # for the front ends, which see no hosts

AT_ONCE = 8  # connections opened side by side: sshd drops more than ten that are not logged in
WORK_FOLDER = ".local/share/aiok"  # in the user's home on a host
Password = Callable[[HostEntry], str | None]
"""Asks a person for the password of a host; None when nobody is there to type it."""


class TypedOnce:
    """A Password that asks one question at a time, and that of a host once; kept in memory only."""

    def __init__(self, ask: Password) -> None:
        self._ask, self._lock = ask, threading.Lock()
        self._typed: dict[str, str | None] = {}

    def __call__(self, entry: HostEntry) -> str | None:
        with self._lock:
            if entry.name not in self._typed:
                self._typed[entry.name] = self._ask(entry)
            return self._typed[entry.name]


def local_site() -> Site:
    """This machine."""
    return Site(
        name=LOCAL, transport=LocalTransport(), home=PurePosixPath(home()),
        python=sys.executable, address="127.0.0.1",
    )  # fmt: skip


# --- the inventory ------------------------------------------------------------------------------


def inventory_path() -> Path:
    """The file with the user's hosts."""
    return home() / "inventory.yaml"


def known_hosts_path() -> Path:
    """The pinned host keys."""
    return home() / "ssh" / "known_hosts"


def identity_path(cluster: str) -> Path:
    """aiok's own private key of a cluster, or of a host in none; it is there while that is up."""
    return home() / "ssh" / cluster / "id_ed25519"


def inventory() -> Inventory:
    """The user's hosts; EnvironmentProblem with every problem of the file at once."""
    path = inventory_path()
    if not path.exists():
        return Inventory()
    try:
        return checked(read(path, "inventory"))
    except InputError as error:
        todo = error.todo or f"mend {path}"
        raise EnvironmentProblem(error.what, why=error.why, todo=todo) from None


def checked(source: Source) -> Inventory:
    """Data as an inventory; InputError with every problem: keys, values, names of nothing."""
    problems: list[str] = []
    made = Inventory()
    try:
        made = Inventory.model_validate(source.data)
    except ValidationError as error:
        problems += sentences(Inventory, source, {}, error)
    problems += [f"{source.place(key)}: {text}" for key, text in reference_problems(source.data)]
    if problems:
        raise refuse(source, problems)
    return made


def write_inventory(new: Inventory) -> None:
    """Replace the inventory file. Comments in it do not survive."""
    make_folder(home())
    write_atomically(inventory_path(), to_yaml(new.to_data()))


def interface_of(cluster: str) -> str | None:
    """The network interface of a cluster, where the inventory names one."""
    known = inventory().clusters.get(cluster)
    return known.interface if known else None


def shared_folder(cluster: str) -> str | None:
    """The folder that all hosts of a cluster see, where the inventory names one."""
    known = inventory().clusters.get(cluster)
    return known.shared if known else None


def entries(name: str, known: Inventory | None = None) -> list[HostEntry]:
    """The hosts of a cluster, or one host; InputError for a name that is neither."""
    known = known or inventory()
    try:
        return known.entries(name)
    except KeyError:
        names = [*known.clusters, *known.hosts]
        raise InputError(
            f"there is no cluster or host {name}",
            todo=nearest(name, names) if names else "add hosts: aiok hosts add USER@ADDRESS",
        ) from None


# --- connections --------------------------------------------------------------------------------


def transport_to(name: str, known: Inventory, password: Password | None = None) -> SshTransport:
    """A way to a host of the inventory, through its jump hosts; nothing is opened yet."""
    from hosts.ssh import SshTransport

    entry = known.entry(name)
    return SshTransport(
        entry,
        known_hosts_path(),
        password=password,
        identity=identity_path(known.cluster_of(name) or name),
        jump=transport_to(entry.jump, known, password) if entry.jump else None,
    )


def site_of(entry: HostEntry, transport: Transport) -> Site:
    """A host that answers, with its places; HostProblem when it has no Python 3.11."""
    return Site(
        name=entry.name, transport=transport, home=work_folder(entry, transport),
        python=find_python(entry, transport), address=entry.cluster_address, slots=entry.slots,
    )  # fmt: skip


def work_folder(entry: HostEntry, transport: Transport) -> PurePosixPath:
    """The absolute path of aiok's tree on a host."""
    folder = entry.work_folder or f"~/{WORK_FOLDER}"
    if folder.startswith("~/"):
        said = transport.run(["/bin/sh", "-c", 'printf %s "$HOME"']).stdout
        if not said.startswith("/"):
            raise HostProblem(
                entry.name, f"{entry.user} has no home folder there",
                todo="name a folder: work_folder in the inventory",
            )  # fmt: skip
        folder = f"{said.rstrip('/')}/{folder[2:]}"
    return PurePosixPath(folder)


PYTHONS = ("python3.11", "python3", "/usr/bin/python3.11", "/usr/local/bin/python3.11")
ASK_VERSION = "import sys; print(sys.executable, sys.implementation.name, *sys.version_info[:2])"


def find_python(entry: HostEntry, transport: Transport) -> str:
    """The absolute path of a CPython 3.11 on a host; a Refusal says how to get one."""
    seen = []
    for python in (entry.python,) if entry.python else PYTHONS:
        try:
            done = transport.run([python, "-I", "-S", "-c", ASK_VERSION])
        except HostProblem as problem:
            if "there is no program" not in problem.what:
                raise
            continue
        words = done.stdout.split()
        if done.code == 0 and words[1:] == ["cpython", "3", "11"]:
            return words[0]
        seen.append(f"{python} is {' '.join(words[1:2])} {'.'.join(words[2:])}".strip())
    raise Refusal(
        entry.name, "there is no CPython 3.11" + (f" at {entry.python}" if entry.python else ""),
        "; ".join(seen),
        "install it (Debian 12: apt-get install python3; without root: uv python install 3.11), or "
        "name one: python in the inventory",
    )  # fmt: skip


def reach(
    wanted: Sequence[HostEntry], known: Inventory, password: Password | None = None
) -> tuple[list[Site], list[HostProblem]]:
    """The hosts that answer, and what is wrong with the others; all are tried side by side.

    One password is asked for at a time, and each once.
    """
    asked = TypedOnce(password) if password else None

    def one(entry: HostEntry) -> Site | HostProblem:
        transport = transport_to(entry.name, known, asked)
        try:
            return site_of(entry, transport)
        except HostProblem as problem:
            transport.close()
            return problem

    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = list(pool.map(one, wanted))
    return (
        [item for item in found if isinstance(item, Site)],
        [item for item in found if isinstance(item, HostProblem)],
    )


def connect(name: str, without: Sequence[str] = ()) -> list[Site]:
    """The hosts of a cluster, all of them or none; HostError lists all that cannot be reached."""
    known = inventory()
    wanted = [entry for entry in entries(name, known) if entry.name not in without]
    if not wanted:
        raise InputError(f"no host of {name} is left", todo="leave fewer hosts out")
    sites, problems = reach(wanted, known)
    if problems:
        leave(sites)
        raise unreachable(problems)
    return sites


def leave(sites: Sequence[Site]) -> None:
    """Close the connections."""
    for site in sites:
        site.transport.close()


def unreachable(problems: Sequence[HostProblem], log: str = "") -> HostError:
    """The problems of hosts as one error, each host's own what, why and to do; HostAway when one of
    the hosts gave no answer."""
    kind = HostAway if any(isinstance(problem, NoAnswer) for problem in problems) else HostError
    if len(problems) == 1:
        only = problems[0]
        return kind(str(only), why=only.why, todo=only.todo, log=log)
    return kind("\n".join(sentence(problem) for problem in problems), log=log)


def sentence(problem: HostProblem) -> str:
    """A host's problem on one line."""
    text = str(problem) + (f" ({problem.why})" if problem.why else "")
    return text + (f"; {problem.todo}" if problem.todo else "")


def used_twice(host: str, owners: Sequence[str]) -> HostProblem:
    """A host of several clusters, each of which would think that the cores are its own."""
    return HostProblem(
        host, f"it is in {' and '.join(owners)}", "a host works for one cluster at a time",
        f"leave it in one of them: {inventory_path()}",
    )  # fmt: skip
