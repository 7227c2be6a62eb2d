"""From raw text to a trained model: our ETL and training beside pandas and stock training.

Ours is the ETL on the embedded engine and the optimized profile as it ships, which stops by itself;
theirs the pandas job of bench/baselines and one epoch of the public network and its plain training
at batch 128, its rate the best of RATES (chosen before, on data of another seed). Both use all
cores, every job is a process of its own and is timed from its start to its end; the test rows are
scored outside the clock.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from bench import training
from bench.harness import judge, python_of, spread
from bench.training import Cost
from models import catalog

ENVIRONMENTS = ("bench", "etl", "torch")
ROWS, SEED, RATE_SEED, PAIRS = 300_000, 20261128, 20261129, 3
RATES = (0.1, 0.3, 1.0)
CORES = len(os.sched_getaffinity(0))
LARGEST_DROP = 0.001
Settings = dict[str, Any]


def measure() -> list[dict[str, Any]]:
    """Clock and test AUC of both, pair by pair."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        stock = stock_settings(folder / "rates")
        logs = training.generated(folder / "logs", ROWS, SEED)
        runs: dict[str, list[dict[str, Any]]] = {"aiok": [], "pandas and stock": []}
        for pair in range(PAIRS):
            runs["aiok"].append(ours(folder / f"ours {pair}", logs))
            runs["pandas and stock"].append(theirs(folder / f"theirs {pair}", logs, stock))
            print({name: found[-1] for name, found in runs.items()}, flush=True)
    return rows(runs, stock["learning_rate"])


def stock_settings(folder: Path) -> Settings:
    """Stock for one epoch at the rate with the best validation AUC; the rates run side by side."""
    logs = training.generated(folder / "logs", ROWS, RATE_SEED)
    data = training.prepared(folder / "etl", logs, "stock")
    jobs = []
    for rate in RATES:
        settings = {"batch_size": 128, "learning_rate": rate, "table_learning_rate": rate,
                    "epochs": 1, "evals_per_epoch": 1}  # fmt: skip
        place = folder / f"{rate}"
        spec = training.train_spec(place, data, "stock", settings=settings)
        jobs.append((
            training.begin(training.train_launch(spec), "models.train", place, spec),
            place, settings,
        ))  # fmt: skip
    found = [(training.finished(process, place)["best"]["valid"]["auc"], settings)
             for process, place, settings in jobs]  # fmt: skip
    return max(found, key=lambda pair: pair[0])[1]


def ours(folder: Path, logs: Path) -> dict[str, Any]:
    """The embedded engine, then the optimized profile."""
    min_count = int(catalog.load("dlrm").profiles["optimized"]["min_count"])
    etl = training.timed([python_of("etl")], "models.dlrm.etl", folder / "etl",
                         training.etl_spec(folder / "etl", logs, min_count))  # fmt: skip
    return trained(folder, etl, training.train_spec(
        folder / "train", folder / "etl" / "output", "optimized", ranks=CORES
    ))  # fmt: skip


def theirs(folder: Path, logs: Path, settings: Settings) -> dict[str, Any]:
    """pandas, then stock."""
    min_count = int(catalog.load("dlrm").profiles["stock"]["min_count"])
    etl = training.timed([python_of("bench")], "bench.baselines.pandas_etl", folder / "etl",
                         training.baseline_spec(logs, min_count))  # fmt: skip
    return trained(folder, etl, training.train_spec(
        folder / "train", folder / "etl" / "output", "stock", settings=settings, threads=CORES
    ))  # fmt: skip


def trained(folder: Path, etl: Cost, spec: dict[str, Any]) -> dict[str, Any]:
    """Train on what the ETL wrote: the clock of both jobs, and the AUC on the test rows."""
    place, data = folder / "train", folder / "etl" / "output"
    train = training.timed(training.train_launch(spec), "models.train", place, spec)
    tested = training.evaluated(folder / "test", data, place / "output", None)
    return {
        "etl_seconds": etl.seconds, "train_seconds": train.seconds, "test": tested["auc"],
        "seconds": etl.seconds + train.seconds, "cpu_seconds": etl.cpu_seconds + train.cpu_seconds,
        "load": etl.load,
    }  # fmt: skip


def rows(runs: dict[str, list[dict[str, Any]]], rate: float) -> list[dict[str, Any]]:
    """Medians of both, and their ratios."""
    about = {"data": f"{ROWS:,} generated rows, seed {SEED}, 70/10/20 by time, {CORES} cores;"
                     f" stock: batch 128, rate {rate:g}, one epoch"}  # fmt: skip
    found: list[dict[str, Any]] = []
    for name, results in runs.items():
        parts = {key: median(result[key] for result in results)
                 for key in ("etl_seconds", "train_seconds", "load")}  # fmt: skip
        for key, unit in (("seconds", "s"), ("cpu_seconds", "CPU-s")):
            values = [result[key] for result in results]
            found.append({
                "name": f"{name}: {unit}, raw text to trained model", "unit": unit,
                "value": round(median(values), 2), "spread": round(spread(values), 2),
                "note": f"ETL {parts['etl_seconds']:.1f} s, training"
                        f" {parts['train_seconds']:.1f} s, load {parts['load']:.1f}", **about,
            })  # fmt: skip
    slow, fast = runs["pandas and stock"], runs["aiok"]
    for key, unit in (("seconds", "wall time"), ("cpu_seconds", "CPU-seconds")):
        ratios = [a[key] / b[key] for a, b in zip(slow, fast, strict=True)]
        found.append({
            "name": f"{unit}: pandas and stock / aiok", "value": round(median(ratios), 2),
            "unit": "x", "ratio": round(median(ratios), 2), "spread": round(spread(ratios), 2),
            "readme": True, **about,
        })  # fmt: skip
    drops = [a["test"] - b["test"] for a, b in zip(slow, fast, strict=True)]
    found.append({
        "name": "test AUC of aiok", "unit": "AUC", **about,
        "value": round(median(result["test"] for result in fast), 4),
        "baseline": round(median(result["test"] for result in slow), 4),
        "goal": f">= stock's - {LARGEST_DROP}",
        "met": judge(-median(drops), -LARGEST_DROP, spread(drops)),
    })  # fmt: skip
    return found
