"""What a person reads when a host is lost: in the app, in the lists, line by line, in a drill."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from aiok_tui.cli import main
from aiok_tui.output import follow_to_end
from engine import drill
from engine import events as ev
from engine.drill import Verdict
from engine.store import EventLog, open_run_folder
from tests.tui import recorded
from tests.tui.conftest import Stage

WHY = "h2: nothing answers at 10.0.0.12"


def lose_a_host(run: str, *more: ev.Event) -> None:
    """h2 is lost, and the run waits for it."""
    log = EventLog(open_run_folder(run).events)
    t = recorded.T0 + 58
    log.append(ev.WorkLost(t=t, step="train", what="h2 was lost: nothing was heard for 15 s",
                           policy="wait", restart=1, restarts=3, hosts=["h2"], why="no word",
                           log="/the/log", steps_lost=120, rows_lost=7680))  # fmt: skip
    log.append(ev.HostsAwaited(t=t + 1, step="train", hosts=["h2"], why=WHY))
    for event in more:
        log.append(event)
    log.close()


LOSS = (
    "policy wait: waits for h2, restart 1 of 3; "
    "120 steps (7,680 rows) since the last checkpoint are done again"
)


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit):
        main(list(words))
    return capsys.readouterr().out


async def test_the_app_says_for_whom_the_run_waits(stage: Callable[..., Stage]) -> None:
    lose_a_host("live-1")
    here = stage("live-1")
    async with here.app.run_test(size=(160, 45)) as pilot:
        await here.turn(pilot)
        assert f"waits for h2: {WHY}" in here.text()
        assert "restart 1 of 3" in here.text()
        log = EventLog(open_run_folder("live-1").events)
        log.append(ev.WorkRestarted(t=recorded.T0 + 60, step="train", attempt=2))
        log.close()
        await here.turn(pilot)
        assert "waits for h2: " not in here.text().split("restart 1 of 3")[0]


def test_lists_and_views_say_it(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lose_a_host("live-1")
    line = next(one for one in said(capsys, "runs").splitlines() if one.startswith("live-1"))
    assert "waiting" in line
    shown = said(capsys, "show", "live-1")
    assert f"train: ! h2 was lost: nothing was heard for 15 s; {LOSS}" in shown
    assert f"train: ! waits for h2: {WHY}" in shown
    found = json.loads(said(capsys, "show", "live-1", "--json"))
    assert found["status"] == "waiting"
    assert found["awaited"]["hosts"] == ["h2"]
    assert found["losses"][0]["rows_lost"] == 7680


def test_it_is_told_line_by_line(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lose_a_host(
        "bad-1",
        ev.WorkRestarted(t=recorded.T0 + 60, step="train", attempt=2, without=["h2"]),
        ev.RunEnded(t=recorded.T0 + 61, status="stopped", exit_code=4),
    )
    assert follow_to_end("bad-1", False) == 4
    lines = [line.strip() for line in capsys.readouterr().err.splitlines()]
    at = lines.index("train      ! h2 was lost: nothing was heard for 15 s")
    assert lines[at + 1 : at + 6] == [
        "why: no word",
        "log: /the/log",
        f"train      ! {LOSS}",
        f"train      ! waits for h2: {WHY}",
        "train      goes on, attempt 2, without h2",
    ]


def verdict(broken: list[str]) -> Verdict:
    return Verdict(
        fault="link cut", policy="wait", promise="told at once", observation="h3 was lost",
        broken=broken, notice_s=3.25, orphans=0, end="done", drift=0.0001,
        lost_steps=12, lost_s=0.4, interval_s=2.2,
    )  # fmt: skip


@pytest.mark.parametrize(("broken", "code"), [([], 0), (["AUC differs by 0.0100"], 1)])
def test_a_drill_ends_with_its_table_and_an_exit_code(
    broken: list[str], code: int, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    asked: list[tuple[Sequence[str], Sequence[str]]] = []

    def drilled(names: Sequence[str], policies: Sequence[str]) -> Iterator[Verdict]:
        asked.append((names, policies))
        yield verdict(broken)

    monkeypatch.setattr(drill, "drill", drilled)
    with pytest.raises(SystemExit) as caught:
        main(["drill", "--faults", "link cut", "--policy", "wait"])
    assert caught.value.code == code
    assert asked == [(["link cut"], ["wait"])]
    shown = capsys.readouterr()
    row = shown.out.splitlines()[1]
    assert row.split("  ")[0] == "link cut"
    assert "3.2 s" in row
    assert row.endswith("BROKEN" if broken else "kept")
    assert f"{1 - code} of 1 promises kept" in shown.err
    with pytest.raises(SystemExit):
        main(["drill", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["kept"] is not bool(broken)
    assert told["broken"] == broken
