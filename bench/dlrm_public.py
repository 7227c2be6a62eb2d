"""Stock DLRM beside the public program facebookresearch/dlrm, on the same rows.

`scripts/bench dlrm --public` with AIOK_PUBLIC_DLRM naming a checkout of it. Our blocks are written
once in the layout its loader reads; both train the Kaggle network (d = 16) with SGD in fp32, the
same number of steps, on all cores, in interleaved pairs of processes. Nothing of it is kept here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench import training
from bench.harness import ROOT, judge, python_of, spread
from models import catalog
from models.recdp.blocks import Manifest
from models.settings import resolve

VARIABLE = "AIOK_PUBLIC_DLRM"
ROWS, SEED, PAIRS = 300_000, 20261127, 8
STEPS = {128: (100, 1200), 2048: (10, 80)}  # by batch: steps before the clock, steps on it
RATE = 0.1
NOT_SLOWER = 0.95  # two programs that are equally fast are above and below 1 by turns
CORES = len(os.sched_getaffinity(0))


def checkout() -> Path:
    """The folder of the public program; SystemExit says what to do when there is none."""
    folder = Path(os.environ.get(VARIABLE) or "unset")
    if not (folder / "dlrm_s_pytorch.py").is_file():
        sys.exit(
            f"bench dlrm --public: {VARIABLE} ({folder}) is no checkout of facebookresearch/dlrm:"
            " clone it outside of this project and set the variable to its folder"
        )
    return folder


def write_public_rows(data: Path, folder: Path) -> dict[str, str]:
    """The training rows as 40 int32 a row (label, 13 integers, 26 ids), and the table sizes.

    Our numbers are log1p of non-negative integers, which expm1 gives back.
    """
    manifest = Manifest.load(data)
    numeric, ids, label = manifest.split("train").read(0, manifest.rows()["train"])
    integers = np.rint(np.expm1(numeric.astype(np.float64))).astype(np.int32)
    folder.mkdir(parents=True)
    np.hstack([label[:, None].astype(np.int32), integers, ids]).tofile(folder / "rows.bin")
    np.savez(folder / "counts.npz", counts=np.array(manifest.table_sizes))
    return {"rows": str(folder / "rows.bin"), "counts": str(folder / "counts.npz")}


def measure(folder: Path) -> list[dict[str, Any]]:
    """Rows/s and CPU-seconds of both at both batch sizes."""
    program = checkout()
    logs = training.generated(folder / "logs", ROWS, SEED)
    data = training.prepared(folder / "etl", logs, "optimized")
    files = write_public_rows(data, folder / "public")
    found = []
    for batch_size, (warm, steps) in STEPS.items():
        values, problems = resolve(
            catalog.load("dlrm").settings, catalog.load("dlrm").profiles["stock"],
            {"batch_size": batch_size, "learning_rate": RATE, "table_learning_rate": RATE},
        )  # fmt: skip
        assert not problems
        spec = {
            "settings": values, "data": str(data), "batch_size": batch_size, "rate": RATE,
            "warm": warm, "steps": steps, "threads": CORES, **files,
            "table_sizes": list(Manifest.load(data).table_sizes),
        }  # fmt: skip
        pairs = []
        for pair in range(PAIRS):
            place = folder / f"{batch_size}-{pair}"
            ours = run(place / "ours", {**spec, "checkout": None})
            pairs.append((ours, run(place / "public", {**spec, "checkout": str(program)})))
            print(batch_size, pairs[-1], flush=True)
        found += rows(batch_size, steps, pairs)
    return found


def run(folder: Path, spec: dict[str, Any]) -> dict[str, float]:
    """One process of bench/dlrm_steps.py; its figures, or RuntimeError with the end of its log."""
    folder.mkdir(parents=True)
    path = folder / "spec.json"
    path.write_text(json.dumps({**spec, "result": str(folder / "result.json")}))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(spec["threads"])}
    argv = [python_of("torch"), str(ROOT / "bench" / "dlrm_steps.py"), str(path)]
    done = subprocess.run(
        argv, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{folder}: exit {done.returncode}: {done.stderr[-2000:]}")
    values: dict[str, float] = json.loads((folder / "result.json").read_text())
    return values


def rows(
    batch_size: int, steps: int, pairs: list[tuple[dict[str, float], dict[str, float]]]
) -> list[dict[str, Any]]:
    """The result's rows for one batch size: how many times theirs takes as long as ours."""
    found = []
    losses = [median(side["loss"] for side in sides) for sides in zip(*pairs, strict=True)]
    for key, unit in (("seconds", "rows/s"), ("cpu_seconds", "rows a CPU-second")):
        ours, theirs = (
            median(batch_size * steps / side[key] for side in sides)
            for sides in zip(*pairs, strict=True)
        )
        ratios = [public[key] / mine[key] for mine, public in pairs]
        found.append({
            "name": f"our stock at batch {batch_size}: {unit}", "value": round(ours), "unit": unit,
            "baseline": round(theirs), "ratio": round(median(ratios), 3),
            "spread": round(spread(ratios), 3),
            "goal": f"not slower than the public program: >= {NOT_SLOWER}x",
            "met": judge(median(ratios), NOT_SLOWER, spread(ratios)),
            "data": f"{ROWS:,} generated rows, seed {SEED}; {steps} steps, {CORES} cores",
            "note": f"mean loss {losses[0]:.4f}, the public program's {losses[1]:.4f}",
        })  # fmt: skip
    return found
