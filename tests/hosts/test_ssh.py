"""Logging in to real hosts: what can be wrong has its sentence, and nothing else is tried."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.clusters import TypedOnce
from hosts.inventory import HostEntry
from hosts.ssh import SshTransport, scan_host_key
from hosts.testbed import PASSWORD, Testbed
from hosts.transport import Completed, HostProblem, NoAnswer, Refusal
from tests.testbed import Testbeds, entry_of, ssh_to

PHRASE = "only for this test"


def make_key(path: Path, phrase: str = "") -> Path:
    """A new key pair that no host knows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", phrase, "-C", "test", "-f", str(path)]
    subprocess.run(words, check=True)
    return path


def problem_of(transport: SshTransport) -> HostProblem:
    """What the first call ends with."""
    with transport, pytest.raises(HostProblem) as caught:
        transport.run(["true"])
    assert caught.value.host == transport.host
    return caught.value


def key_of(testbed: Testbed, name: str) -> str:
    """The fingerprint that the host itself would tell."""
    path = testbed.layout.disk(name) / "upper/etc/testbed/host_key.pub"
    done = subprocess.run(["ssh-keygen", "-lf", path], capture_output=True, text=True, check=True)
    return done.stdout.split()[1]


# --- host keys ------------------------------------------------------------------------------------


def test_an_unknown_key_is_refused_and_shown(testbeds: Testbeds, tmp_path: Path) -> None:
    testbed = testbeds(3)
    problem = problem_of(SshTransport(entry_of(testbed, "h1"), tmp_path / "none"))
    assert problem.what == "its host key is not known: not connected"
    assert problem.why == f"it shows {key_of(testbed, 'h1')}"
    assert problem.todo == "compare and pin it: aiok hosts add h1"


def test_a_changed_key_is_a_hard_stop_that_names_both(testbeds: Testbeds, tmp_path: Path) -> None:
    testbed = testbeds(3)
    entry, pinned = entry_of(testbed, "h1"), tmp_path / "known_hosts"
    other = entry_of(testbed, "h2")
    fingerprint, line = scan_host_key(other, tmp_path / "none")
    assert fingerprint == key_of(testbed, "h2")
    pinned.write_text(line.replace(other.address, entry.address) + "\n")
    with pytest.raises(HostProblem) as caught:
        scan_host_key(entry, pinned)
    for problem in (problem_of(SshTransport(entry, pinned)), caught.value):
        assert isinstance(problem, Refusal)
        assert problem.what == "its host key has changed: not connected"
        assert problem.why == f"pinned {fingerprint}, now {key_of(testbed, 'h1')}"
        assert "aiok hosts remove h1" in problem.todo
    assert scan_host_key(entry, testbed.known_hosts)[0] == key_of(testbed, "h1")


# --- keys and agent -------------------------------------------------------------------------------


def test_wrong_keys_each_have_a_sentence(testbeds: Testbeds, tmp_path: Path) -> None:
    testbed = testbeds(3)
    stranger = make_key(tmp_path / "stranger")
    locked = make_key(tmp_path / "locked", PHRASE)
    (garbage := tmp_path / "garbage").write_text("no key at all\n")
    said = {
        key.name: problem_of(ssh_to(testbed, "h1", key=str(key)))
        for key in (stranger, locked, garbage, tmp_path / "gone")
    }
    assert said["stranger"].what == f"it refuses aiok with the key {stranger}"
    assert "authorized_keys" in said["stranger"].todo
    assert said["locked"].what == f"the key {locked} has a passphrase"
    assert f"ssh-add {locked}" in said["locked"].todo
    assert said["garbage"].what == f"the key {garbage} is not a private key that can be read"
    assert said["gone"].what == f"there is no file of the key {tmp_path / 'gone'}"
    for own in (stranger, garbage):  # aiok's own key of a host that is not up yet, or damaged
        entry = entry_of(testbed, "h1")
        with SshTransport(entry, testbed.known_hosts, identity=own) as host:
            assert host.run(["hostname"]).stdout == "h1\n"
    nobody = problem_of(ssh_to(testbed, "h1", user="nobody-known"))
    assert nobody.what == f"it refuses nobody-known with the key {testbed.key}"


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A running ssh-agent of the test's own."""
    place = tmp_path / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(place)], stdout=subprocess.PIPE) as running:
        assert running.stdout is not None and running.stdout.readline()
        monkeypatch.setenv("SSH_AUTH_SOCK", str(place))
        yield
        running.terminate()


def load(key: Path, phrase: str, folder: Path) -> None:
    """ssh-add with a passphrase."""
    (ask := folder / "ask").write_text(f"#!/bin/sh\necho '{phrase}'\n")
    ask.chmod(0o700)
    env = {**os.environ, "SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force"}
    subprocess.run(["ssh-add", "-q", str(key)], env=env, check=True, stdin=subprocess.DEVNULL)


@pytest.mark.usefixtures("agent")
def test_a_key_with_a_passphrase_works_through_the_agent_alone(
    testbeds: Testbeds, tmp_path: Path
) -> None:
    testbed = testbeds(3)
    key = tmp_path / "locked"
    shutil.copy(testbed.key, key)
    shutil.copy(f"{testbed.key}.pub", f"{key}.pub")
    change = ["ssh-keygen", "-q", "-p", "-P", "", "-N", PHRASE, "-f", str(key)]
    subprocess.run(change, check=True, stdout=subprocess.DEVNULL)
    empty = problem_of(ssh_to(testbed, "h1", key=None, agent=True))
    assert empty.what == "your ssh-agent holds no key for it"
    load(make_key(tmp_path / "stranger"), "", tmp_path)
    load(key, PHRASE, tmp_path)
    with ssh_to(testbed, "h1", key=str(key), agent=True) as host:
        assert host.run(["hostname"]).stdout == "h1\n"
    with ssh_to(testbed, "h1", key=None, agent=True) as host:  # one key after the other
        assert host.run(["hostname"]).stdout == "h1\n"
    assert "has a passphrase" in problem_of(ssh_to(testbed, "h1", key=str(key))).what


def test_neither_agent_nor_default_keys_are_tried_unasked(
    testbeds: Testbeds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    testbed = testbeds(3)
    (tmp_path / ".ssh").mkdir()
    for name in ("id_ed25519", "id_rsa"):
        shutil.copy(testbed.key, tmp_path / ".ssh" / name)
        shutil.copy(f"{testbed.key}.pub", tmp_path / ".ssh" / f"{name}.pub")
    monkeypatch.setenv("HOME", str(tmp_path))
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(tmp_path / "agent"))
        agent.listen()
        agent.settimeout(0.2)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
        unnamed = problem_of(ssh_to(testbed, "h1", key=None))
        named = problem_of(ssh_to(testbed, "h1", key=str(make_key(tmp_path / "stranger"))))
        with pytest.raises(TimeoutError):
            agent.accept()
    assert unnamed.what == "there is no way to log in"
    assert "default keys are not tried" in unnamed.why
    assert named.what.startswith("it refuses aiok with the key")
    monkeypatch.delenv("SSH_AUTH_SOCK")
    without = problem_of(ssh_to(testbed, "h1", key=None, agent=True))
    assert without.what == "no ssh-agent is running here"


# --- passwords and jumps --------------------------------------------------------------------------


def test_a_password_is_asked_for_once_and_nobody_to_type_it_is_told(testbeds: Testbeds) -> None:
    testbed = testbeds(2, password=("h1", "h2"))
    asked: list[str] = []
    together = threading.Semaphore(1)

    def ask(entry: HostEntry) -> str:
        assert together.acquire(blocking=False), "two questions at once"
        asked.append(entry.name)
        time.sleep(0.1)
        together.release()
        return PASSWORD

    typed = TypedOnce(ask)
    hosts = [
        SshTransport(entry_of(testbed, name), testbed.known_hosts, password=typed)
        for name in ("h1", "h2", "h1")
    ]
    with ThreadPoolExecutor(3) as pool:
        said = list(pool.map(lambda host: host.run(["hostname"]).stdout, hosts))
    assert said == ["h1\n", "h2\n", "h1\n"] and sorted(asked) == ["h1", "h2"]
    for host in hosts:
        host.close()
    nobody = problem_of(ssh_to(testbed, "h1"))
    assert nobody.what == "it wants the password of aiok and none was typed"
    entry = entry_of(testbed, "h1")
    wrong = problem_of(SshTransport(entry, testbed.known_hosts, password=lambda _: "wrong"))
    assert wrong.what == "it refuses aiok with the password"


def test_a_jump_host_leads_to_another(testbeds: Testbeds) -> None:
    testbed = testbeds(3)
    first = testbed.layout.address("h1")
    behind = SshTransport(
        entry_of(testbed, "h2", jump="h1"), testbed.known_hosts, jump=ssh_to(testbed, "h1")
    )
    with behind:
        assert behind.run(["sh", "-c", "echo $SSH_CLIENT"]).stdout.split()[0] == first
    closed = SshTransport(
        entry_of(testbed, "h2", port=2299), testbed.known_hosts, jump=ssh_to(testbed, "h1")
    )
    problem = problem_of(closed)
    assert problem.what == "its jump host h1 cannot reach it"
    assert (problem.why, problem.todo) == (
        "Connect failed", "check the address and port of h2 as h1 sees it"
    )  # fmt: skip
    lost = ssh_to(testbed, "h1", port=2299)
    behind_it = SshTransport(entry_of(testbed, "h2", jump="h1"), testbed.known_hosts, jump=lost)
    assert problem_of(behind_it).what == (
        f"its jump host h1: {first} port 2299 refuses connections"
    )


# --- the network ----------------------------------------------------------------------------------


def test_the_network_has_its_sentences(testbeds: Testbeds) -> None:
    testbed = testbeds(3)
    address = testbed.layout.address("h1")
    away = f"{testbed.layout.net}.250"
    refused = problem_of(ssh_to(testbed, "h1", port=2299))
    assert isinstance(refused, NoAnswer)  # it may be booting
    assert refused.what == f"{address} port 2299 refuses connections"
    assert "port in the inventory" in refused.todo
    assert problem_of(ssh_to(testbed, "h1", address=away)).what == (
        f"{away} port 22 cannot be reached"
    )
    unknown = problem_of(ssh_to(testbed, "h1", address="no-such-host.invalid"))
    assert unknown.what == "there is no host named no-such-host.invalid"
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            with other.accept()[0] as way:
                way.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 2)

        web = threading.Thread(target=answer)
        web.start()
        port = other.getsockname()[1]
        said = problem_of(ssh_to(testbed, "h1", address="127.0.0.1", port=port))
        web.join()
    assert said.what == f"127.0.0.1 port {port} is no SSH server, or is too busy"


def test_a_connection_that_ends_in_the_middle_is_told_at_once(testbeds: Testbeds) -> None:
    with ssh_to(testbeds(3), "h1") as host:
        began = time.monotonic()
        with pytest.raises(NoAnswer, match="the connection was lost"):
            # the parent of the command server is the sshd of this connection
            host.run(["sh", "-c", "kill -9 $(cut -d' ' -f4 /proc/$PPID/stat); sleep 30"])
        assert time.monotonic() - began < 20
        assert host.run(["hostname"]).stdout == "h1\n"


# paramiko's own thread, which asks ahead, meets the end, too
@pytest.mark.filterwarnings(
    "ignore:.*_prefetch_thread:pytest.PytestUnhandledThreadExceptionWarning"
)
def test_a_connection_that_ends_in_a_copy_may_answer_later_a_missing_file_not(
    testbeds: Testbeds, tmp_path: Path
) -> None:
    with ssh_to(testbeds(3), "h1") as host:
        kill = 'sleep 0.5; kill -9 $(cut -d" " -f4 /proc/$1/stat)'
        script = f"truncate -s 2G big; sh -c '{kill}' sh $PPID >/dev/null 2>&1 &"
        host.run(["sh", "-c", script])
        with pytest.raises(NoAnswer, match="cannot copy big"):
            host.get("big", tmp_path / "big")
        assert list(tmp_path.iterdir()) == []
        host.close()
        host.run(["rm", "big"])
        with pytest.raises(HostProblem, match="cannot copy big") as caught:
            host.get("big", tmp_path / "big")
        assert not isinstance(caught.value, NoAnswer)


# --- commands that go wrong -----------------------------------------------------------------------


def test_what_cannot_be_run_is_answered_not_waited_for(testbeds: Testbeds) -> None:
    with ssh_to(testbeds(3), "h1") as host:
        began = time.monotonic()
        with pytest.raises(HostProblem, match="could not be run") as caught:
            host.run(["echo", "a\0b"])
        assert "null byte" in caught.value.why
        assert time.monotonic() - began < 20
        assert host.run(["hostname"]).stdout == "h1\n"


def test_without_python_127_is_an_exit_code_like_any_other(testbeds: Testbeds) -> None:
    with ssh_to(testbeds(1, no_python=("h1",)), "h1") as host:
        done = host.run(["sh", "-c", "echo out; echo err >&2; exit 127"])
        assert done == Completed(127, "out\n", "err\n")
        assert host.run(["hostname"], env={"A": "b c"}).stdout == "h1\n"
        with pytest.raises(HostProblem, match="there is no program no-such-program"):
            host.run(["no-such-program"])
        with pytest.raises(HostProblem, match="there is no program no-such-program"):
            host.run(["no-such-program"], env={"A": "b"})
        with pytest.raises(HostProblem, match="there is no program no-such-program"):
            host.start(["no-such-program"])
