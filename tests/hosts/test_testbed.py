"""The testbed itself: true hosts, faults that bite, nothing left behind, nothing else touched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hosts.ssh import SshTransport
from hosts.testbed import PASSWORD, Testbed, TestbedProblem, main
from hosts.testbed_host import start_time
from hosts.transport import HostProblem
from tests.testbed import Testbeds, entry_of, new_testbed, read_inventory, remove_leftovers, ssh_to

ROOT = Path(__file__).resolve().parents[2]
REACH = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2).close()"
SLEEPS = """
import subprocess, threading, time
start = time.monotonic()
time.sleep(0.1)
threading.Event().wait(0.1)
ended = subprocess.run(["sleep", "0.1"], timeout=20).returncode
print(time.time(), 0.3 <= time.monotonic() - start < 20, ended)
"""
USER = "aiok"
HOME = f"/home/{USER}"
MIB = 1 << 20


def traces(testbed: Testbed) -> set[str]:
    """What this machine has of a testbed: processes, namespaces, interfaces, mounts, its folder."""
    prefix, folder = testbed.layout.prefix, str(testbed.folder)
    found = {f"net {n}" for n in os.listdir("/sys/class/net") if n.startswith(prefix)}
    if Path("/run/netns").exists():
        found |= {f"netns {n}" for n in os.listdir("/run/netns") if n.startswith(prefix)}
    found |= {line for line in Path("/proc/self/mountinfo").read_text().splitlines()
              if folder in line}  # fmt: skip
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes() + (place / "environ").read_bytes()
        except OSError:
            continue
        if folder.encode() in words and int(place.name) != os.getpid():
            found.add(f"process {place.name} {words!r}")
    return found | ({folder} if testbed.folder.exists() else set())


def pids(testbed: Testbed) -> dict[str, int | None]:
    return {host.name: host.pid for host in testbed.hosts()}


def kept_in(testbed: Testbed, name: str, path: str) -> str:
    return testbed.run_as_root(name, ["cat", path]).stdout


def test_each_host_is_a_machine_of_its_own(testbeds: Testbeds, tmp_path: Path) -> None:
    testbed = testbeds(3)
    inventory = read_inventory(testbed, tmp_path)
    assert list(inventory.clusters) == ["testbed"]
    seen = set()
    for entry in inventory.entries("testbed"):
        with SshTransport(entry, tmp_path / "ssh" / "known_hosts") as host:
            said = host.run(["sh", "-c", "hostname; id -un; pwd; hostname -I"]).stdout.split()
            assert said == [entry.name, USER, HOME, entry.address]
            assert host.run(["sh", "-c", f"echo {entry.name} > own; cat own"]).code == 0
            seen.add((testbed.folder / entry.name / f"disk/upper{HOME}/own").read_text())
    assert seen == {"h1\n", "h2\n", "h3\n"}
    assert (tmp_path / "ssh" / "known_hosts").stat().st_mode & 0o777 == 0o600
    keys = {line.split()[2] for line in testbed.known_hosts.read_text().splitlines()}
    assert len(keys) == 3


def test_a_host_sees_the_others_and_nothing_else(testbeds: Testbeds) -> None:
    testbed = testbeds(3)
    h2 = testbed.layout.address("h2")
    with ssh_to(testbed, "h1") as host:
        assert host.run(["python3", "-c", REACH, h2, "22"]).code == 0
        far = host.run(["python3", "-c", REACH, "192.0.2.77", "80"])
        assert "Network is unreachable" in far.stderr
        assert host.run(["getent", "hosts", "h2"]).stdout.split() == [h2, "h2"]
        assert host.run(["getent", "hosts", "h1"]).stdout.split()[0] == "127.0.1.1"
        assert host.run(["ls", "/tmp", "/var/tmp", "/home"]).stdout.split() == [
            "/home:", "aiok", "/tmp:", "/var/tmp:",
        ]  # fmt: skip
    assert testbed.listeners("h1") == [f"tcp {testbed.layout.address('h1')}:22"]


def test_its_user_has_no_rights(testbeds: Testbeds) -> None:
    with ssh_to(testbeds(3), "h1") as host:
        assert host.run(["sh", "-c", "sudo -n true"]).code != 0
        assert host.run(["sh", "-c", "echo x > /etc/x"]).code != 0
        assert host.run(["sh", "-c", "cat /etc/testbed/host_key"]).code != 0
        assert host.run(["mount", "-t", "tmpfs", "none", "/mnt"]).code != 0
    with (
        pytest.raises(HostProblem, match="refuses root"),
        ssh_to(testbeds(3), "h1", user="root") as host,
    ):
        host.run(["true"])


def test_logins_leave_no_trace_in_the_listing(testbeds: Testbeds) -> None:
    testbed = testbeds(3)
    before = testbed.listing("h3")
    with ssh_to(testbed, "h3") as host:
        host.run(["sh", "-c", "mkdir a; echo x > a/b; ln -s b a/c; echo > /dev/shm/d"])
        during = testbed.listing("h3")
        assert [line.split()[-1] for line in during if line not in before] == [
            "/dev/shm/d", f"{HOME}/a", f"{HOME}/a/b", f"{HOME}/a/c",
        ]  # fmt: skip
        assert any(process.uid != 0 for process in testbed.processes("h3"))
        host.run(["rm", "-r", "a", "/dev/shm/d"])
    assert testbed.listing("h3") == before
    assert any(line.endswith(f"{HOME}/.ssh/authorized_keys") for line in before)


def test_crash_kills_all_and_boot_keeps_the_disk(testbeds: Testbeds) -> None:
    testbed = testbeds(3)
    host = ssh_to(testbed, "h2")
    host.run(["sh", "-c", "echo kept > kept"])
    host.start(["sleep", "600"])
    others = {name: pid for name, pid in pids(testbed).items() if name != "h2"}
    testbed.crash("h2")
    testbed.crash("h2")
    assert not testbed.hosts()[1].running
    with pytest.raises(TestbedProblem, match="h2 is down"):
        testbed.processes("h2")
    with pytest.raises(HostProblem):
        host.run(["true"], timeout_s=1)
    host.close()
    testbed.boot("h2")
    assert kept_in(testbed, "h2", f"{HOME}/kept") == "kept\n"
    assert "sleep 600" not in [process.command for process in testbed.processes("h2")]
    with ssh_to(testbed, "h2") as again:
        again.run(["rm", "kept"])
    assert others.items() <= pids(testbed).items()


def test_cut_and_heal(testbeds: Testbeds) -> None:
    testbed = testbeds(3)
    address = testbed.layout.address("h3")
    with ssh_to(testbed, "h1") as host:
        testbed.cut("h3")
        assert testbed.hosts()[2].cut
        assert host.run(["python3", "-c", REACH, address, "22"]).code != 0
        pid = pids(testbed)["h3"]
        testbed.heal("h3")
        assert host.run(["python3", "-c", REACH, address, "22"]).code == 0
        assert pids(testbed)["h3"] == pid


def test_slow_limits_both_directions(testbeds: Testbeds, tmp_path: Path) -> None:
    testbed = testbeds(3)
    source = tmp_path / "mib"
    source.write_bytes(os.urandom(MIB))
    testbed.slow("h1", "8mbit")  # 1 MB/s
    try:
        with ssh_to(testbed, "h1") as host:
            host.run(["true"])
            for copy in (
                lambda: host.put(source, f"{HOME}/mib"),
                lambda: host.get(f"{HOME}/mib", tmp_path / "back"),
            ):
                began = time.monotonic()
                copy()
                assert MIB / (time.monotonic() - began) < 1.1e6
            host.run(["rm", "mib"])
    finally:
        testbed.slow("h1", None)
    assert testbed.hosts()[0].rate is None
    shown = ["tc", "qdisc", "show", "dev", testbed.layout.veth("h1")]
    assert "tbf" not in subprocess.run(shown, capture_output=True, text=True, check=True).stdout
    with pytest.raises(TestbedProblem, match="rate fast"):
        testbed.slow("h1", "fast")


def test_options(testbeds: Testbeds) -> None:
    testbed = testbeds(
        4, shared=True, password=("h1",), clock_s={"h2": 3600}, disk_mib={"h3": 32},
        no_python=("h4",),
    )  # fmt: skip
    typed = SshTransport(entry_of(testbed, "h1"), testbed.known_hosts, password=lambda _: PASSWORD)
    with typed:
        assert typed.run(["sh", "-c", "echo shared > /shared/note; hostname"]).stdout == "h1\n"
    wrong = SshTransport(entry_of(testbed, "h1"), testbed.known_hosts, password=lambda _: "wrong")
    with wrong, pytest.raises(HostProblem, match="refuses aiok with the password"):
        wrong.run(["true"])
    with ssh_to(testbed, "h2") as host:
        assert host.run(["cat", "/shared/note"]).stdout == "shared\n"
        assert abs(float(host.run(["date", "+%s"]).stdout) - time.time() - 3600) < 20
        now, slept, ended = host.run(["python3", "-c", SLEEPS]).stdout.split()
        assert abs(float(now) - time.time() - 3600) < 20
        assert (slept, ended) == ("True", "0")
    with ssh_to(testbed, "h4") as host:
        assert host.run(["sh", "-c", "command -v python3 || exit 5"]).code == 5
        assert host.run(["hostname"]).stdout == "h4\n"
    by_key = ssh_to(testbed, "h1", password=False, key=str(testbed.key))
    with by_key, pytest.raises(HostProblem, match="refuses aiok with the key"):
        by_key.run(["true"])


def test_fill_and_free(testbeds: Testbeds) -> None:
    testbed = testbeds(
        4, shared=True, password=("h1",), clock_s={"h2": 3600}, disk_mib={"h3": 32},
        no_python=("h4",),
    )  # fmt: skip
    write = ["dd", "if=/dev/zero", "of=big", "bs=1M", "count=8"]
    with ssh_to(testbed, "h3") as host:
        size = int(host.run(["df", "--output=size", "-B1", HOME]).stdout.split()[-1])
        assert size == 32 * MIB
        testbed.fill("h3")
        assert "No space left on device" in host.run(write).stderr
        testbed.free("h3")
        assert host.run(write).code == 0
        testbed.crash("h3")
    testbed.boot("h3")
    assert f" {8 * MIB} " in next(line for line in testbed.listing("h3") if line.endswith("/big"))
    with pytest.raises(TestbedProblem, match="disk of h1 has no limit"):
        testbed.fill("h1")


def test_up_again_changes_only_the_difference(own_testbed: Testbed) -> None:
    own_testbed.up(2)
    first = pids(own_testbed)
    own_testbed.up(2)
    assert pids(own_testbed) == first
    own_testbed.up(3)
    assert first.items() <= pids(own_testbed).items()
    own_testbed.up(1)
    assert pids(own_testbed) == {"h1": first["h1"]}
    own_testbed.up(2, no_python=("h1",))
    assert pids(own_testbed)["h1"] != first["h1"]
    second = pids(own_testbed)
    own_testbed.crash("h2")
    own_testbed.up(2, no_python=("h1",))
    assert pids(own_testbed)["h1"] == second["h1"]
    assert all(host.running for host in own_testbed.hosts())


def test_down_leaves_nothing_and_may_be_repeated(own_testbed: Testbed) -> None:
    assert not traces(own_testbed)
    own_testbed.up(2, disk_mib={"h1": 16}, shared=True)
    assert len(traces(own_testbed)) >= 8
    started = [(host.pid, start_time(host.pid or 0)) for host in own_testbed.hosts()]
    own_testbed.down()
    assert not traces(own_testbed)
    assert all(start_time(pid or 0) != ticks for pid, ticks in started)
    own_testbed.down()
    assert own_testbed.hosts() == []


@pytest.mark.parametrize("wait_s", [0.15, 0.3, 0.45, 0.6, 0.8])
def test_a_program_killed_midway_is_cleaned_up(own_testbed: Testbed, wait_s: float) -> None:
    layout = own_testbed.layout
    names = ["--folder", str(layout.folder), "--net", layout.net, "--prefix", layout.prefix]
    program = subprocess.Popen(
        [sys.executable, "-P", "-m", "hosts.testbed", *names, "up", "4", "--disk", "h2=16"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    time.sleep(wait_s)
    program.send_signal(signal.SIGKILL)
    program.wait()
    if wait_s < 0.5:
        own_testbed.up(2)
        assert [host.running for host in own_testbed.hosts()] == [True, True]
        with ssh_to(own_testbed, "h2") as host:
            assert host.run(["hostname"]).stdout == "h2\n"
    own_testbed.down()
    assert not traces(own_testbed)


def test_what_is_not_its_own_is_refused(own_testbed: Testbed, tmp_path: Path) -> None:
    own_testbed.up(1)
    layout = own_testbed.layout
    other = new_testbed().layout
    with pytest.raises(TestbedProblem, match=rf"{layout.net}\.0/24 is in use here"):
        Testbed(tmp_path / "a", layout.net, other.prefix).up(1)
    with pytest.raises(TestbedProblem, match=f"there is a {layout.bridge} already"):
        Testbed(tmp_path / "b", other.net, layout.prefix).up(1)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "mine").write_text("mine")
    with pytest.raises(TestbedProblem, match="holds other files"):
        Testbed(tmp_path / "c", other.net, other.prefix).up(1)
    Testbed(tmp_path / "c", other.net, other.prefix).down()
    assert (tmp_path / "c" / "mine").read_text() == "mine"
    with pytest.raises(TestbedProblem, match="has a user root"):
        Testbed(tmp_path / "d", other.net, other.prefix, "root").up(1)
    with pytest.raises(TestbedProblem, match="the hosts could see it"):
        Testbed(Path("/usr/testbed"), other.net, other.prefix).up(1)
    assert own_testbed.hosts()[0].running


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["crash", "h1"], "there is no host h1: none is up"),
        (["up", "0"], "0 hosts: 1 to 200 are possible"),
        (["up", "1", "--disk", "h1=1"], "a disk has at least 4 MiB"),
        (["up", "1", "--disk", "h2=9"], "options for hosts that are not made: h2"),
    ],
)
def test_bad_words_are_one_sentence(
    words: list[str], said: str, own_testbed: Testbed, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--folder", str(own_testbed.folder), *words]) == 3
    assert capsys.readouterr().err == f"testbed: {said}\n"
    assert not own_testbed.folder.exists()


def test_missing_programs_are_named_with_the_apt_line(
    own_testbed: Testbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def which(name: str, path: str) -> str | None:
        return None if name in ("sshd", "tc") else name

    monkeypatch.setattr("hosts.testbed.shutil.which", which)
    with pytest.raises(TestbedProblem, match="apt-get install iproute2 openssh-server"):
        own_testbed.up(1)


def test_without_root_it_says_so(
    own_testbed: Testbed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own_testbed.up(1)
    with monkeypatch.context() as plain:
        plain.setattr("os.geteuid", lambda: 1000)
        for words in (["up", "2"], ["crash", "h1"], ["down"]):
            assert main(["--folder", str(own_testbed.folder), *words]) == 3
            assert "needs root" in capsys.readouterr().err
    assert [host.running for host in own_testbed.hosts()] == [True]


def test_threads_may_call_at_once(own_testbed: Testbed) -> None:
    own_testbed.up(2)
    with ThreadPoolExecutor(4) as pool:
        seen = [pool.submit(own_testbed.hosts) for _ in range(20)]
        done = [pool.submit(own_testbed.cut, "h1"), pool.submit(own_testbed.cut, "h2")]
        seen += [pool.submit(own_testbed.hosts) for _ in range(20)]
        assert all(len(call.result()) == 2 for call in seen)
        assert [call.result() for call in done] == [None, None]
    assert [host.cut for host in own_testbed.hosts()] == [True, True]


def test_what_a_killed_test_run_left_is_removed() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    testbed = new_testbed()
    left = Testbed(testbed.folder.with_name(f"{gone.pid}-0"), testbed.layout.net, "tleft")
    left.up(1)
    remove_leftovers()
    assert not traces(left)


STRANGE = {
    "a name that leads elsewhere": {"hosts": [{"name": "../../../home/victim", "options": {}}]},
    "a prefix that is none": {"prefix": "../x"},
    "a net that is none": {"net": "10.1"},
    "a user that is none": {"user": "../victim"},
    "not a testbed's": {"hosts": 7},
    "a key that nobody knows": {"more": 1},
}


@pytest.mark.parametrize("change", STRANGE.values(), ids=STRANGE)
def test_a_state_file_that_no_testbed_wrote_is_refused(
    change: dict[str, object], tmp_path: Path
) -> None:
    folder = tmp_path / "lab"
    folder.mkdir(0o755)
    plain = {"net": "10.1.2", "prefix": "tx", "user": USER, "boot": "", "hosts": []}
    (folder / "testbed.json").write_text(json.dumps(plain | change))
    with pytest.raises(TestbedProblem, match=r"no name of a host|prefix|net|user|damaged"):
        Testbed(folder).down()
    assert (folder / "testbed.json").exists()


def foreign(place: Path) -> None:
    os.chown(place, 65534, 65534)


def open_to_all(place: Path) -> None:
    place.chmod(0o777)


def linked(place: Path) -> None:
    place.symlink_to(place.rename(place.with_name("elsewhere")))


@pytest.mark.parametrize("spoil", [foreign, open_to_all, linked])
def test_what_others_could_have_written_is_not_believed(
    spoil: Callable[[Path], None], own_testbed: Testbed, tmp_path: Path
) -> None:
    place = tmp_path / "lab"
    place.mkdir(0o755)
    state = {"net": "10.1.2", "prefix": "tx", "user": USER, "boot": "", "hosts": []}
    (place / "testbed.json").write_text(json.dumps(state))
    spoil(place)
    with pytest.raises(TestbedProblem, match="is not yours alone"):
        Testbed(place)
    (place / "testbed.json").unlink()
    layout = own_testbed.layout
    with pytest.raises(TestbedProblem, match="is not yours alone"):
        Testbed(place, layout.net, layout.prefix).up(1)


def test_where_the_machine_is_a_container_disks_are_in_memory(
    own_testbed: Testbed, tmp_path: Path
) -> None:
    for name in ("upper", "work", "root"):
        (tmp_path / name).mkdir()
    places = f"lowerdir=/usr/share,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    root, layout = tmp_path / "root", own_testbed.layout
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", places, root], check=True)
    try:
        testbed = Testbed(root / "testbed", layout.net, layout.prefix)
        try:
            testbed.up(1)
            with ssh_to(testbed, "h1") as host:
                assert host.run(["sh", "-c", "echo x > x; hostname"]).stdout == "h1\n"
        finally:
            testbed.down()
        assert not traces(testbed)
    finally:
        subprocess.run(["umount", root], check=True)
