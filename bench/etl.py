"""ETL of generated click logs beside the same job in Polars, DuckDB and pandas.

Every job is a process of its own, from the start of Python to its end, with all cores: raw text in,
training data out. The jobs take turns. First each one's output is compared with ours: labels, ids
and dictionaries must be the same row by row, floats may differ in the last bit.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from bench import training
from bench.harness import judge, python_of, spread
from bench.training import Cost
from models.recdp.blocks import SPLITS, Array, Manifest
from models.recdp.criteo import CATEGORICAL
from models.recdp.dictionary import dictionary_path

ENVIRONMENTS = ("bench", "etl")
ROWS, SEED, MIN_COUNT, LARGE = 1_000_000, 20261127, 2, 4
BASELINES = ("polars", "duckdb", "pandas")
TURNS = {"aiok": 5, "polars": 5, "duckdb": 5, "pandas": 3}
CORES = len(os.sched_getaffinity(0))


def measure() -> list[dict[str, Any]]:
    """Check, then time."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        logs = training.generated(folder / "logs", ROWS, SEED)
        unequal = {name: differing(folder, logs, name) for name in BASELINES}
        costs: dict[str, list[Cost]] = {name: [] for name in TURNS}
        for turn in range(max(TURNS.values())):
            for name in (name for name, turns in TURNS.items() if turn < turns):
                costs[name].append(cost(folder / "run", logs, name))
                print(name, costs[name][-1], flush=True)
        large = training.generated(folder / "large", LARGE * ROWS, SEED)
        pairs = [
            (cost(folder / "run", logs, "aiok"), cost(folder / "run", large, "aiok"))
            for _ in range(3)
        ]  # fmt: skip
    return [*job_rows(costs, unequal), *ratio_rows(costs), *growth_rows(pairs)]


def cost(folder: Path, logs: Path, name: str) -> Cost:
    """Run a job and remove what it wrote."""
    found = run(folder, logs, name)
    shutil.rmtree(folder)
    return found


def run(folder: Path, logs: Path, name: str) -> Cost:
    """Run a job: training data in `folder`/output."""
    if name == "aiok":
        module, environment = "models.dlrm.etl", "etl"
        spec = training.etl_spec(folder, logs, MIN_COUNT)
    else:
        module, environment = f"bench.baselines.{name}_etl", "bench"
        spec = training.baseline_spec(logs, MIN_COUNT)
    return training.timed([python_of(environment)], module, folder, spec)


def differing(folder: Path, logs: Path, name: str) -> int:
    """In how many floats a baseline's output differs from ours in the last bit; RuntimeError when
    anything else differs."""
    if not (folder / "aiok").exists():
        run(folder / "aiok", logs, "aiok")
    run(folder / name, logs, name)
    ours, theirs = folder / "aiok" / "output", folder / name / "output"
    for column in CATEGORICAL:
        mine, other = (pq.read_table(dictionary_path(place, column)) for place in (ours, theirs))
        if not mine.equals(other.cast(mine.schema)):
            raise RuntimeError(f"{name}: the dictionary of {column} is another one")
    count = sum(_differing_rows(read(ours, part), read(theirs, part), name) for part in SPLITS)
    shutil.rmtree(folder / name)
    return count


def read(folder: Path, part: str) -> tuple[Array, Array, Array]:
    """All rows of a split."""
    blocks = Manifest.load(folder).split(part)
    return blocks.read(0, blocks.rows)


def _differing_rows(
    ours: tuple[Array, Array, Array], theirs: tuple[Array, Array, Array], name: str
) -> int:
    if not all(np.array_equal(a, b) for a, b in zip(ours[1:], theirs[1:], strict=True)):
        raise RuntimeError(f"{name}: ids or labels differ from ours")
    steps = np.abs(ours[0].view(np.int32) - theirs[0].view(np.int32))  # all floats are >= 0
    if steps.max() > 1:
        raise RuntimeError(f"{name}: a float differs from ours by more than the last bit")
    return int(np.count_nonzero(steps))


def job_rows(costs: dict[str, list[Cost]], unequal: dict[str, int]) -> list[dict[str, Any]]:
    """Time, CPU-seconds and peak memory of each job."""
    found: list[dict[str, Any]] = []
    for name, jobs in costs.items():
        note = f"load {median(job.load for job in jobs):.1f}"
        if name in unequal:
            note += f"; same ids, labels, order; {unequal[name]:,} floats differ in the last bit"
        for key, unit in (("seconds", "s"), ("cpu_seconds", "CPU-s"), ("peak_gib", "GiB")):
            values = [getattr(job, key) for job in jobs]
            found.append({
                "name": f"{name}: {key.replace('_', ' ').replace('gib', 'memory')}",
                "value": round(median(values), 2), "unit": unit,
                "spread": round(spread(values), 2), "note": note, "data": about(ROWS),
            })  # fmt: skip
    return found


def ratio_rows(costs: dict[str, list[Cost]]) -> list[dict[str, Any]]:
    """Ours against the faster of Polars and DuckDB, and against pandas, turn by turn."""
    found = []
    for key, unit in (("seconds", "wall time"), ("cpu_seconds", "CPU-seconds")):
        ours, polars, duckdb, pandas = (
            [getattr(job, key) for job in costs[name]] for name in TURNS
        )
        fast = polars if median(polars) <= median(duckdb) else duckdb
        name = "polars" if fast is polars else "duckdb"
        shares = [a / b for a, b in zip(ours, fast, strict=True)]
        speedups = [b / a for a, b in zip(ours, pandas, strict=False)]
        rows = (
            (f"aiok / {name} (the faster)", shares, (("must", 1.5), ("goal", 1.0)), -1, "<="),
            ("pandas / aiok", speedups, (("must", 2.4), ("goal", 3.0)), 1, ">="),
        )
        for title, ratios, limits, sign, word in rows:
            ratio = median(ratios)
            for kind, limit in limits:
                found.append({
                    "name": f"{unit}: {title}, {kind}", "value": round(ratio, 2), "unit": "x",
                    "ratio": round(ratio, 3), "goal": f"{word} {limit:g}",
                    "met": judge(sign * ratio, sign * limit, spread(ratios)),
                    "spread": round(spread(ratios), 3), "data": about(ROWS),
                })  # fmt: skip
    return found


def growth_rows(pairs: list[tuple[Cost, Cost]]) -> list[dict[str, Any]]:
    """Four times the rows: time and memory beside those of the small job, by turns."""
    ratios = [large.seconds / small.seconds for small, large in pairs]
    peaks = [large.peak_gib for _, large in pairs]
    return [
        {"name": f"wall time: {LARGE} M rows / 1 M rows", "value": round(median(ratios), 2),
         "unit": "x", "ratio": round(median(ratios), 3), "goal": "<= 4.4",
         "met": judge(-median(ratios), -4.4, spread(ratios)), "spread": round(spread(ratios), 3),
         "data": about(LARGE * ROWS)},
        {"name": f"aiok, {LARGE} M rows: seconds", "unit": "s", "data": about(LARGE * ROWS),
         "value": round(median(large.seconds for _, large in pairs), 2)},
        {"name": f"aiok, {LARGE} M rows: peak memory", "value": round(median(peaks), 2),
         "unit": "GiB", "spread": round(spread(peaks), 2), "data": about(LARGE * ROWS)},
    ]  # fmt: skip


def about(rows: int) -> str:
    """The data in words."""
    return (f"{rows:,} generated rows, seed {SEED}, 70/10/20 by time, min_count {MIN_COUNT},"
            f" {CORES} cores")  # fmt: skip
