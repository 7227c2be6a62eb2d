"""The hosts screen on real SSH hosts: added, made ready, made bare again. No environments."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from textual.pilot import Pilot

from aiok_tui.hostboard import HostWork
from aiok_tui.screens.password import PasswordScreen
from engine import api
from hosts.testbed import PASSWORD, Testbed
from tests.tui.conftest import Stage
from tests.tui.test_terminal import Terminal

LIMIT_S = 60.0
WIDE = (120, 36)

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


class Person:
    """Presses keys and reads the screen of an app that works on real hosts."""

    def __init__(self, here: Stage) -> None:
        self.here = here
        self.pilot: Pilot[None]
        app = here.app
        app.jobs.threads = True
        app.host_work = HostWork(
            app.feed, app.jobs, app.board, app.show_problem, app.passwords, environments=()
        )

    async def press(self, *keys: str) -> None:
        for key in keys:
            await self.pilot.press(key)
            await self.here.turn(self.pilot, 1)

    async def press_until(self, keys: tuple[str, ...], said: str) -> None:
        """Press keys, then wait until the screen says something."""
        await self.press(*keys)
        end = time.monotonic() + LIMIT_S
        while said not in self.here.text():
            assert time.monotonic() < end, self.here.text()
            await self.here.turn(self.pilot, 1)


def key_of(testbed: Testbed, name: str) -> str:
    """The fingerprint that the host itself would tell."""
    path = testbed.layout.disk(name) / "upper/etc/testbed/host_key.pub"
    done = subprocess.run(["ssh-keygen", "-lf", path], capture_output=True, text=True, check=True)
    return done.stdout.split()[1]


async def test_a_host_becomes_ready_and_bare_again(
    stage: Callable[..., Stage], own_testbed: Testbed, runs: Path
) -> None:
    own_testbed.up(1)
    own_testbed.inventory(runs.parent / "inventory.yaml", cluster="lab")
    before = own_testbed.listing("h1")
    person = Person(stage(on_hosts=True))
    async with person.here.app.run_test(size=WIDE) as person.pilot:
        await person.press_until(("h",), "○ bare")
        assert "nothing: the host is bare" in person.here.text()
        await person.press_until(("u", "y"), "✓ ready")
        text = person.here.text()
        assert "file    /home/" in text and "/.ssh/authorized_keys" in text
        await person.press_until(("d", *"lab", "enter"), "○ bare")
    assert own_testbed.listing("h1") == before


async def test_a_host_is_added_by_its_own_key_and_another_key_is_refused(
    stage: Callable[..., Stage], own_testbed: Testbed, runs: Path
) -> None:
    own_testbed.up(2)
    first, second = own_testbed.layout.address("h1"), own_testbed.layout.address("h2")
    home = runs.parent
    person = Person(stage(on_hosts=True))
    async with person.here.app.run_test(size=WIDE) as person.pilot:
        await person.press("h", "a", *f"aiok@{first}", "tab", "tab", *"lab", "tab")
        await person.press_until((*str(own_testbed.key), "f5"), "Is this the key of h1?")
        assert key_of(own_testbed, "h1") in person.here.text()
        assert not (home / "inventory.yaml").exists() and not (home / "ssh").exists()
        await person.press_until(("y",), "○ bare")
        pinned = (home / "ssh" / "known_hosts").read_text()
        theirs = own_testbed.known_hosts.read_text().splitlines()
        assert pinned.split() == next(line for line in theirs if line.startswith(first)).split()

        wrong = pinned.replace(first, second)  # h2 is known by the key of h1
        (home / "ssh" / "known_hosts").write_text(pinned + wrong)
        changed = "its host key has changed: not connected"
        await person.press_until(("a", *f"aiok@{second}", "f5"), changed)
        text = person.here.text()
        assert key_of(own_testbed, "h1") in text and key_of(own_testbed, "h2") in text
    assert list(api.inventory().hosts) == ["h1"]
    assert api.inventory().cluster_of("h1") == "lab"
    assert (home / "ssh" / "known_hosts").read_text() == pinned + wrong


async def test_a_host_that_wants_a_password_which_leaves_no_trace(
    stage: Callable[..., Stage],
    own_testbed: Testbed,
    runs: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    own_testbed.up(1, password=("h1",))
    address = own_testbed.layout.address("h1")
    person = Person(stage(on_hosts=True))
    typed = ("space" if sign == " " else sign for sign in PASSWORD)
    secret = (*typed, "enter")
    asked = "Password of aiok on h1"
    caplog.set_level(1)
    async with person.here.app.run_test(size=WIDE) as person.pilot:
        app = person.here.app
        await person.press("h", "a", *f"aiok@{address}", *["tab"] * 4, "down")
        await person.press_until(("f5",), key_of(own_testbed, "h1"))
        await person.press_until(("y",), asked)
        await person.press_until(("escape",), "and none was typed")
        await person.press_until(("c",), asked)
        await person.press_until((*"wrong", "enter"), "it refuses aiok with the password")
        await person.press_until(("c",), asked)
        await person.press_until(secret, "○ bare")
        before = own_testbed.listing("h1")  # sshd itself notes a wrong password on the host
        await person.press_until(("u", "y"), asked)
        await person.press_until(secret, "✓ ready")  # the check after it uses aiok's own key
        assert not isinstance(app.screen, PasswordScreen)
        await person.press_until(("d", *"h1", "enter"), asked)  # the check of the bare host
        await person.press_until(secret, "○ bare")
        assert app.clipboard == ""
        seen = repr([app.board.rows, vars(app.passwords), vars(app.host_work)])
    assert own_testbed.listing("h1") == before
    disk = own_testbed.layout.disk("h1") / "upper"
    files = [path for folder in (runs.parent, disk) for path in folder.rglob("*")
             if path.is_file() and not path.is_symlink()]  # fmt: skip
    assert runs.parent / "ssh" / "known_hosts" in files
    assert not [path for path in files if PASSWORD.encode() in path.read_bytes()]
    assert PASSWORD not in seen + caplog.text + "".join(capfd.readouterr())
    assert api.inventory().entry("h1").password


def test_the_app_ends_while_a_password_is_asked_for(own_testbed: Testbed, runs: Path) -> None:
    own_testbed.up(1, password=("h1",))
    own_testbed.inventory(runs.parent / "inventory.yaml")
    shown = Terminal()
    try:
        shown.read_until(b"runs")
        shown.type("h")
        shown.read_until(b"Password of aiok on h1")
        shown.type("canary-7Fq")
        shown.read_until("•••".encode())
        shown.type("\x03")
        shown.read_until(b"Close the app?")
        shown.type("\x03")
        assert shown.wait() == 0
        assert b"canary-7Fq" not in shown.output
    finally:
        shown.close()
