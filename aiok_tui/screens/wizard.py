"""The wizard: the engine's questions, step by step, then the review.

The answers are what the user has said; everything else shows its default. Nothing here knows what
a question means: the engine says which there are, what is wrong with an answer, and the recipe.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from textual import events, on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Button

from aiok_tui.actions import WIZARD, bindings, hints
from aiok_tui.screens import hostparts
from aiok_tui.screens.base import FeedScreen, Turn
from aiok_tui.widgets.form import Field
from aiok_tui.widgets.hints import Hints
from aiok_tui.widgets.paint import Cell, Lines, spread
from aiok_tui.widgets.stepper import Stepper

if TYPE_CHECKING:
    from aiok_tui.feed import Engine
    from aiok_tui.hostboard import HostRow
    from engine.api import Question


class Checked(NamedTuple):
    """What the engine says of some answers."""

    answers: dict[str, str]
    questions: list[Question]
    problems: dict[str, str]


def check(engine: Engine, answers: dict[str, str], keep: bool) -> Checked:
    """Ask the engine, and keep the draft."""
    if keep:
        engine.save_draft(answers)
    return Checked(answers, engine.questions(answers), engine.check_answers(answers))


def whole_paths(answers: dict[str, str], questions: list[Question]) -> dict[str, str]:
    """The answers with paths that mean the same from any folder."""
    found = dict(answers)
    for question in questions:
        text = found.get(question.key, "").strip()
        if question.kind == "path" and text:
            found[question.key] = str(Path(os.path.abspath(os.path.expanduser(text))))
    return found


class WizardScreen(FeedScreen):
    """One step at a time; any step can be opened again, and a change marks the later ones."""

    area = WIZARD
    CSS_PATH = "wizard.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(WIZARD)]

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[str, str] = {}
        self.checked: Checked | None = None
        self.steps: tuple[str, ...] = ()
        self.step = 0
        self.visited: set[int] = set()
        self.stale: set[int] = set()
        self.saved = ""
        self._drawn: tuple[object, ...] = ()

    def compose(self) -> ComposeResult:
        """The step line, the questions, and the two ways to go."""
        yield Lines(id="top")
        yield Stepper(id="stepper")
        yield VerticalScroll(id="form", can_focus=False)
        with Horizontal(id="buttons"):
            yield Lines(id="message")
            yield Button("Back", id="back", compact=True)
            yield Button("Next", id="next", compact=True)
        yield Hints(hints(WIZARD))

    def on_mount(self) -> None:
        """Take up the draft."""
        self.query_one("#buttons").display = False
        self._head()
        self.aiok.do("wizard", self._load, self._loaded)

    def on_resize(self, _event: events.Resize) -> None:
        """The head has the window's width."""
        self._head()

    def _load(self) -> tuple[tuple[str, ...], Checked]:
        engine = self.aiok.feed.engine
        return engine.wizard_steps(), check(engine, engine.load_draft(), keep=False)

    def _loaded(self, found: tuple[tuple[str, ...], Checked]) -> None:
        self.steps, self.checked = found
        self.answers = dict(self.checked.answers)
        self.saved = "draft of last time; ctrl+n starts anew" if self.answers else ""
        self.query_one("#buttons").display = True
        self._look_at_hosts()
        self.call_later(self._show_step, 0)

    # --- the engine's say ---

    @property
    def cluster(self) -> str:
        """The cluster of the answers, "" for this machine."""
        found = next((q for q in self._all_questions() if q.key == "cluster"), None)
        answer = self.answers.get("cluster", found.default if found else "")
        return "" if found is None or answer == found.default else answer

    def _hosts(self) -> list[HostRow]:
        board = self.aiok.board
        return [board.rows[name] for name in board.members(self.cluster)] if self.cluster else []

    def action_check_hosts(self) -> None:
        """Look at the hosts of the cluster, those that nobody has looked at or all again."""
        self._look_at_hosts(again=True)

    def _look_at_hosts(self, again: bool = False) -> None:
        work = self.aiok.host_work
        if self.cluster:
            work.listing(lambda: work.check(
                [row.name for row in self._hosts() if again or row.report is None]
            ))  # fmt: skip

    def _ask(self) -> None:
        """Have the answers checked and kept; of several changes only the last counts."""
        answers, engine = dict(self.answers), self.aiok.feed
        self.aiok.do("wizard", lambda: check(engine.engine, answers, keep=True), self._told)

    async def _rebuild(self) -> None:
        await self._show_step(self.step, focus=False)

    def _told(self, checked: Checked) -> None:
        """Problems to their fields; other questions make another form."""
        self.checked, self.saved = checked, "draft saved"
        if checked.answers != self.answers:
            return
        fields = {field.question.key: field for field in self.query(Field)}
        mine = self._questions()
        same = [q.key for q in mine] == list(fields) and all(
            q.kind == fields[q.key].question.kind and q.choices == fields[q.key].question.choices
            for q in mine
        )
        if not same:
            self.call_later(self._rebuild)
            return
        for question in mine:
            fields[question.key].renew(question, self.answers.get(question.key))
        self._show_problems()

    def _all_questions(self) -> list[Question]:
        return self.checked.questions if self.checked is not None else []

    def _questions(self) -> list[Question]:
        return [q for q in self._all_questions() if self.steps and q.step == self.steps[self.step]]

    def problems_of(self, step: int) -> dict[str, str]:
        """What is wrong in a step."""
        if self.checked is None:
            return {}
        keys = {q.key for q in self.checked.questions if q.step == self.steps[step]}
        found = {key: text for key, text in self.checked.problems.items() if key in keys}
        if "cluster" in keys:
            found |= {f"host {row.name}": row.problems[0].what
                      for row in self._hosts() if row.problems}  # fmt: skip
        return found

    def draw(self, turn: Turn) -> None:
        """The hosts of the cluster, when something is known of them that was not."""
        key = (self.aiok.board.version, self.cluster, self.answers.get("train.ranks"), self.step,
               self.size)  # fmt: skip
        if turn.tables and self.steps and key != self._drawn:
            self._drawn = key
            self._draw_hosts()
            self._show_problems()

    def _draw_hosts(self) -> None:
        found = self.query("#hosts")
        if not found:
            return
        width, rows = max(20, self.size.width - 6), self._hosts()
        lines: list[list[Cell]] = []
        for row in rows:
            lines += hostparts.check_lines(row, width)
        reports = [row.report for row in rows if row.report is not None]
        if reports:
            ranks = self.answers.get("train.ranks", "auto")
            layout = self.aiok.feed.engine.rank_layout(reports, ranks)
            lines.append(hostparts.layout_line(layout))
        if any(row.problems for row in rows):
            lines.append([("Launch stays closed until this is mended. f4 looks again.", "warn")])
        found.first(Lines).show([*lines, []] if lines else [])

    # --- drawing ---

    def _head(self) -> None:
        title = f" new run   {self.answers.get('name', '')}"
        said = self.saved if self.size.width >= 60 else ""
        top = spread([(title, "strong")], [(said, "dim")], self.size.width - 1)
        self.query_one("#top", Lines).show([top])
        if self.steps:
            shown = [(step.capitalize(), self._state_of(i)) for i, step in enumerate(self.steps)]
            stepper = self.query_one("#stepper", Stepper)
            stepper.steps([*shown, ("Review", "")], self.step, self.size.width)

    def _state_of(self, step: int) -> str:
        if step not in self.visited:
            return ""
        count = len(self.problems_of(step))
        if count:
            return f"{count} problem{'s' * (count > 1)}"
        return "stale" if step in self.stale else "ok" if step != self.step else ""

    async def _show_step(self, step: int, focus: bool = True) -> None:
        """Fill the form with a step's questions; a field that stays keeps the focus."""
        self.step = step
        self.visited.add(step)
        self.stale.discard(step)
        form = self.query_one("#form", VerticalScroll)
        kept = next((f.question.key for f in self.query(Field) if f.has_focus_within), "")
        focus = focus or not kept
        with self.app.batch_update():
            await form.remove_children()
            fields = [Field(q, self.answers.get(q.key)) for q in self._questions()]
            await form.mount(*fields)
            for field in fields:
                if field.question.key == "cluster":
                    await form.mount(Lines(id="hosts"), after=field)
                    self._look_at_hosts()
            self._draw_hosts()
            self.query_one("#back", Button).disabled = step == 0
            last = step == len(self.steps) - 1
            self.query_one("#next", Button).label = "Review" if last else "Next"
            self._show_problems()
        for field in fields:
            if focus or field.question.key == kept:
                field.take_focus()
                break
        if focus:
            self.call_after_refresh(form.scroll_to, y=0, animate=False, force=True)

    def _show_problems(self) -> None:
        mine = self.problems_of(self.step)
        for field in self.query(Field):
            field.problem(mine.get(field.question.key, ""))
        count = len(mine)
        text = f"! {count} problem{'s' * (count > 1)} in this step" if count else ""
        self.query_one("#message", Lines).show([[(text, "bad")]])
        self._head()

    # --- the user ---

    @on(Field.Answered)
    def _answered(self, event: Field.Answered) -> None:
        """Keep an answer; later steps that were seen want another look."""
        key, text = event.key, event.text
        question = next((q for q in self._questions() if q.key == key), None)
        before = self.answers.get(key, question.default if question else "")
        if text == before:
            return
        if question is not None and text == question.default:
            self.answers.pop(key, None)
        else:
            self.answers[key] = text
        self.stale |= {step for step in self.visited if step > self.step}
        self.saved = ""
        self._head()
        if key == "cluster":
            self._draw_hosts()
            self._look_at_hosts()
        self._ask()

    @on(Field.Finished)
    def _finished(self) -> None:
        """Enter in a text field goes to the next field or button."""
        self.focus_next()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Back or Next."""
        event.stop()
        self.action_step_on() if event.button.id == "next" else self.action_step_back()

    def action_step_on(self) -> None:
        """The next step, or the review; problems block the launch, not the way."""
        if self.step + 1 < len(self.steps):
            self.call_later(self._show_step, self.step + 1)
        elif self.steps:
            self.action_review()

    def action_step_back(self) -> None:
        """The step before."""
        if self.step > 0:
            self.call_later(self._show_step, self.step - 1)

    def action_review(self) -> None:
        """See the plan."""
        from aiok_tui.screens.review import ReviewScreen

        if self.checked is not None:
            self.visited |= set(range(len(self.steps)))
            answers = whole_paths(self.answers, self.checked.questions)
            self.app.push_screen(ReviewScreen(answers), self._reviewed)

    def _reviewed(self, run: str | None) -> None:
        """Back from the review: a run that was started is shown, a problem is gone to."""
        if run is not None:
            self.app.pop_screen()
            self.aiok.open_run(run)
            return
        worst = next((i for i in range(len(self.steps)) if self.problems_of(i)), self.step)
        self.call_later(self._show_step, worst)

    def action_new_draft(self) -> None:
        """Forget all answers."""
        self.answers, self.stale, self.visited = {}, set(), set()
        self.aiok.do("wizard", lambda: check(self.aiok.feed.engine, {}, keep=True), self._anew)

    def _anew(self, checked: Checked) -> None:
        self.checked, self.saved = checked, ""
        self.call_later(self._show_step, 0)

    def action_leave(self) -> None:
        """Back to the runs; the draft stays."""
        self.app.pop_screen()
