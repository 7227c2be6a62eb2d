"""The hosts screen on a real SSH host: bare, made ready, made bare again. No environments."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aiok_tui.hostboard import HostWork
from hosts.testbed import Testbed
from tests.tui.conftest import Stage

LIMIT_S = 60.0

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


async def test_a_host_becomes_ready_and_bare_again(
    stage: Callable[..., Stage], own_testbed: Testbed, runs: Path
) -> None:
    own_testbed.up(1)
    own_testbed.inventory(runs.parent / "inventory.yaml", cluster="lab")
    before = own_testbed.listing("h1")
    here = stage(on_hosts=True)
    app = here.app
    app.jobs.threads = True
    app.host_work = HostWork(app.feed, app.jobs, app.board, app.show_problem, environments=())
    async with app.run_test(size=(120, 36)) as pilot:

        async def press_until(keys: tuple[str, ...], said: str) -> None:
            for key in keys:
                await pilot.press(key)
                await here.turn(pilot, 1)
            end = time.monotonic() + LIMIT_S
            while said not in here.text():
                assert time.monotonic() < end, here.text()
                await here.turn(pilot, 1)

        await press_until(("h",), "○ bare")
        assert "nothing: the host is bare" in here.text()
        await press_until(("u", "y"), "✓ ready")
        assert "file    /home/" in here.text() and "/.ssh/authorized_keys" in here.text()
        await press_until(("d", *"lab", "enter"), "○ bare")
    assert own_testbed.listing("h1") == before
