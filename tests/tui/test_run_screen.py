"""What a user does to runs: look, stop, resume, close. The engine is real up to the process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widget import Widget

from aiok_tui.cli import main
from aiok_tui.screens.confirm import ConfirmScreen
from aiok_tui.screens.home import HomeScreen
from aiok_tui.screens.problem import ProblemScreen
from aiok_tui.screens.run import RunScreen
from aiok_tui.widgets.linetable import LineTable
from aiok_tui.widgets.paint import Lines
from engine import api
from engine import events as ev
from engine.errors import InputError
from engine.store import EventLog, open_run_folder
from tests.tui import recorded
from tests.tui.conftest import RecordedEngine, Stage
from tests.tui.recorded_hosts import spread_over_hosts

WIDE, NARROW = (120, 36), (80, 24)
Make = Callable[..., Stage]


async def press(here: Stage, pilot: Pilot[None], *keys: str) -> None:
    for key in keys:
        await pilot.press(key)
        await here.turn(pilot)


async def test_the_list_opens_the_run_under_the_cursor(stage: Make) -> None:
    here = stage()
    async with here.app.run_test(size=WIDE) as pilot:
        await here.turn(pilot)
        text = here.text()
        assert "1 running   4 runs" in text
        assert [text.count(word) for word in ("FAILED", "● running", "■ stopped", "✓ done")] == [
            1, 2, 1, 3,
        ]  # fmt: skip
        await press(here, pilot, "j", "enter")
        assert isinstance(here.app.screen, RunScreen)
        assert here.app.screen.run_id == "bad-1"
        assert "rank 1 was killed by signal 9" in here.text()
        await press(here, pilot, "escape")
        assert isinstance(here.app.screen, HomeScreen)
        assert here.app.screen.query_one(LineTable).cursor == "bad-1"


async def test_filter_keeps_while_the_list_changes(stage: Make) -> None:
    here = stage()
    async with here.app.run_test(size=WIDE) as pilot:
        await here.turn(pilot)
        await press(here, pilot, "slash", *"failed", "enter")
        table = here.app.screen.query_one("#runs", LineTable)
        assert [row.key for row in table.rows] == ["bad-1"]
        here.app.feed.latest.runs = list(api.runs())[:3]
        await here.turn(pilot)
        assert [row.key for row in table.rows] == ["bad-1"]
        await press(here, pilot, "slash", "escape")
        assert len(table.rows) == 4


async def test_no_is_the_answer_of_a_hasty_enter(stage: Make) -> None:
    here = stage("live-1")
    async with here.app.run_test(size=WIDE) as pilot:
        await here.turn(pilot)
        for keys in (("s", "enter"), ("s", "n"), ("s", "escape"), ("K", "enter")):
            await press(here, pilot, *keys)
        assert isinstance(here.app.screen, RunScreen)
        assert here.engine.asked == []


async def test_stop_then_stop_again_kills(stage: Make) -> None:
    here = stage("live-1")
    async with here.app.run_test(size=NARROW) as pilot:
        await here.turn(pilot)
        await press(here, pilot, "s", "y")
        assert here.engine.asked == [("stop", "live-1", False)]
        assert "stopping" in here.text()
        await press(here, pilot, "s")
        assert "at once?" in here.text()
        await press(here, pilot, "tab", "enter")
        assert here.engine.asked[1:] == [("stop", "live-1", True)]


async def test_stop_from_the_list_means_the_run_under_the_cursor(stage: Make) -> None:
    here = stage()
    async with here.app.run_test(size=WIDE) as pilot:
        await here.turn(pilot)
        await press(here, pilot, "j", "s")
        assert not isinstance(here.app.screen, ConfirmScreen)  # bad-1 does not run
        await press(here, pilot, "k", "s", "y")
        assert here.engine.asked == [("stop", "live-1", False)]


async def test_resume_only_what_can_be_resumed(stage: Make) -> None:
    here = stage()
    async with here.app.run_test(size=WIDE) as pilot:
        await here.turn(pilot)
        await press(here, pilot, "r", "j", "r", "j", "r", "j", "r")
        assert here.engine.asked == [("resume", "bad-1"), ("resume", "half-1")]


async def test_a_refusal_opens_the_error_panel(
    stage: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(run: str) -> str:
        raise InputError("the data changed", why="a \x1b[31mfile", todo="put it back", log="a.log")

    here = stage("half-1")
    monkeypatch.setattr(here.engine, "resume", refuse)
    async with here.app.run_test(size=NARROW) as pilot:
        await here.turn(pilot)
        await press(here, pilot, "r")
        assert isinstance(here.app.screen, ProblemScreen)
        text = here.text()
        assert all(part in text for part in ("the data changed", "a file", "put it back", "a.log"))
        await press(here, pilot, "escape")
        assert isinstance(here.app.screen, RunScreen)


async def test_the_report_is_named_or_its_absence_told(stage: Make) -> None:
    here = stage("quick-1")
    async with here.app.run_test(size=WIDE) as pilot:
        await here.turn(pilot)
        await press(here, pilot, "o")
        assert here.app.clipboard == str(api.report("quick-1"))


async def test_steps_results_and_notes_are_those_of_the_engine(stage: Make) -> None:
    here = stage("quick-1")
    async with here.app.run_test(size=(160, 45)) as pilot:
        await here.turn(pilot)
        text = here.text()
        assert "test AUC 0.7881   ceiling 0.8123   inference 410,000 rows/s" in text
        for step in api.state("quick-1").steps.values():
            assert step.id in text
        await press(here, pilot, "j", "j")
        assert "12 rows were malformed and left out" in here.text()
        assert "sail 0.7.2 started" in here.text()  # the log goes with the step


async def test_closing_leaves_the_run_and_says_how_to_come_back(stage: Make) -> None:
    here = stage("live-1")
    async with here.app.run_test(size=WIDE) as pilot:
        await here.turn(pilot)
        await pilot.press("q")
    assert here.engine.asked == []
    assert here.app.farewell() == (
        "live-1 goes on; come back with: aiok   or: aiok show live-1"
    )  # fmt: skip
    assert api.state("live-1").status.is_live


async def test_ctrl_c_asks_and_never_reaches_the_run(stage: Make) -> None:
    here = stage("live-1")
    async with here.app.run_test(size=WIDE) as pilot:
        await here.turn(pilot)
        await press(here, pilot, "ctrl+c")
        assert isinstance(here.app.screen, ConfirmScreen)
        assert "live-1 will go on without it" in here.text()
        await press(here, pilot, "escape", "ctrl+c")
        await pilot.press("ctrl+c")
    assert here.app.return_code == 0
    assert here.engine.asked == []


async def test_panels_of_wide_small_and_zoomed_windows(stage: Make) -> None:
    here = stage("live-1")
    async with here.app.run_test(size=WIDE) as pilot:
        await here.turn(pilot)

        def shown() -> list[str]:
            panels = here.app.screen.query(".panel")
            return [str(p.id) for p in panels if p.region.area and p.display]

        assert shown() == ["steps", "chart", "machine", "log"]
        await press(here, pilot, "2", "z")
        assert shown() == ["chart"]
        await press(here, pilot, "z", "tab", "tab")
        assert shown() == ["steps", "chart", "machine", "log"]
        await pilot.resize_terminal(*NARROW)
        await here.turn(pilot)
        assert shown() == ["log"]
        await pilot.resize_terminal(60, 18)
        for key, panel in (("1", "steps"), ("2", "chart"), ("3", "machine"), ("4", "log")):
            await press(here, pilot, key)
            assert shown() == [panel]


async def test_a_modal_does_not_stop_the_drawing(stage: Make) -> None:
    here = stage("live-1")
    async with here.app.run_test(size=WIDE) as pilot:
        await here.turn(pilot)
        await press(here, pilot, "s")
        api_stop = here.engine.stop
        api_stop("live-1")
        await here.turn(pilot)
        assert isinstance(here.app.screen, ConfirmScreen)
        await press(here, pilot, "escape")
        assert "stopping" in here.text()


@pytest.mark.parametrize("run", [None, "quick-1", "live-1"])
async def test_nothing_is_drawn_when_nothing_changes(
    stage: Make, run: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Widget] = []
    refresh = Widget.refresh

    def counting(self: Widget, *regions: Any, **options: Any) -> Widget:
        drawn.append(self)
        return refresh(self, *regions, **options)

    here = stage(run)
    async with here.app.run_test(size=WIDE) as pilot:
        await here.turn(pilot, 6)
        monkeypatch.setattr(Widget, "refresh", counting)
        await here.turn(pilot, 6)
        monkeypatch.undo()
    assert drawn == []


async def test_a_name_must_be_typed_where_it_is_asked(stage: Make) -> None:
    here = stage()
    answers: list[bool | None] = []
    async with here.app.run_test(size=NARROW) as pilot:
        await here.turn(pilot)
        here.app.push_screen(ConfirmScreen("Delete?", "all of it", "bad-1"), answers.append)
        await press(here, pilot, *"bad", "enter")
        assert answers == []
        await press(here, pilot, "minus", "1", "enter")
    assert answers == [True]


@pytest.mark.parametrize("size", [WIDE, NARROW])
async def test_all_hosts_of_a_run_are_in_the_machine_panel(
    stage: Make, size: tuple[int, int]
) -> None:
    spread_over_hosts("live-1", ["h1", "h2", "h3"], silent="h3")
    here = stage("live-1")
    async with here.app.run_test(size=size) as pilot:
        await here.turn(pilot)
        await press(here, pilot, "3")
        lines = {line.split()[0]: line for line in meter_lines(here)[1:]}
        assert list(lines) == ["h3", "h1", "h2", "localhost"]  # what is wrong comes first
        assert "silent 21 s" in lines["h3"] and " 63 %" in lines["h3"]  # its last value, its age
        assert lines["h1"].split()[1] == "56" and "12.5" in lines["h1"] and "190 %" in lines["h1"]
        assert "ago" not in lines["h1"]  # a host's own clock, an hour ahead, does not count
        log = EventLog(open_run_folder("live-1").events)
        log.append(ev.HostSilent(t=recorded.T0 + 59, host="h3", seconds=0))
        log.close()
        await here.turn(pilot)
        lines = {line.split()[0]: line for line in meter_lines(here)[1:]}
        assert next(iter(lines)) == "h1" and "21 s ago" in lines["h3"]


async def test_more_hosts_than_lines_end_in_a_count(stage: Make) -> None:
    spread_over_hosts("live-1", [f"n{number:02}" for number in range(16)], silent="n07")
    here = stage("live-1")
    async with here.app.run_test(size=WIDE) as pilot:
        await here.turn(pilot)
        shown = meter_lines(here)
        assert shown[1].startswith("n07") and shown[-1] == "and 13 more hosts"
        await press(here, pilot, "3", "z")
        assert len(meter_lines(here)) == 18


def meter_lines(here: Stage) -> list[str]:
    """The lines of the machine panel."""
    lines = here.app.screen.query_one("#meters", Lines).lines
    return ["".join(text for text, _ in line) for line in lines]


def test_samples_of_a_lost_host_outlive_those_of_the_others(runs: Path) -> None:
    spread_over_hosts("live-1", ["h1"])
    follower = api.Follower("live-1")
    with open(open_run_folder("live-1").telemetry("h2"), "w", encoding="utf-8") as file:
        file.write('[1]\n{"host": "h2", "t": 1}\n' * 700)
    follower.poll()
    assert {host: len(kept) for host, kept in follower.samples.items()} == {
        "h1": 60, "h2": follower.SAMPLES, "localhost": 60,
    }  # fmt: skip


def test_show_names_the_hosts(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spread_over_hosts("live-1", ["h1", "h2"], silent="h2")
    plan = RecordedEngine().plan("lab.yaml")
    facts = {"localhost": {}, "h1": {}, "h2": {}}
    open_run_folder("live-1").plan.write_text(replace(plan, facts=facts).to_json())
    assert api.run_hosts("live-1") == ["h1", "h2"] and api.run_hosts("bad-1") == []
    with pytest.raises(SystemExit):
        main(["show", "live-1"])
    assert "hosts: h1, h2 (silent for 12 s)" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["show", "live-1", "--json"])
    assert json.loads(capsys.readouterr().out)["hosts"] == ["h1", "h2"]


async def test_step_times_by_rank_and_who_is_slow(
    stage: Make, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = EventLog(open_run_folder("live-1").events)
    log.append(ev.RanksPaced(t=recorded.T0 + 59, step="train", hosts=["h1", "h2"],
                             own_s=[0.012, 0.021], wait_s=[0.01, 0.001]))  # fmt: skip
    log.append(ev.RankSlow(t=recorded.T0 + 59, step="train", rank=1, host="h2", ratio=1.75))
    log.close()
    here = stage("live-1")
    async with here.app.run_test(size=WIDE) as pilot:
        await here.turn(pilot)
        text = here.text()
        assert "2 ranks: 12.0 to 21.0 ms a step; SLOW: rank 1 on h2 1.8x" in text
    with pytest.raises(SystemExit):
        main(["show", "live-1"])
    said = "train: rank 1 on h2: 21.0 ms a step, waits 1.0   SLOW: 1.8x the others"
    assert said in capsys.readouterr().out
