"""A question before something is done: yes or no, or the name typed."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Input

from aiok_tui.widgets.paint import Lines, wrap


class ConfirmScreen(ModalScreen[bool]):
    """Gives True for yes. The focus is on No; with `name` that name must be typed first."""

    CSS_PATH = "confirm.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", show=False),
        Binding("n,escape", "answer(False)", show=False),
        Binding("left,right,h,l", "app.focus_next", show=False),
    ]

    def __init__(self, title: str, text: str, name: str = "") -> None:
        super().__init__()
        self.title_text, self.text, self.wanted = title, text, name

    def compose(self) -> ComposeResult:
        """The question and its answers."""
        with Vertical(id="box"):
            yield Lines(id="question")
            if self.wanted:
                yield Input(placeholder=f"type {self.wanted} to go on", compact=True)
            with Horizontal(id="answers"):
                yield Button("No", id="no", compact=True)
                yield Button("Yes", id="yes", compact=True, disabled=bool(self.wanted))

    def on_mount(self) -> None:
        """No, or the name, has the focus."""
        width = max(20, min(64, self.app.size.width) - 6)
        title = wrap(self.title_text, width, "strong")
        self.query_one("#question", Lines).show([*title, [], *wrap(self.text, width, "dim")])
        self.set_focus(self.query_one(Input if self.wanted else "#no"))

    def on_input_changed(self, event: Input.Changed) -> None:
        """Yes opens when the name is right."""
        self.query_one("#yes", Button).disabled = event.value != self.wanted

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter after the right name is a yes."""
        if event.value == self.wanted:
            self.dismiss(True)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """An answer."""
        self.dismiss(event.button.id == "yes")

    def action_answer(self, yes: bool) -> None:
        """An answer by key; y is not enough where a name is asked for."""
        if not (yes and self.wanted):
            self.dismiss(yes)
