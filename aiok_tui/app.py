"""The terminal app: it shows runs and asks for things; the runs live without it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.screen import Screen
from textual.theme import Theme

from aiok_tui.actions import actions_of, key_name
from aiok_tui.feed import TICK_S, Call, Calls, Engine, Feed, Jobs, load_engine
from aiok_tui.hostboard import HostBoard, HostWork
from aiok_tui.passwords import Passwords, Typed
from aiok_tui.screens.base import FeedScreen, Turn
from aiok_tui.widgets.glyphs import glyphs

if TYPE_CHECKING:
    from engine.api import RunSummary
    from engine.clusters import HostEntry

FIRST_FRAME_S = 0.05

THEME = Theme(
    name="aiok", dark=True, primary="#5b9bd5", secondary="#6c8ebf", accent="#6cb6c9",
    success="#85b779", warning="#d9a860", error="#e0707a", foreground="#d4dae2",
    background="#13171c", surface="#181d23", panel="#20262e",
)  # fmt: skip


class AiokApp(App[None], inherit_bindings=False):
    """Screens on top of the list of runs. `engine`, `clock` and `background` are for tests."""

    TITLE = "aiok"
    CSS_PATH = "screens/home.tcss"
    HORIZONTAL_BREAKPOINTS = [  # noqa: RUF012 - as Textual declares it
        (0, "-narrow"),
        (100, "-wide"),
    ]
    VERTICAL_BREAKPOINTS = [  # noqa: RUF012
        (0, "-short"),
        (30, "-tall"),
    ]
    ENABLE_COMMAND_PALETTE = False  # the palette opens by an action of the registry
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+c", "interrupt", show=False, priority=True),
    ]

    @dataclass
    class Answered(Message):
        """A call has come to its end; `act` is for the app's thread."""

        act: Callable[[], None]

    def __init__(
        self,
        run: str | None = None,
        *,
        engine: Callable[[], Engine] = load_engine,
        clock: Callable[[], float] = time.time,
        background: bool = True,
    ) -> None:
        bare = bool(os.environ.get("NO_COLOR"))  # Textual alone would still send greys
        super().__init__(ansi_color=True if bare else None)
        self.clock, self.background, self.first_run = clock, background, run
        self.feed = Feed(engine)
        self.calls = Calls(self._answer)
        self.board = HostBoard(clock)
        self.jobs = Jobs(self._answer, threads=background)
        self.passwords = Passwords(self._answer, self._ask_password)
        self.host_work = HostWork(
            self.feed, self.jobs, self.board, self.show_problem, self.passwords
        )
        self.crash: Exception | None = None
        self._ticks = 0
        self.register_theme(THEME)
        self.theme = "ansi-dark" if bare else "aiok"

    # --- life ---

    def get_default_screen(self) -> Screen[Any]:
        """The list of runs lies under everything."""
        from aiok_tui.screens.home import HomeScreen

        return HomeScreen()

    def on_mount(self) -> None:
        """Paint first, load the engine then."""
        self.set_class(not glyphs().braille, "-ascii")
        self.call_after_refresh(self._painted)

    def _painted(self) -> None:
        """The first frame is drawn; let it reach the terminal before the engine is loaded."""
        if self.background:
            self.set_timer(FIRST_FRAME_S, self._begin)
        else:
            self._begin()

    def _begin(self) -> None:
        if self.background:
            self.calls.start()
            self.feed.start()
            self.set_interval(TICK_S, self._tick)
        if self.first_run is not None:
            self.open_run(self.first_run)

    def _tick(self) -> None:
        """The one timer of all drawing: logs 10, tables 4, charts 2 times a second."""
        if not self.is_running:  # the app closes: the widgets of its screens go one by one
            return
        self._ticks += 1
        if self._ticks % 50 == 0 and not self.is_headless and not _has_terminal():
            self.exit()
            return
        self.draw(Turn(tables=self._ticks % 3 == 0, charts=self._ticks % 5 == 0))

    def draw(self, turn: Turn) -> None:
        """Let the top screen that shows data take over what is new; modals do not stop it."""
        screen = next((s for s in reversed(self.screen_stack) if isinstance(s, FeedScreen)), None)
        if screen is not None and screen.ready:
            with self.batch_update():
                screen.draw(turn)

    def on_unmount(self) -> None:
        """The reader goes with the app, and who waits for a password goes on without."""
        self.feed.close()
        self.host_work.live.end()
        self.passwords.close()

    # --- calls ---

    def _answer(self, act: Callable[[], None]) -> None:
        """From any thread: have something done in the app's."""
        self.post_message(self.Answered(act))

    def do(
        self,
        group: str,
        work: Callable[[], Any],
        done: Callable[[Any], None],
        failed: Callable[[Exception], None] | None = None,
    ) -> None:
        """Do something of the engine's in the background; errors open the error panel."""
        self.calls.put(Call(group, work, done, failed or self.show_problem))
        if not self.background:
            self.calls.drain()

    def on_aiok_app_answered(self, message: Answered) -> None:
        """A call's result, in the app's thread."""
        message.act()
        self.feed.soon()

    def show_problem(self, error: Exception) -> None:
        """The error panel over whatever is shown."""
        from aiok_tui.screens.problem import ProblemScreen

        self.push_screen(ProblemScreen(error))

    def _ask_password(self, entry: HostEntry, typed: Typed) -> None:
        """The question for a password over whatever is shown."""
        from aiok_tui.screens.password import PasswordScreen

        self.push_screen(PasswordScreen(entry, typed))

    def say(self, text: str, *, warning: bool = False) -> None:
        """A short note that goes away by itself."""
        from aiok_tui.widgets.paint import plain

        severity: Any = "warning" if warning else "information"
        self.notify(plain(text), severity=severity, markup=False, timeout=4)

    # --- screens ---

    def open_run(self, run: str) -> None:
        """Show a run."""
        from aiok_tui.screens.run import RunScreen

        self.push_screen(RunScreen(run))

    def open_wizard(self) -> None:
        """Ask the questions of a new run."""
        from aiok_tui.screens.wizard import WizardScreen

        self.push_screen(WizardScreen())

    def open_hosts(self) -> None:
        """Show the hosts of the inventory."""
        from aiok_tui.screens.hosts import HostsScreen

        self.push_screen(HostsScreen())

    def action_palette(self) -> None:
        """Choose an action by its name."""
        from textual.command import CommandPalette
        from textual.system_commands import SystemCommandsProvider

        if not any(isinstance(screen, CommandPalette) for screen in self.screen_stack):
            self.push_screen(
                CommandPalette(providers=[SystemCommandsProvider], placeholder="what to do")
            )

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """The palette holds the registry's actions for this screen, and nothing else."""
        name = screen.area if isinstance(screen, FeedScreen) else ""
        for action in actions_of(name):
            if action.id != "palette":
                title = f"{action.label}  ({key_name(action.keys)})"
                yield SystemCommand(title, action.help, _runner(screen, action.id))

    def action_show_help(self) -> None:
        """What can be done on this screen."""
        from aiok_tui.screens.help import HelpScreen

        if isinstance(self.screen, FeedScreen):
            self.push_screen(HelpScreen(self.screen.area))

    # --- the end ---

    def live_runs(self) -> list[str]:
        """The runs that go on without the app, as far as the app knows."""
        latest = self.feed.latest
        runs: Iterable[RunSummary] = latest.runs or ()
        live = {run.id: run.status.is_live for run in runs}
        if latest.view is not None:
            live[latest.view.run] = latest.view.state.status.is_live
        return [run for run, goes_on in live.items() if goes_on]

    def action_close(self) -> None:
        """Close the app; no run is touched. Work on hosts would end with it: that is asked."""
        if self.host_work.broken_off():
            self.action_interrupt()
        else:
            self.exit()

    def action_interrupt(self) -> None:
        """Ctrl+C asks whether to close the app, and never reaches a run."""
        from aiok_tui.screens.confirm import ConfirmScreen

        if isinstance(self.screen, ConfirmScreen):
            self.exit()
            return
        live = self.live_runs()
        goes_on = f"{', '.join(live)} will go on without it. " if live else ""
        broken = self.host_work.broken_off()
        ends = f"Work on hosts is {broken}. " if broken else ""
        text = f"{ends}{goes_on}Ctrl+C again closes. To end a run, use s (Stop)."
        self.push_screen(
            ConfirmScreen("Close the app?", text), lambda yes: self.exit() if yes else None
        )

    def farewell(self) -> str:
        """What to print when the app is closed: how to come back."""
        live, broken = self.live_runs(), self.host_work.broken_off()
        words = [broken] if broken else []
        if live:
            many = f"{len(live)} runs go on" if len(live) > 1 else f"{live[0]} goes on"
            words.append(f"{many}; come back with: aiok   or: aiok show {live[0]}")
        return "\n".join(words)

    def _handle_exception(self, error: Exception) -> None:
        """Textual would print all locals; keep the error for `main`, which tells it in one text."""
        self._return_code = 1
        if self._exception is None:
            self._exception = error
            self._exception_event.set()
        self.crash = self.crash or error
        self._close_messages_no_wait()


def _runner(screen: Screen[Any], action: str) -> Callable[[], Any]:
    return lambda: screen.run_action(action if action.endswith(")") else f"{action}()")


def _has_terminal() -> bool:
    try:
        return os.isatty(0)
    except OSError:
        return False


def main(run: str | None = None) -> int:
    """Run the app in this terminal and end the process; returns only where there is none."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        print(
            "aiok: the app needs a terminal\n"
            "  do:  without one, use aiok run, aiok runs, aiok show (aiok --help lists all)",
            file=sys.stderr,
        )
        return 2
    app = AiokApp(run)
    app.run()
    if app.crash is not None:
        from aiok_tui.output import tell_error

        tell_error(app.crash)
    if words := app.farewell():
        print(words, file=sys.stderr)
    # Python would wait for the threads of work that is under way, on a dead host for a long time.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1 if app.crash is not None else 0)
