"""`aiok hosts top`: a table on a terminal, else JSON lines; a lost host keeps its last value."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hosts.testbed import Testbed
from tests.e2e.conftest import Home
from tests.testbed import Testbeds
from tests.tui.test_terminal import VERB, Terminal

LIMIT_S = 60.0


@pytest.fixture
def lab(
    testbeds: Testbeds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Testbed, Home]:
    """Three hosts as the cluster lab of a home of its own."""
    testbed, home = testbeds(3), Home(tmp_path / "home")
    testbed.inventory(home.path / "inventory.yaml", cluster="lab")
    monkeypatch.setenv("AIOK_HOME", str(home.path))
    return testbed, home


def read_until(
    stream: Any, wanted: Callable[[dict[str, Any]], bool], limit_s: float = LIMIT_S
) -> dict[str, Any]:
    """The first JSON line that is as wanted."""
    end = time.monotonic() + limit_s
    for line in stream:
        said: dict[str, Any] = json.loads(line)
        if wanted(said):
            return said
        assert time.monotonic() < end, said
    raise AssertionError("it ended")


def test_once_shows_all_hosts_and_fails_when_one_is_not_heard(lab: tuple[Testbed, Home]) -> None:
    testbed, home = lab
    done = home.aiok("hosts", "top", "lab", "--once")
    assert done.returncode == 0, done.stderr
    head, *rows = done.stdout.splitlines()
    assert head.split()[:3] == ["host", "state", "heard"]
    assert [row.split()[:2] for row in rows] == [[name, "live"] for name in ("h1", "h2", "h3")]
    assert all(" GiB " in row and " ago" in row for row in rows)
    unknown = home.aiok("hosts", "top", "nowhere", "--once")
    assert unknown.returncode == 2 and "there is no cluster or host nowhere" in unknown.stderr
    testbed.cut("h2")
    try:
        done = home.aiok("hosts", "top", "h1", "h2", "--once", "--json")
    finally:
        testbed.heal("h2")
    assert done.returncode == 3
    told = {line["host"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert told["h1"]["state"] == "live" and told["h1"]["problem"] is None
    assert told["h2"]["state"] == "lost" and told["h2"]["sample"] is None
    assert "h2: " in told["h2"]["problem"]


def test_json_lines_tell_a_lost_host_with_its_last_value_and_age(
    lab: tuple[Testbed, Home],
) -> None:
    testbed, home = lab
    with home.popen("hosts", "top") as process:
        try:
            first = read_until(process.stdout, lambda line: line["host"] == "h3" and line["sample"])
            assert first["state"] == "live" and len(first["sample"]["cpu"]) >= 1
            testbed.cut("h3")
            lost = read_until(process.stdout, lambda line: line["state"] == "lost", 30.0)
            assert lost["host"] == "h3" and lost["age_s"] >= 3
            assert lost["sample"]["t"] >= first["sample"]["t"] and lost["problem"]
            testbed.heal("h3")
            read_until(
                process.stdout, lambda line: line["host"] == "h3" and line["state"] == "live"
            )
        finally:
            testbed.heal("h3")
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130


def test_a_terminal_gets_a_table_that_is_drawn_again(lab: tuple[Testbed, Home]) -> None:
    shown = Terminal("hosts", "top", "lab", start=VERB)
    try:
        shown.read_until(b"h3    live")
        shown.read_until(b"\x1b[4F\x1b[J")  # back over the table, to draw it again
        assert b"busiest core" in shown.output and b'{"' not in shown.output
        shown.type("\x03")
        assert shown.wait() == 130
    finally:
        shown.close()
