"""The registry of actions against the screens and against the command line."""

from __future__ import annotations

from typing import Any

import pytest
import typer.main

from aiok_tui import actions, cli
from aiok_tui.actions import (
    ACTIONS,
    HOME,
    HOSTS,
    NEW_HOST,
    REVIEW,
    RUN,
    WIZARD,
    Action,
    Confirm,
)
from aiok_tui.app import AiokApp
from aiok_tui.screens.base import FeedScreen
from aiok_tui.screens.home import HomeScreen
from aiok_tui.screens.hosts import HostsScreen
from aiok_tui.screens.newhost import NewHostScreen
from aiok_tui.screens.review import ReviewScreen
from aiok_tui.screens.run import RunScreen
from aiok_tui.screens.wizard import WizardScreen

SCREENS: dict[str, type[FeedScreen]] = {
    HOME: HomeScreen, RUN: RunScreen, WIZARD: WizardScreen, REVIEW: ReviewScreen,
    HOSTS: HostsScreen, NEW_HOST: NewHostScreen,
}  # fmt: skip
FORBIDDEN = {f"ctrl+{key}" for key in "hijmsqzab"} | {"ctrl+left_square_bracket"}
ABOUT_RUNS = {"new", "plan", "run", "runs", "show", "logs", "stop", "resume", "report", "trials"}
ABOUT_HOSTS = {"add", "list", "check", "up", "down", "remove"}
CHANGES = ("stop", "hosts add", "hosts up", "hosts down", "hosts remove")


@pytest.mark.parametrize("action", ACTIONS, ids=lambda a: f"{a.id}-{a.keys}")
def test_each_action_is_done_by_each_of_its_screens(action: Action) -> None:
    name = action.id.split("(")[0]
    for screen in action.screens:
        assert callable(getattr(SCREENS[screen], f"action_{name}", None)), (screen, name)


def test_each_verb_exists_on_the_command_line() -> None:
    commands: Any = typer.main.get_command(cli.app)
    for action in ACTIONS:
        if action.verb:
            verb, *options = action.verb.split()
            command = commands.commands[verb]
            if hasattr(command, "commands"):
                command = command.commands[options.pop(0)]
            known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
            assert set(options) <= known, action.verb


def test_each_verb_about_runs_has_an_action() -> None:
    verbs = [action.verb.split() for action in ACTIONS if action.verb]
    assert {verb[0] for verb in verbs} == {*ABOUT_RUNS, "hosts"}
    assert {verb[1] for verb in verbs if verb[0] == "hosts"} == ABOUT_HOSTS


def test_no_key_stands_for_two_things_and_none_is_forbidden() -> None:
    assert actions.keymap_problems({}) == []
    keys = {key for action in ACTIONS for key in action.keys.split(",")}
    assert not keys & FORBIDDEN
    assert keys.isdisjoint({"tab", "shift+tab", "ctrl+c"})


def test_a_keymap_is_checked() -> None:
    assert actions.keymap_problems({"home.stop_run": "x"}) == []
    assert actions.keymap_problems({"home.stop_run": "r"}) == [
        "home: r stands for Stop and Resume"
    ]  # fmt: skip
    assert actions.keymap_problems({"home.fly": "x"}) == ["home.fly: there is no such action"]


def test_what_ends_work_or_changes_hosts_is_confirmed() -> None:
    for action in ACTIONS:
        assert (action.confirm > Confirm.NONE) == action.verb.startswith(CHANGES), action.id
    assert [a.id for a in ACTIONS if a.confirm is Confirm.NAME] == ["hosts_down"]


@pytest.mark.parametrize("area", SCREENS)
async def test_footer_palette_and_bindings_come_from_the_registry(area: str) -> None:
    wanted = {action.id for action in actions.actions_of(area)}
    bound = {binding.action for binding in actions.bindings(area)}
    assert bound == wanted
    assert {key for key, _ in actions.hints(area)} <= {
        actions.key_name(action.keys) for action in actions.actions_of(area)
    }
    assert actions.hints(area)[-1][1] == "Help"
    screen = SCREENS[area].__new__(SCREENS[area])
    said = list(AiokApp().get_system_commands(screen))
    assert len(said) == len(wanted) - 1


async def test_a_keymap_moves_an_action() -> None:
    app = AiokApp(background=False)
    app.set_keymap({"home.close": "x"})
    async with app.run_test() as pilot:
        await pilot.press("q")
        assert app.is_running
        await pilot.press("x")
    assert app.return_code == 0
