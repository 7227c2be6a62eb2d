"""Time to the metric: what the advisor recommends beside the model's plain defaults, four shapes.

Plain: the settings of the profile as they are, one rank with all cores. Advised: settings and
ranks of the plan of a recipe that names only the data. Tables of bench/tables.py. The target is the
validation AUC of the plain run after its one epoch, less NOISE; a run's time ends at the validation
that reaches it (10 an epoch, all on the clock; 3 epochs at most). Alternating, PAIRS times.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from bench import training
from bench.harness import judge, spread
from bench.tables import SHAPES
from engine import api
from engine.strict_yaml import to_yaml

ENVIRONMENTS = ("app", "etl", "torch")
ROWS, SEED, PAIRS = 400_000, 20261125, 3
NOISE = 0.001
SPLIT = {"by": "time", "valid": 0.1, "test": 0.1}
CORES = len(os.sched_getaffinity(0))
FOLLOWED = {"epochs": 3, "evals_per_epoch": 10, "patience": 1000}


def measure() -> list[dict[str, Any]]:
    """Ratios of the times, by shape."""
    return _measure(ROWS, PAIRS)


def small() -> list[dict[str, Any]]:
    """A look whether it works; its figures mean nothing."""
    return _measure(60_000, 2)


def _measure(rows: int, pairs: int) -> list[dict[str, Any]]:
    found = []
    with tempfile.TemporaryDirectory(prefix="aiok-bench-") as scratch:
        for shape in SHAPES:
            found += _shape(Path(scratch) / shape, shape, rows, pairs)
    return found


def _shape(folder: Path, shape: str, rows: int, pairs: int) -> list[dict[str, Any]]:
    training.work("bench.tables", "etl", folder / "table",
                  {"shape": shape, "rows": rows, "seed": SEED})  # fmt: skip
    dataset = {"format": "table", "path": str(folder / "table" / "output"),
               "columns": SHAPES[shape].columns()}  # fmt: skip
    (folder / "recipe.yaml").write_text(to_yaml({"dataset": dataset, "split": SPLIT}))
    plan = api.plan(str(folder / "recipe.yaml"))
    prefix = "model.settings."
    advised = {value.key.removeprefix(prefix): value.value
               for value in plan.values if value.key.startswith(prefix)}  # fmt: skip
    data = _prepared(folder / "etl", dataset, int(advised["min_count"]))
    ranks = int(plan.value("train.ranks"))
    target = _run(folder / "target", data, {}, 1, None)["best"]["valid"]["auc"] - NOISE
    runs: dict[str, list[dict[str, Any]]] = {"plain": [], "advised": []}
    for pair in range(pairs):
        runs["plain"].append(_run(folder / f"plain {pair}", data, {}, 1, target))
        runs["advised"].append(_run(folder / f"advised {pair}", data, advised, ranks, target))
        print(shape, {name: one[-1]["seconds"] for name, one in runs.items()}, flush=True)
    changed = [f"{v.key} {v.value}" for v in plan.values if v.origin == "advisor"]
    figures = (("seconds", "wall time"), ("cpu_seconds", "CPU-seconds"))
    return [_row(shape, rows, runs, key, unit, changed, target) for key, unit in figures]


def _prepared(folder: Path, dataset: dict[str, Any], min_count: int) -> Path:
    spec = training.etl_spec(folder, Path(dataset["path"]), min_count, SPLIT)
    spec["dataset"] = {"format": "table", "paths": [dataset["path"]],
                       "columns": dataset["columns"]}  # fmt: skip
    training.work("models.dlrm.etl", "etl", folder, spec)
    return folder / "output"


def _run(
    folder: Path, data: Path, settings: dict[str, Any], ranks: int, target: float | None
) -> dict[str, Any]:
    """One training to the target, or of one epoch without one."""
    length = FOLLOWED if target is not None else {"epochs": 1}
    threads = max(1, CORES // ranks)
    spec = training.train_spec(
        folder, data, "optimized", settings={**settings, **length}, ranks=ranks, threads=threads,
        goal={"metric": "auc", "target": target, "minutes": None},
    )  # fmt: skip
    return training.trained(folder, spec)


def _row(shape: str, rows: int, runs: dict[str, list[dict[str, Any]]], key: str, unit: str,
         changed: list[str], target: float) -> dict[str, Any]:  # fmt: skip
    reached = all(one["best"]["valid"]["auc"] >= target for both in runs.values() for one in both)
    ratios = [plain[key] / advised[key]
              for plain, advised in zip(runs["plain"], runs["advised"], strict=True)]  # fmt: skip
    row: dict[str, Any] = {
        "name": f"{shape}: {unit} to the metric, plain / advised", "unit": "x",
        "value": round(median(ratios), 3), "ratio": round(median(ratios), 3),
        "spread": round(spread(ratios), 3), "data": f"{rows:,} rows, seed {SEED}",
        "note": f"target {target:.4f}{'' if reached else ' NOT reached'}; by the advisor: "
                + ", ".join(changed),
    }  # fmt: skip
    if key == "seconds":  # a second rank buys time with CPU-seconds, so only time has a goal
        met = judge(row["value"], 1.0, row["spread"]) if reached else False
        row |= {"goal": ">= 1.0", "met": met, "readme": True}
    return row
