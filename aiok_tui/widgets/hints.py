"""The footer: the keys of a screen, as many as the window holds."""

from __future__ import annotations

from collections.abc import Sequence

from textual.strip import Strip

from aiok_tui.widgets.paint import Cell, Painted, width_of


class Hints(Painted):
    """One line of keys and labels; what does not fit is behind the help key."""

    DEFAULT_CSS = "Hints { height: 1; padding: 0 1; background: $panel; }"

    def __init__(self, hints: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self.hints = list(hints)

    def show(self, hints: Sequence[tuple[str, str]]) -> None:
        """Replace the keys."""
        if list(hints) != self.hints:
            self.hints = list(hints)
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """Draw the line; the last hint (help) always has a place."""
        width = self.content_size.width
        line: list[Cell] = []
        last = self._pair(*self.hints[-1]) if self.hints else []
        for key, label in self.hints[:-1]:
            pair = self._pair(key, label)
            if width_of(line) + width_of(pair) + width_of(last) > width:
                continue
            line += pair
        return self.strip([*line, *last], width)

    @staticmethod
    def _pair(key: str, label: str) -> list[Cell]:
        return [(key, "accent"), (f" {label}   ", "dim")]
