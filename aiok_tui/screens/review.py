"""The review: what would run, with what values and why, before it runs."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from textual import events
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widgets import Button

from aiok_tui.actions import REVIEW, bindings, hints
from aiok_tui.feed import Call
from aiok_tui.screens.base import FeedScreen
from aiok_tui.screens.problem import problem_lines
from aiok_tui.widgets.hints import Hints
from aiok_tui.widgets.paint import Cell, Line, Lines, Paragraph, fit, spread, wrap

if TYPE_CHECKING:
    from aiok_tui.feed import Engine
    from engine.api import Plan


class Reviewed(NamedTuple):
    """A plan and what belongs to it; `problems` block the launch."""

    plan: Plan | None
    error: Exception | None
    problems: tuple[str, ...]
    yaml: str
    command: str


def review(engine: Engine, answers: dict[str, str]) -> Reviewed:
    """Plan the recipe from a scratch file: nothing is kept before the launch."""
    wrong = engine.check_answers(answers)
    if wrong:
        labels = {q.key: q.label for q in engine.questions(answers)}
        said = tuple(f"{labels.get(key, key)}: {text}" for key, text in wrong.items())
        return Reviewed(None, None, said, "", engine.command_line(answers))
    scratch = Path(tempfile.mkdtemp(prefix="aiok-review-"))
    try:
        name = Path(answers.get("name", "my-job").strip()).name
        path = engine.save_recipe(answers, scratch / f"{name}.yaml")
        text, line = engine.recipe_text(answers), engine.command_line(answers)
        try:
            plan = engine.plan(str(path))
        except Exception as error:  # noqa: BLE001 - told in place of the plan
            return Reviewed(None, error, ("there is no plan: see above",), text, line)
        return Reviewed(plan, None, tuple(plan.problems), text, line)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def plan_lines(plan: Plan, width: int) -> list[Line]:
    """Steps with their estimates, the sum below."""
    title = max(10, width - 50)
    head = f"{'STEP':<11}{'':<{title}}{'TIME':>8}{'MEMORY':>10}{'DISK':>10}{'NETWORK':>10}"
    head = f"{'STEP':<11}{'':<{title}}{'TIME':>8}{'MEMORY':>10}{'DISK':>10}{'NETWORK':>10}"
    lines: list[Line] = [[(head, "dim")]]
    for step in plan.steps:
        estimate = step.estimate
        time = "reused" if step.reuse else f"{estimate.minutes:.1f} min"
        memory, disk = f"{estimate.memory_gib:.1f} GiB", f"{estimate.disk_gib:.2f} GiB"
        network = f"{estimate.network_gib:.2f} GiB"
        lines.append([
            (fit(step.id, 10) + " ", "plain"), (fit(step.title, title - 1) + " ", "dim"),
            (f"{time:>8}", "good" if step.reuse else "plain"),
            (f"{memory:>10}{disk:>10}{network:>10}", "dim"),
        ])  # fmt: skip
    todo = [step.estimate for step in plan.steps if not step.reuse]
    minutes, disk_gib = sum(e.minutes for e in todo), sum(e.disk_gib for e in todo)
    most = max((e.memory_gib for e in todo), default=0.0)
    memory, disk = f"{most:.1f} GiB", f"{disk_gib:.2f} GiB"
    total, network = f"{minutes:.1f} min", f"{sum(e.network_gib for e in todo):.2f} GiB"
    below = f"{'in all':<11}{'':<{title}}{total:>8}{memory:>10}{disk:>10}{network:>10}"
    lines.append([(below, "strong")])
    return lines


def value_lines(plan: Plan, width: int) -> list[Line]:
    """Each value with its origin and reason."""
    key_width = min(width // 3, max((len(v.key) for v in plan.values), default=0) + 1)
    lines: list[Line] = []
    for value in plan.values:
        said = f"{value.origin}: {value.reason}" if value.reason else value.origin
        shown = fit(str(value.value), 16)
        tone = "dim" if value.origin == "built-in" else "accent"
        rest = max(12, width - key_width - 18)
        first, *more = wrap(said, rest, "dim")
        lines.append([(fit(value.key, key_width - 1) + " ", "plain"), (shown + "  ", tone), *first])
        lines += [[(" " * (key_width + 18), "dim"), *line] for line in more]
    return lines


class ReviewScreen(FeedScreen):
    """Gives the id of the run that was started, or None to go back.

    Launch is closed while there are problems, and the problems are told beside it.
    """

    area = REVIEW
    CSS_PATH = "review.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(REVIEW)]

    def __init__(self, answers: dict[str, str]) -> None:
        super().__init__()
        self.answers = answers
        self.reviewed: Reviewed | None = None
        self.launching = False

    def compose(self) -> ComposeResult:
        """Problems and the launch on top, the plan below."""
        yield Lines(id="top")
        with Horizontal(id="launch"):
            yield Paragraph(id="command")
            yield Button("Launch", id="go", compact=True, disabled=True)
        yield Lines(id="problems")
        with Horizontal(id="body"):
            with VerticalScroll(id="left"):
                yield Lines(id="plan")
                yield Lines(id="values")
            with Vertical(id="right"):
                yield VerticalScroll(Lines(id="yaml"), id="recipe")
        yield Hints(hints(REVIEW))

    def on_mount(self) -> None:
        """Plan in the background."""
        self.query_one("#recipe").border_title = "recipe"
        self.query_one("#problems", Lines).show([[("planning: looking at this machine", "dim")]])
        feed, answers = self.aiok.feed, dict(self.answers)
        self.query_one("#left").focus()
        self._show()
        plan = Call("review", lambda: review(feed.engine, answers), self._planned,
                    self.aiok.show_problem)  # fmt: skip
        self.aiok.jobs.start(plan)  # it asks hosts: a dead one must not hold up other calls

    def _planned(self, reviewed: Reviewed) -> None:
        if not self.is_attached:  # the user went back meanwhile
            return
        self.reviewed = reviewed
        go = self.query_one("#go", Button)
        go.disabled = bool(reviewed.problems)
        self._show()
        self.call_after_refresh(self._show)  # the body has its place by then
        if not go.disabled:
            go.focus()

    def on_resize(self, _event: events.Resize) -> None:
        """Wrapped to the width there is."""
        self.call_after_refresh(self._show)

    def _show(self) -> None:
        width = self.size.width
        wide = width >= 100
        name = self.answers.get("name", "my-job")
        self.query_one("#top", Lines).show(
            [spread([(f" new run   {name}   review", "strong")], [], width - 1)]
        )
        found = self.reviewed
        self.query_one("#right").display = wide
        if found is None:
            return
        left = self.query_one("#left", VerticalScroll).scrollable_content_region.width or width - 4
        problems: list[list[Cell]] = []
        for problem in found.problems:
            problems += wrap(f"! {problem}", width - 4, "bad", "  ")
        if problems:
            problems.append([("Launch is closed until this is mended (F2: back).", "warn")])
        self.query_one("#problems", Lines).show(problems)
        self.query_one("#command", Paragraph).say(f"the same by hand: {found.command}")
        plan: list[Line] = []
        if found.error is not None:
            plan += problem_lines(found.error, left)
        values: list[Line] = []
        if found.plan is not None:
            plan, values = plan_lines(found.plan, left), value_lines(found.plan, left)
            values = [[], [("VALUE, FROM, WHY", "dim")], *values]
        recipe: list[Line] = [[(line, "plain")] for line in found.yaml.splitlines()]
        if not wide and recipe:
            values += [[], [("RECIPE", "dim")], *recipe]
        self.query_one("#plan", Lines).show(plan)
        self.query_one("#values", Lines).show(values)
        self.query_one("#yaml", Lines).show(recipe)

    # --- the user ---

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Launch."""
        event.stop()
        self.action_launch()

    def action_launch(self) -> None:
        """Write the recipe, start the run, show it; once."""
        found = self.reviewed
        if found is None:
            self.aiok.say("still planning: one moment")
            return
        if self.launching:
            return
        if found.problems:
            self.aiok.say(found.problems[0], warning=True)
            return
        self.launching = True
        self.query_one("#go", Button).disabled = True
        self.query_one("#problems", Lines).show([[("starting the run", "accent")]])
        feed, answers = self.aiok.feed, dict(self.answers)

        def launch() -> str:
            run = feed.engine.start(str(feed.engine.save_recipe(answers)))
            feed.engine.save_draft({})
            return run

        self.aiok.do("", launch, self._launched, self._not_launched)

    def _launched(self, run: str) -> None:
        self.give(run)

    def _not_launched(self, error: Exception) -> None:
        self.launching = False
        self.query_one("#go", Button).disabled = False
        self._show()
        self.aiok.show_problem(error)

    def action_copy_line(self) -> None:
        """Copy the equal command line."""
        if self.reviewed is not None:
            self.app.copy_to_clipboard(self.reviewed.command)
            self.aiok.say(f"copied: {self.reviewed.command}")

    def action_step_back(self) -> None:
        """Back to the questions."""
        if not self.launching:
            self.dismiss(None)

    def action_leave(self) -> None:
        """Back to the questions."""
        self.action_step_back()
