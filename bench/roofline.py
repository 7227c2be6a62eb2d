"""The machine's peaks, and what training and inference of DLRM reach of them.

Peaks as the step `roofline` of every run measures them, before and after the rest; the better
counts, and how far they differ is the spread. Percents are of all cores; each is the median of
REPEATS trainings (one epoch) or exports, in turns.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from bench import training
from bench.harness import spread
from engine.roofline import Roofline, beside

ENVIRONMENTS = ("bench", "etl", "torch")
ROWS, SEED, REPEATS = 200_000, 20261127, 3
CORES = len(os.sched_getaffinity(0))
PROFILES = ("optimized", "stock")
ONE_PASS = {"epochs": 1, "evals_per_epoch": 1}


def measure() -> list[dict[str, Any]]:
    """Peaks, and for each profile the parts of them that training and inference reach."""
    reached: dict[tuple[str, str], list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        logs = training.generated(folder / "logs", ROWS, SEED)
        peaks = [peaks_of(folder / "peaks-0")]
        for profile in PROFILES:
            training.prepared(folder / f"etl-{profile}", logs, profile)
        for repeat in range(REPEATS):
            for profile in PROFILES:
                data = folder / f"etl-{profile}" / "output"
                work = folder / f"{profile}-{repeat}"
                reached.setdefault((profile, "training"), []).append(train(work, data, profile))
                reached.setdefault((profile, "inference"), []).append(export(work, data))
        peaks.append(peaks_of(folder / "peaks-1"))
    return [*peak_rows(peaks), *reached_rows(reached, peaks)]


def peaks_of(folder: Path) -> dict[str, Any]:
    """The result of the roofline worker on all cores."""
    return training.work("models.roofline", "torch", folder, {"threads": CORES})


def train(folder: Path, data: Path, profile: str) -> dict[str, Any]:
    """One epoch on all cores: the optimized profile by a rank a core, stock by threads."""
    layout = {"ranks": CORES} if profile == "optimized" else {"threads": CORES}
    spec = training.train_spec(folder / "train", data, profile, settings=ONE_PASS, **layout)
    return training.trained(folder / "train", spec)


def export(folder: Path, data: Path) -> dict[str, Any]:
    """The export of what `train` left in the same folder, measured on all cores."""
    return training.work("models.inference.export", "torch", folder / "export", {
        "model": "dlrm", "data": str(data), "weights": str(folder / "train" / "output"),
        "dataset": {"format": "criteo", "columns": None}, "threads": CORES,
        "max_metric_drop": 0.001, "metric": "auc",
    })  # fmt: skip


def peak_rows(peaks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a peak."""
    kept = min(one["cores_kept"] for one in peaks)
    about = {"data": f"{CORES} cores", "readme": True, "note": f"{kept:.2f} cores' time at least"}
    found = [
        _peak(f"matmul peak, {form}", "GFLOP/s", [one["matmul_gflops"][form] for one in peaks])
        for form in peaks[0]["matmul_gflops"]
    ]
    found.append(_peak("memory peak", "GB/s", [one["memory_gb_per_s"] for one in peaks]))
    return [{**row, **about} for row in found]


def _peak(name: str, unit: str, values: list[float]) -> dict[str, Any]:
    return {"name": name, "value": max(values), "unit": unit,
            "spread": round(max(values) - min(values), 2)}  # fmt: skip


def reached_rows(
    reached: dict[tuple[str, str], list[dict[str, Any]]], peaks: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Percent of both peaks for each profile's training and inference."""
    best = {
        **peaks[0], "memory_gb_per_s": max(one["memory_gb_per_s"] for one in peaks),
        "matmul_gflops": {form: max(one["matmul_gflops"][form] for one in peaks)
                          for form in peaks[0]["matmul_gflops"]},
        "cores_kept": max(one["cores_kept"] for one in peaks),
    }  # fmt: skip
    found = []
    for (profile, what), results in reached.items():
        ones = [_beside(what, result, best) for result in results]
        speeds = [one.rows_per_second for one in ones]
        about = {
            "data": f"{ROWS:,} generated rows, seed {SEED}, {CORES} cores, {ones[0].precision}",
            "note": f"{median(speeds):,.0f} rows/s: {_middle(ones).verdict}", "readme": True,
        }  # fmt: skip
        for limit in ("matmul", "memory"):
            parts = [100 * getattr(one, limit) for one in ones]
            found.append({
                "name": f"{profile}, {what}: of {limit} peak", "value": round(median(parts), 1),
                "unit": "%", "spread": round(spread(parts), 2), **about,
            })  # fmt: skip
    return found


def _beside(what: str, result: dict[str, Any], peaks: dict[str, Any]) -> Roofline:
    found = beside(what, what, result["rows_per_second"], result, peaks)
    if found is None:
        raise ValueError(f"{what} lacks a figure: {result}")
    return found


def _middle(ones: list[Roofline]) -> Roofline:
    """The one of median speed."""
    return sorted(ones, key=lambda one: one.rows_per_second)[len(ones) // 2]
