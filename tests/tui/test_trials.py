"""The trials of a search over the run's screen, drawn as `aiok trials` prints them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from aiok_tui.screens.problem import ProblemScreen
from aiok_tui.screens.run import RunScreen
from aiok_tui.screens.trials import TrialsScreen
from aiok_tui.widgets.paint import Lines
from tests.engine import searched
from tests.tui.conftest import Stage

Make = Callable[..., Stage]
SIZE = (160, 50)


async def test_t_shows_the_trials_and_closes_them(stage: Make, runs: Path) -> None:
    searched.record(runs / "search-1", searched.TWO)
    here = stage("search-1")
    async with here.app.run_test(size=SIZE) as pilot:
        await here.turn(pilot)
        await pilot.press("t")
        await here.turn(pilot)
        assert isinstance(here.app.screen, TrialsScreen)
        shown = here.app.screen.query_one("#text", Lines)
        text = "\n".join("".join(cell for cell, _ in line) for line in shown.lines)
        assert "no other one beats in auc and training_time" in text
        assert "\x1b" not in text
        rows = [line for line in text.splitlines() if line.split()[1:2] == ["finished"]]
        assert len(rows) == 27
        await pilot.press("t")
        await here.turn(pilot)
        assert isinstance(here.app.screen, RunScreen)


async def test_a_run_without_a_search_says_so(stage: Make, runs: Path) -> None:
    searched.record(runs / "plain-1", None)
    here = stage("plain-1")
    async with here.app.run_test(size=SIZE) as pilot:
        await here.turn(pilot)
        await pilot.press("t")
        await here.turn(pilot)
        assert isinstance(here.app.screen, ProblemScreen)
        assert "plain-1 has no search" in str(here.app.screen.error)
