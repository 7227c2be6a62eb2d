"""Make the hosts of a cluster ready, and bare again: pairs of check and apply, run as a plain user.

Each host gets under its home: the workers' code with the agent, the environments, and a key pair
of the cluster with pinned host keys, for mpirun's remote shell. Outside of the home it gets one
line in ~/.ssh/authorized_keys. What is there already is left alone, so a second `up` changes
nothing and a half-made host is completed. `down` undoes the host's own ledger (hosts/placer.py).
"""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hosts import installer, provision
from hosts.folders import is_there, send_folder
from hosts.inventory import HostEntry
from hosts.lockfile import Lock
from hosts.login import known_name
from hosts.site import Site
from hosts.transport import HostProblem, Transport

PLACER = Path(__file__).with_name("placer.py")
Progress = Callable[[str, float, float], None]
AT_ONCE = 8  # hosts looked at side by side
ALIVE_S = 5  # the interval of the launch channel's own dead-peer detection


@dataclass(frozen=True, kw_only=True)
class Member:
    """A host of the cluster as the others see it: where, as whom, and its pinned key."""

    entry: HostEntry
    host_key: str  # "ssh-ed25519 AAAA..."


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What every host of a cluster shall have. `locks` come with the wheels collected for them."""

    cluster: str
    members: Sequence[Member]
    code: Path
    locks: Sequence[tuple[Lock, Sequence[Path]]]
    private_key: str
    public_key: str


def make_key(private: Path, comment: str) -> tuple[str, str]:
    """The key pair of a cluster, made once: (private, public) in OpenSSH's formats."""
    public = private.with_suffix(".pub")
    if not private.exists() or not public.exists():
        key = Ed25519PrivateKey.generate()
        private.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        text = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )  # fmt: skip
        own = key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        public.write_text(f"{own.decode()} {comment}\n", encoding="ascii")
        private.touch(mode=0o600)
        private.write_bytes(text)
    return private.read_text(encoding="ascii"), public.read_text(encoding="ascii").strip()


def up(site: Site, wanted: Wanted, progress: Progress) -> list[str]:
    """Complete one host; what was changed, [] when it was ready. HostProblem, ProvisionError."""
    changed = place(site, _items(site, wanted))
    code = site.code(wanted.code.name)
    if not is_there(site, code):
        place(site, [_tree(code.parent)])
        send_folder(site, wanted.code, code, lambda done, total: progress("code", done, total))
        changed.append(str(code))
    for lock, wheels in wanted.locks:
        folder = site.environment(lock)
        if provision.is_installed(site.transport, folder):
            continue
        place(site, [_tree(site.home / "envs"), _tree(site.home / "wheels")])

        def tell(phase: str, done: float, total: float, name: str = lock.name) -> None:
            progress(f"{name}: {phase}", done, total)

        provision.install(site.transport, lock, wheels, folder, site.python, tell)
        changed.append(str(folder))
    return changed


def down(site: Site) -> list[str]:
    """Make a host as it was before; the paths that went."""
    removed: list[str] = _talk(site, "remove", {"home": str(site.home)})["removed"]
    return removed


def place(site: Site, items: Sequence[dict[str, Any]]) -> list[str]:
    """Put things on a host, each in its ledger; the paths that were changed."""
    changed: list[str] = _talk(site, "place", {"home": str(site.home), "items": list(items)})[
        "changed"
    ]
    return changed


@dataclass(frozen=True)
class Entry:
    """A line of a host's ledger: kind is folder, file, line or tree."""

    kind: str
    path: str


@dataclass(frozen=True, kw_only=True)
class Placed:
    """What aiok has on a host: the ledger's entries, and the code and environments that are whole.

    `is_ready`: `up` came to its end there.
    """

    entries: Sequence[Entry]
    whole: Sequence[str]

    @property
    def is_ready(self) -> bool:
        """The code is there, and an environment where one was begun."""
        begun = any(entry.path.endswith("/envs") for entry in self.entries)
        return any("/code/" in path for path in self.whole) and (
            not begun or any("/envs/" in path for path in self.whole)
        )


LEDGER_MOST = 1 << 20  # bytes; a longer one is none of ours
LOOK = f"""
head -c {LEDGER_MOST} -- "$1/ledger.jsonl" 2>/dev/null
echo
for at in "$1"/code/*/ "$1"/envs/*/{installer.MARKER}; do
    [ -e "$at" ] && echo "whole ${{at%/*}}"
done
true
"""


def placed(transport: Transport, home: PurePosixPath) -> Placed:
    """What a host's ledger lists; nothing on a bare host. One command, no Python needed there."""
    said = transport.run(["/bin/sh", "-c", LOOK, "sh", str(home)], timeout_s=30).stdout
    entries, whole = [], []
    for line in said.splitlines():
        if line.startswith("whole "):
            whole.append(line.removeprefix("whole ").rstrip("/"))
            continue
        with contextlib.suppress(ValueError, KeyError, TypeError):  # torn, or not of our making
            entry = json.loads(line)
            if entry["kind"] != "kept":  # only the times of a folder that was there before
                entries.append(Entry(str(entry["kind"]), str(entry["path"])))
    return Placed(entries=tuple(entries), whole=tuple(whole))


def keep(site: Site, folder: object) -> None:
    """List a folder that work will fill, so that `down` takes it away."""
    place(site, [_tree(folder)])


def _tree(folder: object) -> dict[str, Any]:
    return {"kind": "tree", "path": str(folder)}


def _talk(site: Site, verb: str, order: dict[str, Any]) -> dict[str, Any]:
    source = PLACER.read_text(encoding="utf-8")
    done = site.transport.run(
        [site.python, "-I", "-S", "-c", source, verb], stdin=json.dumps(order).encode(),
        timeout_s=600,
    )  # fmt: skip
    try:
        said: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.code}"])[-1]
        raise HostProblem(site.name, "its files could not be placed", last) from None
    if "problem" in said:
        raise HostProblem(
            site.name, f"{said['path']} cannot be written", said["problem"],
            "make it writable for this user, free space, or choose another work_folder",
        )  # fmt: skip
    return said


def _items(site: Site, wanted: Wanted) -> list[dict[str, Any]]:
    ssh = site.ssh

    def file(name: str, text: str, mode: int) -> dict[str, Any]:
        return {"kind": "file", "path": str(ssh / name), "text": text, "mode": mode}

    user_home = site.transport.run(["/bin/sh", "-c", 'printf %s "$HOME"']).stdout
    return [
        {"kind": "folder", "path": str(ssh), "mode": 0o700},
        *(_tree(site.home / name) for name in ("jobs", "cache", "checkpoints", "work")),
        file("id_ed25519", wanted.private_key, 0o600),
        file("known_hosts", _known_hosts(wanted.members), 0o600),
        file("config", _config(site, wanted.members), 0o600),
        file("rsh", _rsh(site), 0o700),
        {
            "kind": "line",
            "path": f"{user_home}/.ssh/authorized_keys",
            "text": f"restrict,port-forwarding {wanted.public_key}",
        },
    ]


def _known_hosts(members: Sequence[Member]) -> str:
    return "".join(
        f"{known_name(m.entry.cluster_address, m.entry.port)} {m.host_key}\n" for m in members
    )


def _config(site: Site, members: Sequence[Member]) -> str:
    """OpenSSH client settings for the launch of ranks: aiok's key and pinned host keys only."""
    blocks = [
        f"Host {m.entry.cluster_address}\n  Port {m.entry.port}\n  User {m.entry.user}\n"
        for m in members
    ]
    return "".join(blocks) + (
        "Host *\n"
        f'  IdentityFile "{site.ssh}/id_ed25519"\n'
        "  IdentitiesOnly yes\n"
        f'  UserKnownHostsFile "{site.ssh}/known_hosts"\n'
        "  GlobalKnownHostsFile /dev/null\n"
        "  StrictHostKeyChecking yes\n"
        "  UpdateHostKeys no\n"
        "  BatchMode yes\n"
        "  ConnectTimeout 8\n"
        f"  ServerAliveInterval {ALIVE_S}\n"
        "  LogLevel ERROR\n"
    )


def _rsh(site: Site) -> str:
    """mpirun's remote shell. It outlives a cut shorter than the run's grace: AIOK_GRACE_S."""
    config = shlex.quote(str(site.ssh / "config"))
    return (
        "#!/bin/sh\n"
        f"count=$(( (${{AIOK_GRACE_S:-15}} + 15) / {ALIVE_S} + 1 ))\n"
        f'exec ssh -F {config} -o ServerAliveCountMax="$count" "$@"\n'
    )


def check_pairs(sites: Sequence[Site]) -> list[HostProblem]:
    """Whether every host reaches every other one as mpirun will; a problem for each failed way.

    The hosts look side by side, each at one other after the other: an sshd drops a crowd.
    """

    def look(site: Site) -> list[HostProblem]:
        return [found for other in sites if other is not site
                if (found := _check_way(site, other))]  # fmt: skip

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [problem for found in pool.map(look, sites) for problem in found]


def _check_way(site: Site, other: Site) -> HostProblem | None:
    try:
        done = site.transport.run([str(site.ssh / "rsh"), other.address, "true"])
    except HostProblem as problem:
        return problem
    if not done.code:
        return None
    return HostProblem(
        site.name,
        f"it cannot reach {other.name} at {other.address} by SSH",
        (done.stderr.strip().splitlines() or [f"exit code {done.code}"])[-1],
        "check the network between them; cluster_address in the inventory is where the other "
        "hosts reach a host",
    )
