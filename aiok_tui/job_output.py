"""What work on data says: how far it is, figures, profiles, scores."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from aiok_tui.output import duration, print_json, table, words
from engine.data_jobs import JobListener


def print_result(result: Mapping[str, Any], as_json: bool, done: str) -> None:
    """The figures of a data job."""
    if as_json:
        print_json(dict(result))
        return
    print(table([[key, _plain(value)] for key, value in result.items() if not _is_long(value)]))
    words(done)


def _is_long(value: Any) -> bool:
    return isinstance(value, list) and (not value or len(value) > 8)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4f}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def print_predicted(result: Mapping[str, Any], as_json: bool, done: str) -> None:
    """Rows, speed, and how much of the rows the model knows nothing of."""
    if as_json:
        print_json(dict(result))
        return
    rows = [["rows", _plain(result["rows"])], ["time", duration(result["seconds"])],
            ["rows/s", f"{result['rows_per_second']:,.0f}"]]  # fmt: skip
    if result["auc"] is not None:
        rows.append(["AUC", f"{result['auc']:.4f}"])
    for key in ("missing", "unseen"):
        counts: dict[str, int] = result[key]
        most = max(counts, key=lambda name: counts[name], default="")
        told = f"{sum(counts.values()):,} values"
        rows.append([key, told + (f", most in {most}: {counts[most]:,}" if any(counts.values())
                                  else "")])  # fmt: skip
    print(table(rows))
    words(done)


def print_profile(result: Mapping[str, Any], as_json: bool) -> None:
    """One line a column."""
    if as_json:
        print_json(dict(result))
        return
    print(f"{result['rows']:,} rows, label rate {result['label_rate']:.4f}")
    rows = [
        [str(c["name"]), str(c["kind"]), _plain(c["missing"]), _plain(c["distinct"]),
         "" if c.get("min") is None else _plain(c["min"]),
         "" if c.get("max") is None else _plain(c["max"]),
         " ".join(f"{v}:{n}" for v, n in (c.get("top") or [])[:3])]
        for c in result["columns"]
    ]  # fmt: skip
    print(table(rows, ["column", "kind", "missing", "distinct", "min", "max", "most frequent"]))


class ProgressPrinter(JobListener):
    """Progress of one worker, on stderr."""

    def __init__(self, as_json: bool) -> None:
        self._line = progress_line("")
        self._quiet = as_json

    def progress(self, phase: str, done: float, total: float) -> None:
        if not self._quiet:
            self._line(phase, done, total)

    def note(self, text: str) -> None:
        words(text)


def progress_line(name: str) -> Callable[[str, float, float], None]:
    """A callback that rewrites one line on a terminal and says little elsewhere."""
    live, told, last = sys.stderr.isatty(), 0.0, ""

    def show(phase: str, done: float, total: float) -> None:
        nonlocal told, last
        whole = total > 0 and done >= total
        if time.monotonic() - told < 0.2 and not whole:
            return
        part = f" {100 * done / total:.0f} %" if total > 0 else ""
        if live:
            sys.stderr.write(f"\r\x1b[K{name} {phase}{part}"[:110] + ("\r\x1b[K" if whole else ""))
            sys.stderr.flush()
        elif phase != last:
            words(f"{name} {phase} ...".strip())
        last, told = phase, time.monotonic()

    return show
