"""One host of the testbed: a network, mount, pid, uts and ipc namespace whose PID 1 is its sshd.

Its / is an overlay of this machine's /, so what is installed here is there too, while all that the
host writes stays in a folder of its own (`upper`). Folders with user files (/home, /root, /tmp,
/opt, ...) start empty. Mounts and processes inside end with PID 1; what outlasts it is the disk,
the network namespace with its cable, and a size-limited disk's tmpfs.
Standard library only; needs root, util-linux, iproute2 and openssh-server.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hosts.agent import start_time

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
SYSTEM_FOLDERS = ("bin", "boot", "dev", "etc", "lib", "proc", "run", "sbin", "sys", "usr", "var")
HIDDEN_TOO = Path("/var/tmp")  # noqa: S108 - like all but the system's folders
MACHINE_SETTINGS = (Path("/etc/pip.conf"), Path("/etc/uv"))  # a bare host has none
FAKETIME = "libfaketimeMT.so.1"
END_S = 10.0
READY_S = 10.0

# PID 1 of the new namespaces: build the root, move into it, become sshd. It first tells its pid as
# seen from outside and waits: when the testbed program dies before it has noted the pid, `read`
# meets the end of its input and nothing is left. The line it gets is the password, or empty.
BOOT = r"""
set -eu
read -r pid rest </proc/self/stat
echo "$pid"
read -r password
exec >&2 </dev/null
umask 022
hostname "$NAME"
mount -t overlay overlay -o "lowerdir=/,upperdir=$DISK/upper,workdir=$DISK/work" "$ROOT"
cd "$ROOT"
mkdir -p home root tmp opt run mnt proc sys dev var/tmp
chmod 1777 tmp var/tmp
chmod 700 root
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount --bind /dev dev
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t tmpfs -o mode=755 tmpfs run
mkdir -p run/sshd
if [ -n "$SHARED" ]; then mkdir -p shared; mount --bind "$SHARED" shared; fi
mkdir -p .old
pivot_root . .old
umount -l /.old
rmdir /.old
if ! id "$LOGIN" >/dev/null 2>&1; then
    # '*': with '!' the account counts as locked, and sshd without PAM then refuses keys too
    useradd -m -s /bin/bash -p '*' "$LOGIN"
    if [ -n "$password" ]; then
        echo "$LOGIN:$password" | chpasswd -c SHA512
    else
        keys=/home/$LOGIN/.ssh
        install -d -m 700 -o "$LOGIN" -g "$LOGIN" "$keys"
        install -m 600 -o "$LOGIN" -g "$LOGIN" /etc/testbed/user.pub "$keys/authorized_keys"
    fi
fi
exec /usr/sbin/sshd -D -f /etc/testbed/sshd_config -E /run/sshd.log
"""


class TestbedProblem(Exception):
    """The testbed cannot do what it was asked: one sentence with what to do."""

    __test__ = False  # for pytest: no test class


@dataclass(frozen=True, kw_only=True)
class HostOptions:
    """What is peculiar to one host. `clock_s` shifts the time of day in all its SSH sessions
    (seconds, may be negative), `disk_mib` limits what it can write, `python` False hides every
    python3."""

    shared: bool = False
    password: bool = False
    clock_s: int = 0
    disk_mib: int | None = None
    python: bool = True


@dataclass(kw_only=True)
class HostRecord:
    """What the state file holds of one host. `whole`: its disk and network are complete."""

    name: str
    options: HostOptions
    whole: bool = False
    pid: int | None = None
    started: int | None = None  # clock ticks from boot, so that a pid is never mistaken
    cut: bool = False
    rate: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"h[1-9]\d{0,2}", self.name):
            raise TestbedProblem(f"{self.name!r} is no name of a host: h1, h2, ...")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The names of a testbed: all that it makes is called by them."""

    folder: Path
    net: str  # the first three bytes of a /24
    prefix: str
    user: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9]{0,7}", self.prefix):  # an interface's has 15 letters
            raise TestbedProblem(f"prefix {self.prefix}: take 1 to 8 small letters and digits")
        if not re.fullmatch(r"(\d{1,3}\.){2}\d{1,3}", self.net):
            raise TestbedProblem(f"net {self.net}: give the first three numbers, as in 10.77.0")
        if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", self.user):
            raise TestbedProblem(f"user {self.user}: take small letters, digits, - and _")

    @property
    def bridge(self) -> str:
        """The switch between the hosts; it has the address NET.1."""
        return f"{self.prefix}br0"

    @property
    def key(self) -> Path:
        """The user's private key; its public half has .pub."""
        return self.folder / "id_ed25519"

    def address(self, name: str) -> str:
        """h1 -> NET.11"""
        return f"{self.net}.{10 + int(name[1:])}"

    def netns(self, name: str) -> str:
        """The name of a host's network namespace."""
        return f"{self.prefix}-{name}"

    def netns_file(self, name: str) -> Path:
        """Where `ip netns` keeps it."""
        return Path("/run/netns") / self.netns(name)

    def veth(self, name: str) -> str:
        """This machine's end of a host's cable; the host's end is eth0."""
        return f"{self.prefix}v{name[1:]}"

    def disk(self, name: str) -> Path:
        """What a host keeps: upper/ is what it wrote."""
        return self.folder / name / "disk"


def is_own(folder: Path) -> bool:
    """Whether this is a real folder, of this user or root, that nobody else can write to: what lies
    there may be believed even as root."""
    try:
        facts = folder.lstat()
    except FileNotFoundError:
        return False
    own = facts.st_uid in (0, os.geteuid()) and not facts.st_mode & 0o022
    return stat.S_ISDIR(facts.st_mode) and own


def system(argv: Sequence[str], stdin: str = "", timeout_s: float = 30.0) -> str:
    """Run a program of this machine; its output. TestbedProblem with its words when it fails."""
    env = {"PATH": PATH, "LC_ALL": "C"}
    done = subprocess.run(
        list(argv), input=stdin, env=env, capture_output=True, text=True, timeout=timeout_s,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise TestbedProblem(f"{' '.join(argv)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


# --- making ---------------------------------------------------------------------------------------


def make(layout: Layout, record: HostRecord) -> None:
    """The disk and the network of a new host."""
    _make_disk(layout, record)
    _make_network(layout, record.name)


def _make_disk(layout: Layout, record: HostRecord) -> None:
    name, options = record.name, record.options
    disk = layout.disk(name)
    disk.mkdir(parents=True)
    if options.disk_mib is not None:
        _mount_memory(disk, f"{options.disk_mib}m")
    elif system(["stat", "-f", "-c", "%T", str(disk)]).strip() == "overlayfs":
        _mount_memory(disk, "50%")  # in a container: an overlay cannot be written to another one
    upper = disk / "upper"
    for folder in (disk / "work", layout.folder / name / "root", upper / "etc/testbed",
                   upper / "var"):  # fmt: skip
        folder.mkdir(parents=True)
    hidden = [Path("/", n) for n in os.listdir("/") if not is_system(n)]
    hidden += [HIDDEN_TOO, *(p for p in MACHINE_SETTINGS if p.exists())]
    if not options.python:
        hidden += [p for place in ("bin", "local/bin") for p in Path("/usr", place).glob("python*")]
    for path in hidden:
        _hide(upper, path)
    _make_settings(layout, record, upper / "etc")
    for path in (upper, *upper.rglob("*")):  # whatever umask this program has
        if path.is_dir():
            path.chmod(0o755)
        elif path.is_file() and path.name != "host_key":
            path.chmod(0o644)


def _mount_memory(disk: Path, size: str) -> None:
    system(["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", str(disk)])


def is_system(top: str) -> bool:
    """Whether the hosts see this machine's folder of / (but for /var/tmp)."""
    return top.startswith(SYSTEM_FOLDERS)


def _hide(upper: Path, path: Path) -> None:
    """A character device 0:0 in the upper folder hides what lies below."""
    place = upper / path.relative_to("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    os.mknod(place, 0o20000, os.makedev(0, 0))


def _make_settings(layout: Layout, record: HostRecord, etc: Path) -> None:
    name, options = record.name, record.options
    (etc / "hostname").write_text(f"{name}\n")
    names = [f"{layout.address(f'h{i}')} h{i}" for i in range(1, 201) if f"h{i}" != name]
    lines = ["127.0.0.1 localhost", f"127.0.1.1 {name}", f"{layout.net}.1 driver", *names]
    (etc / "hosts").write_text("\n".join(lines) + "\n")  # as Debian's installer writes it
    key = etc / "testbed" / "host_key"
    system(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(key)])
    shutil.copyfile(f"{layout.key}.pub", etc / "testbed" / "user.pub")
    settings = [
        "Port 22", f"ListenAddress {layout.address(name)}", "HostKey /etc/testbed/host_key",
        "PidFile none", "UsePAM no", "PermitRootLogin no", "KbdInteractiveAuthentication no",
        f"PasswordAuthentication {'yes' if options.password else 'no'}",
        "UseDNS no", "PrintMotd no", "PrintLastLog no", "Subsystem sftp internal-sftp",
    ]  # fmt: skip
    if options.clock_s:
        library = _mended(faketime_library().read_bytes())
        (etc / "testbed" / FAKETIME).write_bytes(library)
        settings.append(
            f"SetEnv LD_PRELOAD=/etc/testbed/{FAKETIME} FAKETIME={options.clock_s:+d}s "
            "FAKETIME_DONT_FAKE_MONOTONIC=1 NO_FAKE_STAT=1"  # else each .pyc looks out of date
        )
    (etc / "testbed" / "sshd_config").write_text("\n".join(settings) + "\n")


def _mended(library: bytes) -> bytes:
    """libfaketime without its clock_nanosleep, whose name is changed in the table of symbols.

    That of 0.9.10 refuses monotonic deadlines (EINVAL), which is how Python sleeps; without it
    programs find the C library's own.
    """
    return library.replace(b"\0clock_nanosleep\0", b"\0xlock_nanosleep\0", 1)


def faketime_library() -> Path:
    """libfaketime of this machine; TestbedProblem when there is none."""
    found = sorted(Path("/usr/lib").glob(f"*/faketime/{FAKETIME}"))
    if not found:
        raise TestbedProblem("a shifted clock needs libfaketime: apt-get install libfaketime")
    return found[0]


def _make_network(layout: Layout, name: str) -> None:
    veth, netns = layout.veth(name), layout.netns(name)
    system(["ip", "netns", "add", netns])
    outside = [
        f"link add {veth} type veth peer name eth0 netns {netns}",
        f"link set {veth} master {layout.bridge}",
    ]
    inside = [
        "link set lo up",
        f"address add {layout.address(name)}/24 dev eth0",
        "link set eth0 up",
    ]
    system(["ip", "-batch", "-"], "\n".join(outside) + "\n")
    system(["ip", "-n", netns, "-batch", "-"], "\n".join(inside) + "\n")


# --- running --------------------------------------------------------------------------------------


def is_running(record: HostRecord) -> bool:
    """Whether its PID 1 is alive."""
    return record.pid is not None and start_time(record.pid) == record.started


def boot(layout: Layout, record: HostRecord, password: str, note: Callable[[], None]) -> None:
    """Start a host that does not run; `note` saves the record before the host does anything."""
    name, folder = record.name, layout.folder / record.name
    plug(layout, record, in_use=True)
    env = {
        "PATH": PATH, "NAME": name, "DISK": str(layout.disk(name)), "ROOT": str(folder / "root"),
        "LOGIN": layout.user,
        "SHARED": str(layout.folder / "shared") if record.options.shared else "",
    }  # fmt: skip
    # nsenter and unshare stay outside; setsid: they outlive this program and its terminal.
    argv = ["setsid", "--fork", "nsenter", f"--net={layout.netns_file(name)}",
            "unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child",
            "sh", "-c", BOOT]  # fmt: skip
    with (folder / "boot.log").open("wb") as log, subprocess.Popen(
        argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd="/"
    ) as starter:  # fmt: skip
        assert starter.stdin is not None and starter.stdout is not None
        told = starter.stdout.readline()
        if not told.strip().isdigit():
            raise _failed_boot(layout, name)
        record.pid = int(told)
        record.started = start_time(record.pid)
        note()
        with contextlib.suppress(BrokenPipeError):  # it has ended: wait_until_ready says why
            starter.stdin.write(f"{password if record.options.password else ''}\n".encode())
            starter.stdin.flush()


def wait_until_ready(layout: Layout, record: HostRecord) -> None:
    """Return when its sshd listens."""
    end = time.monotonic() + READY_S
    while f"tcp {layout.address(record.name)}:22" not in listeners(layout, record.name):
        if not is_running(record) or time.monotonic() > end:
            raise _failed_boot(layout, record.name)
        time.sleep(0.01)


def _failed_boot(layout: Layout, name: str) -> TestbedProblem:
    log = (layout.folder / name / "boot.log").read_text(errors="replace").strip()
    return TestbedProblem(f"{name} does not start: {log or 'its sshd does not listen'}")


def plug(layout: Layout, record: HostRecord, *, in_use: bool) -> None:
    """Set the cable's state: it carries packets when the host is in use and the cable not cut."""
    state = "up" if in_use and not record.cut else "down"
    system(["ip", "link", "set", layout.veth(record.name), state])


def halt(layout: Layout, record: HostRecord) -> None:
    """A power cut: every process dies at once, and nobody is told (no connection is closed)."""
    if Path("/sys/class/net", layout.veth(record.name)).exists():
        plug(layout, record, in_use=False)
    end = time.monotonic() + END_S
    first = [record.pid] if is_running(record) and record.pid is not None else []
    # The rest: unshare's outer process, what run_as_root started, an unfinished boot.
    while left := first + processes_in("net", layout.netns_file(record.name)):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > end:
            raise TestbedProblem(f"{record.name}: processes {left} do not end")
        time.sleep(0.005)
        first = first if is_running(record) else []
    record.pid = record.started = None


def processes_in(kind: str, namespace: Path) -> list[int]:
    """The pids in a namespace of that kind (net, pid, ...); none when the file is not there."""
    with contextlib.suppress(OSError):
        wanted = namespace.stat()
        return [p for p in _pids() if _same(Path(f"/proc/{p}/ns/{kind}"), wanted)]
    return []


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _same(path: Path, wanted: os.stat_result) -> bool:
    try:
        found = path.stat()
    except OSError:  # it has ended, or is ending
        return False
    return (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino)


def listeners(layout: Layout, name: str) -> list[str]:
    """The listening sockets of a host, as `tcp ADDRESS:PORT`; they are there without it, too."""
    argv = ["nsenter", f"--net={layout.netns_file(name)}", "ss", "-H", "-l", "-n", "-t", "-u"]
    fields = [line.split() for line in system(argv).splitlines()]
    return sorted(f"{words[0]} {words[4]}" for words in fields)


# --- removing -------------------------------------------------------------------------------------


def remove(layout: Layout, record: HostRecord) -> None:
    """Undo `make` and `boot`, however far they came."""
    halt(layout, record)
    if Path("/sys/class/net", layout.veth(record.name)).exists():
        system(["ip", "link", "del", layout.veth(record.name)])
    if layout.netns_file(record.name).exists():
        system(["ip", "netns", "del", layout.netns(record.name)])
    disk, folder = layout.disk(record.name), layout.folder / record.name
    if os.path.ismount(disk):
        system(["umount", str(disk)])
    if folder.exists():
        remove_tree(folder)


def remove_tree(folder: Path) -> None:
    """Remove a folder of the testbed, unless something is mounted in it."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    inside = [mount for mount in mounts if Path(mount).is_relative_to(folder)]
    if inside:
        raise TestbedProblem(f"{folder} is not removed: {', '.join(inside)} is mounted there")
    shutil.rmtree(folder)
