"""Hosts made ready and bare again on real SSH hosts: nothing twice, gaps healed, nothing left."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import clusters, host_jobs
from hosts.provision import Lock
from hosts.testbed import Testbed
from hosts.transport import HostProblem
from tests.hosts.test_provision import make_wheel, write_lock
from tests.testbed import Testbeds

THREE = ("h1", "h2", "h3")


@pytest.fixture
def bed(testbeds: Testbeds, aiok_home: Path) -> Iterator[Testbed]:
    """Three bare hosts in the inventory as `lab`; bare again whatever the test did."""
    testbed = testbeds(3, "bring-up")
    aiok_home.mkdir()
    testbed.inventory(aiok_home / "inventory.yaml", cluster="lab")
    yield testbed
    for host in THREE:
        testbed.boot(host)
        testbed.heal(host)
    host_jobs.refuse(host_jobs.down("lab"))


@pytest.fixture
def lock(aiok_home: Path, tmp_path: Path) -> Lock:
    """A lock of two wheels that the user's side has collected; one of them takes some time."""
    hashes = {}
    for name, code in (("alpha", "VALUE = 1\n"), ("beta", "VALUE = 2\n" * 200_000)):
        digest = make_wheel(tmp_path / "made", name, code=code)
        store = aiok_home / "wheels" / digest
        store.mkdir(parents=True)
        shutil.move(tmp_path / "made" / f"{name}-1.0-py3-none-any.whl", store)
        hashes[f"{name}==1.0"] = digest
    return write_lock(tmp_path / "small.txt", hashes)


def up(*locks: Lock) -> dict[str, int]:
    """Make the hosts ready; how many things were changed on each."""
    outcomes = host_jobs.up("lab", locks, lambda host, phase, done, total: None)
    host_jobs.refuse(outcomes)
    return {outcome.host: len(outcome.changed) for outcome in outcomes}


def run_everywhere(lock: Lock) -> list[str]:
    """What the installed environment says on each host."""
    sites = clusters.connect("lab")
    try:
        return [
            site.transport.run(
                [f"{site.environment(lock)}/bin/python", "-c", "import alpha; print(alpha.VALUE)"]
            ).stdout
            for site in sites
        ]
    finally:
        clusters.leave(sites)


def test_ready_hosts_work_and_a_second_up_changes_nothing(bed: Testbed, lock: Lock) -> None:
    assert all(count > 0 for count in up(lock).values())
    assert run_everywhere(lock) == ["1\n"] * 3
    before = {host: bed.listing(host) for host in THREE}
    assert up(lock) == dict.fromkeys(THREE, 0)
    assert {host: bed.listing(host) for host in THREE} == before


def test_down_leaves_the_files_of_a_host_as_they_were(bed: Testbed, lock: Lock) -> None:
    before = {host: bed.listing(host) for host in THREE}
    up(lock)
    assert all(bed.listing(host) != before[host] for host in THREE)
    host_jobs.refuse(host_jobs.down("lab"))
    assert {host: bed.listing(host) for host in THREE} == before
    assert not clusters.identity_path("lab").exists()


def test_nothing_of_ours_runs_or_listens_at_rest(bed: Testbed, lock: Lock) -> None:
    listening = {host: bed.listeners(host) for host in THREE}
    up(lock)
    assert {host: bed.listeners(host) for host in THREE} == listening
    end = time.monotonic() + 10  # sshd takes a moment to end a session
    running = [""]
    while running and time.monotonic() < end:
        time.sleep(0.1)
        running = [
            process.command for host in THREE for process in bed.processes(host)
            if "[listener]" not in process.command
        ]  # fmt: skip
    assert running == []


@pytest.mark.parametrize("moment", ["code", "small: copy", "small: check", "small: unpack"])
def test_a_host_killed_midway_is_the_only_one_that_the_next_up_heals(
    bed: Testbed, lock: Lock, moment: str
) -> None:
    struck = threading.Event()

    def progress(host: str, phase: str, done: float, total: float) -> None:
        if host == "h2" and phase == moment and not struck.is_set():
            struck.set()
            bed.crash("h2")

    outcomes = {o.host: o for o in host_jobs.up("lab", [lock], progress)}
    assert struck.is_set()
    assert isinstance(outcomes["h2"].problem, HostProblem | Exception)
    assert outcomes["h1"].problem is None
    assert outcomes["h3"].problem is None
    bed.boot("h2")
    healed = up(lock)
    assert healed["h2"] > 0
    assert (healed["h1"], healed["h3"]) == (0, 0)
    assert run_everywhere(lock) == ["1\n"] * 3


def test_down_of_a_half_made_host_leaves_nothing(bed: Testbed, lock: Lock) -> None:
    before = bed.listing("h2")

    def progress(host: str, phase: str, done: float, total: float) -> None:
        if host == "h2" and phase == "small: unpack":
            bed.crash("h2")

    host_jobs.up("lab", [lock], progress)
    bed.boot("h2")
    host_jobs.refuse(host_jobs.down("lab"))
    assert bed.listing("h2") == before


def test_what_the_user_had_stays(bed: Testbed, lock: Lock) -> None:
    """A home of aiok that was there before, and an authorized_keys without an end of line."""
    mine = "/home/aiok/.local/share/aiok"
    bed.run_as_root("h1", ["sh", "-c", f"mkdir -p {mine}/runs && echo mine > {mine}/runs/x && "
                           "printf '# no end' >> /home/aiok/.ssh/authorized_keys && "
                           "chown -R aiok: /home/aiok/.local"])  # fmt: skip
    before = bed.listing("h1")
    up(lock)
    host_jobs.refuse(host_jobs.down("lab"))
    assert bed.listing("h1") == before
    bed.run_as_root("h1", ["rm", "-rf", "/home/aiok/.local"])
