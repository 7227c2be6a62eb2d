"""Time for optimized DLRM to reach what stock DLRM reaches in one epoch of 900,000 rows.

Stock is the public network and its plain training at batch 128, its rate the best of RATES. Its
validation AUC after one epoch is the target, its clock that epoch and one validation. Stock at
2,048 and the optimized profile run until a validation (20 an epoch, all on the clock) reaches the
target, three epochs at most. All use the same files and all cores. Rates are chosen before, on
data of another seed. Imports are not on the clock; reading the training rows is.
`--ledger`: each switch of the optimized profile by itself (bench/dlrm_ledger.py). `--public`: stock
beside the public program (bench/dlrm_public.py).
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from bench import dlrm_ledger, dlrm_public, training
from bench.harness import judge, spread
from models import catalog

ENVIRONMENTS = ("bench", "etl", "torch")
ROWS, SEED, RATE_SEED, PAIRS = 1_000_000, 20261125, 20261126, 3
SPLIT = {"by": "time", "valid": 0.05, "test": 0.05}
RATES = (0.1, 0.3, 1.0)
FACTORS = (0.5, 1.0, 2.0)  # of the optimized profile's own rates
BATCHES = (128, 2048)
LARGEST_DROP = 0.001
CORES = len(os.sched_getaffinity(0))
Settings = dict[str, Any]


def measure() -> list[dict[str, Any]]:
    """Clock and CPU-seconds of the three, and the ratios the goals are about."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        chosen = rates(folder / "rates")
        data = files(folder / "data", SEED)
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
        for pair in range(PAIRS):
            for name, settings in chosen.items():  # stock 128 first: it sets the target
                target = runs["stock 128"][-1]["valid"] if name != "stock 128" else None
                runs[name].append(run(folder / f"{pair} {name}", data, name, settings, target))
                print(name, runs[name][-1], flush=True)
    return rows(runs, chosen)


def ledger() -> list[dict[str, Any]]:
    """What each switch gives and costs."""
    with tempfile.TemporaryDirectory() as scratch:
        return dlrm_ledger.measure(Path(scratch))


def public() -> list[dict[str, Any]]:
    """Our stock against the public program's speed."""
    dlrm_public.checkout()
    with tempfile.TemporaryDirectory() as scratch:
        return dlrm_public.measure(Path(scratch))


def files(folder: Path, seed: int) -> Path:
    """Training files of generated logs, the same for all."""
    logs = training.generated(folder / "logs", ROWS, seed, SPLIT)
    return training.prepared(folder / "etl", logs, "optimized", SPLIT)


def rates(folder: Path) -> dict[str, Settings]:
    """For each of the three the settings that give the best validation AUC after one epoch."""
    data = files(folder / "data", RATE_SEED)
    profile = catalog.load("dlrm").profiles["optimized"]
    names = ("learning_rate", "table_learning_rate", "first_order_rate")
    candidates: dict[str, list[Settings]] = {
        f"stock {batch}": [
            {"batch_size": batch, "learning_rate": rate, "table_learning_rate": rate}
            for rate in RATES
        ]
        for batch in BATCHES
    }
    candidates["optimized"] = [
        {name: float(str(profile[name])) * factor for name in names} for factor in FACTORS
    ]
    best = {}
    for name, options in candidates.items():
        found = [
            (run(folder / f"{name} {number}", data, name, settings, None)["valid"], number)
            for number, settings in enumerate(options)
        ]
        best[name] = options[max(found)[1]]
        print(f"rates of {name}: {best[name]} from {found}", flush=True)
    return best


def run(
    folder: Path, data: Path, name: str, settings: Settings, target: float | None
) -> dict[str, Any]:
    """One training to the target, or of one epoch; None as seconds when it was not reached."""
    if target is None:
        length = {"epochs": 1, "evals_per_epoch": 1}
    else:
        length = {"epochs": 3, "evals_per_epoch": 20, "patience": 1000}
    profile = name.split()[0]
    layout = {"ranks": CORES} if profile == "optimized" else {"threads": CORES}
    spec = training.train_spec(
        folder, data, profile, settings={**settings, **length}, **layout,
        goal={"metric": "auc", "target": target, "minutes": None},
    )  # fmt: skip
    result = training.trained(folder, spec)
    tested = training.evaluated(folder / "test", data, folder / "output", None)
    valid = result["best"]["valid"]["auc"]
    reached = target is None or valid >= target
    return {
        "valid": valid, "test": tested["auc"], "rows": result["rows"],
        "seconds": result["seconds"] if reached else None,
        "cpu_seconds": result["cpu_seconds"] if reached else None,
    }  # fmt: skip


def rows(
    runs: dict[str, list[dict[str, Any]]], chosen: dict[str, Settings]
) -> list[dict[str, Any]]:
    """The result's rows."""
    data = f"{ROWS:,} generated rows, seed {SEED}, 900 k/50 k/50 k by time, {CORES} cores"
    about = {"data": data}
    found: list[dict[str, Any]] = []
    for name, results in runs.items():
        for key, unit in (("seconds", "s"), ("cpu_seconds", "CPU-s")):
            values = [result[key] for result in results if result[key] is not None]
            whole = len(values) == len(results)
            found.append({
                "name": f"{name}: {unit} to the target",
                "value": round(median(values), 2) if whole else None, "unit": unit,
                "spread": round(spread(values), 2) if whole else None,
                "note": f"{chosen[name]}; {median(r['rows'] for r in results):,.0f} rows; "
                        f"test AUC {median(r['test'] for r in results):.4f}", **about,
            })  # fmt: skip
    for key, unit in (("seconds", "wall time"), ("cpu_seconds", "CPU-seconds")):
        found.append(_ratio(runs, ["stock 128"], key, unit, 10.0) | about)
        found.append(_ratio(runs, ["stock 128", "stock 2048"], key, unit, 4.0) | about)
    drops = [stock["test"] - ours["test"]
             for stock, ours in zip(runs["stock 128"], runs["optimized"], strict=True)]  # fmt: skip
    found.append({
        "name": "test AUC of optimized", "unit": "AUC", **about,
        "value": round(median(r["test"] for r in runs["optimized"]), 4),
        "baseline": round(median(r["test"] for r in runs["stock 128"]), 4),
        "goal": f">= stock's - {LARGEST_DROP}", "met": median(drops) <= LARGEST_DROP,
    })  # fmt: skip
    return found


def _ratio(
    runs: dict[str, list[dict[str, Any]]], stocks: list[str], key: str, unit: str, goal: float
) -> dict[str, Any]:
    """How many times optimized goes into the best of some stocks, pair by pair."""
    name = "stock" if len(stocks) == 1 else "the better stock"
    ratios = []
    for pair, ours in enumerate(runs["optimized"]):
        theirs = [runs[stock][pair][key] for stock in stocks]
        known = [value for value in theirs if value is not None]
        if ours[key] is None or not known:
            return {"name": f"{unit}: {name} / optimized", "value": None, "unit": "x",
                    "goal": f">= {goal:g}", "met": False, "note": "target not reached"}  # fmt: skip
        ratios.append(min(known) / ours[key])
    return {
        "name": f"{unit}: {name} / optimized", "value": round(median(ratios), 2), "unit": "x",
        "ratio": round(median(ratios), 2), "goal": f">= {goal:g}",
        "met": judge(median(ratios), goal, spread(ratios)), "spread": round(spread(ratios), 2),
    }  # fmt: skip
