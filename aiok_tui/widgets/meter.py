"""The panel of a machine's use: CPU, memory, disk and network, each with its last minutes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aiok_tui.widgets.glyphs import bar, sparkline
from aiok_tui.widgets.paint import Cell, Lines


def number(sample: Mapping[str, Any], key: str) -> float:
    """A figure of a sample; the mean when it is a list, 0 when it is missing or no number."""
    value = sample.get(key)
    if isinstance(value, list):
        parts = [float(part) for part in value if isinstance(part, int | float)]
        return sum(parts) / len(parts) if parts else 0.0
    return float(value) if isinstance(value, int | float) else 0.0


class Meters(Lines):
    """One line a resource; wide enough ones get a bar and a sparkline."""

    def samples(self, samples: Sequence[Mapping[str, Any]], width: int, now: float) -> None:
        """Show the newest sample of one host, and the course of the last ones."""
        if not samples:
            self.show([[("no samples yet", "dim")]])
            return
        last = samples[-1]
        age = now - number(last, "t")
        cores = last.get("cpu")
        total = number(last, "memory_total_gib")
        used = number(last, "memory_used_gib")
        room = max(0, width - 36)
        draw = min(12, max(0, room // 3))
        spark = max(0, min(60, room - draw - 1))

        def line(name: str, share: float | None, value: str, course: list[float],
                 top: float | None = None) -> list[Cell]:  # fmt: skip
            hot = share is not None and share >= 0.9 and name == "memory"
            return [(f"{name:<8}", "dim"), (bar(share, draw) + " " * bool(draw), "accent"),
                    (f"{value:<27}", "bad" if hot else "plain"),
                    (sparkline(course, spark, top) if spark else "", "accent")]  # fmt: skip

        def course(key: str) -> list[float]:
            return [number(sample, key) for sample in samples[-spark:]] if spark else []

        def both(one: str, other: str) -> list[float]:
            return [a + b for a, b in zip(course(one), course(other), strict=True)]

        cpu = number(last, "cpu")
        count = f" of {len(cores)} cores" if isinstance(cores, list) else ""
        lines = [
            line("cpu", cpu / 100, f"{cpu:.0f} %{count}", course("cpu"), 100.0),
            line("memory", used / total if total else None, f"{used:.1f} of {total:.1f} GiB",
                 course("memory_used_gib"), total or None),
            line("disk", None, _pair(last, "disk_read_mib_s", "disk_write_mib_s", "r", "w"),
                 both("disk_read_mib_s", "disk_write_mib_s")),
            line("network", None, _pair(last, "net_rx_mib_s", "net_tx_mib_s", "rx", "tx"),
                 both("net_rx_mib_s", "net_tx_mib_s")),
            line("job", None, f"{number(last, 'job_cpu'):.0f} % cpu, "
                 f"{number(last, 'job_memory_gib'):.2f} GiB", course("job_memory_gib")),
        ]  # fmt: skip
        if age > 10:
            lines.append([(f"last sample {age:,.0f} s ago", "dim")])
        self.show(lines)


def _pair(sample: Mapping[str, Any], one: str, other: str, a: str, b: str) -> str:
    return f"{a} {number(sample, one):.1f}  {b} {number(sample, other):.1f} MiB/s"
