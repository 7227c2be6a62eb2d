"""A program that travels over a channel's stdin: it runs on a bare host, nothing is placed."""

from __future__ import annotations

from pathlib import Path

# Reads no byte too many: what follows the program is for the program.
_LOADER = (
    "import os; n = int(os.read(0, 8)); s = b''\n"
    "while len(s) < n: s += os.read(0, n - len(s))\n"
    "exec(compile(s, 'sent', 'exec'))"
)


def command(python: str, *words: str) -> list[str]:
    """The argv that waits for a program and runs it; it sees `words` as its arguments."""
    return [python, "-I", "-S", "-u", "-c", _LOADER, *words]


def sent(path: Path) -> bytes:
    """What to write to that command first."""
    source = path.read_bytes()
    return b"%08d" % len(source) + source
