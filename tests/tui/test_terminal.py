"""The app in a real pseudo-terminal, and what it survives."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import random
import re
import select
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aiok_tui.app import AiokApp
from engine.store import is_locked
from hosts.bringup import make_key
from hosts.login import CONNECT_S
from tests.tui.conftest import Stage

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 45.0
START = "import sys; from aiok_tui.app import main; sys.exit(main(*sys.argv[1:]))"
VERB = "from aiok_tui.cli import main; main()"
COLOUR = re.compile(rb"\x1b\[[0-9;:]*(?:3[0-7]|4[0-7]|9[0-7]|10[0-7]|[34]8[;:])[0-9;:]*m")


class Terminal:
    """The app, or what else is to be started, as a process behind a pseudo-terminal."""

    def __init__(self, *args: str, start: str = START, **env: str) -> None:
        self.side, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))

        def own_terminal() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", start, *args],
            stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=own_terminal,
            env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        )  # fmt: skip
        os.close(theirs)
        self.output = b""

    def read_until(self, wanted: bytes) -> None:
        """Collect what the app writes until it has written `wanted`."""
        end = time.monotonic() + LIMIT_S
        while wanted not in self.output:
            assert time.monotonic() < end, self.output[-3000:]
            self._read()

    def _read(self) -> None:
        if select.select([self.side], [], [], 0.2)[0]:
            with contextlib.suppress(OSError):
                self.output += os.read(self.side, 65536)

    def type(self, text: str) -> None:
        os.write(self.side, text.encode())

    def hang_up(self) -> None:
        """The window is closed."""
        os.close(self.side)
        self.side = -1

    def wait(self) -> int:
        end = time.monotonic() + LIMIT_S
        while self.process.poll() is None and time.monotonic() < end:
            if self.side >= 0:
                self._read()
            else:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(0.2)
        return self.process.wait(1)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.side >= 0:
            os.close(self.side)


@pytest.fixture
def terminal(runs: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def open_one(*args: str, **env: str) -> Terminal:
        opened.append(Terminal(*args, **env))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def test_closing_says_how_to_come_back(terminal: Callable[..., Terminal], runs: Path) -> None:
    shown = terminal("live-1")
    shown.read_until(b"running")
    shown.type("q")
    assert shown.wait() == 0
    assert b"live-1 goes on; come back with: aiok   or: aiok show live-1" in shown.output
    assert is_locked(runs / "live-1" / "lock")


def test_the_app_goes_with_its_terminal_and_the_run_stays(
    terminal: Callable[..., Terminal], runs: Path
) -> None:
    shown = terminal("live-1")
    shown.read_until(b"running")
    shown.hang_up()
    assert shown.wait() != 0
    assert is_locked(runs / "live-1" / "lock")


def test_a_host_that_says_nothing_holds_up_neither_the_app_nor_its_end(
    terminal: Callable[..., Terminal], runs: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        key = runs.parent / "key"
        make_key(key, "a test")
        host = f"{{address: 127.0.0.1, port: {mute.getsockname()[1]}, key: {key}}}"
        (runs.parent / "inventory.yaml").write_text(f"hosts: {{h1: {host}}}", encoding="utf-8")
        shown = terminal()
        shown.read_until(b"runs")
        shown.type("h")
        shown.read_until(b"checking")
        began = time.monotonic()
        shown.type("q")
        assert shown.wait() == 0
        assert time.monotonic() - began < CONNECT_S / 2  # it did not wait for the host


def test_no_color_means_no_colour(terminal: Callable[..., Terminal]) -> None:
    shown = terminal("live-1", NO_COLOR="1")
    shown.read_until(b"running")
    assert not COLOUR.search(shown.output)
    plain = terminal("live-1")
    plain.read_until(b"running")
    assert COLOUR.search(plain.output)


def test_without_a_terminal_it_says_what_to_do(runs: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", START], capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=LIMIT_S,
    )  # fmt: skip
    assert done.returncode == 2 and done.stdout == ""
    assert "the app needs a terminal" in done.stderr


async def test_a_crash_ends_the_app_without_showing_locals(
    stage: Callable[..., Stage], capfd: pytest.CaptureFixture[str]
) -> None:
    app = stage().app

    def break_down() -> None:
        secret = "hunter2"
        raise RuntimeError(f"broken ({len(secret)})")

    app.call_later(break_down)
    await app.run_async(headless=True)
    assert isinstance(app.crash, RuntimeError) and app.return_code == 1
    shown = "".join(capfd.readouterr())
    assert "hunter2" not in shown and "Traceback" not in shown


def test_the_command_line_does_not_load_the_app() -> None:
    code = (
        "import sys; from aiok_tui.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('textual', 'rich.console', 'pydantic', 'engine') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=LIMIT_S,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_first_frame_needs_neither_engine_nor_forms() -> None:
    code = (
        "import sys, asyncio; from aiok_tui.app import AiokApp\n"
        "app = AiokApp(background=False)\n"
        "seen = []\n"
        "app._begin = lambda: (seen.extend(m for m in HEAVY if m in sys.modules), app.exit())\n"
        "asyncio.run(app.run_async(headless=True)); print(seen)"
    )
    heavy = ("pydantic", "yaml", "engine.api", "aiok_tui.screens.run", "aiok_tui.widgets.form")
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"HEAVY = {heavy!r}\n{code}"], capture_output=True, text=True,
        check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=LIMIT_S,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


KEYS = (
    *"nsrofmzygGjkhlNK1234q/?[] xyabcCud", "enter", "escape", "tab", "shift+tab", "up", "down",
    "left", "right", "pageup", "pagedown", "home", "end", "f1", "f2", "f3", "f4", "f5", "f10",
    "ctrl+p", "ctrl+n", "ctrl+u", "ctrl+d", "backspace", "ctrl+c",
)  # fmt: skip
NAMES = {"/": "slash", "?": "question_mark", "[": "left_square_bracket", " ": "space",
         "]": "right_square_bracket"}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
async def test_any_keys_in_windows_of_any_size(
    stage: Callable[..., Stage], inventory: None, seed: int
) -> None:
    """100 random keys and 12 sizes from 20x5 to 240x70; nothing breaks, every line fits."""
    chance = random.Random(seed)
    here = stage()
    app: AiokApp = here.app
    closed: list[bool] = []
    app.exit = lambda *args, **kwargs: closed.append(True)  # type: ignore[method-assign]
    async with app.run_test(size=(120, 36)) as pilot:
        await here.turn(pilot)
        for number in range(100):
            if number % 8 == 0:
                await pilot.resize_terminal(chance.randint(20, 240), chance.randint(5, 70))
            key = chance.choice(KEYS)
            await pilot.press(NAMES.get(key, key))
            await here.turn(pilot, 1)
            here.text()  # asserts that every line has the width of the window
    assert app.crash is None
