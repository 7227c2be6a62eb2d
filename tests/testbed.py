"""Testbeds for tests/hosts, tests/contract and tests/e2e: one for each number of hosts and options.

Each has a folder, addresses and names of its own, so that test runs do not meet. What a killed test
run has left is removed by the next one. A conftest.py that wants the fixtures imports them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hosts.inventory import HostEntry, Inventory
from hosts.ssh import SshTransport
from hosts.testbed import Testbed
from hosts.testbed_host import is_own

BASE = Path(tempfile.gettempdir()) / "aiok-test-testbeds"
Testbeds = Callable[..., Testbed]


def new_testbed() -> Testbed:
    """A testbed that is not up yet, with names and addresses that nobody uses."""
    BASE.mkdir(mode=0o755, exist_ok=True)
    assert is_own(BASE), f"{BASE} is somebody else's: remove it"
    for number in range(256):
        folder = BASE / f"{os.getpid()}-{number}"
        if not folder.exists():
            net = f"10.{130 + os.getpid() % 100}.{(os.getpid() // 100 + number) % 256}"
            return Testbed(folder, net, prefix=f"t{os.getpid() % 0xFFFFF:x}{number:02x}")
    raise AssertionError("256 testbeds are up")


def remove_leftovers() -> None:
    """Take down the testbeds of test runs that are gone."""
    for folder in BASE.glob("*-*") if is_own(BASE) else ():
        if not Path("/proc", folder.name.partition("-")[0]).exists():
            Testbed(folder).down()


@pytest.fixture(scope="session")
def testbeds() -> Iterator[Testbeds]:
    """`testbeds(3, shared=True)`: hosts that are up, the same ones for the same words.

    `purpose` keeps apart tests that would disturb each other.
    """
    if os.geteuid() != 0:
        pytest.skip("the SSH testbed needs root (namespaces and mounts)")
    remove_leftovers()
    made: dict[str, Testbed] = {}

    def get(n: int, purpose: str = "", **options: Any) -> Testbed:
        key = repr((n, purpose, sorted(options.items())))
        if key not in made:
            made[key] = new_testbed()
            made[key].up(n, **options)
        return made[key]

    yield get
    for testbed in made.values():
        testbed.down()


@pytest.fixture
def own_testbed() -> Iterator[Testbed]:
    """A testbed of the test's own, not up yet."""
    if os.geteuid() != 0:
        pytest.skip("the SSH testbed needs root (namespaces and mounts)")
    testbed = new_testbed()
    yield testbed
    testbed.down()


def open_ports(testbed: Testbed, host: str) -> set[int]:
    """What listens on a host's interface in the cluster, the SSH server apart."""
    found = (line.rpartition(":") for line in testbed.listeners(host))
    inward = ("tcp 127.", "tcp [::1]", "tcp [::ffff:127.")
    return {int(port) for where, _, port in found if not where.startswith(inward)} - {22}


def read_inventory(testbed: Testbed, folder: Path) -> Inventory:
    """The inventory a testbed writes, as the product reads it."""
    testbed.inventory(folder / "inventory.yaml")
    return Inventory.model_validate(yaml.safe_load((folder / "inventory.yaml").read_text()))


def entry_of(testbed: Testbed, name: str, **changes: Any) -> HostEntry:
    """How the inventory describes a host of a testbed."""
    host = next(host for host in testbed.hosts() if host.name == name)
    login = {"key": None, "password": True} if host.options.password else {"key": str(testbed.key)}
    plain = {
        "name": name, "address": host.address, "user": testbed.layout.user, "port": 22,
        "agent": False, "password": False, "jump": None, "cluster_address": host.address,
        "work_folder": None, "python": None, "slots": None,
    }  # fmt: skip
    return HostEntry.model_validate({**plain, **login, **changes})


def ssh_to(testbed: Testbed, name: str, **changes: Any) -> SshTransport:
    """A connection to a host of a testbed by its pinned key; it opens at the first call."""
    return SshTransport(entry_of(testbed, name, **changes), testbed.known_hosts)
