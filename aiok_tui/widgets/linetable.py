"""A table of lines with a cursor that stays on its row when rows come, go or move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from aiok_tui.widgets.paint import Cell, Painted, fit


@dataclass(frozen=True)
class Column:
    """A column of `width` cells; 0 = an equal share of what the others leave."""

    title: str
    width: int = 0
    right: bool = False


@dataclass
class Row:
    """A row; `key` tells it from the others whatever its place."""

    key: str
    cells: list[Cell] = field(default_factory=list)


class LineTable(Painted, ScrollView, can_focus=True):
    """Draws only the visible rows; the head, if any, is always on top."""

    DEFAULT_CSS = """
    LineTable { overflow-x: hidden; overflow-y: auto; scrollbar-size-vertical: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup,ctrl+u", "page(-1)", show=False),
        Binding("pagedown,ctrl+d", "page(1)", show=False),
        Binding("home,g", "move(-1000000000)", show=False),
        Binding("end,G", "move(1000000000)", show=False),
        Binding("enter", "choose", show=False),
    ]

    @dataclass
    class Highlighted(Message):
        """The cursor is on another row."""

        table: LineTable
        key: str
        by_user: bool = True

        @property
        def control(self) -> LineTable:
            """The table, for selectors."""
            return self.table

    @dataclass
    class Chosen(Highlighted):
        """Enter or a click on the row of the cursor."""

    def __init__(self, *, head: bool = True, id: str | None = None) -> None:
        super().__init__(id=id)
        self.head = head
        self.columns: list[Column] = []
        self.rows: list[Row] = []
        self.cursor: str | None = None

    # --- content ---

    def show(self, columns: Sequence[Column], rows: Sequence[Row]) -> None:
        """Replace columns and rows; the cursor keeps its row, or else its place."""
        if list(columns) == self.columns and list(rows) == self.rows:
            return
        place = self.place
        self.columns, self.rows = list(columns), list(rows)
        keys = [row.key for row in self.rows]
        if self.cursor not in keys:
            self._point(keys[min(max(place, 0), len(keys) - 1)] if keys else None, by_user=False)
        self.virtual_size = Size(self.size.width, len(self.rows) + self.head)
        self.refresh()

    @property
    def place(self) -> int:
        """The index of the cursor's row, -1 without rows."""
        return next((i for i, row in enumerate(self.rows) if row.key == self.cursor), -1)

    def point(self, key: str, *, by_user: bool = False) -> None:
        """Put the cursor on a row, if it is there."""
        if key != self.cursor and any(row.key == key for row in self.rows):
            self._point(key, by_user)
            self._reveal()

    def _point(self, key: str | None, by_user: bool) -> None:
        self.cursor = key
        self.refresh()
        if key is not None:
            self.post_message(self.Highlighted(self, key, by_user))

    def _reveal(self) -> None:
        place, room = self.place, self.size.height - self.head
        top = round(self.scroll_y)
        if place < top:
            self.scroll_to(y=place, animate=False, force=True)
        elif place >= top + room:
            self.scroll_to(y=place - room + 1, animate=False, force=True)

    # --- keys and mouse ---

    def action_move(self, by: int) -> None:
        """Move the cursor by so many rows."""
        if self.rows:
            place = max(0, min(len(self.rows) - 1, self.place + by))
            self.point(self.rows[place].key, by_user=True)

    def action_page(self, by: int) -> None:
        """Move the cursor by so many pages."""
        self.action_move(by * max(1, self.size.height - self.head - 1))

    def action_choose(self) -> None:
        """Say that the row of the cursor was chosen."""
        if self.cursor is not None:
            self.post_message(self.Chosen(self, self.cursor))

    def on_click(self, event: events.Click) -> None:
        """A click moves the cursor; a second one on the same row chooses it."""
        place = event.y - self.gutter.top - self.head + round(self.scroll_y)
        if 0 <= place < len(self.rows):
            if self.rows[place].key == self.cursor:
                self.action_choose()
            else:
                self.point(self.rows[place].key, by_user=True)

    # --- drawing ---

    def widths(self) -> list[int]:
        """The cells of each column in the present width."""
        fixed = sum(column.width for column in self.columns)
        open_ones = sum(column.width == 0 for column in self.columns)
        gaps = 2 * len(self.columns)  # the mark of the cursor is two cells wide, too
        room = max(0, self.scrollable_content_region.width - fixed - gaps)
        return [column.width or room // max(1, open_ones) for column in self.columns]

    def render_line(self, y: int) -> Strip:
        """The head, or a row."""
        width = self.size.width
        widths = self.widths()
        if self.head and y == 0:
            titles = [(column.title, "dim") for column in self.columns]
            return self.strip(self._line(titles, widths, "  "), width)
        place = y - self.head + round(self.scroll_y)
        if not 0 <= place < len(self.rows):
            return Strip.blank(width, self.rich_style)
        row = self.rows[place]
        if row.key != self.cursor:
            return self.strip(self._line(row.cells, widths, "  "), width)
        base: Style | None = self.tone("cursor") if self.has_focus else None
        return self.strip(self._line(row.cells, widths, "> "), width, base)

    def _line(self, cells: Sequence[Cell], widths: Sequence[int], mark: str) -> list[Cell]:
        line: list[Cell] = [(mark, "accent")]
        for (text, tone), column, width in zip(cells, self.columns, widths, strict=False):
            line += [(fit(text, width, column.right), tone), ("  ", "plain")]
        return line[:-1]

    def on_focus(self) -> None:
        """The cursor is shown strong."""
        self.refresh()

    def on_blur(self) -> None:
        """The cursor is shown as a mark."""
        self.refresh()
