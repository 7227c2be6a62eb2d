"""One way to score, measured beside the others."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from models.inference.scoring import Array, Score
from models.messages import Messenger, Progress
from models.worker import StopFlag

BATCH_SIZE = 1024
REPEATS = 5
TIMED_ROWS = 128 * BATCH_SIZE
_PASS_SECONDS, _PASS_BATCHES = 0.25, (8, 128)

Way = Callable[[Score, Iterable[tuple[Array, Array]], int], Iterator[Array]]


@dataclass
class Trial:
    """A score and the way batches are given to it, what it costs in quality, how fast it is."""

    name: str
    precision: str
    score: Score
    way: Way
    approximate: bool = False  # in fp32, too
    saved: int = 0  # floating point operations a row that it does without
    auc: float = math.nan
    logloss: float = math.nan
    drop: float = 0.0
    largest_difference: float = 0.0
    speeds: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    verdict: str = ""

    @property
    def rows_per_second(self) -> float:
        """Median over the repeats."""
        return statistics.median(self.speeds)

    def to_json(self) -> dict[str, Any]:
        """The measurements, for bundle.json."""
        return {
            "name": self.name, "precision": self.precision, "auc": finite(self.auc),
            "logloss": finite(self.logloss), "metric_drop": finite(self.drop),
            "max_logit_difference": self.largest_difference,
            "rows_per_second": self.rows_per_second, "repeats": self.speeds,
            "cpu_ms_per_batch": statistics.median(self.cpu_ms), "verdict": self.verdict,
        }  # fmt: skip


def finite(value: float) -> float | None:
    """A number as JSON knows them: None for what is none."""
    return value if math.isfinite(value) else None


def cut(rows: tuple[Array, Array], size: int) -> list[tuple[Array, Array]]:
    """Rows in batches of one size; what is left over at the end is left out."""
    numeric, ids = rows
    starts = range(0, len(ids) - size + 1, size)
    return [(numeric[at : at + size], ids[at : at + size]) for at in starts]


def measure(
    trials: list[Trial], rows: tuple[Array, Array], threads: int, messenger: Messenger,
    stop: StopFlag,
) -> None:  # fmt: skip
    """Time every way on the same batches, in turns, so that a busy moment hits all of them."""
    batches = cut(rows, BATCH_SIZE)
    slowest = max(seconds_of(trial, batches[: _PASS_BATCHES[0]], threads)[0] for trial in trials)
    count = int(_PASS_SECONDS / slowest * _PASS_BATCHES[0])
    batches = batches[: min(max(count, _PASS_BATCHES[0]), _PASS_BATCHES[1])]
    for repeat in range(REPEATS):
        messenger.send(Progress(phase="measure", done=repeat, total=REPEATS, unit="repeats"))
        for trial in trials:
            stop.check()
            seconds, cpu_seconds = seconds_of(trial, batches, threads)
            trial.speeds.append(len(batches) * BATCH_SIZE / seconds)
            trial.cpu_ms.append(cpu_seconds * 1e3 / len(batches))
    messenger.send(Progress(phase="measure", done=REPEATS, total=REPEATS, unit="repeats"))


def seconds_of(
    trial: Trial, batches: list[tuple[Array, Array]], threads: int
) -> tuple[float, float]:
    """Wall and CPU seconds to score the batches."""
    wall, used = time.perf_counter(), time.process_time()
    for _ in trial.way(trial.score, batches, threads):
        pass
    return time.perf_counter() - wall, time.process_time() - used
