"""Training speed of two ranks, each with the jobs' batch, beside two independent one-core jobs.

Both jobs run at the same time, as the two ranks do; each process computes with one thread.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from bench import training
from bench.harness import judge, python_of, spread
from models import catalog

ENVIRONMENTS = ("bench", "etl", "torch")
ROWS, SEED, REPEATS = 1_000_000, 20261124, 7
GOAL = 0.85
ONE_PASS = {"epochs": 1, "evals_per_epoch": 1}


def measure() -> list[dict[str, Any]]:
    """Rows/s of both forms, alternating, and the median of their ratios."""
    pairs = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        logs = training.generated(folder / "logs", ROWS, SEED)
        data = training.prepared(folder / "etl", logs, "optimized")
        for repeat in range(REPEATS):
            alone = two_jobs(folder / f"jobs-{repeat}", data)
            pairs.append((alone, two_ranks(folder / f"ranks-{repeat}", data)))
    ratios = [together / alone for alone, together in pairs]
    ratio, spreads = median(ratios), spread(ratios)
    return [{
        "name": "two ranks", "value": round(median(together for _, together in pairs)),
        "unit": "rows/s", "baseline": round(median(alone for alone, _ in pairs)),
        "ratio": round(ratio, 3), "goal": f">= {GOAL} of two jobs' summed rows/s",
        "met": judge(ratio, GOAL, spreads), "spread": round(spreads, 3),
        "data": f"{ROWS:,} generated rows, one epoch",
    }]  # fmt: skip


def two_jobs(folder: Path, data: Path) -> float:
    """Summed rows/s of two trainings at the same time."""
    jobs = []
    for number in (1, 2):
        work = folder / str(number)
        spec = training.train_spec(work, data, "optimized", settings=ONE_PASS)
        jobs.append((training.begin([python_of("torch")], "models.train", work, spec), work))
    return sum(float(training.finished(*job)["rows_per_second"]) for job in jobs)


def two_ranks(folder: Path, data: Path) -> float:
    """Rows/s of one training by two ranks; the global batch is twice that of a job."""
    batch = 2 * int(catalog.load("dlrm").profiles["optimized"]["batch_size"])
    spec = training.train_spec(
        folder, data, "optimized", ranks=2, settings={**ONE_PASS, "batch_size": batch}
    )
    return float(training.trained(folder, spec)["rows_per_second"])
