"""Text and numbers from data files, hosts and programs, made fit to be shown.

Such text is data, never markup: control bytes, bidirectional overrides and broken Unicode are
taken out here; the escaping is done by the template and by charts.py.
"""

from __future__ import annotations

import math
import unicodedata
from typing import Any

LONGEST_TEXT = 4000
_DROPPED = {"Cc", "Cf", "Cs", "Co", "Cn"}
_SPACES = {"\n", "\t", "\r", "\u2028", "\u2029"}


def plain(text: str) -> str:
    """`text` on one line without control, format and unassigned characters."""
    kept = (
        " " if char in _SPACES else "" if unicodedata.category(char) in _DROPPED else char
        for char in text[:LONGEST_TEXT]
    )
    return "".join(kept) + (" ..." if len(text) > LONGEST_TEXT else "")


def plain_tree(value: Any) -> Any:
    """A JSON value with every string made plain and every non-finite number made null."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, dict):
        return {plain(str(key)): plain_tree(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_tree(item) for item in value]
    return plain(str(value))


def number(value: Any) -> float | None:
    """`value` as a finite number, None when it is something else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def as_dict(value: Any) -> dict[str, Any]:
    """`value` if it is a dict, else an empty one: files of other versions may lack it."""
    return value if isinstance(value, dict) else {}


def as_dicts(value: Any) -> list[dict[str, Any]]:
    """The dicts in a list, [] when it is none."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def show(value: Any, unit: str = "") -> str:
    """A number for people: 4 places for scores, thousands separated, the unit behind it."""
    found = number(value)
    if found is None:
        return "-" if value is None else plain(str(value))
    if unit in ("auc", "nats", "part"):
        text = f"{found:.4f}"
    elif unit == "x":
        return f"{found:.2f}x"
    elif unit == "s":
        return show_seconds(found)
    elif found == int(found) or abs(found) >= 1000:
        text = f"{found:,.0f}"
    else:
        text = f"{found:,.2f}" if abs(found) >= 1 else f"{found:.3g}"
    return text if unit in ("", "auc", "part") else f"{text} {unit}"


def show_seconds(seconds: float) -> str:
    """A duration: 0.42 s, 8.1 s, 3 min 05 s, 2 h 14 min."""
    if seconds == 0:
        return "0 s"
    if seconds < 99.95:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 5940:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def show_gib(value: Any) -> str:
    """Memory or disk in GiB with two places, what is less as "< 0.01"."""
    found = number(value)
    if found is None:
        return "-"
    return "< 0.01" if 0 < found < 0.005 else f"{found:,.2f}"
