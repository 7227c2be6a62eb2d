"""Which rank is slow: by its own work, for ten seconds, beside the median of the others."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine import events as ev
from engine.pace import RankPaces
from engine.state import fold
from engine.steps.context import StepListener
from engine.store import RunFolder
from models import messages


def seconds(paces: RankPaces, own_ms: list[float], count: int) -> dict[int, float]:
    """So many seconds in which each rank's own work takes so long, of steps of 100 ms."""
    found: dict[int, float] = {}
    for _ in range(count):
        for rank, own in enumerate(own_ms):
            paces.take(rank, 10, own / 1e3, 0.1 - own / 1e3)
        found |= paces.changes()
    return found


def test_a_rank_is_slow_after_ten_seconds_and_not_before() -> None:
    paces = RankPaces()
    assert seconds(paces, [50, 50, 80], 9) == {}
    assert seconds(paces, [50, 50, 80], 2) == {2: 1.6}
    assert seconds(paces, [50, 50, 80], 20) == {}  # told once
    assert seconds(paces, [50, 50, 64], 20) == {}  # neither slow nor well: as it was
    assert seconds(paces, [50, 50, 55], 20) == {2: 0.0}
    assert paces.lately() == [(0.05, 0.05), (0.05, 0.05), (0.055, pytest.approx(0.045))]


def test_equal_ranks_one_rank_and_one_slow_second_are_not() -> None:
    assert seconds(RankPaces(), [50, 60, 45, 55], 60) == {}
    assert seconds(RankPaces(), [50], 60) == {}
    paces = RankPaces()
    assert seconds(paces, [50, 50], 20) == {}
    assert seconds(paces, [50, 99], 2) == {}
    assert seconds(paces, [50, 50], 20) == {}


def test_steps_of_many_seconds_are_judged_too() -> None:
    paces, found = RankPaces(), {}
    for _ in range(2):
        for rank, own in enumerate((10.0, 20.0)):
            paces.take(rank, 1, own, 20.0 - own)
        found |= paces.changes()
    assert found == {1: 2.0}


def test_the_run_tells_step_times_and_the_slow_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[ev.Event] = []
    context: Any = SimpleNamespace(
        folder=RunFolder(tmp_path), emit=lambda cls, **fields: told.append(cls(t=0.0, **fields))
    )
    clock = [0.0]
    monkeypatch.setattr("engine.steps.context.time.monotonic", lambda: clock[0])
    listener = StepListener(context, SimpleNamespace(id="train"))  # type: ignore[arg-type]
    listener.rank_hosts = ["h1", "h2"]
    for _ in range(12):
        clock[0] += 1.0
        for rank, own in enumerate((0.02, 0.05)):
            listener.message(messages.Pace(step=1, steps=20, own_s=own, wait_s=0.05 - own), rank)
    listener.close()
    assert [type(event) for event in told].count(ev.RankSlow) == 1
    assert [type(event) for event in told].count(ev.RanksPaced) == 3  # every 5 s, and the last
    state = fold(event for event in map(ev.decode, map(ev.encode, told)) if event)
    step = state.steps["train"]
    assert [(pace.host, pace.own_s, pace.slow) for pace in step.paces] == [
        ("h1", 0.02, 0.0), ("h2", 0.05, 2.5),
    ]  # fmt: skip
    assert step.notes == [
        ("warning", "rank 1 on h2 is slow: its own work takes 2.5x that of the other ranks")
    ]
    fold([ev.RankSlow(t=1.0, step="train", rank=1, host="h2", ratio=0.0)], state)
    assert step.paces[1].slow == 0.0 and step.notes[-1] == ("info", "rank 1 on h2 keeps up again")
