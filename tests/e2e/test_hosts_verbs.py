"""`aiok hosts` on real hosts: a sentence for every fault, all at once; no trace of passwords."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import clusters
from engine.environments import lock_of
from hosts.testbed import PASSWORD, Testbed
from tests.e2e.conftest import Home
from tests.testbed import Testbeds

UP = "import sys; from aiok_tui import hosts; sys.exit(hosts.up('testbed', [], False))"


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home without environments."""
    path = tmp_path / "home"
    path.mkdir()
    monkeypatch.setenv("AIOK_HOME", str(path))
    return Home(path)


def key_of(testbed: Testbed, name: str) -> str:
    """The fingerprint that the host itself would tell."""
    path = testbed.layout.disk(name) / "upper/etc/testbed/host_key.pub"
    done = subprocess.run(["ssh-keygen", "-lf", path], capture_output=True, text=True, check=True)
    return done.stdout.split()[1]


# --- check ----------------------------------------------------------------------------------------


@pytest.fixture
def faulty(testbeds: Testbeds, bare: Home) -> Testbed:
    """Five hosts under ten names, all but one of which have something wrong."""
    testbed = testbeds(5, password=("h5",), clock_s={"h2": 3600}, disk_mib={"h3": 64},
                       no_python=("h4",))  # fmt: skip
    address = testbed.layout.address
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", bare.path / "stranger"],
                   check=True)  # fmt: skip
    hosts = {name: {"address": address(name)} for name in ("h1", "h2", "h3", "h4")}
    hosts |= {
        "h5": {"address": address("h5"), "password": True},
        "away": {"address": f"{testbed.layout.net}.250"},
        "closed": {"address": address("h1"), "port": 2299},
        "changed": {"address": address("h5")},
        "stranger": {"address": address("h1"), "key": str(bare.path / "stranger")},
        "unknown": {"address": "localhost", "port": 22, "jump": "h1"},
    }
    groups = {
        "lab": {"hosts": ["h1", "h2", "h3"]},
        "odd": {"hosts": ["h4", "h5", "away", "closed", "changed", "stranger", "h3"]},
    }
    everyone = {"user": "aiok", "key": str(testbed.key)}
    text = json.dumps({"defaults": everyone, "hosts": hosts, "clusters": groups})
    (bare.path / "inventory.yaml").write_text(text)  # JSON is YAML
    pinned = testbed.known_hosts.read_text().splitlines()
    h1 = next(line for line in pinned if line.startswith(f"{address('h1')} "))
    kept = [line for line in pinned if not line.startswith(f"{address('h5')} ")]
    (bare.path / "ssh").mkdir(mode=0o700)
    wrong = h1.replace(address("h1"), address("h5"))
    (bare.path / "ssh" / "known_hosts").write_text("\n".join([*kept, wrong]) + "\n")
    return testbed


def expected(testbed: Testbed, home: Path) -> dict[str, list[str]]:
    """The problems of each host of `faulty`."""
    address, net = testbed.layout.address, testbed.layout.net
    twice = "it is in lab and odd"
    torch = lock_of("torch")
    need = torch.wheels_gib + torch.installed_gib + 0.2
    changed = "its host key has changed: not connected"
    return {
        "h1": [],
        "h2": ["its clock is 3600 s ahead of this machine's"],
        "h3": [twice, f"0.06 GiB free in /home/aiok, aiok needs about {need:.2f}"],
        "h4": ["there is no CPython 3.11"],
        "h5": [changed],
        "away": [f"{net}.250 port 22 cannot be reached"],
        "closed": [f"{address('h1')} port 2299 refuses connections"],
        "changed": [changed],
        "stranger": [f"it refuses aiok with the key {home / 'stranger'}"],
        "unknown": ["its jump host h1 cannot reach it"],
    }


def test_check_tells_all_problems_of_all_hosts_at_once(faulty: Testbed, bare: Home) -> None:
    done = bare.aiok("hosts", "check", "--json")
    assert done.returncode == 3, done.stderr
    reports = {report["host"]: report for report in map(json.loads, done.stdout.splitlines())}
    problems = {
        name: [f for f in report["findings"] if f["level"] == "problem"]
        for name, report in reports.items()
    }
    said = {name: [f["what"] for f in found] for name, found in problems.items()}
    assert said == expected(faulty, bare.path)
    assert all(f["todo"] for found in problems.values() for f in found)
    assert problems["h5"][0]["why"] == (
        f"pinned {key_of(faulty, 'h1')}, now {key_of(faulty, 'h5')}"
    )
    assert {name for name, report in reports.items() if report["facts"]} == {"h1", "h2", "h3"}
    assert "9 of 10 hosts have problems" in done.stderr
    assert any(f["what"].startswith("reaches h2, h3 by eth0 from ")
               for f in reports["h1"]["findings"])  # fmt: skip


def test_check_of_some_hosts_is_text_with_what_to_do(faulty: Testbed, bare: Home) -> None:
    good = bare.aiok("hosts", "check", "h1")
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout.startswith("h1\n") and "BAD" not in good.stdout
    done = bare.aiok("hosts", "check", "h2", "h4")
    assert done.returncode == 3
    assert re.findall(r"^(?:BAD  .*|\w+)$", done.stdout, re.M) == [
        "h2", "BAD  its clock is 3600 s ahead of this machine's",
        "h4", "BAD  there is no CPython 3.11",
    ]  # fmt: skip
    assert "\n     do: install it (Debian 12: apt-get install python3;" in done.stdout
    unknown = bare.aiok("hosts", "check", "h22")
    assert unknown.returncode == 2 and "there is no cluster or host h22" in unknown.stderr


@pytest.mark.parametrize("verb", ["plan", "run"])
def test_plan_and_run_refuse_for_the_same_reasons(faulty: Testbed, bare: Home, verb: str) -> None:
    wanted = expected(faulty, bare.path)
    seen = bare.aiok(verb, "quickstart", "--set", "cluster=lab")
    assert seen.returncode == 3
    for name in ("h2", "h3"):
        for what in wanted[name]:
            assert f"{name}: {what}" in seen.stdout + seen.stderr
    blind = bare.aiok(verb, "quickstart", "--set", "cluster=odd")
    assert blind.returncode == 3 and blind.stdout == ""
    for name in ("h4", "h5", "away", "closed", "changed", "stranger", "h3"):
        for what in wanted[name]:
            assert f"{name}: {what}" in blind.stderr
    assert "Traceback" not in seen.stderr + blind.stderr
    assert not (bare.path / "runs").exists()


def test_a_bad_inventory_is_exit_3_for_every_verb(bare: Home) -> None:
    text = "hosts: {h1: {adress: 10.0.0.1, prot: 22}}\nclusters: {lab: {hosts: [h2]}}\n"
    (bare.path / "inventory.yaml").write_text(text)
    for words in (
        ["hosts", "check"],
        ["hosts", "list"],
        ["plan", "quickstart", "-s", "cluster=lab"],
    ):
        done = bare.aiok(*words)
        assert done.returncode == 3 and done.stdout == ""
        assert "hosts.h1.adress (line 1): unknown key, did you mean address?" in done.stderr
        assert "hosts.h1.prot (line 1): unknown key, did you mean port?" in done.stderr
        assert "clusters.lab.hosts.0 (line 2): there is no host h2, did you mean h1?" in done.stderr


# --- add and remove -------------------------------------------------------------------------------


class Typist:
    """A person at a terminal of their own: reads what is asked, types an answer."""

    def __init__(self, home: Home, *argv: str) -> None:
        self._master, slave = pty.openpty()
        self.seen = ""
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", sys.executable, "-P", *argv],
            stdin=slave, stdout=slave, stderr=slave, env=home.env, cwd=home.path,
        )  # fmt: skip
        os.close(slave)

    def answer(self, question: str, answer: str) -> None:
        """Wait for a question, then type."""
        while question not in self.seen:
            assert self._read(), f"{question!r} was not asked:\n{self.seen}"
        os.write(self._master, f"{answer}\n".encode())

    def _read(self) -> bool:
        ready, _, _ = select.select([self._master], [], [], 40)
        try:
            data = os.read(self._master, 1 << 16) if ready else b""
        except OSError:  # the other end is closed
            data = b""
        self.seen += data.decode().replace("\r\n", "\n")
        return bool(data)

    def end(self) -> int:
        """Read to the end; the exit code."""
        while self._read():
            pass
        os.close(self._master)
        return self.process.wait(10)


def test_add_shows_pins_and_remove_forgets(testbeds: Testbeds, bare: Home) -> None:
    testbed = testbeds(2)
    address, key = testbed.layout.address("h1"), key_of(testbed, "h1")
    words = ["hosts", "add", f"aiok@{address}", "--key", str(testbed.key), "--cluster", "lab"]
    nobody = bare.aiok(*words)
    assert nobody.returncode == 2 and "nobody is here to compare the key" in nobody.stderr
    assert f"h1 ({address}) shows the key {key}" in nobody.stderr
    other = bare.aiok(*words, "--fingerprint", "SHA256:other")
    assert other.returncode == 3 and f"named SHA256:other, shown {key}" in other.stderr
    no = Typist(bare, "-m", "aiok_tui", *words)
    no.answer("is that its key? [y/N]", "n")
    assert no.end() == 2 and not (bare.path / "inventory.yaml").exists()
    yes = Typist(bare, "-m", "aiok_tui", *words)
    yes.answer("is that its key? [y/N]", "y")
    assert yes.end() == 0 and key in yes.seen and "h1: added, in lab" in yes.seen
    pinned = bare.path / "ssh" / "known_hosts"
    assert pinned.read_text().split()[0] == address
    assert pinned.stat().st_mode & 0o777 == 0o600
    assert bare.aiok("hosts", "check", "lab").returncode == 0

    line = pinned.read_text()
    (bare.path / "inventory.yaml").write_text(
        f"hosts: {{by-hand: {{address: {address}, user: aiok, key: {testbed.key}}}}}  # mine\n"
    )
    pinned.unlink()
    unpinned = bare.aiok("hosts", "check")
    assert unpinned.returncode == 3 and "aiok hosts add by-hand" in unpinned.stdout
    assert bare.aiok("hosts", "add", "by-hand", "--fingerprint", key).returncode == 0
    assert pinned.read_text() == line
    assert "# mine" in (bare.path / "inventory.yaml").read_text()
    assert bare.aiok("hosts", "check").returncode == 0

    second = key_of(testbed, "h2")
    public = next(x for x in testbed.known_hosts.read_text().splitlines() if address not in x)
    pinned.write_text(f"{address} {public.split(' ', 1)[1]}\n")
    changed = bare.aiok("hosts", "add", "by-hand", "--fingerprint", key)
    assert changed.returncode == 3 and f"pinned {second}, now {key}" in changed.stderr
    assert bare.aiok("hosts", "remove", "by-hand").returncode == 0
    assert pinned.read_text() == "" and clusters.inventory().hosts == {}
    assert bare.aiok("hosts", "remove", "by-hand").returncode == 2


# --- passwords ------------------------------------------------------------------------------------


class Watch:
    """Looks for words in the command line and environment of every process, hosts included."""

    def __init__(self, canary: str) -> None:
        self._canary, self._over = canary.encode(), threading.Event()
        self.found: set[str] = set()
        self.rounds = 0
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._over.is_set():
            for place in Path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    try:
                        data = (place / name).read_bytes()
                    except OSError:  # it has just ended
                        continue
                    if self._canary in data:
                        self.found.add(f"{place}/{name}: {data!r}")
            self.rounds += 1

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def files_with(canary: str, *folders: Path) -> list[Path]:
    """The files below folders that hold the words."""
    return [
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and canary.encode() in path.read_bytes()
    ]


@pytest.fixture
def locked(testbeds: Testbeds, bare: Home) -> Iterator[Testbed]:
    """Two hosts entered by a password; what a test brings up is taken down."""
    testbed = testbeds(2, purpose="locked", password=("h1", "h2"))
    testbed.inventory(bare.path / "inventory.yaml")
    yield testbed


def test_the_watch_sees_what_it_looks_for(tmp_path: Path) -> None:
    with Watch("canary of a test") as watch:
        subprocess.run(["sleep", "0.5"], env={"A": "canary of a test"}, check=True)
        subprocess.run(["sh", "-c", "sleep 0.5; : canary of a test"], check=True)
    assert {line.partition(":")[0].rpartition("/")[2] for line in watch.found} == {
        "cmdline", "environ",
    }  # fmt: skip
    (tmp_path / "log").write_text("x canary of a test x")
    assert files_with("canary of a test", tmp_path) == [tmp_path / "log"]


def test_a_password_is_typed_once_and_leaves_no_trace(locked: Testbed, bare: Home) -> None:
    before = {name: locked.listing(name) for name in ("h1", "h2")}
    disks = [locked.layout.disk(name) / "upper" for name in ("h1", "h2")]
    refused = bare.aiok("hosts", "check")
    assert refused.returncode == 3
    assert refused.stdout.count("and none was typed") == 2
    with Watch(PASSWORD) as watch:
        person = Typist(bare, "-c", UP)
        for _ in range(2):
            question = re.escape("password of aiok on ")
            person.answer("password of aiok on ", PASSWORD)
            person.seen = re.sub(f"{question}h[12] [^:]*: ", "", person.seen)
        assert person.end() == 0, person.seen
    assert watch.rounds > 5 and not watch.found
    assert "made ready" in person.seen and PASSWORD not in person.seen
    assert "password of" not in person.seen  # two questions, no more
    assert files_with("aiok:testbed", bare.path, *disks)
    assert not files_with(PASSWORD, bare.path, *disks)

    again = bare.aiok("hosts", "check", "testbed")  # aiok's own key: nobody types
    assert again.returncode == 0, again.stdout
    pins = "/home/aiok/.local/share/aiok/ssh/known_hosts"
    locked.run_as_root("h1", ["sh", "-c", f": >{pins}"])
    locked.run_as_root("h2", ["rm", f"{pins[: -len('known_hosts')]}rsh"])
    as_mpirun = bare.aiok("hosts", "check", "testbed")
    assert "note it is not ready yet\n     do: aiok hosts up h2" in as_mpirun.stdout
    assert as_mpirun.returncode == 0
    healed = Typist(bare, "-c", UP)
    assert healed.end() == 0, healed.seen
    locked.run_as_root("h1", ["sh", "-c", f": >{pins}"])
    as_mpirun = bare.aiok("hosts", "check", "testbed")
    assert as_mpirun.returncode == 3
    assert f"it cannot reach h2 at {locked.layout.address('h2')} by SSH" in as_mpirun.stdout
    down = bare.aiok("hosts", "down", "testbed")
    assert down.returncode == 0, down.stderr
    assert {name: locked.listing(name) for name in before} == before
    assert bare.aiok("hosts", "check").stdout.count("and none was typed") == 2
