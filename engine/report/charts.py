"""Charts as inline SVG: no script, no external resource, colours by CSS class.

Every text that came from outside is escaped here; the functions return Markup, which the template
takes as it is. Coordinates are CSS pixels of a drawing `WIDTH` wide that scales with the page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

from engine.report.plaintext import show, show_seconds

WIDTH = 520
_LEFT, _RIGHT, _TOP = 52, 14, 12


@dataclass(frozen=True)
class Line:
    """One line of a chart; `slot` (1..3) picks its colour, `marked` draws its points, `dots` them
    alone."""

    label: str
    points: Sequence[tuple[float, float]]
    slot: int = 1
    marked: bool = False
    dots: bool = False


@dataclass(frozen=True)
class Level:
    """A horizontal reference line."""

    label: str
    value: float


@dataclass(frozen=True)
class Frame:
    """What a line chart shows besides its lines. `bands` = (from, to, label) on the x axis."""

    name: str
    x_unit: str = "rows"
    unit: str = ""
    from_zero: bool = False
    top: float | None = None
    levels: Sequence[Level] = ()
    bands: Sequence[tuple[float, float, str]] = ()
    pauses: Sequence[float] = ()
    height: int = 200
    x_span: tuple[float, float] | None = None
    logarithmic: bool = False  # both axes; every number has to be above 0


@dataclass(frozen=True)
class Dot:
    """One point of a plane; `slot` as of a line, `said` is its tooltip."""

    x: float
    y: float
    said: str
    slot: int = 1


@dataclass(frozen=True)
class Plane:
    """What a scatter chart shows besides its dots; `joined`: those not of slot 2 are one line."""

    name: str
    x_unit: str = ""
    y_unit: str = ""
    joined: bool = False
    height: int = 220


@dataclass(frozen=True)
class Bar:
    """One horizontal bar; `mark` is drawn as a tick across it."""

    label: str
    value: float | None
    text: str
    mark: float | None = None
    classes: str = field(default="s1")


def tag(name: str, *children: Markup | str, **attributes: str | float) -> Markup:
    """One SVG element; `class_` and `text_anchor` become class and text-anchor."""
    written = Markup("").join(
        Markup(' {}="{}"').format(
            key.rstrip("_").replace("_", "-"),
            f"{value:.6g}" if isinstance(value, float) else value,
        )
        for key, value in attributes.items()
    )
    inner = Markup("").join(escape(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, inner)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten) that cover low..high."""
    if high - low <= 1e-12 * max(1.0, abs(low)):
        high = low + (abs(low) * 0.1 if abs(low) > 1e-9 else 1.0)
    raw = (high - low) / max(1, wanted - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def powers(low: float, high: float) -> list[float]:
    """The powers of ten that cover low..high, both above 0; at least two."""
    first = math.floor(math.log10(low) + 1e-9)
    last = max(math.ceil(math.log10(high) - 1e-9), first + 1)
    return [10.0**power for power in range(first, last + 1)]


def short(value: float) -> str:
    """An axis number: 250k, 1.5M, 0.72."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def time_ticks(seconds: float) -> tuple[list[float], float, str]:
    """Times from 0 that are round in one unit: the seconds, the unit's length, the unit."""
    length, unit = next(
        (pair for pair in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")) if seconds >= 3 * pair[0]),
        (1.0, "s"),
    )
    marks = ticks(0.0, seconds / length, 6)
    return [mark * length for mark in marks], length, unit


def line_chart(lines: Sequence[Line], frame: Frame) -> Markup:
    """Lines over one shared y axis; an empty Markup when there is no point to draw."""
    lines = [line for line in lines if line.points]
    if not lines:
        return Markup("")
    x_axis, y_axis = _axes(lines, frame)
    scale = _Scale(frame, x_axis, y_axis)
    parts = [
        *_bands(frame, scale),
        *_grid(frame, scale, x_axis, y_axis),
        *_levels(frame, scale),
        *(_draw(line, scale, frame) for line in lines),
    ]
    words = "; ".join(f"{line.label}: last {line.points[-1][1]:.4g}" for line in lines)
    return _svg(frame.height, f"{frame.name}. {words}", parts)


def bar_chart(bars: Sequence[Bar], name: str) -> Markup:
    """Horizontal bars of seconds, their text at the tip; without a value there is text only."""
    known = [v for bar in bars for v in (bar.value, bar.mark) if v is not None]
    if not known:
        return Markup("")
    left, right, row = 184, 84, 28
    longest = max(max(known), 1e-9)
    room = WIDTH - left - right
    parts: list[Markup] = []
    for index, bar in enumerate(bars):
        middle = index * row + row / 2 + 4
        parts.append(tag("text", _fit(bar.label, left - 14, 7.3), class_="label", x=left - 10,
                         y=middle + 4, text_anchor="end"))  # fmt: skip
        width = room * (bar.value or 0.0) / longest
        if bar.value is not None:
            parts.append(tag("path", tag("title", f"{bar.label}: {bar.text}"), class_=bar.classes,
                             d=_rounded_bar(left, middle - 8, max(width, 1.5), 16)))  # fmt: skip
        tip = width
        if bar.mark is not None:
            at = left + room * bar.mark / longest
            tip = max(tip, at - left)
            words = f"estimate: {show_seconds(bar.mark)}"
            parts.append(tag("line", tag("title", words), class_="mark", x1=at, x2=at,
                             y1=middle - 11, y2=middle + 11))  # fmt: skip
        parts.append(tag("text", bar.text, class_="value", x=left + tip + 8, y=middle + 4))
    height = len(bars) * row + 8
    parts.append(tag("line", class_="axis", x1=left, x2=left, y1=4, y2=height - 4))
    return _svg(height, f"{name}. " + "; ".join(f"{bar.label}: {bar.text}" for bar in bars), parts)


def scatter_chart(dots: Sequence[Dot], plane: Plane) -> Markup:
    """Dots over two axes with round numbers; an empty Markup when there is none."""
    if not dots:
        return Markup("")
    frame = Frame(plane.name, height=plane.height)
    x_axis = ticks(min(dot.x for dot in dots), max(dot.x for dot in dots))
    y_axis = ticks(min(dot.y for dot in dots), max(dot.y for dot in dots))
    scale = _Scale(frame, x_axis, y_axis)
    parts = [*_rulers(scale, y_axis)]
    for value in x_axis:
        at = scale.x(value)
        near = at > WIDTH - 30
        parts.append(tag("text", short(value), class_="tick", x=WIDTH if near else at,
                         y=scale.bottom + 15, text_anchor="end" if near else "middle"))  # fmt: skip
    ahead = sorted((dot.x, dot.y) for dot in dots if dot.slot != 2)
    if plane.joined and len(ahead) > 1:
        path = "M" + "L".join(f"{scale.x(x):.6g} {scale.y(y):.6g}" for x, y in ahead)
        parts.append(tag("g", tag("path", class_="line", d=path), class_="s1"))
    for dot in sorted(dots, key=lambda one: -one.slot % 3):  # the front lies above the others
        circle = tag("circle", tag("title", dot.said), class_="dot", cx=scale.x(dot.x),
                     cy=scale.y(dot.y), r=4)  # fmt: skip
        parts.append(tag("g", circle, class_=f"s{dot.slot}"))
    return _svg(plane.height, f"{plane.name}. {len(dots)} points", parts)


class _Scale:
    """Data to pixels."""

    def __init__(self, frame: Frame, x_axis: list[float], y_axis: list[float]) -> None:
        self.x_low, self.x_high = x_axis[0], x_axis[-1]
        self.y_low, self.y_high = y_axis[0], y_axis[-1]
        self.bottom = frame.height - (40 if frame.bands else 26)
        self.top = _TOP
        self.logarithmic = frame.logarithmic

    def x(self, value: float) -> float:
        """Pixels from the left."""
        part = self._part(value, self.x_low, self.x_high)
        return round(_LEFT + part * (WIDTH - _LEFT - _RIGHT), 2)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        part = self._part(value, self.y_low, self.y_high)
        return round(self.bottom - part * (self.bottom - self.top), 2)

    def _part(self, value: float, low: float, high: float) -> float:
        if self.logarithmic:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return (value - low) / ((high - low) or 1.0)


def _axes(lines: Sequence[Line], frame: Frame) -> tuple[list[float], list[float]]:
    """x: both ends of the data and the round numbers between; y: round numbers that cover it."""
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points] + [level.value for level in frame.levels]
    if frame.logarithmic:
        return sorted(set(xs)), powers(min(ys), max(ys))
    low, high = (0.0 if frame.from_zero else min(ys)), max(ys)
    if frame.from_zero and high <= 0:
        high = 1.0
    y_axis = ticks(low, high) if frame.top is None else ticks(0.0, max(frame.top, high))
    x_low, x_high = frame.x_span or (min(0.0, *xs, 0.0), max(xs))
    x_high = max(x_high, x_low + 1.0)
    marks = time_ticks(x_high)[0] if frame.x_unit == "s" else ticks(x_low, x_high, 6)
    inside = [x for x in marks if x_low < x < x_high]
    return [x_low, *inside, x_high], y_axis


def _grid(
    frame: Frame, scale: _Scale, x_axis: Sequence[float], y_axis: Sequence[float]
) -> list[Markup]:
    parts = _rulers(scale, y_axis)
    _, length, unit = time_ticks(x_axis[-1])
    # without logarithms the last one is the end of the data, seldom a round number
    for value in x_axis if frame.logarithmic else x_axis[:-1]:
        at = scale.x(value)
        text = short(value) if frame.x_unit != "s" else f"{value / length:.4g} {unit}"
        if frame.logarithmic:
            text = f"{value:,.0f}"  # the sizes themselves: 1,024 is no 1.02k
        near = at > WIDTH - 30
        parts.append(tag("text", text, class_="tick", x=WIDTH if near else at,
                         y=scale.bottom + 15, text_anchor="end" if near else "middle"))  # fmt: skip
    for at in frame.pauses:
        parts.append(tag("line", tag("title", "the run was stopped here and resumed later"),
                         class_="pause", x1=scale.x(at), x2=scale.x(at), y1=scale.top,
                         y2=scale.bottom))  # fmt: skip
    return parts


def _rulers(scale: _Scale, y_axis: Sequence[float]) -> list[Markup]:
    """The numbers of the y axis, each with its line, and the foot of the chart."""
    parts = []
    for value in y_axis:
        at = scale.y(value)
        parts.append(tag("line", class_="grid", x1=_LEFT, x2=WIDTH - _RIGHT, y1=at, y2=at))
        parts.append(tag("text", short(value), class_="tick", x=_LEFT - 7, y=at + 4,
                         text_anchor="end"))  # fmt: skip
    parts.append(tag("line", class_="axis", x1=_LEFT, x2=WIDTH - _RIGHT, y1=scale.bottom,
                     y2=scale.bottom))  # fmt: skip
    return parts


def _bands(frame: Frame, scale: _Scale) -> list[Markup]:
    """The steps as a strip below the time axis, every second one shaded up to the top."""
    parts = []
    for index, (start, end, label) in enumerate(frame.bands):
        left, width = scale.x(start), scale.x(end) - scale.x(start)
        if width < 0.5:
            continue
        if index % 2:
            parts.append(tag("rect", class_="shade", x=left, y=scale.top, width=width,
                             height=scale.bottom - scale.top))  # fmt: skip
        strip = scale.bottom + 22
        parts.append(tag("rect", tag("title", f"{label}: {show_seconds(end - start)}"),
                         class_="band", x=left + 0.5, y=strip, width=max(width - 1.0, 0.5),
                         height=15, rx=2))  # fmt: skip
        text = _fit(label, width - 8, 5.6)
        if len(text) > 2:
            parts.append(tag("text", text, class_="bandlabel", x=left + width / 2,
                             y=strip + 11, text_anchor="middle"))  # fmt: skip
    return parts


def _levels(frame: Frame, scale: _Scale) -> list[Markup]:
    parts = []
    for level in frame.levels:
        at = scale.y(level.value)
        parts.append(tag("line", class_="level", x1=_LEFT, x2=WIDTH - _RIGHT, y1=at, y2=at))
        above = at - 5 if at - 5 > scale.top + 8 else at + 14
        parts.append(tag("text", level.label, class_="value", x=_LEFT + 6, y=above))
    return parts


def _draw(line: Line, scale: _Scale, frame: Frame) -> Markup:
    pixels = [(scale.x(x), scale.y(y)) for x, y in line.points]
    parts = []
    if len(pixels) > 1 and not line.dots:
        path = "M" + "L".join(f"{x:.6g} {y:.6g}" for x, y in pixels)
        parts.append(tag("path", class_="line", d=path))
    if line.marked or line.dots or len(pixels) == 1:
        for (x, y), (at, value) in zip(pixels, line.points, strict=True):
            where = show_seconds(at) if frame.x_unit == "s" else f"{at:,.0f} {frame.x_unit}"
            said = f"{line.label} at {where}: {show(value, frame.unit)}"
            parts.append(tag("circle", tag("title", said), class_="dot", cx=x, cy=y, r=4))
    return tag("g", *parts, class_=f"s{line.slot}")


def _rounded_bar(x: float, y: float, width: float, height: float) -> str:
    """A bar square at its foot and rounded at its tip."""
    r = min(4.0, width / 2)
    return (
        f"M{x:.6g} {y:.6g}h{width - r:.6g}a{r:.6g} {r:.6g} 0 0 1 {r:.6g} {r:.6g}"
        f"v{height - 2 * r:.6g}a{r:.6g} {r:.6g} 0 0 1 {-r:.6g} {r:.6g}h{r - width:.6g}z"
    )


def _fit(text: str, pixels: float, per_letter: float = 6.6) -> str:
    room = int(pixels / per_letter)
    return text if len(text) <= room else text[: max(0, room - 1)] + "…"


def _svg(height: float, words: str, parts: Sequence[Markup]) -> Markup:
    return tag("svg", tag("title", words[:600]), *parts, role="img",
               viewBox=f"0 0 {WIDTH} {height:.6g}")  # fmt: skip
