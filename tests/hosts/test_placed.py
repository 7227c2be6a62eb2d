"""What a host's ledger tells of it, and the state that follows."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from hosts.bringup import Entry, Placed, placed
from hosts.installer import MARKER
from hosts.local import LocalTransport
from hosts.preflight import HostReport, HostStatus


def look(home: Path) -> Placed:
    with LocalTransport() as here:
        return placed(here, PurePosixPath(home))


def status(found: Placed | None) -> HostStatus:
    return HostReport(host="h1", facts=None, findings=(), placed=found).status


def test_a_bare_host_has_nothing(tmp_path: Path) -> None:
    assert look(tmp_path / "aiok") == Placed(entries=(), whole=())
    assert status(look(tmp_path / "aiok")) is HostStatus.BARE
    assert status(None) is HostStatus.UNREACHABLE


def test_a_host_is_ready_when_all_that_was_begun_is_whole(tmp_path: Path) -> None:
    home = tmp_path / "with space"
    home.mkdir()

    def note(kind: str, path: Path) -> None:
        with open(home / "ledger.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, "path": str(path), "times": [1, 2]}) + "\n")

    note("kept", tmp_path)
    note("folder", home)
    note("tree", home / "code")
    (home / "code" / ".1a2b.part").mkdir(parents=True)
    assert look(home).entries == (Entry("folder", str(home)), Entry("tree", f"{home}/code"))
    assert status(look(home)) is HostStatus.HALF  # the code is on its way
    (home / "code" / ".1a2b.part").rename(home / "code" / "1a2b")
    assert look(home).whole == (f"{home}/code/1a2b",)
    assert status(look(home)) is HostStatus.READY
    note("tree", home / "envs")
    environment = home / "envs" / "torch-0f1e"
    environment.mkdir(parents=True)
    assert status(look(home)) is HostStatus.HALF  # an environment was begun
    (environment / MARKER).touch()
    assert status(look(home)) is HostStatus.READY
    assert look(home).whole == (f"{home}/code/1a2b", str(environment))


def test_a_ledger_of_any_content_is_read(tmp_path: Path) -> None:
    good = json.dumps({"kind": "file", "path": "/a"})
    lines = ["{", "[1]", "7", "null", '"x"', '{"kind": "file"}', "", good, good[:9]]
    (tmp_path / "ledger.jsonl").write_bytes("\n".join(lines).encode() + b"\xff\x00\x1b[2J")
    assert look(tmp_path).entries == (Entry("file", "/a"),)
