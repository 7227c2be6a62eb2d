"""The view of one log file: draws visible lines only, follows until the user scrolls up, finds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from aiok_tui.widgets.glyphs import glyphs
from aiok_tui.widgets.logfile import HITS, LogFile
from aiok_tui.widgets.paint import Cell, Painted

_BAD = re.compile(r"\b(error|failed|failure|traceback|exception|killed)\b", re.IGNORECASE)
_WARN = re.compile(r"\b(warn(ing)?)\b", re.IGNORECASE)


class LogView(Painted, ScrollView, can_focus=True):
    """Shows a LogFile. `draw` is called by the app's one timer, never by the file."""

    DEFAULT_CSS = """
    LogView { overflow-x: hidden; overflow-y: auto; scrollbar-size-vertical: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("k", "scroll_up", show=False),
        Binding("j", "scroll_down", show=False),
        Binding("ctrl+u", "page_up", show=False),
        Binding("ctrl+d", "page_down", show=False),
        Binding("g", "scroll_home", show=False),
        Binding("G", "scroll_end", show=False),
        Binding("left,h", "aside(-16)", show=False),
        Binding("right,l", "aside(16)", show=False),
    ]

    @dataclass
    class Changed(Message):
        """Follow, search or line count changed; the title tells it."""

        view: LogView

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.log_file: LogFile | None = None
        self.follow = True
        self.needle = ""
        self.at_hit = -1
        self.left = 0
        self._version = -1
        self._left_at = 0  # lines when the follow stopped
        self._jump_when_found = False

    # --- content ---

    def open(self, log_file: LogFile | None) -> None:
        """Show another file, from its end."""
        self.log_file, self.follow, self._version, self.left = log_file, True, -1, 0
        self.at_hit, self.needle = -1, ""
        self.draw()

    def draw(self) -> None:
        """Take over what is new in the file."""
        log = self.log_file
        version = log.version if log else 0
        if version == self._version:
            if self.follow and self.scroll_y < self.max_scroll_y:
                self._to_end()  # the window got its size, or became smaller, after the last line
            self._mend_scrollbar()
            return
        self._version = version
        lines = log.lines if log else 0
        if lines != self.virtual_size.height:
            self.virtual_size = Size(self.size.width, lines)
        if self._jump_when_found and log is not None and (log.hits or not log.searching):
            self._jump_when_found = False
            self._first_hit(log)
        if self.follow:
            self._to_end()
        self.refresh()
        self.post_message(self.Changed(self))

    def _mend_scrollbar(self) -> None:
        """A scrollbar that was not there yet when the view scrolled has missed it."""
        if self.show_vertical_scrollbar and self.vertical_scrollbar.position != self.scroll_y:
            self.vertical_scrollbar.position = self.scroll_y

    @property
    def new_below(self) -> int:
        """Lines that came since the follow stopped."""
        return max(0, (self.log_file.lines if self.log_file else 0) - self._left_at)

    def title(self) -> str:
        """What there is to know of the view in a few words."""
        log = self.log_file
        if log is None:
            return "no log yet"
        parts = [f"{log.lines:,} line{'s' * (log.lines != 1)}"]
        if self.follow:
            parts.append("FOLLOW")
        else:
            parts.append(f"FOLLOW OFF, {self.new_below:,} new below (f)")
        if self.needle:
            more = "+" if log.searching or log.hits >= HITS else ""
            at = f"{self.at_hit + 1:,} of " if self.at_hit >= 0 else ""
            none = "looking" if log.searching else "not found"
            parts.append(f"/{self.needle}/ " + (f"{at}{log.hits:,}{more}" if log.hits else none))
        return f" {glyphs().dot} ".join(parts)

    # --- follow ---

    def _to_end(self) -> None:
        self.scroll_to(y=self.max_scroll_y, animate=False, force=True)

    def set_follow(self, on: bool) -> None:
        """Keep the last line in sight, or stay where the user is."""
        if on != self.follow:
            self.follow = on
            self._left_at = self.log_file.lines if self.log_file else 0
        if on:
            self._to_end()
        self.refresh()
        self.post_message(self.Changed(self))

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Scrolling up, by whatever means, ends the follow; a window that grew does not."""
        super().watch_scroll_y(old_value, new_value)
        if self.follow and new_value < old_value and new_value < self.max_scroll_y:
            self.set_follow(False)

    def on_resize(self, _event: events.Resize) -> None:
        """The end stays in sight."""
        if self.follow:
            self.call_after_refresh(self._to_end)

    def action_aside(self, by: int) -> None:
        """Look further right or left; never done by the follow."""
        self.left = max(0, min(960, self.left + by))
        self.refresh()

    # --- search ---

    def find(self, needle: str) -> None:
        """Search and go to the first hit from here; "" ends the search."""
        self.needle, self.at_hit = needle, -1
        if self.log_file is not None:
            self._jump_when_found = bool(needle)
            self.log_file.search(needle)
        self.refresh()
        self.post_message(self.Changed(self))

    def _first_hit(self, log: LogFile) -> None:
        if log.hits:
            top = 0 if self.follow else round(self.scroll_y)
            self._go_to(log, min(log.hit_from(top), log.hits - 1))

    def next_hit(self, by: int) -> None:
        """Go to the next hit (by 1) or the one before (by -1), around the ends."""
        log = self.log_file
        if log is not None and log.hits:
            self._go_to(log, (self.at_hit + by) % log.hits)

    def _go_to(self, log: LogFile, number: int) -> None:
        self.at_hit = number
        if self.follow:
            self.set_follow(False)
        line = log.hit(number)
        self.scroll_to(y=max(0, line - self.size.height // 2), animate=False, force=True)
        self.refresh()
        self.post_message(self.Changed(self))

    # --- drawing ---

    def render_line(self, y: int) -> Strip:
        """One visible line."""
        number = y + round(self.scroll_y)
        width = self.size.width
        log = self.log_file
        if log is None or number >= log.lines:
            return Strip.blank(width, self.rich_style)
        text = log.line(number)
        tone = "bad" if _BAD.search(text) else "warn" if _WARN.search(text) else "plain"
        at_hit = self.at_hit >= 0 and self.at_hit < log.hits and log.hit(self.at_hit) == number
        cells = self._marked(text[self.left :], tone, at_hit)
        return self.strip(cells, width)

    def _marked(self, text: str, tone: str, at_hit: bool) -> list[Cell]:
        """The line with what was searched for marked; the hit of the cursor wholly."""
        if not self.needle:
            return [(text, tone)]
        if at_hit:
            tone = "strong"
        cells: list[Cell] = []
        last = 0
        for found in re.finditer(re.escape(self.needle), text, re.IGNORECASE):
            cells += [(text[last : found.start()], tone), (found.group(), "hit")]
            last = found.end()
        return [*cells, (text[last:], tone)]
