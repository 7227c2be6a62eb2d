"""The line that shows where one is in the wizard."""

from __future__ import annotations

from collections.abc import Sequence

from aiok_tui.widgets.glyphs import glyphs
from aiok_tui.widgets.paint import Cell, Lines


class Stepper(Lines):
    """1 Dataset OK > [2 Model 1 problem] > 3 Cluster > ..."""

    def steps(self, steps: Sequence[tuple[str, str]], current: int, width: int) -> None:
        """Show (title, state) of each step; the state is a word: "", ok, stale or `n problems`."""
        cells: list[Cell] = []
        narrow = width < 20 * len(steps)
        for number, (title, state) in enumerate(steps):
            here = number == current
            label = f"{number + 1} {title}" if here or not narrow else f"{number + 1}"
            tone = "accent" if here else "dim" if not state else "plain"
            cells.append((f"[{label}]" if here else label, "strong" if here else tone))
            word = {"ok": glyphs().signs["done"], "stale": "look again"}.get(state, state)
            if word:
                mark = {"ok": "good", "stale": "warn"}.get(state, "bad")
                cells.append((f" {word}", mark))
            if number + 1 < len(steps):
                cells.append((f"  {glyphs().more}  ", "dim"))
        self.show([cells])
