"""CPU time of `aiok --help` and of the first frame of the terminal app.

The app runs in a pseudo-terminal; its CPU time (user + system, all its threads) is read from /proc
when the footer, the last line of the first frame, has been written, and again when the list of runs
is there. The median of RUNS starts is kept; the spread is the median distance from it.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path
from statistics import median
from typing import Any

from bench.harness import judge, spread

ENVIRONMENTS = ("app",)
RUNS = 7
LIMIT_S = 60.0
ROOT = Path(__file__).resolve().parent.parent
SEQUENCE = re.compile(rb"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07]*\x07|[P_^X].*?\x1b\\|.)", re.DOTALL)


def _cpu_ms(pid: int) -> float:
    """CPU time of a living process and its threads so far, in milliseconds."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return 1000.0 * (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _start(home: str) -> tuple[int, int]:
    """The app in a pseudo-terminal of 120x36; (pid, its side of the terminal)."""
    pid, terminal = pty.fork()
    if pid == 0:
        env = {**os.environ, "AIOK_HOME": home, "TERM": "xterm-256color", "LANG": "C.UTF-8"}
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 36, 120, 0, 0))
        os.chdir(ROOT)
        os.execve(sys.executable, [sys.executable, "-P", "-m", "aiok_tui"], env)  # noqa: S606
    return pid, terminal


def first_frame(home: str, marks: tuple[bytes, ...]) -> list[float]:
    """CPU milliseconds until each mark has been written; the app is ended then."""
    pid, terminal = _start(home)
    seen, found, end = b"", list[float](), time.monotonic() + LIMIT_S
    try:
        while len(found) < len(marks) and time.monotonic() < end:
            if not select.select([terminal], [], [], 0.5)[0]:
                continue
            seen += os.read(terminal, 65536)
            used = _cpu_ms(pid)  # at once: the app goes on while this process looks for the mark
            shown = SEQUENCE.sub(b"", seen)
            while len(found) < len(marks) and marks[len(found)] in shown:
                found.append(used)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)
    if len(found) < len(marks):
        raise RuntimeError(f"{marks[len(found)]!r} was not shown within {LIMIT_S:g} s")
    return found


def _help_ms() -> float:
    """CPU milliseconds of `aiok --help`."""
    before = os.times()
    subprocess.run(
        [sys.executable, "-P", "-m", "aiok_tui", "--help"],
        cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    after = os.times()
    used = after.children_user + after.children_system
    return 1000.0 * (used - before.children_user - before.children_system)


def _row(name: str, values: list[float], goal: float | None) -> dict[str, Any]:
    """One result; smaller is better."""
    value, apart = median(values), spread(values)
    met = None if goal is None else judge(-value, -goal, apart)
    return {
        "name": name, "value": round(value), "unit": "ms CPU", "goal": goal and f"<= {goal:g}",
        "met": met, "spread": round(apart, 1), "data": f"{RUNS} starts, an empty home",
    }  # fmt: skip


def measure() -> list[dict[str, Any]]:
    """The rows of this benchmark."""
    helps = [_help_ms() for _ in range(RUNS)]
    with tempfile.TemporaryDirectory() as home:
        frames = [first_frame(home, (b"Help", b"No runs yet")) for _ in range(RUNS)]
    return [
        _row("aiok --help", helps, 300.0),
        _row("first frame of the app", [frame[0] for frame in frames], 700.0),
        _row("list of runs in the app", [frame[1] for frame in frames], None),
    ]
