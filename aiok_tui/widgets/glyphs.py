"""Signs and words of states, bars and sparklines, in Unicode or in ASCII.

A state always has a sign and a word; colour only repeats them.
"""

from __future__ import annotations

import locale
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiok_tui.widgets.paint import Cell


@dataclass(frozen=True)
class Glyphs:
    """What a terminal can show."""

    braille: bool
    full: str
    empty: str
    levels: str
    signs: dict[str, str]
    more: str
    cut: str
    dot: str


_UNICODE = Glyphs(
    braille=True, full="█", empty="░", levels=" ▁▂▃▄▅▆▇█", more="›", cut="…", dot="·",
    signs={"waiting": "·", "created": "·", "running": "●", "stopping": "◌", "done": "✓",
           "reused": "↺", "failed": "✗", "stopped": "■", "lost": "?", "unknown": "·",
           "ready": "✓", "bare": "○", "half-made": "◐", "unreachable": "✗", "checking": "◌",
           "coming up": "◌", "going down": "◌", "removing": "◌"},
)  # fmt: skip
_ASCII = Glyphs(
    braille=False, full="#", empty=".", levels=" .:-=+*#", more=">", cut="~", dot="|",
    signs={"waiting": ".", "created": ".", "running": ">", "stopping": "~", "done": "+",
           "reused": "=", "failed": "x", "stopped": "#", "lost": "?", "unknown": ".",
           "ready": "+", "bare": "o", "half-made": "%", "unreachable": "x", "checking": "~",
           "coming up": "~", "going down": "~", "removing": "~"},
)  # fmt: skip
_TONES = {"waiting": "dim", "created": "dim", "running": "accent", "stopping": "warn",
          "done": "good", "reused": "good", "failed": "bad", "stopped": "warn",
          "lost": "bad", "unknown": "dim", "ready": "good", "half-made": "warn",
          "unreachable": "bad", "checking": "accent", "coming up": "accent",
          "going down": "accent", "removing": "accent"}  # fmt: skip
_WORDS = {"created": "new", "failed": "FAILED", "lost": "LOST", "waiting": "waits"}


@lru_cache(maxsize=1)
def glyphs() -> Glyphs:
    """Unicode where the locale says UTF-8 and the terminal has more than a console's font.

    AIOK_ASCII=1 asks for ASCII, for fonts without braille.
    """
    ascii_only = (
        os.environ.get("AIOK_ASCII", "") not in ("", "0")
        or "utf" not in locale.getencoding().lower()
        or os.environ.get("TERM", "") in ("linux", "dumb", "vt100")
    )
    return _ASCII if ascii_only else _UNICODE


def state_cell(status: str) -> Cell:
    """Sign and word of the state of a run, a step or a host."""
    sign = glyphs().signs.get(status, "?")
    return f"{sign} {_WORDS.get(status, status)}", _TONES.get(status, "plain")


def bar(fraction: float | None, width: int) -> str:
    """A bar of `width` cells; empty when the fraction is unknown."""
    if fraction is None or not math.isfinite(fraction):
        return " " * width
    full = round(max(0.0, min(1.0, fraction)) * width)
    return glyphs().full * full + glyphs().empty * (width - full)


def sparkline(values: Sequence[float], width: int, top: float | None = None) -> str:
    """The last `width` values as one cell each, from 0 to `top` (default: their maximum)."""
    if width <= 0:
        return ""
    levels = glyphs().levels
    shown = [value if math.isfinite(value) else 0.0 for value in values[-width:]]
    most = top or max(shown, default=0.0)
    if most <= 0:
        return (levels[1] * len(shown)).rjust(width)
    steps = len(levels) - 1
    cells = (levels[max(1, min(steps, math.ceil(steps * value / most)))] for value in shown)
    return "".join(cells).rjust(width)
