"""What a user does with hosts: look, check, make ready and bare, forget. No host is reached."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from aiok_tui.screens.confirm import ConfirmScreen
from aiok_tui.screens.home import HomeScreen
from aiok_tui.screens.hosts import HostsScreen
from aiok_tui.screens.problem import ProblemScreen
from aiok_tui.widgets.linetable import LineTable
from engine import api
from engine.clusters import Password
from hosts.bringup import Entry, Placed
from hosts.preflight import Finding, HostReport
from hosts.transport import HostProblem
from tests.tui import recorded
from tests.tui.conftest import Stage
from tests.tui.recorded_hosts import FACTS, OK, READY, report
from tests.tui.test_text import CONTROL, ORDERS

WIDE, NARROW, SMALL = (120, 36), (80, 24), (60, 18)
Make = Callable[..., Stage]

pytestmark = pytest.mark.usefixtures("inventory")


async def press(here: Stage, pilot: Pilot[None], *keys: str) -> None:
    for key in keys:
        await pilot.press(key)
        await here.turn(pilot)


def states(here: Stage) -> dict[str, str]:
    """The word for each host in the table."""
    table = here.app.screen.query_one("#hosts", LineTable)
    return {row.key: row.cells[2][0].partition(" ")[2] for row in table.rows}


@pytest.mark.parametrize("size", [WIDE, NARROW, SMALL])
async def test_each_host_has_its_state_in_words(stage: Make, size: tuple[int, int]) -> None:
    here = stage()
    async with here.app.run_test(size=size) as pilot:
        await here.turn(pilot)
        await press(here, pilot, "h")
        assert isinstance(here.app.screen, HostsScreen)
        assert states(here) == {
            "h1": "ready", "h2": "bare", "h3": "unreachable", "spare": "half-made",
        }  # fmt: skip
        text = here.text()
        assert "1 of 4 ready   2 with problems" in text
        assert all(word in text for word in ("✓ ready", "○ bare", "✗ unreachable", "lab"))
        await press(here, pilot, "escape")
        assert isinstance(here.app.screen, HomeScreen)
        await press(here, pilot, "h")
    assert here.engine.asked == [("check", "h1", "h2", "h3", "spare")]  # once, not at each opening


async def test_details_tell_facts_problems_and_the_ledger(stage: Make) -> None:
    here = stage()
    async with here.app.run_test(size=WIDE) as pilot:
        await press(here, pilot, "h")
        text = here.text()
        for said in ("Xeon Gold 6430, 4 cores, 2 NUMA nodes", "12.1 of 15.6 GiB free",
                     "3.11.2 at /usr/bin/python3.11", "tree    /home/ann/.local/share/aiok/code",
                     "line    /home/ann/.ssh/authorized_keys"):  # fmt: skip
            assert said in text
        await press(here, pilot, "j")
        assert "! 0.20 GiB free in /home/ann" in here.text()
        assert "do   free some, or choose another work_folder" in here.text()
        assert "nothing: the host is bare" in here.text()
        await press(here, pilot, "j")
        assert "why  timed out after 10 s" in here.text()
        assert "has not answered yet" in here.text()


async def test_a_small_window_gives_the_details_alone(stage: Make) -> None:
    here = stage()
    async with here.app.run_test(size=SMALL) as pilot:
        await press(here, pilot, "h")
        assert "Xeon" not in here.text()
        await press(here, pilot, "enter")
        assert "Xeon Gold 6430" in here.text() and "10.0.0.12" not in here.text()
        await press(here, pilot, "escape")
        assert isinstance(here.app.screen, HostsScreen) and "Xeon" not in here.text()


async def test_down_wants_the_name_and_makes_bare(stage: Make) -> None:
    here = stage()
    async with here.app.run_test(size=WIDE) as pilot:
        await press(here, pilot, "h", "d", "y", "enter", "escape")
        assert [what for what, *_ in here.engine.asked] == ["check"]
        await press(here, pilot, "d", *"lab", "enter")
        assert states(here)["h1"] == "bare" and states(here)["spare"] == "half-made"
    assert here.engine.asked[1:] == [("down", "lab"), ("check", "h1", "h2", "h3")]


async def test_up_makes_the_cluster_ready_and_tells_who_failed(stage: Make) -> None:
    here = stage()
    here.engine.hosts.failing["h2"] = HostProblem("h2", "the disk is full", "", "free 3 GiB")
    async with here.app.run_test(size=WIDE) as pilot:
        await press(here, pilot, "h", "j", "u", "enter")  # the focus is on No
        assert [what for what, *_ in here.engine.asked] == ["check"]
        await press(here, pilot, "u", "y")
        assert states(here) == {
            "h1": "ready", "h2": "bare", "h3": "ready", "spare": "half-made",
        }  # fmt: skip
        assert "! the disk is full" in here.text() and "do   free 3 GiB" in here.text()
        here.engine.hosts.failing.clear()
        await press(here, pilot, "u", "y")
        assert states(here)["h2"] == "ready" and "the disk is full" not in here.text()
        await press(here, pilot, "G", "u", "y")
    assert [call for call in here.engine.asked if call[0] == "up"] == [
        ("up", "lab", "torch"), ("up", "lab", "torch"), ("up", "spare", "torch"),
    ]  # fmt: skip


async def test_a_removed_host_is_forgotten(stage: Make) -> None:
    here = stage()
    async with here.app.run_test(size=WIDE) as pilot:
        await press(here, pilot, "h", "G", "x", "n", "x", "y")
        assert list(states(here)) == ["h1", "h2", "h3"]
    assert list(api.inventory().hosts) == ["h1", "h2", "h3"]


async def test_a_host_that_does_not_answer_blocks_nothing(
    stage: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check of h3 hangs: the others are told, keys work, another host is made ready."""
    here, answer, ended = stage(), threading.Event(), threading.Event()
    hosts = here.engine.hosts
    recorded = hosts.check_hosts

    def check(
        names: Sequence[str], password: Password, *, told: Callable[[HostReport], None]
    ) -> Any:
        found = recorded([name for name in names if name != "h3"], password, told=told)
        if "h3" in names:
            answer.wait(60)
            ended.set()
        return found

    monkeypatch.setattr(hosts, "check_hosts", check)
    here.app.jobs.threads = True
    async with here.app.run_test(size=WIDE) as pilot:

        async def until(wanted: Callable[[], bool]) -> None:
            end = time.monotonic() + 30
            while not wanted():
                assert time.monotonic() < end, states(here)
                await here.turn(pilot, 1)

        await press(here, pilot, "h")
        await until(lambda: states(here).get("h2") == "bare")
        assert states(here)["h3"] == "checking"
        await press(here, pilot, "G", "u", "y")
        await until(lambda: states(here)["spare"] == "ready")
        assert states(here)["h3"] == "checking" and not ended.is_set()
        answer.set()
        await until(lambda: states(here)["h3"] == "unknown")


async def test_what_is_worked_on_is_not_touched_twice(
    stage: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, go_on = stage(), threading.Event()

    def down(name: str, _password: Password) -> list[api.Outcome]:
        here.engine.asked.append(("down", name))
        go_on.wait(60)
        return []

    monkeypatch.setattr(here.engine.hosts, "hosts_down", down)
    async with here.app.run_test(size=WIDE) as pilot:
        await press(here, pilot, "h")
        here.app.jobs.threads = True
        await press(here, pilot, "d", *"lab", "enter")
        assert states(here)["h1"] == "going down"
        asked = list(here.engine.asked)
        await press(here, pilot, "c", "u")
        assert isinstance(here.app.screen, HostsScreen)  # nothing is even asked
        assert here.engine.asked == asked
        said = "broken off; complete it with: aiok hosts down lab"
        assert here.app.farewell().startswith(said)
        await press(here, pilot, "q")  # not closed without a question
        assert isinstance(here.app.screen, ConfirmScreen)
        assert "Work on hosts is broken off" in here.text()
        await press(here, pilot, "n")
        go_on.set()


async def test_a_host_that_answered_once_keeps_its_facts_and_their_age(stage: Make) -> None:
    here = stage()
    async with here.app.run_test(size=WIDE) as pilot:
        await press(here, pilot, "h")
        here.engine.hosts.reports["h1"] = report("h1", None, Finding("problem", "no route"))
        here.app.clock = lambda: recorded.T0 + 150.0
        await press(here, pilot, "c")
        assert states(here)["h1"] == "unreachable"
        text = here.text()
        assert "! no route" in text and "answered 90 s ago" in text and "Xeon" in text


async def test_a_damaged_inventory_is_told(stage: Make, runs: Path) -> None:
    (runs.parent / "inventory.yaml").write_text("hosts: {h1: {adress: x}}\n", encoding="utf-8")
    here = stage()
    async with here.app.run_test(size=WIDE) as pilot:
        await press(here, pilot, "h")
        assert isinstance(here.app.screen, ProblemScreen)
        assert "adress" in here.text()


async def test_no_hosts_yet(stage: Make, runs: Path) -> None:
    (runs.parent / "inventory.yaml").unlink()
    here = stage()
    async with here.app.run_test(size=NARROW) as pilot:
        await press(here, pilot, "h")
        assert "aiok hosts add USER@ADDRESS" in here.text()
        await press(here, pilot, "c", "C", "u", "d", "x", "z", "y", "escape", "escape")
        assert isinstance(here.app.screen, HomeScreen)
    assert here.engine.asked == []


@pytest.mark.parametrize("size", [WIDE, NARROW])
async def test_what_a_host_says_is_no_order_to_the_terminal(
    stage: Make, size: tuple[int, int]
) -> None:
    """Control bytes, markup, wide signs, 100 kB: in facts, findings and ledger."""
    orders = "".join(ORDERS) + "[red]end[/red]" + "漢字" * 50
    long = orders + "x" * 100_000
    facts = replace(FACTS, cpu_model=long, python=orders, kernel=long, java=long, isa=[orders])
    entries = (Entry(orders, long), *READY.entries) * 100
    findings = (*OK, Finding("note", long, orders), Finding("problem", long, orders, long))
    here = stage()
    here.engine.hosts.reports["h1"] = HostReport(
        host="h1", facts=facts, findings=findings, answer_s=1e9,
        placed=Placed(entries=entries, whole=(long,) * 500),
    )  # fmt: skip
    here.engine.hosts.failing["h1"] = HostProblem("h1", long, orders, long)
    async with here.app.run_test(size=size) as pilot:
        for key in ("h", "z", "pagedown", "z", "u", "y", "escape", "n", "f3", "f3", "down"):
            await press(here, pilot, key)
            assert not CONTROL.search(here.text().replace("\n", "")), key
        assert "FAIL h1" in here.text() and "[red]end[/red]" in here.text()


@pytest.mark.parametrize("size", [WIDE, NARROW])
async def test_live_figures_and_those_of_a_lost_host_with_their_age(
    stage: Make, size: tuple[int, int]
) -> None:
    here = stage()
    async with here.app.run_test(size=size) as pilot:
        await press(here, pilot, "h")
        assert [monitor.closed for monitor in here.engine.hosts.monitors] == [False]
        rows = {row.key: [cell[0] for cell in row.cells]
                for row in here.app.screen.query_one("#hosts", LineTable).rows}  # fmt: skip
        if size == WIDE:
            assert rows["h1"][3:7] == ["91 %", "25 %", "12.5", "0.4 s ago"]
            assert rows["h2"][3:7] == ["12 %", "25 %", "12.5", "41 s ago"]
            assert rows["spare"][3:6] == ["", "", ""]
        else:
            assert rows["h1"][-1] == "cpu 91 %  mem 25 %  net 12.5"
        assert "live, 0.4 s ago: cpu 91 %, load 1.2" in " ".join(here.text().split())
        await press(here, pilot, "j")
        text = here.text()
        assert "lost: h2: the connection to the agent ended" in text
        assert "lost, 41 s ago: cpu 12 %" in text
        await press(here, pilot, "escape")
        assert here.engine.hosts.monitors[0].closed
        await press(here, pilot, "h")
    assert [monitor.closed for monitor in here.engine.hosts.monitors] == [True, True]
