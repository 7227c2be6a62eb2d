"""The trials of a search, the best marked, and what they come to."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import ScrollableContainer
from textual.screen import ModalScreen

from aiok_tui.trials import table_text
from aiok_tui.widgets.paint import Cell, Lines, wrap

if TYPE_CHECKING:
    from engine.hpo.results import Results


class TrialsScreen(ModalScreen[None]):
    """One line a trial, as `aiok trials` prints them."""

    CSS_PATH = "trials.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,t,enter", "dismiss", show=False)]

    def __init__(self, results: Results) -> None:
        super().__init__()
        self.results = results

    def compose(self) -> ComposeResult:
        """The panel."""
        with ScrollableContainer(id="box") as box:
            box.border_title = "trials"
            box.border_subtitle = "esc closes"
            yield Lines(id="text")

    def on_mount(self) -> None:
        """What is best first, then the table."""
        width = max(30, self.app.size.width - 12)
        head, *rows = table_text(self.results).splitlines()
        lines: list[list[Cell]] = [*wrap(self.results.found.words, width, "strong"), []]
        lines += [[(head, "dim")], *([(row, "plain")] for row in rows)]
        text = self.query_one("#text", Lines)
        text.styles.width = max(width, *(len(row) for row in (head, *rows)))
        text.show(lines)
        self.query_one("#box").focus()
