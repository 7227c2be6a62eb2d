"""Real SSH hosts on one machine, for tests, drills and CI: bare machines with a plain user.

A testbed is a folder with a state file that names all it has made, written before each thing is
made: `down`, or the next `up`, cleans up after a program that was killed. Hosts h1..hN have the
addresses NET.11.. and reach each other and this machine's bridge NET.1, nothing else. The folder
holds id_ed25519 (the user's key), known_hosts and ssh_config:
    ssh -F FOLDER/ssh_config h1 hostname
Memory and processors are the machine's on every host; the network counters are its own.
Standard library only; needs root, iproute2 and openssh-server.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import ipaddress
import json
import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hosts.testbed_host import (
    HIDDEN_TOO,
    PATH,
    HostOptions,
    HostRecord,
    Layout,
    TestbedProblem,
    boot,
    faketime_library,
    halt,
    is_own,
    is_running,
    is_system,
    listeners,
    make,
    plug,
    processes_in,
    remove,
    remove_tree,
    system,
    wait_until_ready,
)

FOLDER = HIDDEN_TOO / "aiok-testbed"
PASSWORD = "known to every test"  # noqa: S105 - opens nothing but hosts made for tests
STATE, FILLER = "testbed.json", "filler"
MOST_HOSTS, LEAST_DISK_MIB = 200, 4
RATE = re.compile(r"(\d+)([kmg])bit")


@dataclass(frozen=True)
class HostState:
    """What `list` shows of a host. `rate` is the limit set by `slow`, `pid` that of its sshd."""

    name: str
    address: str
    running: bool
    cut: bool
    rate: str | None
    pid: int | None
    options: HostOptions


@dataclass(frozen=True)
class HostProcess:
    """A process inside a host; `pid` is the one this machine knows it by."""

    pid: int
    uid: int
    command: str


class Testbed:
    """The hosts of one folder. Several testbeds live side by side when folder, net and prefix
    differ; a folder that already holds a testbed keeps its own names. Any thread and any program
    may call: what changes something locks the folder."""

    __test__ = False  # for pytest: no test class

    def __init__(
        self, folder: Path = FOLDER, net: str = "10.77.0", prefix: str = "aiok", user: str = "aiok"
    ) -> None:
        self.layout = Layout(folder=folder.absolute(), net=net, prefix=prefix, user=user)
        self._records: dict[str, HostRecord] = {}
        self._threads = threading.RLock()
        self._read()

    @property
    def folder(self) -> Path:
        """Where all of it lies."""
        return self.layout.folder

    @property
    def key(self) -> Path:
        """The private key of the hosts' user."""
        return self.layout.key

    @property
    def known_hosts(self) -> Path:
        """The pinned keys of all hosts."""
        return self.folder / "known_hosts"

    # --- the state file ---

    def _read(self) -> bool:
        """Take up the state file; False when there is none."""
        with self._threads:
            try:
                text = (self.folder / STATE).read_text(encoding="utf-8")
                self._check_folder()
                said = json.loads(text)
                hosts, same_boot = said.pop("hosts"), said.pop("boot") == _boot_id()
                layout = Layout(folder=self.folder, **said)
                records = [
                    HostRecord(**{**host, "options": HostOptions(**host["options"])})
                    for host in hosts
                ]
            except FileNotFoundError:
                self._records = {}
                return False
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise TestbedProblem(f"{self.folder / STATE} is damaged: {error!r}") from None
            self.layout = layout
            self._records = {record.name: record for record in records}
            if not same_boot:  # this machine was started anew: only the folder is left
                for record in self._records.values():
                    record.whole, record.pid, record.started = False, None, None
            return True

    def _check_folder(self) -> None:
        if not is_own(self.folder):
            raise TestbedProblem(f"{self.folder} is not yours alone; choose another folder")

    def _write(self) -> None:
        layout = {key: value for key, value in asdict(self.layout).items() if key != "folder"}
        hosts = [asdict(record) for record in self._records.values()]
        scratch = self.folder / f".{STATE}"
        scratch.write_text(json.dumps({**layout, "boot": _boot_id(), "hosts": hosts}, indent=1))
        scratch.replace(self.folder / STATE)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder against others, and see what they have changed."""
        if os.geteuid() != 0:
            raise TestbedProblem("the testbed needs root: namespaces and mounts")
        with self._threads, contextlib.ExitStack() as stack:
            while True:
                self.folder.mkdir(0o755, parents=True, exist_ok=True)
                handle = os.open(self.folder, os.O_RDONLY)
                stack.callback(os.close, handle)
                fcntl.flock(handle, fcntl.LOCK_EX)
                if _is_folder(handle, self.folder):
                    break
            self._check_folder()
            self._read()
            yield

    def _record(self, name: str) -> HostRecord:
        if name not in self._records:
            there = ", ".join(self._records) or "none is up"
            raise TestbedProblem(f"there is no host {name}: {there}")
        return self._records[name]

    @contextlib.contextmanager
    def _changing(self, name: str) -> Iterator[HostRecord]:
        """A host's record, locked, saved when the change is made."""
        self._read()
        self._record(name)  # first: locking makes the folder
        with self._locked():
            record = self._record(name)
            yield record
            self._write()

    # --- up and down ---

    def up(
        self,
        n: int,
        *,
        shared: bool = False,
        password: Sequence[str] = (),
        clock_s: Mapping[str, int] | None = None,
        disk_mib: Mapping[str, int] | None = None,
        no_python: Sequence[str] = (),
    ) -> None:
        """Make hosts h1..hN. Running ones with the same options are left alone, others go.

        `shared`: one folder at /shared on all; `password`: hosts entered by PASSWORD, without the
        user's key; `clock_s`: seconds by which a host's clock is off; `disk_mib`: what a host
        can write; `no_python`: hosts without any python3.
        """
        clock_s, disk_mib = clock_s or {}, disk_mib or {}
        if not 1 <= n <= MOST_HOSTS:
            raise TestbedProblem(f"{n} hosts: 1 to {MOST_HOSTS} are possible")
        names = [f"h{i}" for i in range(1, n + 1)]
        unknown = {*password, *clock_s, *disk_mib, *no_python} - set(names)
        if unknown:
            raise TestbedProblem(f"options for hosts that are not made: {', '.join(unknown)}")
        wanted = {
            name: HostOptions(
                shared=shared, password=name in password, clock_s=clock_s.get(name, 0),
                disk_mib=disk_mib.get(name), python=name not in no_python,
            )
            for name in names
        }  # fmt: skip
        if disk_mib and min(disk_mib.values()) < LEAST_DISK_MIB:
            raise TestbedProblem(f"a disk has at least {LEAST_DISK_MIB} MiB")
        self._check_machine(bool(clock_s))
        with self._locked():
            self._make_common()
            for name, record in list(self._records.items()):
                if wanted.get(name) != record.options or not record.whole:
                    self._remove(record)
            for name, options in wanted.items():
                self._make(name, options)
            self._write_login_files()
            for name in names:
                wait_until_ready(self.layout, self._records[name])

    def _check_machine(self, clock: bool) -> None:
        packages = {"ip": "iproute2", "ss": "iproute2", "tc": "iproute2", "sshd": "openssh-server",
                    "ssh-keygen": "openssh-client", "nsenter": "util-linux"}  # fmt: skip
        missing = {packages[name] for name in packages if not shutil.which(name, path=PATH)}
        if missing:
            words = " ".join(sorted(missing))
            raise TestbedProblem(f"{words} is not installed: apt-get install {words}")
        if clock:
            faketime_library()
        parts = self.folder.parts[1:]
        if not (HIDDEN_TOO in self.folder.parents or (parts[1:] and not is_system(parts[0]))):
            raise TestbedProblem(
                f"{self.folder}: the hosts could see it; choose a folder below /tmp or /var/tmp"
            )

    def _make_common(self) -> None:
        """Keys and bridge, unless they are there."""
        layout = self.layout
        if not (self.folder / STATE).exists():
            if os.listdir(self.folder):
                raise TestbedProblem(f"{self.folder} holds other files; choose another folder")
            self._check_names_are_free()
            self.folder.chmod(0o711)
            self._write()
        shared = self.folder / "shared"
        shared.mkdir(exist_ok=True)
        shared.chmod(0o1777)
        if not Path(f"{layout.key}.pub").exists():
            layout.key.unlink(missing_ok=True)
            argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "testbed"]
            system([*argv, "-f", str(layout.key)])
        bridge = [
            f"address replace {layout.net}.1/24 dev {layout.bridge}",
            f"link set {layout.bridge} up",
        ]
        if not Path("/sys/class/net", layout.bridge).exists():
            bridge.insert(0, f"link add {layout.bridge} type bridge forward_delay 0")
        system(["ip", "-batch", "-"], "\n".join(bridge) + "\n")

    def _check_names_are_free(self) -> None:
        layout = self.layout
        net = ipaddress.IPv4Network(f"{layout.net}.0/24")
        for line in system(["ip", "-4", "-o", "address"]).splitlines():
            words = line.split()
            if ipaddress.IPv4Interface(words[3]).network.overlaps(net):
                raise TestbedProblem(f"{net} is in use here by {words[1]}; choose another net")
        for line in system(["ip", "-4", "route"]).splitlines():
            goal = line.split()[0]
            if goal[0].isdigit() and ipaddress.IPv4Network(goal).subnet_of(net):
                raise TestbedProblem(f"{net} is in use here: route {line}; choose another net")
        if Path("/sys/class/net", layout.bridge).exists():
            raise TestbedProblem(f"there is a {layout.bridge} already; choose another prefix")
        with contextlib.suppress(KeyError):
            pwd.getpwnam(layout.user)
            raise TestbedProblem(f"this machine has a user {layout.user}; choose another")

    def _make(self, name: str, options: HostOptions) -> None:
        layout, record = self.layout, self._records.get(name)
        if record is None:
            taken = [place for place in (Path("/sys/class/net", layout.veth(name)),
                                         layout.netns_file(name)) if place.exists()]  # fmt: skip
            if taken:
                raise TestbedProblem(f"there is a {taken[0]} already; choose another prefix")
            record = self._records[name] = HostRecord(name=name, options=options)
            self._write()
            make(layout, record)
            record.whole = True
            self._write()
        if not is_running(record):
            halt(layout, record)
            boot(layout, record, PASSWORD, self._write)

    def _remove(self, record: HostRecord) -> None:
        remove(self.layout, record)
        del self._records[record.name]
        self._write()

    def _write_login_files(self) -> None:
        layout = self.layout
        known, config = [], []
        for name in self._records:
            public = (layout.disk(name) / "upper/etc/testbed/host_key.pub").read_text().split()
            known.append(f"{layout.address(name)} {public[0]} {public[1]}\n")
            config.append(f"Host {name}\n  HostName {layout.address(name)}\n")
        config.append(
            f"Host *\n  User {layout.user}\n  IdentityFile {layout.key}\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {self.known_hosts}\n  GlobalKnownHostsFile /dev/null\n"
            "  StrictHostKeyChecking yes\n  ConnectTimeout 5\n  LogLevel ERROR\n"
        )
        self.known_hosts.write_text("".join(known))
        self.known_hosts.chmod(0o600)
        (self.folder / "ssh_config").write_text("".join(config))

    def down(self) -> None:
        """Remove all that `up` made; does nothing where there is no testbed."""
        if not self._read():
            return
        with self._locked():
            if not (self.folder / STATE).exists():  # another program was faster
                self.folder.rmdir()
                return
            for record in list(self._records.values()):
                self._remove(record)
            if Path("/sys/class/net", self.layout.bridge).exists():
                system(["ip", "link", "del", self.layout.bridge])
            remove_tree(self.folder)

    def inventory(self, path: Path, cluster: str = "testbed") -> None:
        """Write an inventory.yaml of all hosts as one cluster, and their pinned keys to
        ssh/known_hosts beside it."""
        self._read()
        hosts = {}
        for name, record in self._records.items():
            login = {"password": True} if record.options.password else {"key": str(self.key)}
            hosts[name] = {"address": self.layout.address(name), "user": self.layout.user, **login}
        shared = any(record.options.shared for record in self._records.values())
        group = {"hosts": list(hosts), **({"shared": "/shared"} if shared else {})}
        lines = ["hosts:", *(f"  {name}: {json.dumps(host)}" for name, host in hosts.items())]
        lines += ["clusters:", f"  {cluster}: {json.dumps(group)}"]  # JSON is YAML
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        pinned = path.parent / "ssh" / "known_hosts"
        pinned.parent.mkdir(mode=0o700, exist_ok=True)
        shutil.copy(self.known_hosts, pinned)

    # --- faults ---

    def crash(self, name: str) -> None:
        """A power cut: all processes die, the others hear nothing, the disk stays."""
        with self._changing(name) as record:
            halt(self.layout, record)

    def boot(self, name: str) -> None:
        """Start a crashed host; returns when its sshd listens."""
        with self._changing(name) as record:
            if not is_running(record):
                boot(self.layout, record, PASSWORD, self._write)
                wait_until_ready(self.layout, record)

    def cut(self, name: str) -> None:
        """Pull its network cable."""
        self._plug(name, cut=True)

    def heal(self, name: str) -> None:
        """Put it back."""
        self._plug(name, cut=False)

    def _plug(self, name: str, *, cut: bool) -> None:
        with self._changing(name) as record:
            record.cut = cut
            plug(self.layout, record, in_use=is_running(record))

    def slow(self, name: str, rate: str | None = "10mbit") -> None:
        """Limit its link to a rate each way, such as 500kbit, 10mbit, 1gbit; None: no limit."""
        found = RATE.fullmatch(rate) if rate is not None else None
        if rate is not None and found is None:
            raise TestbedProblem(f"rate {rate}: give it as 500kbit, 10mbit or 1gbit")
        with self._changing(name) as record:
            netns = ["-n", self.layout.netns(name)]
            for where, device in (([], self.layout.veth(name)), (netns, "eth0")):
                words = ["dev", device, "root"]
                if found is not None:
                    bits = int(found[1]) * {"k": 10**3, "m": 10**6, "g": 10**9}[found[2]]
                    burst = max(16_000, bits // 8 // 100)  # bytes; 10 ms, for a slow kernel clock
                    shape = ["tbf", "rate", f"{bits}bit", "burst", str(burst), "latency", "200ms"]
                    system(["tc", *where, "qdisc", "replace", *words, *shape])
                elif record.rate is not None:
                    system(["tc", *where, "qdisc", "del", *words])
            record.rate = rate

    def fill(self, name: str) -> None:
        """Leave no space on its disk, which `up` must have limited."""
        with self._changing(name) as record:
            if record.options.disk_mib is None:
                raise TestbedProblem(f"the disk of {name} has no limit: up N --disk {name}=MIB")
            with (self.layout.disk(name) / FILLER).open("ab") as file:
                _fill(file.fileno())

    def free(self, name: str) -> None:
        """Take back what `fill` took."""
        with self._changing(name):
            (self.layout.disk(name) / FILLER).unlink(missing_ok=True)

    # --- what can be seen of a host ---

    def hosts(self) -> list[HostState]:
        """All hosts as they are now."""
        self._read()
        return [
            HostState(
                name=name, address=self.layout.address(name), running=is_running(record),
                cut=record.cut, rate=record.rate, pid=record.pid if is_running(record) else None,
                options=record.options,
            )
            for name, record in self._records.items()
        ]  # fmt: skip

    def listing(self, name: str) -> list[str]:
        """All that a host has written to its disk and to /dev/shm: mode, owner, size, mtime, path.

        Folders come without size and mtime: both change with every file that comes and goes.
        """
        self._read()
        record = self._record(name)
        found = list(_listing(self.layout.disk(name) / "upper", "/"))
        if is_running(record):
            found += _listing(Path(f"/proc/{record.pid}/root/dev/shm"), "/dev/shm")  # noqa: S108
        return sorted(found, key=lambda line: line.split(" ", 4)[-1])

    def listeners(self, name: str) -> list[str]:
        """Its listening sockets, as `tcp ADDRESS:PORT`."""
        self._read()
        return listeners(self.layout, self._record(name).name)

    def processes(self, name: str) -> list[HostProcess]:
        """What runs inside a host, its sshd included."""
        record = self._running(name)
        found = []
        for pid in processes_in("pid", Path(f"/proc/{record.pid}/ns/pid")):
            with contextlib.suppress(OSError):  # it has just ended
                command = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0")
                words = command.replace(b"\0", b" ").decode(errors="replace")
                found.append(HostProcess(pid, Path(f"/proc/{pid}").stat().st_uid, words))
        return found

    def run_as_root(
        self, name: str, argv: Sequence[str], stdin: str = "", timeout_s: float = 30.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside a host as its root, not over SSH; any exit code."""
        record = self._running(name)
        spaces = ["--mount", "--uts", "--ipc", "--net", "--pid"]
        return subprocess.run(
            ["nsenter", "--target", str(record.pid), *spaces, "--", *argv],
            input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False,
            env={"PATH": PATH, "HOME": "/root", "LC_ALL": "C.UTF-8"},
        )  # fmt: skip

    def _running(self, name: str) -> HostRecord:
        self._read()
        record = self._record(name)
        if not is_running(record):
            raise TestbedProblem(f"{name} is down: boot {name}")
        return record


def _is_folder(handle: int, folder: Path) -> bool:
    """Whether a path still means the open folder: another program's `down` may have removed it."""
    try:
        return os.path.samestat(os.fstat(handle), folder.stat())
    except FileNotFoundError:
        return False


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _fill(file: int) -> None:
    """Grow a file until the disk has no byte left."""
    step = 1 << 30
    while step:
        try:
            os.posix_fallocate(file, os.fstat(file).st_size, step)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            step //= 2


def _listing(folder: Path, shown: str) -> Iterator[str]:
    for entry in os.scandir(folder):
        facts = entry.stat(follow_symlinks=False)
        path = os.path.join(shown, entry.name)
        mode, owner = stat.filemode(facts.st_mode), f"{facts.st_uid}:{facts.st_gid}"
        if entry.is_dir(follow_symlinks=False):
            yield f"{mode} {owner} - - {path}"
            yield from _listing(Path(entry.path), path)
        else:
            yield f"{mode} {owner} {facts.st_size} {facts.st_mtime_ns} {path}"


# --- scripts/testbed ------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> int:
    """Do what the words of scripts/testbed say; 3 when the testbed cannot."""
    options = _parser().parse_args(arguments)
    try:
        testbed = Testbed(options.folder, options.net, options.prefix, options.user)
        _do(testbed, options)
    except TestbedProblem as problem:
        print(f"testbed: {problem}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("testbed: interrupted; up and down clean up what is half done", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="testbed", description="Real SSH hosts on this machine.")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--net", default="10.77.0", help="first three numbers of their addresses")
    parser.add_argument("--prefix", default="aiok", help="of interface and namespace names")
    parser.add_argument("--user", default="aiok", help="the plain user on each host")
    verbs = parser.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up", help="make hosts h1..hN; what is up already is left alone")
    up.add_argument("n", type=int)
    up.add_argument("--shared", action="store_true", help="one folder at /shared on all hosts")
    up.add_argument("--password", nargs="+", default=[], metavar="HOST",
                    help=f"entered by the password '{PASSWORD}'")  # fmt: skip
    up.add_argument("--clock", nargs="+", default=[], type=_pair, metavar="HOST=SECONDS")
    up.add_argument("--disk", nargs="+", default=[], type=_pair, metavar="HOST=MIB")
    up.add_argument("--no-python", nargs="+", default=[], metavar="HOST")
    verbs.add_parser("down", help="remove all of it")
    verbs.add_parser("list", help="one line a host")
    for verb, meaning in (("crash", "power cut"), ("boot", "start it again"),
                          ("cut", "pull its cable"), ("heal", "put it back"),
                          ("slow", "limit its link"), ("fill", "fill its limited disk"),
                          ("free", "empty it again")):  # fmt: skip
        verbs.add_parser(verb, help=meaning).add_argument("host")
    verbs.choices["slow"].add_argument("rate", nargs="?", default="10mbit", help="or off")
    return parser


def _pair(text: str) -> tuple[str, int]:
    name, _, value = text.partition("=")
    return name, int(value)


def _do(testbed: Testbed, options: argparse.Namespace) -> None:
    if options.verb == "up":
        testbed.up(
            options.n, shared=options.shared, password=options.password,
            clock_s=dict(options.clock), disk_mib=dict(options.disk), no_python=options.no_python,
        )  # fmt: skip
        print(f"{options.n} hosts are up: ssh -F {testbed.folder}/ssh_config h1", file=sys.stderr)
    elif options.verb == "down":
        testbed.down()
    elif options.verb == "list":
        for host in testbed.hosts():
            words = ["up" if host.running else "down", *(["cut"] if host.cut else []),
                     *([f"slow {host.rate}"] if host.rate else [])]  # fmt: skip
            pid = f"pid {host.pid}" if host.pid else ""
            print(f"{host.name:5}{host.address:16}{', '.join(words):20}{pid}".rstrip())
    elif options.verb == "slow":
        testbed.slow(options.host, None if options.rate == "off" else options.rate)
    else:
        getattr(testbed, options.verb)(options.host)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
