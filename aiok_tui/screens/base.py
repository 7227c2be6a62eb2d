"""What the screens that show data have in common."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from textual import events
from textual.screen import Screen

from aiok_tui.widgets.glyphs import state_cell
from aiok_tui.widgets.paint import Cell

if TYPE_CHECKING:
    from aiok_tui.app import AiokApp
    from engine.state import RunStatus


class Turn(NamedTuple):
    """What a tick of the app's timer draws besides the log."""

    tables: bool = True
    charts: bool = True


class FeedScreen(Screen[Any]):
    """A screen the app's timer draws. `area` names it in the registry of actions."""

    area = ""
    ready = False  # its widgets are there
    _given: tuple[Any, ...] = ()  # the result of a screen that closes as soon as it can
    ESCAPE_TO_MINIMIZE = False

    def on_mount(self) -> None:
        """From now on the timer may draw."""
        self.ready = True

    @property
    def aiok(self) -> AiokApp:
        """The app."""
        return cast("AiokApp", self.app)

    def draw(self, turn: Turn) -> None:
        """Take over what is new."""

    def give(self, result: Any = None) -> None:
        """Close with a result: now, or when nothing lies over this screen any more."""
        if self.is_current:
            self.dismiss(result)
        else:
            self._given = (result,)

    def on_screen_resume(self, _event: events.ScreenResume) -> None:
        """What lay over this screen is gone."""
        given, self._given = self._given, ()
        if given:
            self.dismiss(*given)

    def action_palette(self) -> None:
        """Choose an action by name."""
        self.aiok.action_palette()

    def action_show_help(self) -> None:
        """What can be done here."""
        self.aiok.action_show_help()

    def action_close(self) -> None:
        """Close the app; runs go on."""
        self.aiok.action_close()

    def problem_line(self) -> list[list[Cell]]:
        """What the reader could not read, if anything."""
        problems = self.aiok.feed.latest.problems
        return [[(f"! cannot read the {what}: {text}", "bad")] for what, text in problems.items()]

    def clock_cell(self) -> Cell:
        """The time of day."""
        return time.strftime("%H:%M", time.localtime(self.aiok.clock())), "dim"


class RunActions(FeedScreen):
    """Actions on one run: that of the cursor, or that of the screen."""

    def target(self) -> tuple[str, RunStatus] | None:
        """The run to act on, and how it stands."""
        raise NotImplementedError

    def _live_target(self) -> tuple[str, RunStatus] | None:
        found = self.target()
        if found is not None and not found[1].is_live:
            self.aiok.say(f"{found[0]} does not run ({state_cell(found[1].value)[0]})")
            return None
        return found

    def action_stop_run(self) -> None:
        """Ask, then stop after a checkpoint; a run that is stopping already is ended at once."""
        found = self._live_target()
        if found is None:
            return
        if found[1].value == "stopping":
            self.action_kill_run()
            return
        text = "It saves a checkpoint and ends. Resume goes on from there."
        self._ask_stop(found[0], f"Stop {found[0]}?", text, kill=False)

    def action_kill_run(self) -> None:
        """Ask, then end at once."""
        found = self._live_target()
        if found is not None:
            text = "No checkpoint is saved: resume goes back to the last one."
            self._ask_stop(found[0], f"End {found[0]} at once?", text, kill=True)

    def _ask_stop(self, run: str, title: str, text: str, kill: bool) -> None:
        from aiok_tui.screens.confirm import ConfirmScreen

        def answered(yes: bool | None) -> None:
            if yes:
                self.aiok.say(f"asking {run} to {'end at once' if kill else 'stop'}")
                engine = self.aiok.feed
                self.aiok.do("", lambda: engine.engine.stop(run, kill), stopped)

        def stopped(ran: Any) -> None:
            if not ran:
                self.aiok.say(f"{run} did not run any more")

        self.aiok.push_screen(ConfirmScreen(title, text), answered)

    def action_resume_run(self) -> None:
        """Go on with a run that is not finished."""
        found = self.target()
        if found is None:
            return
        run, status = found
        if not status.is_resumable:
            self.aiok.say(f"{run} cannot be resumed: it is {status.value}")
            return
        self.aiok.say(f"resuming {run}")
        feed = self.aiok.feed
        self.aiok.do("", lambda: feed.engine.resume(run), lambda _: None)

    def action_open_report(self) -> None:
        """Say where the report lies, and copy its path."""
        found = self.target()
        if found is not None:
            run, feed = found[0], self.aiok.feed
            self.aiok.do("", lambda: feed.engine.report(run), self._show_report)

    def _show_report(self, path: Any) -> None:
        self.aiok.copy_to_clipboard(str(path))
        self.aiok.say(f"report: {path}")
