"""The error panel: what is wrong, why, what to do, where the log is. It never leaves the screen."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen

from aiok_tui.widgets.paint import Cell, Lines, wrap


def problem_lines(error: Exception, width: int) -> list[list[Cell]]:
    """The parts of an error, wrapped; an unknown one with its type."""
    what = str(getattr(error, "what", "") or f"{type(error).__name__}: {error}")
    lines = wrap(what, width, "bad")
    for label, name in (("why", "why"), ("do", "todo"), ("log", "log")):
        text = str(getattr(error, name, "") or "")
        if text:
            first, *rest = wrap(text, max(8, width - 5))
            lines += [[], [(f"{label:<4} ", "dim"), *first]]
            lines += [[("     ", "dim"), *line] for line in rest]
    return lines


class ProblemScreen(ModalScreen[None]):
    """One error over the screen where it happened."""

    CSS_PATH = "problem.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q,space", "dismiss", show=False),
        Binding("y", "copy", show=False),
    ]

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def compose(self) -> ComposeResult:
        """The panel."""
        with VerticalScroll(id="box") as box:
            box.border_title = "this did not work"
            box.border_subtitle = "esc closes   y copies"
            yield Lines(id="text")

    def on_mount(self) -> None:
        """Fill it."""
        width = max(20, min(90, self.app.size.width - 4) - 8)
        self.query_one("#text", Lines).show(problem_lines(self.error, width))
        self.query_one("#box").focus()

    def action_copy(self) -> None:
        """Copy the text."""
        self.app.copy_to_clipboard(str(self.error))
        self.app.notify("copied", timeout=2)
