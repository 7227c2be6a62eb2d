"""The log file and its view: any size, follow that stops, search in context."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from textual.app import App, ComposeResult
from textual.pilot import Pilot

from aiok_tui.widgets.logfile import BLOCKS, STRIDE, WIDTH, LogFile
from aiok_tui.widgets.logview import LogView
from aiok_tui.widgets.prompt import PromptLine
from tests.tui.conftest import Stage

LINES = 200_000


def read_all(log: LogFile) -> LogFile:
    while log.refresh():
        pass
    return log


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200,000 lines; each thousandth holds the word needle."""
    path = tmp_path_factory.mktemp("log") / "big.log"
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(
            f"line {i} {'Needle' if i % 1000 == 7 else 'hay'} {'x' * (i % 50)}\n"
            for i in range(LINES)
        )
    return path


def test_every_line_of_a_big_file_in_little_memory(big: Path) -> None:
    tracemalloc.start()
    log = read_all(LogFile(big))
    for number in range(0, LINES, 997):
        assert log.line(number) == f"line {number} " + (
            f"{'Needle' if number % 1000 == 7 else 'hay'} {'x' * (number % 50)}"
        )
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert log.lines == LINES
    assert kept < 2 << 20
    assert len(log._blocks) <= BLOCKS
    assert len(log._starts) == LINES // STRIDE + 1


def test_search_finds_all_and_nothing_else(big: Path) -> None:
    log = read_all(LogFile(big))
    log.search("nEEdle")
    assert log.searching
    read_all(log)
    assert not log.searching
    assert [log.hit(i) for i in range(log.hits)] == list(range(7, LINES, 1000))
    assert log.hit_from(1008) == 2 and log.hit(2) == 2007
    log.search("")
    assert log.hits == 0


@given(
    pieces=st.lists(st.binary(max_size=40), max_size=30),
    needle=st.text(alphabet="ab\n1", max_size=2),
)
@settings(max_examples=60, deadline=None)
def test_growing_in_any_pieces_comes_to_the_same(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], needle: str
) -> None:
    path = tmp_path_factory.mktemp("log") / "a.log"
    path.touch()
    growing = LogFile(path)
    growing.search(needle)
    for piece in pieces:
        with open(path, "ab") as file:
            file.write(piece)
        read_all(growing)
        growing.line(0)
    fresh = LogFile(path)
    fresh.search(needle)
    read_all(fresh)
    data = b"".join(pieces)
    assert (
        growing.lines
        == fresh.lines
        == data.count(b"\n") + (not data.endswith(b"\n") and data != b"")
    )
    assert [growing.line(i) for i in range(growing.lines)] == [
        fresh.line(i) for i in range(fresh.lines)
    ]
    hits = [growing.hit(i) for i in range(growing.hits)]
    assert hits == [fresh.hit(i) for i in range(fresh.hits)]
    if needle and "\n" not in needle:
        whole = data.split(b"\n")[:-1]
        assert hits == [i for i, line in enumerate(whole) if needle.encode() in line.lower()]


def test_progress_bars_become_their_last_state(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    bar = b"".join(b"\r%3d %%" % i for i in range(101))
    path.write_bytes(b"start\r\n" + bar + b"\nend\n" + b"x\r" * 60_000 + b"last\n" + bar)
    log = read_all(LogFile(path))
    assert [log.line(i) for i in range(log.lines)] == ["start", "100 %", "end", "last", "100 %"]


def test_long_lines_are_cut_and_say_so(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"y" * 100_000 + b"\nnext\n" + b"z" * (WIDTH + 1) + b"\n")
    log = read_all(LogFile(path))
    assert log.line(0) == "y" * WIDTH + "… (100,001 bytes)"
    assert log.line(1) == "next"
    assert log.line(2).startswith("z" * WIDTH + "…")


def test_a_file_that_was_begun_anew_or_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    log = LogFile(path)
    assert not log.refresh() and log.lines == 0 and log.line(0) == ""
    path.write_text("one\ntwo\nthree\n", encoding="utf-8")
    assert read_all(log).lines == 3
    path.write_text("new\n", encoding="utf-8")
    assert read_all(log).lines == 1 and log.line(0) == "new"
    path.unlink()
    assert not log.refresh() and log.lines == 1


class Viewer(App[None]):
    """A log view alone."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.log_file = LogFile(path)

    def compose(self) -> ComposeResult:
        yield LogView(id="lines")

    @property
    def lines(self) -> LogView:
        return self.query_one("#lines", LogView)

    async def turn(self, pilot: Pilot[None]) -> None:
        """What the feed and the timer do."""
        read_all(self.log_file)
        self.lines.draw()
        await pilot.pause()
        self.lines.draw()
        await pilot.pause()


def append(path: Path, count: int, word: str = "more") -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.writelines(f"{word} {i}\n" for i in range(count))


async def test_follow_stops_when_the_user_scrolls_up(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    append(path, 500)
    app = Viewer(path)
    async with app.run_test(size=(60, 20)) as pilot:
        view = app.lines
        view.open(app.log_file)
        view.focus()
        await app.turn(pilot)
        assert view.follow and view.scroll_y == 480 and "FOLLOW" in view.title()
        append(path, 10)
        await app.turn(pilot)
        assert view.scroll_y == 490
        await pilot.press("up")
        await app.turn(pilot)
        assert not view.follow and view.scroll_y == 489
        append(path, 212)
        await app.turn(pilot)
        assert view.scroll_y == 489 and view.new_below == 212
        assert "FOLLOW OFF, 212 new below" in view.title()
        await pilot.press("right")
        assert view.left == 16
        view.set_follow(True)
        await app.turn(pilot)
        assert view.scroll_y == 722 - 20 and view.left == 16  # it never moves sideways


async def test_a_window_that_changes_its_size_does_not_end_the_follow(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    append(path, 100)
    app = Viewer(path)
    async with app.run_test(size=(60, 20)) as pilot:
        app.lines.open(app.log_file)
        for height in (20, 40, 8, 30, 150, 10):
            await pilot.resize_terminal(60, height)
            await app.turn(pilot)
            assert app.lines.follow and app.lines.scroll_y == max(0, 100 - height), height
            if app.lines.show_vertical_scrollbar:
                assert app.lines.vertical_scrollbar.position == app.lines.scroll_y


async def test_the_mouse_wheel_ends_the_follow(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    append(path, 100)
    app = Viewer(path)
    async with app.run_test(size=(60, 20)) as pilot:
        app.lines.open(app.log_file)
        await app.turn(pilot)
        app.lines.scroll_relative(y=-3, animate=False)
        await app.turn(pilot)
        assert not app.lines.follow and app.lines.scroll_y == 77


async def test_search_jumps_among_hits_with_a_counter(big: Path) -> None:
    app = Viewer(big)
    async with app.run_test(size=(80, 20)) as pilot:
        view = app.lines
        view.open(app.log_file)
        await app.turn(pilot)
        view.find("needle")
        await app.turn(pilot)
        assert not view.follow and "/needle/ 1 of 200" in view.title()
        assert view.scroll_y == 0
        view.next_hit(1)
        view.next_hit(1)
        await app.turn(pilot)
        assert "3 of 200" in view.title() and view.scroll_y == 2007 - 10
        text = [view.render_line(y).text.rstrip() for y in range(20)]
        assert text[10].startswith("line 2007 Needle") and text[9].startswith("line 2006 hay")
        for _ in range(3):
            view.next_hit(-1)
        await app.turn(pilot)
        assert "200 of 200" in view.title()
        view.find("not there")
        await app.turn(pilot)
        assert "/not there/ not found" in view.title()


async def test_search_by_keys_in_the_run_screen(stage: Callable[..., Stage]) -> None:
    here = stage("live-1")
    async with here.app.run_test(size=(120, 36)) as pilot:
        await here.turn(pilot)
        await pilot.press("slash")
        await here.turn(pilot)
        assert here.app.screen.query(PromptLine)
        await pilot.press(*"bold")
        await pilot.press("enter")
        await here.turn(pilot)
        assert "/bold/ 1 of 1" in here.text()
        assert "loading red [bold]text[/bold]" in here.text()
        await pilot.press("f")
        await here.turn(pilot)
        assert "62 lines · FOLLOW" in here.text()
