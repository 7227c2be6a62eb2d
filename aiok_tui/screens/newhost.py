"""The form of a host that is to be added; its key is shown and compared before it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from textual import events, on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Button

from aiok_tui.actions import NEW_HOST, bindings, hints
from aiok_tui.screens.base import FeedScreen
from aiok_tui.widgets.form import Field
from aiok_tui.widgets.hints import Hints
from aiok_tui.widgets.paint import Lines, Paragraph, spread

if TYPE_CHECKING:
    from aiok_tui.feed import Engine
    from engine.api import Question
    from engine.host_jobs import HostKey


class Checked(NamedTuple):
    """What the engine says of some answers."""

    answers: dict[str, str]
    questions: list[Question]
    problems: dict[str, str]
    line: str


def check(engine: Engine, answers: dict[str, str]) -> Checked:
    """Ask the engine. Nothing is kept."""
    return Checked(
        answers, engine.host_questions(), engine.host_problems(answers), engine.host_line(answers)
    )


class NewHostScreen(FeedScreen):
    """Fills in `answers`, which stay with the caller; `added` hears the name of the host."""

    area = NEW_HOST
    CSS_PATH = "newhost.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(NEW_HOST)]

    def __init__(self, answers: dict[str, str], added: Callable[[str], None]) -> None:
        super().__init__()
        self.answers, self._added = answers, added
        self.checked: Checked | None = None
        self.tried = False  # problems of fields that nobody has filled in are shown, too
        self.asking = False  # the host is asked for its key

    def compose(self) -> ComposeResult:
        """The questions, the equal command line, and the way on."""
        yield Lines(id="top")
        yield VerticalScroll(id="form", can_focus=False)
        yield Paragraph(id="command")
        with Horizontal(id="buttons"):
            yield Lines(id="message")
            yield Button("Add", id="go", compact=True)
        yield Hints(hints(NEW_HOST))

    def on_mount(self) -> None:
        """Ask what there is to ask."""
        self._head()
        self._check(self._loaded)

    def on_resize(self, _event: events.Resize) -> None:
        """The head has the window's width."""
        self._head()

    def _head(self) -> None:
        top = spread([(" hosts   add", "strong")], [self.clock_cell()], self.size.width - 1)
        self.query_one("#top", Lines).show([top])

    # --- the engine's say ---

    def _check(self, then: Callable[[Checked], None]) -> None:
        """Have the answers checked; of several changes only the last counts."""
        answers, feed = dict(self.answers), self.aiok.feed
        self.aiok.do("new host", lambda: check(feed.engine, answers), then)

    def _loaded(self, checked: Checked) -> None:
        if not self.is_attached:  # the user went back meanwhile
            return
        fields = [Field(q, self.answers.get(q.key)) for q in checked.questions]
        self.query_one("#form").mount(*fields)
        self.call_after_refresh(self._enter, checked)

    def _enter(self, checked: Checked) -> None:
        self._told(checked)
        self.query(Field).first().take_focus()

    def _told(self, checked: Checked) -> None:
        """Problems to their fields, the command line below them."""
        if not self.is_attached or checked.answers != self.answers:
            return
        self.checked = checked
        shown = {key: text for key, text in checked.problems.items()
                 if self.tried or key in self.answers}  # fmt: skip
        for field in self.query(Field):
            field.problem(shown.get(field.question.key, ""))
        self.query_one("#command", Paragraph).say(f"the same by hand: {checked.line}", "dim")
        count = len(shown)
        self._say(f"! {count} problem{'s' * (count > 1)}" if count else "", "bad")

    def _say(self, text: str, tone: str) -> None:
        self.query_one("#message", Lines).show([[(text, tone)]])

    # --- the user ---

    @on(Field.Answered)
    def _answered(self, event: Field.Answered) -> None:
        self.answers[event.key] = event.text
        self._check(self._told)

    @on(Field.Finished)
    def _finished(self) -> None:
        """Enter in a field goes to the next one, or to the button."""
        self.focus_next()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Add."""
        event.stop()
        self.action_add_host()

    def action_add_host(self) -> None:
        """Fetch the key of the host, or show what is wrong with the answers."""
        if self.checked is not None and not self.asking:
            self.tried = True
            self._check(self._meet)

    def _meet(self, checked: Checked) -> None:
        self._told(checked)
        bad = [field for field in self.query(Field) if field.question.key in checked.problems]
        if bad:
            bad[0].take_focus()
        elif self.is_attached:
            answers = checked.answers
            self._ask(True)
            self.aiok.host_work.meet(
                answers, lambda key: self._compare(answers, key), self._not_met
            )

    def _ask(self, asking: bool) -> None:
        """Nothing is changed while the host is asked."""
        self.asking = asking
        self.query_one("#form").disabled = self.query_one("#go").disabled = asking
        self._say("asking the host for its key" if asking else "", "accent")
        if not asking:
            self.query_one("#go").focus()

    def _not_met(self, error: Exception) -> None:
        if self.is_attached:
            self._ask(False)
            self.aiok.show_problem(error)

    def _compare(self, answers: dict[str, str], key: HostKey) -> None:
        """Show the key; only a yes adds the host."""
        from aiok_tui.screens.confirm import ConfirmScreen

        if not self.is_attached:
            return
        self._ask(False)
        host = key.entry

        def answered(yes: bool | None) -> None:
            if yes:
                self.aiok.host_work.add(answers, key, self._added)
                self.give()
            else:
                self._say("not added: compare the fingerprint on the host itself", "warn")

        text = (
            f"{host.address} port {host.port} shows\n{key.fingerprint}\n\n"
            f"Compare it on the host itself:\n{key.to_compare}"
        )
        self.aiok.push_screen(ConfirmScreen(f"Is this the key of {host.name}?", text), answered)

    def action_copy_line(self) -> None:
        """Copy the equal command line."""
        if self.checked is not None:
            self.aiok.copy_to_clipboard(self.checked.line)
            self.aiok.say(f"copied: {self.checked.line}")

    def action_leave(self) -> None:
        """Back to the hosts; the answers stay."""
        self.give()
