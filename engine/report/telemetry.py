"""The samples of a run's hosts, thinned to what a chart can show.

Time is time at work: a pause between a stop and its resume is cut out of the axis.
"""

from __future__ import annotations

import contextlib
import json
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.report.plaintext import number, plain
from engine.store import read_lines

BUCKETS = 240
LONGEST_GAP_S = 60.0

# series -> (key of the telemetry line, unit)
SERIES: dict[str, tuple[str, str]] = {
    "cpu": ("cpu", "%"),
    "job_cpu": ("job_cpu", "%"),
    "memory_used": ("memory_used_gib", "GiB"),
    "job_memory": ("job_memory_gib", "GiB"),
    "disk_read": ("disk_read_mib_s", "MiB/s"),
    "disk_write": ("disk_write_mib_s", "MiB/s"),
    "net_rx": ("net_rx_mib_s", "MiB/s"),
    "net_tx": ("net_tx_mib_s", "MiB/s"),
}


class WorkClock:
    """Maps wall-clock time to seconds at work: gaps without a sample are shortened."""

    def __init__(self, times: Sequence[float]) -> None:
        self._times = sorted(set(times))
        self._at = [0.0]
        self.pauses: list[float] = []
        for before, after in zip(self._times, self._times[1:], strict=False):
            gap = after - before
            if gap > LONGEST_GAP_S:
                self.pauses.append(self._at[-1])
                gap = 0.0
            self._at.append(self._at[-1] + gap)

    @property
    def span(self) -> float:
        """Seconds at work between the first and the last known time."""
        return self._at[-1]

    def __call__(self, t: float) -> float:
        """Seconds at work at wall-clock time `t` (clamped to the known span)."""
        if not self._times:
            return 0.0
        place = bisect_right(self._times, t) - 1
        if place < 0:
            return 0.0
        if place == len(self._times) - 1:
            return self._at[-1]
        return min(self._at[place] + t - self._times[place], self._at[place + 1])


def read_samples(path: Path) -> list[dict[str, float]]:
    """The usable samples of one telemetry file: `t` and the mean or value of each series.

    Torn and foreign lines are skipped. `cpu` becomes the mean percentage over the cores,
    `cores` their number, `job_cpu` the percentage of the whole machine.
    """
    samples: list[dict[str, float]] = []
    offset = 0
    while True:
        lines, after = read_lines(path, offset)
        for line in lines:
            with contextlib.suppress(ValueError):
                sample = _sample(json.loads(line))
                if sample:
                    samples.append(sample)
        if after == offset:
            return sorted(samples, key=lambda sample: sample["t"])
        offset = after


def _sample(line: Any) -> dict[str, float] | None:
    if not isinstance(line, dict):
        return None
    t = number(line.get("t"))
    if t is None:
        return None
    sample = {"t": t}
    cores = line.get("cpu")
    loads = [number(load) for load in cores] if isinstance(cores, list) else []
    known = [load for load in loads if load is not None]
    if known:
        sample["cpu"] = sum(known) / len(known)
        sample["cores"] = float(len(known))
    total = number(line.get("memory_total_gib"))
    if total is not None:
        sample["memory_total"] = total
    for name, (key, _) in SERIES.items():
        value = number(line.get(key))
        if name != "cpu" and value is not None:
            sample[name] = value / len(known) if name == "job_cpu" and known else value
    return sample


def hosts(folder: Path) -> list[tuple[str, list[dict[str, float]]]]:
    """(host, samples) of every telemetry file that holds a sample, in name order."""
    found = []
    if folder.is_dir():
        for path in sorted(folder.glob("*.jsonl")):
            samples = read_samples(path)
            if samples:
                found.append((plain(path.stem), samples))
    return found


def summary(host: str, samples: Sequence[dict[str, float]], clock: WorkClock) -> dict[str, Any]:
    """Thinned series of a host as JSON: means of at most 240 equal buckets, and the peaks.

    `series` holds {name: {"unit", "points": [[seconds at work, value]], "peak", "mean"}}.
    """
    width = max(clock.span / BUCKETS, 1e-9)
    series: dict[str, Any] = {}
    for name, (_, unit) in SERIES.items():
        pairs = [(clock(sample["t"]), sample[name]) for sample in samples if name in sample]
        if not pairs:
            continue
        buckets: dict[int, list[tuple[float, float]]] = {}
        for at, value in pairs:
            buckets.setdefault(int(at / width), []).append((at, value))
        points = [
            [round(sum(at for at, _ in bucket) / len(bucket), 2),
             round(sum(value for _, value in bucket) / len(bucket), 4)]
            for _, bucket in sorted(buckets.items())
        ]  # fmt: skip
        values = [value for _, value in pairs]
        series[name] = {
            "unit": unit,
            "points": points,
            "peak": round(max(values), 4),
            "mean": round(sum(values) / len(values), 4),
        }
    totals = [sample["memory_total"] for sample in samples if "memory_total" in sample]
    return {
        "host": host,
        "samples": len(samples),
        "cores": int(max((sample.get("cores", 0.0) for sample in samples), default=0.0)),
        "memory_total_gib": max(totals) if totals else None,
        "series": series,
    }
