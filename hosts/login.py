"""Logging in: what a host is offered, what it must show, and in plain words what went wrong."""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paramiko

from hosts.inventory import HostEntry
from hosts.transport import HostProblem, NoAnswer, Refusal

CONNECT_S = 8.0

Password = Callable[[HostEntry], str | None]
"""Asks a person for the password of a host; None when nobody is there to type it."""


# --- host keys ----------------------------------------------------------------------------------


def fingerprint(key: paramiko.PKey) -> str:
    """A host key as OpenSSH shows it: SHA256:..."""
    digest = hashlib.sha256(key.asbytes()).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def known_name(address: str, port: int) -> str:
    """How a host is called in known_hosts."""
    return address if port == 22 else f"[{address}]:{port}"


class UnknownHostKey(paramiko.SSHException):
    """A host whose key is not pinned."""

    def __init__(self, key: paramiko.PKey) -> None:
        super().__init__("its host key is not known")
        self.key = key


class PinnedOnly(paramiko.MissingHostKeyPolicy):
    """No key is accepted unseen."""

    def missing_host_key(self, _client: Any, _hostname: str, key: paramiko.PKey) -> None:
        raise UnknownHostKey(key)


def check_pinned(entry: HostEntry, shown: paramiko.PKey, known_hosts: Path) -> bool:
    """Whether a host's key is pinned already; HostProblem when another one is."""
    if not known_hosts.exists():
        return False
    pinned = paramiko.HostKeys(str(known_hosts)).lookup(known_name(entry.address, entry.port))
    if not pinned:
        return False
    expected = pinned.get(shown.get_name()) or next(iter(pinned.values()))
    if expected != shown:
        raise _changed_key(entry.name, expected, shown)
    return True


def _changed_key(name: str, expected: paramiko.PKey, shown: paramiko.PKey) -> HostProblem:
    return Refusal(
        name, "its host key has changed: not connected",
        f"pinned {fingerprint(expected)}, now {fingerprint(shown)}",
        f"if the host was installed anew: aiok hosts remove {name}, then add it again; "
        "otherwise somebody is in between",
    )  # fmt: skip


# --- what a host is offered -----------------------------------------------------------------------


@dataclass(frozen=True)
class Credential:
    """One way to log in: its name in messages, and paramiko's words for it."""

    name: str
    words: Mapping[str, Any]


def credentials(
    entry: HostEntry, identity: Path | None, typed: Callable[[], str | None]
) -> Iterator[Credential]:
    """What to try, one after the other: aiok's own key, the user's agent or key, a password.

    The agent is asked only where the inventory says so, and offered keys of it stay usable until
    the next one is taken.
    """
    if identity is not None and identity.exists():
        yield Credential("aiok's own key", {"key_filename": str(identity)})
    offered = 0
    if entry.agent:
        with contextlib.closing(paramiko.Agent()) as agent:
            for key in _wanted_keys(entry, agent):
                offered += 1
                yield Credential(f"the key {fingerprint(key)} of your ssh-agent", {"pkey": key})
    if entry.key is not None and not offered:
        path = str(Path(entry.key).expanduser())
        yield Credential(f"the key {entry.key}", {"key_filename": path})
    if entry.password:
        password = typed()
        if password is not None:
            yield Credential("the password", {"password": password})


def _wanted_keys(entry: HostEntry, agent: paramiko.Agent) -> list[paramiko.PKey]:
    """The keys of an agent that a host may be offered: where the inventory names a key whose public
    half lies beside it, only that one."""
    keys: list[paramiko.PKey] = list(agent.get_keys())
    public = Path(f"{entry.key}.pub").expanduser()
    if entry.key is None or not public.exists():
        return keys
    words = public.read_text(encoding="utf-8", errors="replace").split()
    return [key for key in keys if key.get_base64() in words]


def nothing_to_offer(entry: HostEntry) -> HostProblem:
    """Why there was no credential that could be tried."""
    if entry.password:
        return Refusal(
            entry.name, f"it wants the password of {entry.user} and none was typed",
            "it is asked for in the app and on a terminal, and never stored",
            "make it ready there (aiok hosts up); from then on aiok's own key is used",
        )  # fmt: skip
    if entry.agent:
        running = bool(os.environ.get("SSH_AUTH_SOCK"))
        what = "your ssh-agent holds no key for it" if running else "no ssh-agent is running here"
        return Refusal(entry.name, what, "", "ssh-add KEY, or name a key in the inventory")
    return Refusal(
        entry.name, "there is no way to log in",
        "the inventory names neither a key nor agent nor password; your default keys are not tried",
        "give the host a key in the inventory, or agent: true, or password: true",
    )  # fmt: skip


# --- what a connection can end with ---------------------------------------------------------------


def explain(entry: HostEntry, error: Exception) -> HostProblem:
    """A failed connection in plain words: what, why, what to do."""
    name = entry.name
    if isinstance(error, paramiko.BadHostKeyException):
        return _changed_key(name, error.expected_key, error.key)
    if isinstance(error, UnknownHostKey):
        return Refusal(
            name, "its host key is not known: not connected",
            f"it shows {fingerprint(error.key)}", f"compare and pin it: aiok hosts add {name}",
        )  # fmt: skip
    return NoAnswer(name, *_network_problem(entry, error))


def login_problem(entry: HostEntry, error: Exception, used: Credential) -> HostProblem | None:
    """What is wrong with a credential; None when the error is another one."""
    name = entry.name
    if isinstance(error, paramiko.PasswordRequiredException):
        return Refusal(
            name, f"{used.name} has a passphrase", "aiok asks for none and stores none",
            f"load it into your ssh-agent (ssh-add {entry.key}) and set agent: true for {name}",
        )  # fmt: skip
    if isinstance(error, paramiko.AuthenticationException):
        if "timeout" in str(error).lower():
            return NoAnswer(
                name, "it did not answer the login", f"no answer for {CONNECT_S:g} s", "try again"
            )
        todo = f"check user and key; put the public key into ~{entry.user}/.ssh/authorized_keys"
        if "password" in used.words:
            todo = "type it again; check the user, and that its sshd allows passwords"
        return Refusal(name, f"it refuses {entry.user} with {used.name}", "", todo)
    if "key_filename" not in used.words:
        return None
    todo = "correct the key in the inventory"
    if isinstance(error, FileNotFoundError):
        return Refusal(name, f"there is no file of {used.name}", "", todo)
    if isinstance(error, PermissionError | IsADirectoryError) and error.filename is not None:
        return Refusal(name, f"{used.name} cannot be read", error.strerror or "", todo)
    if isinstance(error, ValueError) or "private key file" in str(error):
        return Refusal(name, f"{used.name} is not a private key that can be read", "", todo)
    return None


def _network_problem(entry: HostEntry, error: Exception) -> tuple[str, str, str]:
    place = f"{entry.address} port {entry.port}"
    numbers = {getattr(error, "errno", None)}
    if isinstance(error, paramiko.ssh_exception.NoValidConnectionsError):
        numbers = {getattr(inner, "errno", None) for inner in error.errors.values()}
    if errno.ECONNREFUSED in numbers:
        todo = "start sshd there, or correct the port in the inventory"
        return f"{place} refuses connections", "no SSH server listens there", todo
    if isinstance(error, socket.gaierror):
        return f"there is no host named {entry.address}", "", "correct its address in the inventory"
    todo = "check that it is up, and its address and network"
    if found := numbers & {errno.EHOSTUNREACH, errno.ENETUNREACH}:
        return f"{place} cannot be reached", os.strerror(found.pop() or 0), todo
    if isinstance(error, TimeoutError):
        return f"{place} cannot be reached", f"no answer for {CONNECT_S:g} s", todo
    if isinstance(error, paramiko.SSHException) and "banner" in str(error):
        return f"{place} is no SSH server, or is too busy", str(error), "try again, check the port"
    return f"no connection to {place}", str(error) or type(error).__name__, todo
