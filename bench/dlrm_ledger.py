"""What each switch of the optimized profile gives, and what it costs in accuracy.

`ladder`: from stock at batch 128 to the optimized profile, one switch more on each rung; a rung is
compared with the one below it. `without`: the optimized profile with one switch undone, compared
with the whole; it shows what a switch is worth beside all the others. Precision and thread layout
are rows of both kinds. Each variant trains one epoch of the same files, ROUNDS times interleaved.
The price is validation AUC after the epoch, when the rates have fallen to 0 where a schedule is on.
CPU-seconds to stock's AUC: those of the epoch up to the first validation that reached it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from bench import training
from bench.harness import spread
from models import catalog

ROWS, SEED, ROUNDS = 300_000, 20261128, 2
SPLIT = {"by": "time", "valid": 0.1, "test": 0.1}
CORES = len(os.sched_getaffinity(0))
VALIDATIONS = 10
STOCK, WHOLE = "stock, batch 128", "optimized"
# Plain SGD has the rates that `scripts/bench dlrm` finds best at these batch sizes.
STOCK_RATE, LARGE_BATCH_RATE = 0.3, 1.0
Changes = dict[str, Any]
# A switch and the settings it stands for, in the order of the ladder. `ranks` and `threads` are no
# settings: they say how the cores are shared out.
SWITCHES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("fused tables", ("fused_tables",)),
    ("keep memory", ("keep_memory",)),
    ("batch size", ("batch_size", "min_steps")),
    ("row-wise Adagrad for the tables", ("table_optimizer", "table_learning_rate")),
    ("Adam for the MLPs", ("dense_optimizer", "learning_rate")),
    ("smaller MLPs", ("bottom_widths", "top_widths")),
    ("first-order weights", ("first_order_rate", "first_order_start")),
    ("average of the MLPs", ("average",)),
    ("rate schedule", ("warmup", "decay")),
    ("written-out gradients", ("fused_head",)),
    ("one rank a core", ("ranks", "threads")),
    ("prefetching loader", ("prefetch",)),
    ("precision by CPU", ("precision",)),
)


def profiles() -> tuple[Changes, Changes]:
    """All that a training is made of, in stock and in the optimized form, layout included."""
    spec = catalog.load("dlrm")
    defaults = {setting.name: setting.default for setting in spec.settings}
    ignored = ("min_count", "evals_per_epoch", "patience")  # the files and validations are shared
    stock, whole = (
        {name: value for name, value in {**defaults, **spec.profiles[profile]}.items()
         if name not in ignored}
        for profile in ("stock", "optimized")
    )  # fmt: skip
    stock |= {"learning_rate": STOCK_RATE, "table_learning_rate": STOCK_RATE}
    return stock | {"ranks": 1, "threads": CORES}, whole | {"ranks": CORES, "threads": 1}


def ladder() -> dict[str, Changes]:
    """The rungs by name, in order; the last is the optimized profile."""
    stock, whole = profiles()
    rungs, now = {STOCK: dict(stock)}, dict(stock)
    for name, keys in SWITCHES:
        now |= {key: whole[key] for key in keys}
        if name == "batch size":
            now |= {"learning_rate": LARGE_BATCH_RATE, "table_learning_rate": LARGE_BATCH_RATE}
        rungs[f"+ {name}"] = dict(now)
    return rungs


def without() -> dict[str, Changes]:
    """The optimized profile with one switch undone, by name."""
    stock, whole = profiles()
    found = {}
    for name, keys in SWITCHES:
        changed = whole | {key: stock[key] for key in keys}
        if changed["table_optimizer"] == "sgd":  # first-order weights need Adagrad
            changed |= {"table_learning_rate": LARGE_BATCH_RATE, "first_order_rate": 0.0}
        if changed["dense_optimizer"] == "sgd":
            changed["learning_rate"] = LARGE_BATCH_RATE
        found[f"without {name}"] = changed
    found["one rank, one thread"] = whole | {"ranks": 1, "threads": 1}
    found["bf16 on any CPU"] = whole | {"precision": "bf16"}
    return found


def measure(folder: Path) -> list[dict[str, Any]]:
    """Train every variant ROUNDS times and compare."""
    logs = training.generated(folder / "logs", ROWS, SEED, SPLIT)
    data = training.prepared(folder / "etl", logs, "optimized", SPLIT)
    rungs, undone = ladder(), without()
    whole = list(rungs)[-1]
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in [*rungs, *undone]}
    for turn in range(ROUNDS):
        for number, (name, variant) in enumerate({**rungs, **undone}.items()):
            runs[name].append(run(folder / f"{turn}-{number}", data, variant))
            print(turn, name, runs[name][-1], flush=True)
    target = median(result["auc"] for result in runs[STOCK])
    found: list[dict[str, Any]] = []
    before = STOCK
    for name in rungs:
        found += rows(f"ladder: {name}", runs[name], runs[before], target)
        before = name
    for name in undone:
        found += rows(name, runs[name], runs[whole], target)
    return found


def run(folder: Path, data: Path, variant: Mapping[str, Any]) -> dict[str, float]:
    """One epoch of a variant: CPU-seconds, rows/s, AUC, and (part, AUC) of each validation."""
    layout = {key: int(variant[key]) for key in ("ranks", "threads")}
    settings = {key: value for key, value in variant.items() if key not in layout}
    settings |= {"epochs": 1, "evals_per_epoch": VALIDATIONS, "patience": 1000}
    result = training.trained(
        folder, training.train_spec(folder, data, "optimized", settings=settings, **layout)
    )
    curve = validations(folder)
    return {"cpu_seconds": result["cpu_seconds"], "rows_per_second": result["rows_per_second"],
            "auc": curve[-1][1], "curve": curve}  # fmt: skip


def validations(folder: Path) -> list[tuple[float, float]]:
    """(part of the epoch done, validation AUC) from the messages of a training."""
    lines = (folder / "messages" / "rank-0000.jsonl").read_text(encoding="utf-8").splitlines()
    points = [json.loads(line) for line in lines]
    scalars = [point for point in points if point["kind"] == "scalar"]
    return [
        (point["epoch"], point["value"])
        for point in scalars
        if (point["split"], point["name"]) == ("valid", "auc")
    ]


def rows(
    name: str, runs: list[dict[str, Any]], others: list[dict[str, Any]], target: float
) -> list[dict[str, Any]]:
    """The result's rows of a variant beside the one it is compared with."""
    about = {"data": f"{ROWS:,} generated rows, seed {SEED}, one epoch with {VALIDATIONS}"
                     f" validations, {CORES} cores"}  # fmt: skip
    found: list[dict[str, Any]] = []
    kinds = (
        ("cpu_seconds", "CPU-s an epoch", 2), ("rows_per_second", "rows/s", 0),
        ("auc", "validation AUC", 4),
    )  # fmt: skip
    for key, unit, digits in kinds:
        values, base = ([result[key] for result in side] for side in (runs, others))
        found.append({
            "name": f"{name}: {unit}", "value": round(median(values), digits), "unit": unit,
            "baseline": round(median(base), digits), "spread": round(spread(values), 4),
            "ratio": None if key == "auc" else round(median(values) / median(base), 3), **about,
        })  # fmt: skip
    reached = [to_target(result, target) for result in runs]
    known = [seconds for seconds in reached if seconds is not None]
    found.append({
        "name": f"{name}: CPU-s to stock's AUC", "unit": "CPU-s", **about,
        "value": round(median(known), 2) if len(known) == len(reached) else None,
        "note": f"validation AUC {target:.4f}" + ("" if known else " not reached in the epoch"),
    })  # fmt: skip
    return found


def to_target(result: Mapping[str, Any], target: float) -> float | None:
    """CPU-seconds up to the first validation that reached the target; None when none did."""
    for part, auc in result["curve"]:
        if auc >= target:
            return float(result["cpu_seconds"]) * float(part)
    return None
