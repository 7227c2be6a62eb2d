"""Throughput and latency over the batch size.

The rows/s of a size are those of a stream of such batches on all threads. Its latencies are those
of single requests, one after the other: what a caller waits for when nothing else is asked.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch

from models.inference.scoring import Array, one_by_one
from models.inference.trial import Trial, cut, seconds_of
from models.messages import Messenger, Progress
from models.worker import StopFlag

SIZES = (1, 16, 128, 1024, 8192)
_CALLS = (10, 400)  # of a size, at least and at most
_SECONDS = 0.1  # for the latencies of a size, and as much for its throughput


def measure_curves(
    trials: Mapping[str, Trial], rows: tuple[Array, Array], threads: int, messenger: Messenger,
    stop: StopFlag,
) -> dict[str, list[dict[str, Any]]]:  # fmt: skip
    """For each trial a point a batch size: rows/s, and latency in ms (median, 99th percentile)."""
    curves: dict[str, list[dict[str, Any]]] = {name: [] for name in trials}
    for done, size in enumerate(SIZES):
        messenger.send(Progress(phase="curves", done=done, total=len(SIZES), unit="batch sizes"))
        batches = cut(rows, size)
        for name, trial in trials.items():
            stop.check()
            curves[name].append({"batch_size": size, **_point(trial, batches, size, threads)})
    messenger.send(Progress(phase="curves", done=len(SIZES), total=len(SIZES), unit="batch sizes"))
    return curves


def _point(
    trial: Trial, batches: list[tuple[Array, Array]], size: int, threads: int
) -> dict[str, Any]:
    latencies = _latencies(trial, batches, threads if trial.way is one_by_one else 1)
    usual = statistics.median(latencies)
    count = int(min(max(_SECONDS * threads / usual, 2 * threads), len(batches)))
    seconds, _ = seconds_of(trial, batches[:count], threads)
    return {"rows_per_second": count * size / seconds, "p50_ms": usual * 1e3,
            "p99_ms": percentile(latencies, 0.99) * 1e3, "calls": len(latencies)}  # fmt: skip


def _latencies(trial: Trial, batches: list[tuple[Array, Array]], threads: int) -> list[float]:
    """Seconds of single calls, each begun when the last one has ended; the first is not counted."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        trial.score(*batches[0])
        seconds: list[float] = []
        end = time.perf_counter() + _SECONDS
        while len(seconds) < _CALLS[0] or (len(seconds) < _CALLS[1] and time.perf_counter() < end):
            numeric, ids = batches[len(seconds) % len(batches)]
            begun = time.perf_counter()
            trial.score(numeric, ids)
            seconds.append(time.perf_counter() - begun)
        return seconds
    finally:
        torch.set_num_threads(before)


def percentile(values: list[float], part: float) -> float:
    """The smallest value that `part` of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    rank = math.ceil(part * len(ordered))
    return ordered[max(rank, 1) - 1]
