"""One question of a form: its label, its field, what helps, what is wrong.

A question of kind choice shows its choices; a text with choices offers them while it is typed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.strip import Strip
from textual.suggester import SuggestFromList
from textual.widgets import Input

from aiok_tui.widgets.glyphs import glyphs
from aiok_tui.widgets.paint import Cell, Painted, Paragraph, fit

if TYPE_CHECKING:
    from engine.api import Question


class Choice(Painted, can_focus=True):
    """All choices, one a line; up and down move the mark, at the ends the focus goes on."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("enter", "finish", show=False),
    ]
    DEFAULT_CSS = "Choice { width: 1fr; height: auto; }"

    @dataclass
    class Picked(Message):
        """Another choice is marked."""

        value: str

    class Done(Message):
        """Enter."""

    def __init__(self, choices: tuple[tuple[str, str], ...], value: str) -> None:
        super().__init__()
        self.choices, self.value = choices, value
        self.styles.height = max(1, len(choices))

    def put(self, value: str) -> None:
        """Show a value, silently."""
        if value != self.value:
            self.value = value
            self.refresh()

    def _pick(self, place: int) -> None:
        if self.choices[place][0] != self.value:
            self.value = self.choices[place][0]
            self.refresh()
            self.post_message(self.Picked(self.value))

    def action_move(self, by: int) -> None:
        """Mark the next choice."""
        values = [value for value, _ in self.choices]
        if not values:
            return
        place = values.index(self.value) if self.value in values else -1
        if 0 <= place + by < len(values):
            self._pick(place + by)
        elif by > 0:
            self.screen.focus_next()
        else:
            self.screen.focus_previous()

    def action_finish(self) -> None:
        """Go on."""
        self.post_message(self.Done())

    def on_click(self, event: object) -> None:
        """A click marks."""
        place = getattr(event, "y", -1)
        if 0 <= place < len(self.choices):
            self._pick(place)

    def on_focus(self) -> None:
        """The mark is shown strong."""
        self.refresh()

    def on_blur(self) -> None:
        """The mark is shown quietly."""
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """One choice."""
        width = self.content_size.width
        if y >= len(self.choices):
            return self.strip([("there is nothing to choose from", "bad")], width)
        value, label = self.choices[y]
        mine = value == self.value
        on, off = ("●", "○") if glyphs().braille else ("(x)", "( )")
        text = fit(f"{on if mine else off} {label or value}", width)
        line: list[Cell] = [(text, "plain" if mine else "dim")]
        return self.strip(line, width, self.tone("cursor") if mine and self.has_focus else None)


class Field(Vertical):
    """Asks one question. The value is the answer, or else the default."""

    DEFAULT_CSS = """
    Field { height: auto; width: 1fr; margin-bottom: 1; }
    Field > Input { width: 1fr; max-width: 64; }
    """

    @dataclass
    class Answered(Message):
        """The user changed the value."""

        key: str
        text: str

    class Finished(Message):
        """Enter: the user is done with this field."""

    def __init__(self, question: Question, answer: str | None) -> None:
        super().__init__()
        self.question = question
        self.value = question.default if answer is None else answer
        self._problem = ""

    def compose(self) -> ComposeResult:
        """Label and help, the field, the problem."""
        yield Paragraph(classes="label")
        if self.question.kind == "choice":
            yield Choice(self.question.choices, self.value)
        else:
            offers = [value for value, _ in self.question.choices]
            suggester = SuggestFromList(offers) if offers else None
            yield Input(self.value, compact=True, select_on_focus=False, suggester=suggester)
        yield Paragraph(classes="problem")

    def on_mount(self) -> None:
        """The words around the field."""
        self._label()
        self._say_problem()

    def _label(self) -> None:
        words = f"{self.question.label}  {self.question.help}"
        label = self.query_one(".label", Paragraph)
        label.say(words, "dim", strong=len(self.question.label))

    @property
    def has_focus_within(self) -> bool:
        """Whether the user is in this field."""
        return any(child.has_focus for child in self.children)

    def take_focus(self) -> None:
        """Go into the field."""
        for child in self.children:
            if child.can_focus:
                child.focus(scroll_visible=False)

    def on_descendant_focus(self) -> None:
        """Label and problem come into sight with the field."""
        self.call_after_refresh(self.scroll_visible, animate=False)

    def renew(self, question: Question, answer: str | None) -> None:
        """Other words, and another default where the user said nothing."""
        self.question = question
        value = question.default if answer is None else answer
        if value != self.value and not self.has_focus_within:
            self.value = value
            for child in self.children:
                if isinstance(child, Choice):
                    child.put(value)
                elif isinstance(child, Input):
                    child.value = value
        self._label()

    def problem(self, text: str) -> None:
        """What is wrong with the answer, in words; "" = nothing."""
        if text != self._problem:
            self._problem = text
            self._say_problem()

    def _say_problem(self) -> None:
        text = f"! {self._problem}" if self._problem else ""
        self.query_one(".problem", Paragraph).say(text, "bad", "  ")

    @on(Choice.Picked)
    def _picked(self, event: Choice.Picked) -> None:
        event.stop()
        self._say(event.value)

    @on(Input.Changed)
    def _changed(self, event: Input.Changed) -> None:
        event.stop()
        self._say(event.value)

    def _say(self, text: str) -> None:
        if text != self.value:
            self.value = text
            self.post_message(self.Answered(self.question.key, text))

    @on(Choice.Done)
    @on(Input.Submitted)
    def _done(self, event: Message) -> None:
        event.stop()
        self.post_message(self.Finished())
