"""A line chart of braille dots: each column shows the least and the greatest value in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from textual.strip import Strip

from aiok_tui.widgets.glyphs import glyphs
from aiok_tui.widgets.paint import Cell, Painted, fit

_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # [dot row][dot column]
_TONES = ("accent", "good", "warn", "bad")
_MARKS = "*o+x"


class Series(NamedTuple):
    """A curve: finite or not, in order of x."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]


class Span(NamedTuple):
    """The least and the greatest of an axis."""

    low: float
    high: float

    def part(self, value: float) -> float:
        """Where a value lies, 0..1."""
        return (value - self.low) / (self.high - self.low)


def span_of(values: Sequence[float]) -> Span | None:
    """The span of the finite values, widened when they are all equal; None without any."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return None
    low, high = min(finite), max(finite)
    if high - low < 1e-9 * max(1.0, abs(low), abs(high)):
        pad = 0.05 * abs(high) or 1.0
        return Span(low - pad, high + pad)
    return Span(low, high)


def buckets(series: Series, x: Span, y: Span, columns: int, rows: int) -> list[tuple[int, int]]:
    """(lowest, highest) dot row of each dot column, row 0 at the bottom; (1, 0) = nothing there.

    Neighbouring columns are joined, so that a curve has no holes; gaps without points stay empty.
    """
    found = [(1, 0)] * columns
    last: tuple[int, int] | None = None
    for at, value in zip(series.xs, series.ys, strict=False):
        if not (math.isfinite(at) and math.isfinite(value)):
            last = None
            continue
        column = min(columns - 1, max(0, int(x.part(at) * (columns - 1) + 0.5)))
        row = min(rows - 1, max(0, int(y.part(value) * (rows - 1) + 0.5)))
        if last is not None and column > last[0] + 1:
            wide = column - last[0]
            for step in range(1, wide):
                between = round(last[1] + (row - last[1]) * step / wide)
                found[last[0] + step] = _join(found[last[0] + step], between)
        elif last is not None and abs(row - last[1]) > 1:
            middle = last[1] + (1 if row > last[1] else -1)
            found[column] = _join(found[column], middle)
        found[column] = _join(found[column], row)
        last = (column, row)
    return found


def _join(bucket: tuple[int, int], row: int) -> tuple[int, int]:
    low, high = bucket
    return (row, row) if low > high else (min(low, row), max(high, row))


def canvas(
    all_series: Sequence[Series], width: int, height: int, braille: bool
) -> list[list[Cell]]:
    """The curves on `width` x `height` cells, top line first."""
    x = span_of([value for series in all_series for value in series.xs])
    y = span_of([value for series in all_series for value in series.ys])
    blank = [[(" " * width, "plain")] for _ in range(height)]
    if x is None or y is None or width < 1 or height < 1:
        return list(blank)
    across, down = (2, 4) if braille else (1, 1)
    dots = [[0] * width for _ in range(height)]
    owner = [[-1] * width for _ in range(height)]
    for number, series in enumerate(all_series):
        found = buckets(series, x, y, width * across, height * down)
        for column, (low, high) in enumerate(found):
            for row in range(low, high + 1):
                line = height - 1 - row // down
                dots[line][column // across] |= _BITS[down - 1 - row % down][column % across]
                owner[line][column // across] = number
    return [_line(dots[i], owner[i], braille) for i in range(height)]


def _line(dots: Sequence[int], owner: Sequence[int], braille: bool) -> list[Cell]:
    """Neighbouring cells of one curve joined to one cell."""
    cells: list[Cell] = []
    for bits, number in zip(dots, owner, strict=True):
        mark = chr(0x2800 + bits) if braille and bits else _MARKS[number % 4] if bits else " "
        tone = _TONES[number % 4] if bits else "plain"
        if cells and cells[-1][1] == tone:
            cells[-1] = (cells[-1][0] + mark, tone)
        else:
            cells.append((mark, tone))
    return cells


def short(value: float) -> str:
    """A number for an axis: 0.7913, 12.5k, 3.0M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (limit if unit != 'k' else 1e3):.3g}{unit}"
    return f"{value:.4g}"


class LineChart(Painted):
    """Curves with their axes. `show` draws again only when the curves have changed."""

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.series: list[Series] = []
        self.x_name = ""
        self.empty = "no figures yet"
        self._key: object = None
        self._drawn: list[list[Cell]] = []
        self._drawn_for: object = None

    def show(self, series: Sequence[Series], x_name: str, empty: str = "no figures yet") -> None:
        """Replace the curves."""
        key = (x_name, empty, [(s.name, len(s.xs), *s.xs[-1:], *s.ys[-1:]) for s in series])
        if key != self._key:
            self._key = key
            self.series, self.x_name, self.empty = list(series), x_name, empty
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """One line of the chart."""
        width, height = self.content_size
        wanted = (self._key, width, height)
        if self._drawn_for != wanted:
            self._drawn, self._drawn_for = self.draw(width, height), wanted
        return self.strip(self._drawn[y] if y < len(self._drawn) else [], width)

    def draw(self, width: int, height: int) -> list[list[Cell]]:
        """All lines: a legend, the canvas with a y axis, an x axis."""
        full = [s for s in self.series if any(math.isfinite(value) for value in s.ys)]
        y = span_of([value for s in full for value in s.ys])
        x = span_of([value for s in full for value in s.xs])
        if y is None or x is None or height < 4 or width < 16:
            return [[(fit(self.empty if not full else "no room for a chart", width), "dim")]]
        left = max(len(short(y.low)), len(short(y.high))) + 1
        legend: list[Cell] = []
        for number, s in enumerate(full):
            mark = "━" if glyphs().braille else _MARKS[number % 4]
            last = next((v for v in reversed(s.ys) if math.isfinite(v)), math.nan)
            legend += [(f"{mark} {s.name} {last:.4g}   ", _TONES[number % 4])]
        drawn = canvas(full, width - left, height - 2, glyphs().braille)
        lines: list[list[Cell]] = [legend]
        middle = (height - 2) // 2
        labels = {0: y.high, middle: y.high - (y.high - y.low) * middle / max(1, height - 3),
                  height - 3: y.low}  # fmt: skip
        for number, row in enumerate(drawn):
            label = short(labels[number]) if number in labels else ""
            lines.append([(fit(label, left - 1, right=True) + " ", "dim"), *row])
        tail = f"{short(x.high)} {self.x_name}"
        start = short(x.low)
        gap = max(1, width - left - len(start) - len(tail))
        lines.append([(" " * left + start + " " * gap + tail, "dim")])
        return lines
