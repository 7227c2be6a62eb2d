"""The machines a person has, and their grouping into clusters: the closed schema of inventory.yaml.

defaults: {user: ann, key: ~/.ssh/id_ed25519}
hosts:
  h1: {address: 10.0.0.11}
  h2: {address: 10.0.0.12, jump: h1, slots: 4}
clusters:
  lab: {hosts: [h1, h2], shared: /mnt/nfs/aiok}
"""

from __future__ import annotations

import getpass
import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:_-]{0,252}")
USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
LOCAL = "localhost"


def _named(text: str) -> str:
    if not NAME.fullmatch(text) or text == LOCAL:
        raise ValueError("is no name: letters, digits, - and _, not localhost")
    return text


def _address(text: str) -> str:
    if not ADDRESS.fullmatch(text):  # it becomes a word of a command line: no dash in front
        raise ValueError("is neither a host name nor an IP address")
    return text


def _user(text: str) -> str:
    if not USER.fullmatch(text):
        raise ValueError("is no user name")
    return text


def _folder(text: str) -> str:
    if not text.startswith(("/", "~/")) or any(c in text for c in "\n\0'\""):
        raise ValueError("is no folder: give a path that begins with / or ~/")
    return text.rstrip("/")


Name = Annotated[str, AfterValidator(_named)]
Address = Annotated[str, AfterValidator(_address)]
User = Annotated[str, AfterValidator(_user)]
Folder = Annotated[str, AfterValidator(_folder)]
Port = Annotated[int, Field(ge=1, le=65535)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Defaults(_Part):
    """What holds for every host that does not say otherwise."""

    user: User | None = None
    key: str | None = None
    port: Port = 22
    agent: bool = False
    password: bool = False
    jump: Name | None = None
    work_folder: Folder | None = None
    python: Folder | None = None


class Host(_Part):
    """One host as written. `address` is where the user's side reaches it, `cluster_address` where
    the other hosts do; `agent` allows the user's ssh-agent, `password` a typed password."""

    address: Address
    user: User | None = None
    key: str | None = None
    port: Port | None = None
    agent: bool | None = None
    password: bool | None = None
    jump: Name | None = None
    cluster_address: Address | None = None
    work_folder: Folder | None = None
    python: Folder | None = None
    slots: Annotated[int, Field(ge=1, le=4096)] | None = None


class Cluster(_Part):
    """Hosts that work together. `shared` is a folder that all of them see, such as an NFS mount;
    `interface` the network interface between them, found by itself when left out."""

    hosts: list[Name]
    shared: Folder | None = None
    interface: str | None = None

    @model_validator(mode="after")
    def _some_once(self) -> Cluster:
        if not self.hosts:
            raise ValueError("has no hosts")
        twice = sorted({name for name in self.hosts if self.hosts.count(name) > 1})
        if twice:
            raise ValueError(f"hosts named more than once: {', '.join(twice)}")
        return self


class HostEntry(_Part):
    """One host with all defaults filled in."""

    name: str
    address: str
    user: str
    port: int
    key: str | None
    agent: bool
    password: bool
    jump: str | None
    cluster_address: str
    work_folder: str | None
    python: str | None
    slots: int | None


class Inventory(_Part):
    """All hosts and clusters."""

    defaults: Defaults = Defaults()
    hosts: dict[Name, Host] = {}
    clusters: dict[Name, Cluster] = {}

    def doubly_used(self) -> dict[str, list[str]]:
        """The hosts that are in several clusters, each of which would think it owns the cores."""
        owners: dict[str, list[str]] = {}
        for name, cluster in self.clusters.items():
            for host in cluster.hosts:
                owners.setdefault(host, []).append(name)
        return {host: clusters for host, clusters in owners.items() if len(clusters) > 1}

    def jump_of(self, name: str) -> str | None:
        """The host through which another one is reached; the default jump needs none itself."""
        own = self.hosts[name].jump
        default = self.defaults.jump
        return own or (default if default != name else None)

    def entry(self, name: str) -> HostEntry:
        """A host with its defaults; KeyError when there is none of that name."""
        host, defaults = self.hosts[name], self.defaults

        def choose(key: str) -> Any:
            own = getattr(host, key)
            return getattr(defaults, key) if own is None else own

        return HostEntry(
            name=name, address=host.address, user=choose("user") or getpass.getuser(),
            port=choose("port"), key=choose("key"), agent=choose("agent"),
            password=choose("password"), jump=self.jump_of(name),
            cluster_address=host.cluster_address or host.address,
            work_folder=choose("work_folder"), python=choose("python"), slots=host.slots,
        )  # fmt: skip

    def entries(self, name: str) -> list[HostEntry]:
        """The hosts of a cluster, or the one host of that name; KeyError when there is neither."""
        if name in self.clusters:
            return [self.entry(host) for host in self.clusters[name].hosts]
        return [self.entry(name)]

    def cluster_of(self, host: str) -> str | None:
        """The cluster a host belongs to."""
        return next((n for n, cluster in self.clusters.items() if host in cluster.hosts), None)

    def to_data(self) -> Mapping[str, Any]:
        """What inventory.yaml holds: only what was said."""
        return self.model_dump(exclude_defaults=True, exclude_none=True)


# --- references -----------------------------------------------------------------------------------


def reference_problems(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(dotted key, what is wrong) for every name that stands for nothing, or for two things.

    `data` is an inventory as written; where its shape is wrong, other checks say so.
    """
    hosts, clusters = _mapping(data.get("hosts")), _mapping(data.get("clusters"))
    default = _mapping(data.get("defaults")).get("jump")
    found = []
    if isinstance(default, str) and default not in hosts:
        found.append(("defaults.jump", _no_host(default, hosts)))
        default = None
    for name in hosts:
        problem = _jump_problem(name, hosts, default)
        if problem:
            found.append((f"hosts.{name}.jump", problem))
    for name, cluster in clusters.items():
        members = _mapping(cluster).get("hosts")
        for number, host in enumerate(members if isinstance(members, list) else []):
            if isinstance(host, str) and host not in hosts:
                found.append((f"clusters.{name}.hosts.{number}", _no_host(host, hosts)))
        if name in hosts:
            found.append((f"clusters.{name}", "is also the name of a host"))
    return found


def _mapping(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


def _no_host(name: str, hosts: Mapping[Any, Any]) -> str:
    close = get_close_matches(name, [str(host) for host in hosts], n=1, cutoff=0.5)
    return f"there is no host {name}" + (f", did you mean {close[0]}?" if close else "")


def _jump_problem(name: str, hosts: Mapping[Any, Any], default: Any) -> str:
    """What is wrong with the way to a host; only the first step of it is the host's own."""
    own = _mapping(hosts[name]).get("jump")
    if isinstance(own, str) and own not in hosts:
        return _no_host(own, hosts)
    seen = [name]
    while True:
        at = seen[-1]
        after = _mapping(hosts[at]).get("jump") or (default if default != at else None)
        if not isinstance(after, str) or after not in hosts:
            return ""
        if after in seen:
            return f"leads in a circle: {' -> '.join([*map(str, seen), after])}"
        seen.append(after)
