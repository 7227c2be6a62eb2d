"""The panel of a machine's use: CPU, memory, disk and network, each with its last minutes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aiok_tui.widgets.glyphs import bar, sparkline
from aiok_tui.widgets.paint import Cell, Lines, fit


def number(sample: Mapping[str, Any], key: str) -> float:
    """A figure of a sample; the mean when it is a list, 0 when it is missing or no number."""
    value = sample.get(key)
    if isinstance(value, list):
        parts = [float(part) for part in value if isinstance(part, int | float)]
        return sum(parts) / len(parts) if parts else 0.0
    return float(value) if isinstance(value, int | float) else 0.0


def heard(sample: Mapping[str, Any]) -> float:
    """When a sample came in, seconds since the epoch by this machine's clock."""
    return number(sample, "heard") or number(sample, "t")


class Meters(Lines):
    """One line a resource of one host, or one line a host; wide ones get bars and sparklines."""

    def hosts(
        self, samples: Mapping[str, Sequence[Mapping[str, Any]]], silent: Mapping[str, float],
        width: int, height: int, now: float,
    ) -> None:  # fmt: skip
        """Show several hosts, the silent ones first; these with their last values and their age.

        `silent` are seconds by host; `now` 0 means that nothing goes on any more.
        """
        names = sorted({*samples, *silent}, key=lambda name: (name not in silent, name))
        spark = max(0, min(40, (width - 41) // 2))
        head = f"{'host':<11}{'cpu':>5}{'':{spark + 1}}{'mem':>6}{'':{spark + 1}}{'net':>8}"
        lines: list[list[Cell]] = [[(f"{head}{'job cpu':>9}", "dim")]]
        room = max(1, height - 1)
        for name in names if len(names) <= room else names[: room - 1]:
            age = silent.get(name)
            lines.append(_host_line(name, samples.get(name, ()), age, spark, now))
        if len(names) > room:
            lines.append([(f"and {len(names) - room + 1} more hosts", "dim")])
        self.show(lines)

    def samples(self, samples: Sequence[Mapping[str, Any]], width: int, now: float) -> None:
        """Show the newest sample of one host, and the course of the last ones."""
        if not samples:
            self.show([[("no samples yet", "dim")]])
            return
        last = samples[-1]
        age = now - heard(last)
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
            line("disk", None, pair(last, "disk_read_mib_s", "disk_write_mib_s", "r", "w"),
                 both("disk_read_mib_s", "disk_write_mib_s")),
            line("network", None, pair(last, "net_rx_mib_s", "net_tx_mib_s", "rx", "tx"),
                 both("net_rx_mib_s", "net_tx_mib_s")),
            line("job", None, f"{number(last, 'job_cpu'):.0f} % cpu, "
                 f"{number(last, 'job_memory_gib'):.2f} GiB", course("job_memory_gib")),
        ]  # fmt: skip
        if age > 10:
            lines.append([(f"last sample {age:,.0f} s ago", "dim")])
        self.show(lines)


def pair(sample: Mapping[str, Any], one: str, other: str, a: str, b: str) -> str:
    """Two rates of a sample: r 1.0  w 2.0 MiB/s."""
    return f"{a} {number(sample, one):.1f}  {b} {number(sample, other):.1f} MiB/s"


def _host_line(
    name: str, samples: Sequence[Mapping[str, Any]], silent_s: float | None, spark: int, now: float
) -> list[Cell]:
    """One host: CPU and memory with their courses, network, the job's CPU, and what is wrong.

    Figures are % of all cores, % of memory, MiB/s both ways, % of one core.
    """
    if not samples:
        said = "no samples yet" if silent_s is None else f"silent {silent_s:,.0f} s"
        return [(fit(name, 10) + " ", "plain"), (said, "dim" if silent_s is None else "bad")]
    last, age = samples[-1], now - heard(samples[-1])
    total = number(last, "memory_total_gib")
    share = number(last, "memory_used_gib") / total if total else 0.0
    stale = silent_s is not None or age > 10
    tone, drawn = ("dim", "dim") if stale else ("plain", "accent")

    def course(key: str, top: float | None) -> Cell:
        return " " + sparkline([number(s, key) for s in samples[-spark:]], spark, top), drawn

    net = number(last, "net_rx_mib_s") + number(last, "net_tx_mib_s")
    line: list[Cell] = [
        (fit(name, 10) + " ", "plain"), (f"{number(last, 'cpu'):3.0f} %", tone),
        course("cpu", 100.0), (f"{100 * share:4.0f} %", tone if stale or share < 0.9 else "bad"),
        course("memory_used_gib", total or None), (f"{net:8.1f}", tone),
        (f"{number(last, 'job_cpu'):7.0f} %", tone),
    ]  # fmt: skip
    if silent_s is not None:
        return [*line[:-2], (f" silent {max(silent_s, age if now else 0.0):,.0f} s", "bad")]
    return [*line[:-2], (f" {age:,.0f} s ago", "dim")] if now and age > 10 else line
