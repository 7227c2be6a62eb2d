"""One run: its steps, a live chart, the use of the machine, and the logs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widget import Widget

from aiok_tui.actions import RUN, bindings, hints
from aiok_tui.measured import pace_summary
from aiok_tui.output import loss_text
from aiok_tui.screens import parts
from aiok_tui.screens.base import RunActions, Turn
from aiok_tui.widgets.chart import LineChart
from aiok_tui.widgets.glyphs import bar
from aiok_tui.widgets.hints import Hints
from aiok_tui.widgets.linetable import Column, LineTable
from aiok_tui.widgets.logfile import LogFile
from aiok_tui.widgets.logview import LogView
from aiok_tui.widgets.meter import Meters
from aiok_tui.widgets.paint import Cell, Lines, plain, spread, wrap
from engine.roofline import roofline
from engine.state import StepStatus

if TYPE_CHECKING:
    from textual.widgets import Input

    from aiok_tui.feed import RunView
    from engine.hpo.results import Results
    from engine.state import RunState, RunStatus, StepState

PANES = ("steps", "chart", "machine", "log")
TITLES = ("Steps", "Chart", "Machine", "Log")


class RunScreen(RunActions):
    """Everything about one run. In a small window one panel at a time."""

    area = RUN
    CSS_PATH = "run.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings(RUN),
        Binding("tab", "next_pane(1)", show=False),
        Binding("shift+tab", "next_pane(-1)", show=False),
    ]

    def __init__(self, run: str) -> None:
        super().__init__()
        self.run_id = run
        self.pane = 0
        self.zoomed = False
        self.metric: str | None = None
        self.log_label = ""  # the log the user chose; "" = the newest of the step at work
        self.pinned = ""  # the step the user chose; "" = the one at work
        self._files: dict[Path, LogFile] = {}
        self._shown: tuple[object, ...] = ()
        self._titles: dict[str, tuple[str, str]] = {}

    def compose(self) -> ComposeResult:
        """Steps, chart and machine over the log."""
        yield Lines(id="top")
        yield Lines(id="news")
        yield Lines(id="tabs")
        with Horizontal(id="upper"):
            with Vertical(id="steps", classes="panel"):
                yield LineTable(head=False, id="tree")
                yield Lines(id="notes")
            with Vertical(id="right"):
                with Vertical(id="chart", classes="panel"):
                    yield LineChart(id="curve")
                with Vertical(id="machine", classes="panel"):
                    yield Meters(id="meters")
        with Vertical(id="log", classes="panel"):
            yield LogView(id="lines")
        yield Hints(hints(RUN))

    def on_mount(self) -> None:
        """Ask for the run; until it is read, say so."""
        for pane, title in zip(PANES, TITLES, strict=True):
            self._entitle(pane, title.lower())
        reading: list[Cell] = [(f" {self.run_id}  ", "strong"), ("reading", "dim")]
        self.query_one("#top", Lines).show([reading])
        self._arrange()

    def on_screen_resume(self, _event: events.ScreenResume) -> None:
        """On top again: the feed reads this run."""
        self.aiok.feed.want_runs(False)
        self.aiok.feed.want_run(self.run_id)

    def on_resize(self, _event: events.Resize) -> None:
        """One panel at a time where there is no room for all."""
        self._arrange()

    # --- panels ---

    def _entitle(self, pane: str, title: str, below: str = "") -> None:
        """The words in a panel's frame; Textual draws again even when they are the same."""
        if self._titles.get(pane) != (title, below):
            self._titles[pane] = title, below
            panel = self.query_one(f"#{pane}")
            panel.border_title = plain(title).replace("[", r"\[")
            panel.border_subtitle = plain(below).replace("[", r"\[")

    @property
    def one_pane(self) -> bool:
        """Whether only the current panel is shown."""
        return self.zoomed or self.size.width < 100 or self.size.height < 30

    def _arrange(self) -> None:
        one = self.one_pane
        self.set_class(one, "-one")
        current = PANES[self.pane]
        for pane in PANES:
            panel = self.query_one(f"#{pane}")
            panel.set_class(pane == current, "-current")
            panel.display = not one or pane == current
        self.query_one("#upper").display = not one or current != "log"
        self.query_one("#right").display = not one or current in ("chart", "machine")
        tabs: list[Cell] = []
        for number, title in enumerate(TITLES):
            here = number == self.pane
            tabs += [(f" {number + 1} {title} ", "strong" if here else "dim"), (" ", "plain")]
            if here:
                tabs[-2] = (f"[{number + 1} {title}]", "strong")
        self.query_one("#tabs", Lines).show([tabs])
        self.query_one("#tabs").display = one
        self._shown = ()
        focus = {"steps": "#tree", "log": "#lines"}.get(current)
        self.set_focus(self.query_one(focus) if focus else None)

    def action_pane(self, number: int) -> None:
        """Go to a panel."""
        self.pane = number - 1
        self._arrange()
        self.draw(Turn())

    def action_next_pane(self, by: int) -> None:
        """Go to the next panel."""
        self.action_pane((self.pane + by) % len(PANES) + 1)

    def action_zoom(self) -> None:
        """The current panel alone, or all of them."""
        self.zoomed = not self.zoomed
        self._arrange()
        self.draw(Turn())

    # --- drawing ---

    @property
    def view(self) -> RunView | None:
        """The run as last read."""
        view = self.aiok.feed.latest.view
        return view if view is not None and view.run == self.run_id else None

    def draw(self, turn: Turn) -> None:
        """The log on each tick, the rest less often and only when something changed."""
        log = self.query_one("#lines", LogView)
        in_sight = self.query_one("#log").display
        self.aiok.feed.want_log(log.log_file if in_sight else None)
        if in_sight:
            log.draw()
        view = self.view
        now = self.aiok.clock()
        if turn.tables:
            second = int(now) if view is None or view.state.status.is_live else 0
            key = (view and view.version, second, self.size, self.pinned,
                   self.aiok.feed.latest.problems)  # fmt: skip
            if key != self._shown:
                self._shown = key
                self._draw_tables(view, now)
        if turn.charts and view is not None:
            self._draw_charts(view, now)

    def _draw_tables(self, view: RunView | None, now: float) -> None:
        width = self.size.width
        if view is None:
            self.query_one("#news", Lines).show(self.problem_line())
            return
        safe = "safe to close: the run goes on" if width >= 100 else "safe to close"
        safe = safe if view.state.status.is_live else ""
        status = parts.status_line(view, now, width)
        self.query_one("#top", Lines).show([spread(status, [(safe, "dim")], width - 1)])
        news = [*self.problem_line(), *parts.headline_lines(view, width - 2)]
        self.query_one("#news", Lines).show(news)
        columns = [Column("", 9), Column("", 10), Column("", 6, right=True), Column("", 0)]
        tree = self.query_one("#tree", LineTable)
        tree.show(columns, parts.step_rows(view.state, now))
        current = view.state.current
        if not self.pinned and current is not None:
            tree.point(current.id)
        step = view.state.steps.get(tree.cursor or "")
        room = width - 2 if self.one_pane else int(width * 0.55) - 4
        self.query_one("#notes", Lines).show(
            _notes(view.state, step, max(20, room), now) if step is not None else []
        )
        self._choose_log(view)

    def _draw_charts(self, view: RunView, now: float) -> None:
        chart = self.query_one("#chart")
        if chart.display:
            series, x_name, empty = parts.chart_series(view, self.metric)
            self.query_one("#curve", LineChart).show(series, x_name, empty)
            names = parts.metric_names(view.state)
            name = self.metric if self.metric in names else names[0] if names else "chart"
            more = f"  (m: {len(names)} metrics)" if len(names) > 1 else ""
            self._entitle("chart", (name or "chart") + more)
        machine = self.query_one("#machine")
        if machine.display:
            self._draw_machines(view, now if view.state.status.is_live else 0.0)

    def _draw_machines(self, view: RunView, now: float) -> None:
        """One machine in full, or a line for each host."""
        meters = self.query_one("#meters", Meters)
        room = meters.content_size
        silent = view.state.silent_hosts
        if len(view.samples) <= 1 and not silent:
            host, samples = next(iter(view.samples.items()), ("machine", ()))
            meters.samples(samples, room.width, now)
            self._entitle("machine", host)
            return
        meters.hosts(view.samples, silent, room.width, room.height, now)
        names = view.samples.keys() | silent.keys()
        lost = f", {len(silent)} silent" if silent else ""
        self._entitle("machine", f"{len(names)} hosts{lost}", "net: MiB/s in and out")

    # --- log ---

    def _choose_log(self, view: RunView) -> None:
        """Open the log the user chose, or else the newest of the step in question."""
        labels = [label for label, _ in view.logs]
        label = self.log_label
        if label not in labels:
            tree = self.query_one("#tree", LineTable)
            mine = [name for name in labels if name.split("/")[0] == tree.cursor]
            label = mine[-1] if mine else "" if self.pinned or not labels else labels[-1]
        path = dict(view.logs).get(label)
        lines = self.query_one("#lines", LogView)
        wanted = None if path is None else self._files.setdefault(path, LogFile(path))
        if wanted is not lines.log_file:
            lines.open(wanted)
        self._title_log(label)

    def _title_log(self, label: str) -> None:
        lines = self.query_one("#lines", LogView)
        count = len(self.view.logs) if self.view else 0
        keys = f"  ([ ]: {count} logs)" if count > 1 else ""
        name = f"log {label}" if label else "log"
        self._entitle("log", name + keys, lines.title())

    @on(LogView.Changed)
    def _log_changed(self, event: LogView.Changed) -> None:
        self._entitle("log", self._titles["log"][0], event.view.title())

    def action_next_log(self, by: int = 1) -> None:
        """Show the next log file of the run."""
        view = self.view
        if view is None or not view.logs:
            return
        labels = [label for label, _ in view.logs]
        lines = self.query_one("#lines", LogView)
        paths = [path for _, path in view.logs]
        now = paths.index(lines.log_file.path) if lines.log_file else 0
        self.log_label = labels[(now + by) % len(labels)]
        self._choose_log(view)

    def action_last_log(self) -> None:
        """Show the log file before."""
        self.action_next_log(-1)

    def action_follow_log(self) -> None:
        """Follow the log, or stay here."""
        lines = self.query_one("#lines", LogView)
        lines.set_follow(not lines.follow)

    def action_find_in_log(self) -> None:
        """Type what to look for."""
        from aiok_tui.widgets.prompt import PromptLine

        if PANES[self.pane] != "log":
            self.action_pane(4)
        if not self.query(PromptLine):
            prompt = PromptLine("find in this log; enter searches, empty ends it, esc leaves",
                                self.query_one("#lines", LogView).needle)  # fmt: skip
            self.query_one("#log").mount(prompt)
            prompt.focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Search."""
        self.query_one("#lines", LogView).find(event.value)
        self._end_prompt(event.input)

    def on_prompt_line_given_up(self) -> None:
        """Leave the search as it was."""
        for prompt in self.query("PromptLine"):
            self._end_prompt(prompt)

    def _end_prompt(self, prompt: Widget) -> None:
        prompt.remove()
        self.query_one("#lines").focus()

    def action_next_hit(self) -> None:
        """Go to the next place found."""
        self.query_one("#lines", LogView).next_hit(1)

    def action_last_hit(self) -> None:
        """Go to the place found before."""
        self.query_one("#lines", LogView).next_hit(-1)

    # --- the user ---

    def target(self) -> tuple[str, RunStatus] | None:
        """This run."""
        view = self.view
        return (self.run_id, view.state.status) if view is not None else None

    @on(LineTable.Highlighted, "#tree")
    def _step_chosen(self, event: LineTable.Highlighted) -> None:
        """A step the user goes to stays chosen until he is back at the one at work."""
        view = self.view
        if view is None:
            return
        current = view.state.current
        if event.by_user:
            self.pinned = "" if current is not None and event.key == current.id else event.key
            self.log_label = ""
        self._shown = ()
        self._draw_tables(view, self.aiok.clock())

    @on(LineTable.Chosen, "#tree")
    def _step_opened(self) -> None:
        self.action_pane(4)

    def action_next_metric(self) -> None:
        """Draw the next metric."""
        view = self.view
        names = parts.metric_names(view.state) if view is not None else []
        if view is not None and names:
            now = names.index(self.metric) if self.metric in names else 0
            self.metric = names[(now + 1) % len(names)]
            self._draw_charts(view, self.aiok.clock())

    def action_show_trials(self) -> None:
        """The trials of the search over this screen."""
        from aiok_tui.screens.trials import TrialsScreen

        def show(found: Results) -> None:
            self.app.push_screen(TrialsScreen(found))

        run, feed = self.run_id, self.aiok.feed
        self.aiok.do("", lambda: feed.engine.trials(run), show)

    def action_copy_line(self) -> None:
        """Copy the command line that shows this run."""
        line = f"aiok show {self.run_id}"
        self.aiok.copy_to_clipboard(line)
        self.aiok.say(f"copied: {line}")

    def action_leave(self) -> None:
        """Back to the list of runs."""
        self.aiok.feed.want_log(None)
        self.app.pop_screen()


def _notes(state: RunState, step: StepState, width: int, now: float) -> list[list[Cell]]:
    """How a step does, what was decided in it, and its problem, below the tree."""
    lines: list[list[Cell]] = [[], *wrap(step.title, width, "strong")]
    if step.status.is_whole or (step.status is StepStatus.RUNNING and step.phase):
        lines += wrap(parts.step_text(step, now)[0], width)
    if step.fraction is not None and step.status is StepStatus.RUNNING:
        lines.append([(bar(step.fraction, min(40, width)), "accent")])
    if paces := pace_summary(step):
        lines += wrap(paces, width, "warn" if step.slow else "dim", "  ")
    beside = roofline(state, step)
    if beside is not None:
        if step.status is not StepStatus.RUNNING:  # then the line stands above all panels
            lines += wrap(beside.line, width)
        lines += wrap(beside.verdict, width, "dim")
    if step.problem is not None and step.problem.log:
        lines += wrap(f"log  {step.problem.log}", width, "plain", "     ")
    for loss in [one for one in state.losses if one.step == step.id][-2:]:
        lines += wrap(f"{loss.what}; {loss_text(loss)}", width, "warn", "  ")
    for level, text in step.notes[-8:]:
        lines += wrap(text, width, "warn" if level == "warning" else "dim", "  ")
    return lines
