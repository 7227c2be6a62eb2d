"""A line to type a search or a filter into; it is there only while it is used."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Input


class PromptLine(Input):
    """One line at the bottom of its container; enter gives it, escape gives it up."""

    DEFAULT_CSS = """
    PromptLine { dock: bottom; width: 1fr; background: $panel; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "give_up", show=False)]

    class GivenUp(Message):
        """Escape."""

    def __init__(self, placeholder: str, value: str = "") -> None:
        super().__init__(value=value, placeholder=placeholder, compact=True, select_on_focus=False)

    def action_give_up(self) -> None:
        """Close without a change."""
        self.post_message(self.GivenUp())
