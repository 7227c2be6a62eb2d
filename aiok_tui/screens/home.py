"""The list of runs, with a look into the one under the cursor."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal
from textual.widget import Widget

from aiok_tui.actions import HOME, bindings, hints
from aiok_tui.screens.base import RunActions, Turn
from aiok_tui.widgets.glyphs import bar, state_cell
from aiok_tui.widgets.hints import Hints
from aiok_tui.widgets.linetable import Column, LineTable, Row
from aiok_tui.widgets.paint import Cell, Lines, spread

if TYPE_CHECKING:
    from textual.widgets import Input

    from aiok_tui.widgets.chart import LineChart
    from engine.api import RunSummary
    from engine.state import RunStatus

WELCOME: tuple[list[Cell], ...] = (
    [("No runs yet.", "strong")],
    [],
    [("n", "accent"), ("  answer a few questions and start one", "plain")],
    [("or close with q and type: ", "dim"), ("aiok run quickstart", "plain")],
)


class HomeScreen(RunActions):
    """All runs, newest first."""

    area = HOME  # its .tcss is the app's: Textual reads none for the screen at the bottom
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(HOME)]

    def __init__(self) -> None:
        super().__init__()
        self.filter = ""
        self._shown: tuple[object, ...] = ()
        self._previewed: tuple[object, ...] = ()
        self._curve: LineChart | None = None

    def compose(self) -> ComposeResult:
        """The list over the preview."""
        yield Lines(id="top")
        yield Lines(id="problem")
        yield LineTable(id="runs")
        yield Lines(id="welcome")
        with Horizontal(id="preview"):
            yield Lines(id="steps")
        yield Hints(hints(HOME))

    def on_mount(self) -> None:
        """The cursor is in the list from the start."""
        self.query_one("#runs").focus()
        self.query_one("#welcome").display = False
        self.query_one("#preview").display = False
        self.query_one("#top", Lines).show([[(" aiok", "strong"), ("   reading the runs", "dim")]])
        self.aiok.feed.want_runs(True)

    def on_screen_resume(self, _event: events.ScreenResume) -> None:
        """Back on top: read the list, and the run under the cursor, again."""
        self.aiok.feed.want_runs(True)
        self.aiok.feed.want_log(None)
        self.aiok.feed.want_run(self.query_one("#runs", LineTable).cursor)

    def on_screen_suspend(self, _event: events.ScreenSuspend) -> None:
        """The list is read while it is in sight."""
        self.aiok.feed.want_runs(not self._covered())

    def _covered(self) -> bool:
        return any(isinstance(s, RunActions) and s is not self for s in self.app.screen_stack)

    # --- drawing ---

    def draw(self, turn: Turn) -> None:
        """The list when it changed; the preview when it or the minute did."""
        latest = self.aiok.feed.latest
        if turn.tables:
            self.query_one("#problem", Lines).show(self.problem_line())
        if turn.tables and latest.runs is not None:
            key = (latest.runs, self.filter, self.size, int(self.aiok.clock() // 60))
            if key != self._shown:
                self._shown = key
                self._draw_list(latest.runs)
        if turn.charts:
            self._draw_preview()

    def _draw_list(self, runs: Sequence[RunSummary]) -> None:
        width = self.size.width
        wanted = self.filter.lower()
        chosen = [run for run in runs if wanted in _searchable(run)]
        live = sum(run.status.is_live for run in runs)
        said = f"{live} running   {len(runs)} runs"
        if self.filter:
            said += f"   /{self.filter}/ {len(chosen)} shown (/ changes it)"
        top = spread([(" aiok", "strong"), (f"   {said}", "dim")], [self.clock_cell()], width - 1)
        self.query_one("#top", Lines).show([top])
        wide = width >= 100
        columns = [Column("RUN"), Column("STATE", 11), Column("STEP", 10),
                   Column("PROGRESS" if wide else "DONE", 17 if wide else 5),
                   Column("BEST", 18 if wide else 16)]  # fmt: skip
        if wide:
            columns += [Column("LEFT", 7, right=True), Column("STARTED", 12)]
        rows = [Row(run.id, self._cells(run, wide)) for run in chosen]
        self.query_one("#runs", LineTable).show(columns, rows)
        self.query_one("#runs").display = bool(runs)
        self.query_one("#preview").display = bool(runs) and self.size.height >= 20
        welcome = self.query_one("#welcome", Lines)
        welcome.display = not runs
        welcome.show(WELCOME)

    def _cells(self, run: RunSummary, wide: bool) -> list[Cell]:
        from aiok_tui.output import duration

        percent = "" if run.progress is None else f"{100 * run.progress:.0f} %"
        progress = f"{bar(run.progress, 11)} {percent:>5}" if wide else percent
        begun = time.strftime("%m-%d %H:%M", time.localtime(run.created))
        left = duration(run.eta_s) if run.status.is_live else ""
        return [(run.id, "plain"), state_cell(run.status.value), (run.step, "dim"),
                (progress, "dim"), (run.best, "plain"), (left, "dim"), (begun, "dim")]  # fmt: skip

    def _draw_preview(self) -> None:
        """The steps of the run under the cursor, and its curve where there is room."""
        view = self.aiok.feed.latest.view
        preview = self.query_one("#preview")
        if view is None or not preview.display or view.run != self.aiok.feed.wants_run:
            return
        second = int(self.aiok.clock()) if view.state.status.is_live else 0
        key = (view.run, view.version, self.size, second)
        if key == self._previewed:
            return
        self._previewed = key
        from aiok_tui.screens.parts import chart_series, headline_lines, step_lines

        if preview.border_title != view.run:
            preview.border_title = view.run
        steps = self.query_one("#steps", Lines)
        width = (self.size.width - 6) // (2 if self.size.width >= 100 else 1)
        lines = step_lines(view, self.aiok.clock(), width)
        steps.show([*headline_lines(view, width), *lines])
        from aiok_tui.widgets.chart import LineChart

        if self.size.width >= 100 and self._curve is None:
            self._curve = LineChart(id="curve")
            preview.mount(self._curve)
        if self._curve is not None:
            self._curve.display = self.size.width >= 100
            self._curve.show(*chart_series(view, None))

    # --- the user ---

    def target(self) -> tuple[str, RunStatus] | None:
        """The run under the cursor."""
        cursor = self.query_one("#runs", LineTable).cursor
        for run in self.aiok.feed.latest.runs or ():
            if run.id == cursor:
                return run.id, run.status
        return None

    @on(LineTable.Highlighted, "#runs")
    def _look_at(self, event: LineTable.Highlighted) -> None:
        self.aiok.feed.want_run(event.key)

    @on(LineTable.Chosen, "#runs")
    def _open(self, event: LineTable.Chosen) -> None:
        self.aiok.open_run(event.key)

    def action_open_run(self) -> None:
        """Watch the run under the cursor."""
        found = self.target()
        if found is not None:
            self.aiok.open_run(found[0])

    def action_new_run(self) -> None:
        """Start the wizard."""
        self.aiok.open_wizard()

    def action_open_hosts(self) -> None:
        """See the hosts."""
        self.aiok.open_hosts()

    def action_copy_line(self) -> None:
        """The command line's equal of opening a run."""
        found = self.target()
        if found is not None:
            self.aiok.copy_to_clipboard(f"aiok show {found[0]}")

    def action_filter_runs(self) -> None:
        """Type what the shown runs must hold."""
        from aiok_tui.widgets.prompt import PromptLine

        if not self.query(PromptLine):
            prompt = PromptLine("show only runs with this text; enter keeps it, esc shows all",
                                self.filter)  # fmt: skip
            self.mount(prompt)
            prompt.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """The list narrows as one types."""
        self.filter = event.value.strip()
        self.draw(Turn())

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Keep the filter."""
        self._end_prompt(event.input)

    def on_prompt_line_given_up(self) -> None:
        """Show all runs again."""
        self.filter = ""
        for prompt in self.query("PromptLine"):
            self._end_prompt(prompt)
        self.draw(Turn())

    def _end_prompt(self, prompt: Widget) -> None:
        prompt.remove()
        self.query_one("#runs").focus()


def _searchable(run: RunSummary) -> str:
    return f"{run.id} {run.recipe} {run.status.value} {run.step} {run.best}".lower()
