"""Whatever data, hosts and programs say, the terminal gets plain text of the right width."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from textual.app import App, ComposeResult

from aiok_tui.widgets.chart import LineChart, Series, Span, buckets, short
from aiok_tui.widgets.glyphs import bar, glyphs, sparkline
from aiok_tui.widgets.linetable import Column, LineTable, Row
from aiok_tui.widgets.paint import Lines, fit, plain, spread, width_of, wrap
from engine import events as ev
from engine.store import EventLog, open_run_folder
from tests.tui import recorded
from tests.tui.conftest import Stage

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
ORDERS = ("\x1b]52;c;aGk=\x07", "\x1b[2J", "\x9b2J", "\x1bc", "\x90q\x9c", "\x1b[31m", "\r", "\x08")
hostile = st.lists(st.one_of(st.text(max_size=12), st.sampled_from(ORDERS)), max_size=6).map(
    "".join
)
anything = st.one_of(hostile, st.text(st.characters(exclude_categories=()), max_size=30))
floats = st.floats(width=32)


@given(anything)
@example("\x1b]0;title\x07after")
@example("\ud800lone")
@example("[bold]not markup[/bold]")
def test_plain_text_has_no_control_character_and_can_be_encoded(text: str) -> None:
    found = plain(text)
    assert not CONTROL.search(found)
    found.encode("utf-8")
    assert plain(found) == found


@given(st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=30))
def test_plain_text_keeps_letters(text: str) -> None:
    assert plain(text) == text


def test_sequences_go_as_a_whole() -> None:
    assert plain("a\x1b[31mred\x1b[0m\tb") == "ared    b"
    assert plain("\x1b]52;c;aGk=\x07safe") == "safe"
    assert plain("\x1b]52;never ended") == "52;never ended"


@given(anything, st.integers(0, 40), st.booleans())
def test_fit_has_exactly_the_width(text: str, width: int, right: bool) -> None:
    assert cell_len(fit(text, width, right)) == width


@given(anything, st.integers(8, 40))
def test_wrapped_lines_are_no_wider(text: str, width: int) -> None:
    lines = wrap(text, width, indent="  ")
    assert all(width_of(line) <= width for line in lines)
    joined = "".join(cell for line in lines for cell, _ in line)
    wanted = "".join(plain(part) for part in text.splitlines())
    assert joined.replace(" ", "") == wanted.replace(" ", "")


@given(anything, anything, st.integers(0, 60))
def test_spread_fills_the_line(left: str, right: str, width: int) -> None:
    line = spread([(left, "plain")], [(right, "dim")], width)
    assert width_of(line) in (width, width_of([(left, "plain")]))


async def test_no_widget_lets_anything_through() -> None:
    """One app draws many hostile texts; each strip is clean and as wide as its widget."""

    class Page(App[None]):
        def compose(self) -> ComposeResult:
            yield Lines(id="block")
            yield LineTable(id="table")

    app = Page()
    async with app.run_test(size=(50, 20)) as pilot:
        block, table = app.query_one("#block", Lines), app.query_one("#table", LineTable)
        block.styles.height = table.styles.height = 5

        @given(st.lists(anything, min_size=1, max_size=3))
        @settings(max_examples=60, deadline=None)
        def draw(texts: list[str]) -> None:
            block.show([[(text, "plain") for text in texts]])
            rows = [Row(str(i), [(text, "bad"), (text, "dim")]) for i, text in enumerate(texts)]
            table.show([Column("A", 10), Column("B")], rows)
            for widget in (block, table):
                for y in range(4):
                    strip = widget.render_line(y)
                    assert not CONTROL.search(strip.text)
                    assert strip.cell_length == widget.size.width

        await pilot.pause()
        draw()


async def test_a_run_full_of_orders_to_the_terminal(stage: Callable[..., Stage]) -> None:
    orders = "".join(ORDERS) + "[red]end[/red]"
    log = EventLog(open_run_folder("live-1").events)
    t = recorded.T0 + 55
    log.append(ev.Noted(t=t, step="train", text=orders, level="warning"))
    log.append(ev.Measured(t=t, step="train", name=orders, value=math.nan, split=orders, rows=1,
                           step_count=1))  # fmt: skip
    log.append(ev.StepProgressed(t=t, step="train", phase=orders, done=1, total=2, unit=orders))
    log.close()
    folder = open_run_folder("live-1")
    (folder.logs("train") / f"{'[/b]'.replace('/', '_')}.log").write_text(orders + "\n")
    here = stage("live-1")
    async with here.app.run_test(size=(120, 36)) as pilot:
        for key in ("1", "m", "m", "m", "right_square_bracket", "z", "escape"):
            await here.turn(pilot)
            assert not CONTROL.search(here.text().replace("\n", ""))
            await pilot.press(key)


# --- drawings -----------------------------------------------------------------------------------


@given(st.one_of(st.none(), floats), st.integers(0, 40))
def test_a_bar_has_its_width(fraction: float | None, width: int) -> None:
    assert len(bar(fraction, width)) == width


@given(st.lists(floats, max_size=50), st.integers(0, 40))
def test_a_sparkline_has_its_width(values: list[float], width: int) -> None:
    assert len(sparkline(values, width)) == width


@given(
    st.lists(st.lists(st.tuples(floats, floats), max_size=40), max_size=3),
    st.integers(0, 60),
    st.integers(0, 15),
)
@settings(max_examples=60, deadline=None)
def test_a_chart_of_any_figures_fits(
    curves: list[list[tuple[float, float]]], width: int, height: int
) -> None:
    chart = LineChart()
    chart.series = [Series(f"s{i}", [x for x, _ in c], [y for _, y in c])
                    for i, c in enumerate(curves)]  # fmt: skip
    lines = chart.draw(width, height)
    assert len(lines) <= max(1, height)
    if height >= 4 and width >= 16 and len(lines) > 1:
        assert len(lines) == height
        assert all(width_of(line) <= width for line in lines[1:-1])


@pytest.mark.parametrize("points", [5, 700, 10_000])
def test_buckets_keep_the_extremes(points: int) -> None:
    ys = [math.sin(i / 50) for i in range(points)]
    ys[points // 3], ys[points // 2] = -9.0, 9.0
    xs = [float(i) for i in range(points)]
    found = buckets(Series("a", xs, ys), Span(0, points - 1), Span(-9, 9), 80, 40)
    lows, highs = zip(*[pair for pair in found if pair[0] <= pair[1]], strict=True)
    assert min(lows) == 0 and max(highs) == 39
    assert all(low <= high for low, high in found)  # no hole in a curve without gaps


def test_gaps_of_nan_stay_gaps() -> None:
    ys = [1.0, 1.0, math.nan, math.nan, 1.0, 2.0]
    found = buckets(Series("a", list(range(6)), ys), Span(0, 5), Span(1, 2), 6, 10)
    assert [low <= high for low, high in found] == [True, True, False, False, True, True]


def test_ascii_has_no_other_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOK_ASCII", "1")
    glyphs.cache_clear()
    try:
        chart = LineChart()
        chart.series = [Series("a", [0.0, 1.0, 2.0], [1.0, 3.0, 2.0])]
        text = "".join(cell for line in chart.draw(40, 10) for cell, _ in line)
        assert (text + bar(0.5, 9) + sparkline([1, 2, 3], 5) + fit("a" * 9, 4)).isascii()
        assert "*" in text
    finally:
        glyphs.cache_clear()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.79134, "0.7913"), (12_500, "12.5k"), (3e6, "3M"), (2.5e9, "2.5G"), (0.0, "0")],
)
def test_axis_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text
