"""Every screen at 120x36 and 80x24, and the list and a run at 60x18, on recorded runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from engine import api
from engine.api import Question
from tests.tui.conftest import Stage
from tests.tui.recorded_hosts import spread_over_hosts

SIZES = [(120, 36), (80, 24)]
SMALL = (60, 18)
Compare = Callable[..., bool]


def played(stage: Stage, *keys: str) -> Callable[[Pilot[None]], Awaitable[None]]:
    """Press keys one by one, reading and drawing after each; no cursor blinks."""

    async def play(pilot: Pilot[None]) -> None:
        await stage.turn(pilot)
        for key in keys:
            await pilot.press(key)
            await stage.turn(pilot)
        for field in stage.app.screen.query(Input):
            field.cursor_blink = False
        await stage.turn(pilot)

    return play


@pytest.mark.parametrize("size", [*SIZES, SMALL])
def test_home(stage: Callable[..., Stage], snap_compare: Compare, size: tuple[int, int]) -> None:
    here = stage()
    assert snap_compare(here.app, terminal_size=size, run_before=played(here))


@pytest.mark.parametrize(
    ("run", "size"),
    [("live-1", SMALL), *((run, size) for run in ("live-1", "bad-1", "quick-1") for size in SIZES)],
)
def test_run(
    stage: Callable[..., Stage], snap_compare: Compare, size: tuple[int, int], run: str
) -> None:
    here = stage(run)
    assert snap_compare(here.app, terminal_size=size, run_before=played(here))


@pytest.mark.parametrize("pane", ["2", "3", "4"])
def test_panels_of_a_small_window(
    stage: Callable[..., Stage], snap_compare: Compare, pane: str
) -> None:
    here = stage("live-1")
    assert snap_compare(here.app, terminal_size=SIZES[1], run_before=played(here, pane))


def fixed_questions(answers: Mapping[str, str]) -> list[Question]:
    """One of each kind; the real ones change with every model."""
    engines = (("auto", "auto"), ("sail", "Sail (embedded, no Java)"), ("spark", "Apache Spark"))
    return [
        Question("source", "dataset", "Data", "where the rows come from", "choice",
                 (("generate", "make data"), ("path", "my own files")), "path"),
        Question("dataset.path", "dataset", "Path", "a file, or a folder of files", "path"),
        *(Question(f"model.settings.{i}", "model", f"setting {i}",
                   "what it does, in a sentence that is rather long for a window of 80 columns",
                   "float", (), str(i / 10)) for i in range(12)),
        Question("etl.engine", "cluster", "ETL engine", "what prepares the data", "choice",
                 engines, "auto"),
        Question("name", "goal", "Name", "of the recipe and its runs", "text", (), "my-job"),
    ]  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_wizard(
    stage: Callable[..., Stage],
    snap_compare: Compare,
    size: tuple[int, int],
    steps: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = stage()
    monkeypatch.setattr(here.engine, "questions", fixed_questions, raising=False)
    problems = {"dataset.path": "/data/clicks: there is no such file"}
    monkeypatch.setattr(here.engine, "check_answers", lambda _: problems, raising=False)
    play = played(here, "n", *["f3"] * steps)
    assert snap_compare(here.app, terminal_size=size, run_before=play)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("problems", [(), ("the disk is too small: 1 of 3 GiB",)])
def test_review(
    stage: Callable[..., Stage],
    snap_compare: Compare,
    size: tuple[int, int],
    problems: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = stage()
    here.engine.problems = problems
    monkeypatch.setattr(
        here.engine, "command_line", lambda _: "aiok run my-job.yaml", raising=False
    )
    play = played(here, "n", "f10")
    assert snap_compare(here.app, terminal_size=size, run_before=play)


@pytest.mark.parametrize("keys", [("question_mark",), ("s",), ("ctrl+p",)])
def test_over_a_run(
    stage: Callable[..., Stage], snap_compare: Compare, keys: tuple[str, ...]
) -> None:
    here = stage("live-1")
    assert snap_compare(here.app, terminal_size=SIZES[0], run_before=played(here, *keys))


def test_ascii(
    stage: Callable[..., Stage], snap_compare: Compare, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aiok_tui.widgets.glyphs import glyphs

    monkeypatch.setenv("AIOK_ASCII", "1")
    glyphs.cache_clear()
    here: Any = stage("live-1")
    try:
        assert snap_compare(here.app, terminal_size=SIZES[0], run_before=played(here))
    finally:
        glyphs.cache_clear()


@pytest.mark.parametrize("size", [*SIZES, SMALL])
def test_hosts(
    stage: Callable[..., Stage], inventory: None, snap_compare: Compare, size: tuple[int, int]
) -> None:
    here = stage()
    assert snap_compare(here.app, terminal_size=size, run_before=played(here, "h", "j"))


@pytest.mark.parametrize("size", [*SIZES, SMALL])
def test_new_host(
    stage: Callable[..., Stage], inventory: None, snap_compare: Compare, size: tuple[int, int]
) -> None:
    here = stage()
    play = played(here, "h", "a", *"bob@10.0.0.30", "tab", "backspace", "1")
    assert snap_compare(here.app, terminal_size=size, run_before=play)


@pytest.mark.parametrize("size", SIZES)
def test_key_of_a_new_host(
    stage: Callable[..., Stage], inventory: None, snap_compare: Compare, size: tuple[int, int]
) -> None:
    here = stage()
    play = played(here, "h", "a", *"bob@10.0.0.30", "f5")
    assert snap_compare(here.app, terminal_size=size, run_before=play)


@pytest.mark.parametrize("size", SIZES)
def test_password(
    stage: Callable[..., Stage], inventory: None, snap_compare: Compare, size: tuple[int, int]
) -> None:
    here = stage()

    async def play(pilot: Pilot[None]) -> None:
        await played(here, "h")(pilot)
        here.app._ask_password(api.inventory().entry("h1"), lambda text: None)
        await played(here, *"secret")(pilot)

    assert snap_compare(here.app, terminal_size=size, run_before=play)


@pytest.mark.parametrize("size", SIZES)
def test_cluster_step(
    stage: Callable[..., Stage], inventory: None, snap_compare: Compare, size: tuple[int, int]
) -> None:
    here = stage(cluster="lab")
    play = played(here, "n", "f3", "f3")
    assert snap_compare(here.app, terminal_size=size, run_before=play)


@pytest.mark.parametrize("size", SIZES)
def test_run_over_hosts(
    stage: Callable[..., Stage], snap_compare: Compare, size: tuple[int, int]
) -> None:
    here = stage("live-1")
    spread_over_hosts("live-1", ["h1", "h2", "h3"], silent="h3")
    assert snap_compare(here.app, terminal_size=size, run_before=played(here, "3"))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("step", [1, 3])
def test_program_and_search_in_the_wizard(
    stage: Callable[..., Stage],
    program: Path,
    snap_compare: Compare,
    size: tuple[int, int],
    step: int,
) -> None:
    here = stage(**{"model.name": "churn-gbt", "search": "yes"})
    play = played(here, "n", *["f3"] * step)
    assert snap_compare(here.app, terminal_size=size, run_before=play)
