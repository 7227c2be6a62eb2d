"""Lines of toned cells, and the one place where text becomes segments of the terminal.

Text from data, hosts and logs passes through `plain` here and nowhere else: no control byte gets
through, and no markup is read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.geometry import Size
from textual.strip import Strip
from textual.widget import Widget

from aiok_tui.widgets.glyphs import glyphs

Cell = tuple[str, str]  # (text, tone)
Line = Sequence[Cell]
TONES = ("plain", "dim", "strong", "accent", "good", "warn", "bad", "cursor", "hit")

_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor moves
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]{0,4096}(?:\x07|\x1b\\|\x9c)"  # OSC, DCS
    r"|\x1b[ -/]*[0-~]"
)
# C0, DEL and C1; zero-width and direction marks, variation selectors and lone surrogates, which
# make terminals and widths disagree
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\ud800-\udfff]"
)


def plain(text: str) -> str:
    """`text` as one line that no terminal takes for an order; tabs become spaces."""
    if text.isascii() and text.isprintable():
        return text
    return _CONTROL.sub("", _SEQUENCES.sub("", text).replace("\n", " ").expandtabs(4))


def fit(text: str, width: int, right: bool = False) -> str:
    """Exactly `width` cells: cut with a mark, or filled with spaces."""
    text = plain(text)
    length = cell_len(text)
    if length > width:
        return set_cell_size(text, max(0, width - 1)) + (glyphs().cut if width > 0 else "")
    return " " * (width - length) + text if right else text + " " * (width - length)


def width_of(line: Line) -> int:
    """Cells a line takes."""
    return sum(cell_len(plain(text)) for text, _ in line)


def spread(left: Line, right: Line, width: int) -> list[Cell]:
    """Both in one line of `width` cells, apart; the right one gives way when there is no room."""
    gap = width - width_of(left) - width_of(right)
    if gap < 1:
        return list(left)
    return [*left, (" " * gap, "plain"), *right]


class Painted(Widget):
    """A widget that draws toned cells."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"tone--{tone}" for tone in TONES}
    DEFAULT_CSS = """
    Painted {
        & > .tone--plain { color: $foreground; }
        & > .tone--dim { color: $text-muted; }
        & > .tone--strong { color: $foreground; text-style: bold; }
        & > .tone--accent { color: $text-accent; }
        & > .tone--good { color: $text-success; }
        & > .tone--warn { color: $text-warning; }
        & > .tone--bad { color: $text-error; text-style: bold; }
        & > .tone--cursor { background: $primary 30%; text-style: bold; }
        &:ansi > .tone--cursor { text-style: bold reverse; }
        & > .tone--hit { text-style: reverse; }
    }
    """

    def tone(self, name: str) -> Style:
        """The style of a tone in the current theme."""
        return self.get_component_rich_style(f"tone--{name}")

    def strip(self, line: Line, width: int, base: Style | None = None) -> Strip:
        """A line as a strip of exactly `width` cells; `base` is laid over every cell."""
        segments = []
        for text, tone in line:
            style = self.tone(tone)
            segments.append(Segment(plain(text), style + base if base else style))
        fill = base or self.rich_style
        return Strip(segments).adjust_cell_length(width, fill)


class Lines(Painted):
    """A block of lines; draws only when they change."""

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.lines: list[list[Cell]] = []

    def show(self, lines: Sequence[Line]) -> None:
        """Replace all lines."""
        fresh = [list(line) for line in lines]
        if fresh != self.lines:
            relayout = len(fresh) != len(self.lines)
            self.lines = fresh
            self.refresh(layout=relayout)

    def get_content_width(self, container: Size, viewport: Size) -> int:
        """The width of the widest line."""
        return max((width_of(line) for line in self.lines), default=0)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """One row a line."""
        return len(self.lines)

    def render_line(self, y: int) -> Strip:
        """One line of the content."""
        width = self.content_size.width
        return self.strip(self.lines[y] if y < len(self.lines) else [], width)


class Paragraph(Painted):
    """Text wrapped to whatever width the layout gives it; its first cells may stand out."""

    DEFAULT_CSS = "Paragraph { width: 1fr; height: auto; }"

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._said = ("", "plain", "", 0)

    def say(self, text: str, tone: str = "plain", indent: str = "", strong: int = 0) -> None:
        """Replace the text; "" takes no line."""
        fresh = (text, tone, indent, strong)
        if fresh != self._said:
            self._said = fresh
            self.refresh(layout=True)

    def lines_at(self, width: int) -> list[list[Cell]]:
        """The lines at a width."""
        text, tone, indent, strong = self._said
        lines = wrap(text, width, tone, indent) if text else []
        if lines and strong:
            first = lines[0][0][0]
            lines[0] = [(first[:strong], "strong"), (first[strong:], tone)]
        return lines

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """As many rows as the text needs at this width."""
        return len(self.lines_at(width))

    def render_line(self, y: int) -> Strip:
        """One line of the text."""
        width = self.content_size.width
        lines = self.lines_at(width)
        return self.strip(lines[y] if y < len(lines) else [], width)


def wrap(text: str, width: int, tone: str = "plain", indent: str = "") -> list[list[Cell]]:
    """Text as lines of at most `width` cells, cut at spaces; later lines are indented."""
    found: list[list[Cell]] = []
    room = max(2, width - cell_len(indent))
    for paragraph in text.splitlines() or [""]:
        row = ""
        for word in plain(paragraph).split(" "):
            for number, piece in enumerate(_pieces(word, room)):
                joined = f"{row} {piece}" if row and number == 0 else row + piece
                if row and cell_len(joined) > width:
                    found.append([(row, tone)])
                    joined = indent + piece
                row = joined
        found.append([(row, tone)])
    return found


def _pieces(word: str, width: int) -> list[str]:
    """A word in parts of at most `width` cells; one part is the rule."""
    parts = []
    while cell_len(word) > width:
        head = set_cell_size(word, width)
        head = head if word.startswith(head) else head[:-1]  # half of a wide sign became a space
        parts.append(head)
        word = word[len(head) :]
    return [*parts, word]
