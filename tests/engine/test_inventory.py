"""inventory.yaml: whatever is wrong with it is told at once, with line and nearest name, exit 3."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import clusters
from engine.errors import EnvironmentProblem, ExitCode

TYPOS = """\
default: {port: 22}
hosts:
  h1: {adress: 10.0.0.1, port: 99999}
  h2: {address: -oProxyCommand=x, user: "a b"}
  h3: {address: 10.0.0.3, jump: h1}
  h4: {address: 10.0.0.4, jump: h44, slots: many}
  bad name: {address: 10.0.0.5, work_folder: relative}
  a: {address: 10.0.0.6, jump: b}
  b: {address: 10.0.0.7, jump: a}
clusters:
  lab: {hosts: [h1, h22], interfaces: eth0}
  twice: {hosts: [h1, h1]}
  none: {hosts: []}
  h3: {hosts: [h3]}
"""

SAID = [
    "default (line 1): unknown key, did you mean defaults?",
    "hosts.h1.adress (line 3): unknown key, did you mean address?",
    "hosts.h1.address (line 3): this key is needed",
    "hosts.h1.port (line 3): should be less than or equal to 65535, not 99999",
    "hosts.h2.address (line 4): is neither a host name nor an IP address, not '-oProxyCommand=x'",
    "hosts.h2.user (line 4): is no user name, not 'a b'",
    "hosts.h4.jump (line 6): there is no host h44, did you mean h4?",
    "hosts.h4.slots (line 6): should be a valid integer, unable to parse string as an integer, "
    "not 'many'",
    "hosts.bad name.[key] (line 7): is no name: letters, digits, - and _, not localhost, "
    "not 'bad name'",
    "hosts.bad name.work_folder (line 7): is no folder: give a path that begins with / or ~/, "
    "not 'relative'",
    "hosts.a.jump (line 8): leads in a circle: a -> b -> a",
    "hosts.b.jump (line 9): leads in a circle: b -> a -> b",
    "clusters.lab.hosts.1 (line 11): there is no host h22, did you mean h2?",
    "clusters.lab.interfaces (line 11): unknown key, did you mean interface?",
    "clusters.twice (line 12): hosts named more than once: h1",
    "clusters.none (line 13): has no hosts",
    "clusters.h3 (line 14): is also the name of a host",
]


def refused(home: Path, text: str) -> EnvironmentProblem:
    home.mkdir(exist_ok=True)
    (home / "inventory.yaml").write_text(text)
    with pytest.raises(EnvironmentProblem) as caught:
        clusters.inventory()
    assert caught.value.exit_code == ExitCode.ENVIRONMENT == 3
    assert str(home / "inventory.yaml") in f"{caught.value.what} {caught.value.todo}"
    return caught.value


def test_all_problems_are_told_at_once(aiok_home: Path) -> None:
    head, *lines = refused(aiok_home, TYPOS).what.splitlines()
    assert head == f"{aiok_home / 'inventory.yaml'}: {len(SAID)} problems"
    assert sorted(line.removeprefix("  - ") for line in lines) == sorted(SAID)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hosts: {h1: {address: a}\nclusters: {}\n", "line 2, column 1: expected ',' or '}'"),
        ("hosts:\n  h1: {address: a}\n  h1: {address: b}\n", "line 3: hosts.h1 stands there twice"),
        ("hosts: !!python/object:os.system {}\n", "could not determine a constructor"),
        ("- h1\n- h2\n", "the inventory is a mapping of keys, not a list"),
        ("", "is empty"),
        ("hosts: [h1]\n", "hosts (line 1): should be a valid dictionary"),
        ("defaults: {jump: gate}\nhosts: {gat: {address: a}}\n",
         "defaults.jump (line 1): there is no host gate, did you mean gat?"),
    ],
)  # fmt: skip
def test_files_that_are_no_inventory(text: str, said: str, aiok_home: Path) -> None:
    assert said in refused(aiok_home, text).what


def test_files_that_cannot_be_read(aiok_home: Path) -> None:
    refused(aiok_home, "hosts: {}\n\t- x: [")
    (aiok_home / "inventory.yaml").write_bytes(b"hosts: {}\n# \xff\xfe\n")
    with pytest.raises(EnvironmentProblem, match="is not UTF-8 text: byte 12"):
        clusters.inventory()
    (aiok_home / "inventory.yaml").unlink()
    assert clusters.inventory().hosts == {}
    (aiok_home / "inventory.yaml").mkdir()
    with pytest.raises(EnvironmentProblem, match=r"cannot read .*: it is not a file"):
        clusters.inventory()


def test_what_is_right_is_taken(aiok_home: Path) -> None:
    aiok_home.mkdir()
    (aiok_home / "inventory.yaml").write_text(
        "defaults: {user: ann, jump: gate}\n"
        "hosts:\n"
        "  gate: {address: gate.example.org, port: 2222}\n"
        "  h1: {address: 10.0.0.1, user: bob, slots: 2, password: true}\n"
        "clusters: {lab: {hosts: [h1], shared: ~/data/}}\n"
    )
    known = clusters.inventory()
    h1, gate = known.entry("h1"), known.entry("gate")
    assert (h1.user, h1.port, h1.jump, h1.slots, h1.password) == ("bob", 22, "gate", 2, True)
    assert (gate.user, gate.port, gate.jump) == ("ann", 2222, None)
    assert known.clusters["lab"].shared == "~/data"
