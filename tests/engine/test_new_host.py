"""A host described by the app's form: the command line does the same, defaults hold."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from aiok_tui import cli
from engine import clusters, host_jobs, new_host
from engine.host_jobs import HostKey
from hosts.inventory import Inventory

DEFAULTS = """\
defaults: {user: ann, port: 2222, key: ~/.ssh/lab, password: true}
hosts: {h1: {address: 10.0.0.11}, gate: {address: 10.0.0.1}}
clusters: {h2: {hosts: [h1]}}
"""
ANSWERS = (
    {"place": "bob@10.0.0.30"},
    {"place": "10.0.0.30", "name": "h3", "cluster": "h2"},
    {
        "place": "bob@10.0.0.30", "name": "big", "cluster": "lab", "key": "~/a key",
        "password": "yes", "agent": "yes", "port": "2200", "jump": "gate", "work_folder": "/data/a",
    },
)  # fmt: skip


def shown(new: Inventory, name: str, _password: object = None) -> HostKey:
    """The key that the host would show."""
    entry = new.entry(name)
    return HostKey(entry, "SHA256:abc", f"{entry.address} ecdsa-sha2-nistp256 AAAA")


@pytest.mark.parametrize("answers", ANSWERS)
@pytest.mark.parametrize("before", ["hosts: {gate: {address: 10.0.0.1}}\n", DEFAULTS])
def test_the_command_line_adds_the_same_host(
    aiok_home: Path, monkeypatch: pytest.MonkeyPatch, before: str, answers: dict[str, str]
) -> None:
    aiok_home.mkdir(exist_ok=True)
    path = clusters.inventory_path()
    path.write_text(before)
    monkeypatch.setattr(host_jobs, "show_key", shown)
    assert new_host.problems(answers) == {}
    line = new_host.command_line(answers)
    name = new_host.add(answers, new_host.meet(answers))
    by_form = path.read_text()
    assert clusters.inventory().hosts[name].address == "10.0.0.30"
    path.write_text(before)
    with pytest.raises(SystemExit) as end:
        cli.main([*shlex.split(line)[1:], "--fingerprint", "SHA256:abc"])
    assert end.value.code == 0
    assert path.read_text() == by_form != before


def test_what_holds_for_all_hosts_needs_no_answer(aiok_home: Path) -> None:
    aiok_home.mkdir(exist_ok=True)
    clusters.inventory_path().write_text(DEFAULTS)
    asked = {question.key: question for question in new_host.questions()}
    assert asked["name"].default == "h3"  # h2 is a cluster
    assert asked["port"].default == "2222" and "ann" in asked["place"].help
    assert [value for value, _ in asked["password"].choices] == ["yes"]
    assert [value for value, _ in asked["agent"].choices] == ["no", "yes"]
    assert [value for value, _ in asked["jump"].choices] == ["h1", "gate"]
    name, new = new_host.described({"place": "10.0.0.30"})
    entry = new.entry(name)
    assert (entry.user, entry.port, entry.key, entry.password) == ("ann", 2222, "~/.ssh/lab", True)
    assert new_host.command_line({"place": "10.0.0.30"}) == "aiok hosts add 10.0.0.30"


def test_each_problem_stands_at_its_question(aiok_home: Path) -> None:
    aiok_home.mkdir(exist_ok=True)
    clusters.inventory_path().write_text(DEFAULTS)
    found = new_host.problems({"place": "-x", "name": "a.b", "cluster": "h1", "port": "0"})
    assert found["place"].startswith("is neither a host name nor an IP address")
    assert found["name"].startswith("is no name")
    assert found["cluster"] == "is also the name of a host"
    assert "greater than or equal to 1" in found["port"]
    assert set(found) == {"place", "name", "cluster", "port"}
    assert set(new_host.problems({"place": "a b@10.0.0.1"})) == {"place"}
    assert set(new_host.problems({"place": "10.0.0.1", "cluster": "my lab"})) == {"cluster"}


def test_the_command_that_tells_a_key_names_its_kind() -> None:
    entry = Inventory.model_validate({"hosts": {"h1": {"address": "10.0.0.11"}}}).entry("h1")
    for kind, file in (("ssh-ed25519", "ed25519"), ("ssh-rsa", "rsa"),
                       ("ecdsa-sha2-nistp256", "ecdsa")):  # fmt: skip
        key = HostKey(entry, "SHA256:abc", f"10.0.0.11 {kind} AAAA")
        assert key.to_compare == f"ssh-keygen -lf /etc/ssh/ssh_host_{file}_key.pub"
