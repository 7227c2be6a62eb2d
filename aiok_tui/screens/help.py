"""The help: every action of a screen, from the registry."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen

from aiok_tui.actions import actions_of, key_name
from aiok_tui.widgets.paint import Cell, Lines, wrap

MOVES = (
    ("arrows, j k", "move; in the log: scroll"),
    ("g G", "first, last"),
    ("tab", "next panel or field"),
    ("ctrl+c", "asks whether to close the app; never ends a run"),
)


class HelpScreen(ModalScreen[None]):
    """What can be done on one screen, with the command line's equal."""

    CSS_PATH = "help.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,f1,enter", "dismiss", show=False)
    ]

    def __init__(self, area: str) -> None:
        super().__init__()
        self.area = area

    def compose(self) -> ComposeResult:
        """The panel."""
        with VerticalScroll(id="box") as box:
            box.border_title = "keys"
            box.border_subtitle = "esc closes"
            yield Lines(id="text")

    def on_mount(self) -> None:
        """One line an action."""
        width = max(30, min(86, self.app.size.width - 4) - 6)
        lines: list[list[Cell]] = []
        for action in actions_of(self.area):
            verb = f"  (aiok {action.verb})" if action.verb else ""
            lines += self._entry(key_name(action.keys), action.help + verb, width)
        lines.append([])
        for key, text in MOVES:
            lines += self._entry(key, text, width)
        self.query_one("#text", Lines).show(lines)
        self.query_one("#box").focus()

    @staticmethod
    def _entry(key: str, text: str, width: int) -> list[list[Cell]]:
        first, *rest = wrap(text, width - 14)
        return [[(f"{key:<13} ", "accent"), *first], *([(" " * 14, "dim"), *r] for r in rest)]
