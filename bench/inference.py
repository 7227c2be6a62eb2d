"""Inference of the export against eager fp32 of the same weights, stock and optimized DLRM.

Both profiles are trained once on the same generated rows, then the product's own export step
writes, judges and times every form that this CPU may gain from: validation rows, batches of 1,024,
all cores, in turns, median of 5. The eager network scores batch by batch with all threads, torch's
usual way, in inference mode; batches in parallel on one thread each are a row of their own.
The roofline is this machine's own: floating point operations a row against the largest product,
bytes a row that must come from memory against the copy of a large array. A form that does without
some of the network's operations is held against what is left.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench import training
from bench.harness import judge, machine, spread

ENVIRONMENTS = ("torch", "etl")
ROWS, SEED = 300_000, 20261125
BATCH_SIZE = 1024  # of the export step
SPLIT = {"by": "time", "valid": 0.1, "test": 0.1}
PROFILES = ("stock", "optimized")
LARGEST_DROP = 0.001
UNITS = {"avx512_vnni", "amx_int8", "amx_bf16"}  # with one of them the goal is higher
CORES = len(os.sched_getaffinity(0))


def measure() -> list[dict[str, Any]]:
    """Ratios, AUC changes, every form, the roofline and the curves of both profiles."""
    torch.set_num_threads(CORES)
    peaks = peak_gflops(), peak_gib_per_second()
    found = [
        {"name": "peak of large fp32 products", "value": round(peaks[0], 1), "unit": "GFLOP/s"},
        {"name": "peak of memory copies", "value": round(peaks[1], 1), "unit": "GiB/s"},
    ]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        logs = training.generated(folder / "logs", ROWS, SEED, SPLIT)
        for profile in PROFILES:
            data = training.prepared(folder / f"{profile} etl", logs, profile, SPLIT)
            spec = training.train_spec(  # by one thread: not timed, and equal on every machine
                folder / f"{profile} train", data, profile,
                settings={"epochs": 1, "evals_per_epoch": 1},
            )  # fmt: skip
            training.trained(folder / f"{profile} train", spec)
            weights = folder / f"{profile} train" / "output"
            bundle, flops = exported(folder / f"{profile} export", data, weights)
            print(profile, json.dumps(bundle["measured"]["ways"]), flush=True)
            found += rows(profile, bundle, cost(weights), flops, peaks)
    return found


def exported(folder: Path, data: Path, weights: Path) -> tuple[dict[str, Any], float]:
    """bundle.json of the export step, and the floating point operations a row of what it kept."""
    values = training.work("models.inference.export", "torch", folder, {
        "model": "dlrm", "data": str(data), "weights": str(weights), "threads": CORES,
        "dataset": {"format": "criteo", "paths": [], "columns": None}, "metric": "auc",
        "max_metric_drop": LARGEST_DROP,
    })  # fmt: skip
    content: dict[str, Any] = json.loads((folder / "output" / "bundle.json").read_text())
    return content, float(values["flops_per_row"])


def cost(weights: Path) -> tuple[float, float]:
    """Floating point operations and bytes from memory that a row cannot do without.

    Two operations a weight of the MLPs and a number of each pair of vectors; bytes of the inputs
    and of the looked-up rows. What layers hand to each other may stay in the cache.
    """
    model = json.loads((weights / "model.json").read_text())
    settings, tables, numeric = model["settings"], len(model["table_sizes"]), len(model["numeric"])
    d = int(settings["embedding_size"])
    pairs = (tables + 1) * tables // 2
    bottom = [numeric, *settings["bottom_widths"], d]
    top = [d + pairs, *settings["top_widths"], 1]
    products = sum(a * b for widths in (bottom, top) for a, b in pairwise(widths))
    wide = d + (float(settings.get("first_order_rate", 0.0)) > 0)
    return 2.0 * (products + pairs * d), 4.0 * (numeric + tables + tables * wide + 1)


def rows(
    profile: str, bundle: dict[str, Any], needed: tuple[float, float], kept_flops: float,
    peaks: tuple[float, float],
) -> list[dict[str, Any]]:  # fmt: skip
    """The result's rows of one profile."""
    about = {"data": f"{ROWS:,} generated rows, seed {SEED}, one epoch; {CORES} cores"}
    ways = {way["name"]: way for way in bundle["measured"]["ways"]}
    eager, streams = bundle["measured"]["ways"][:2]
    kept = ways[bundle["form"]]
    goal = 3.0 if UNITS & set(machine()["isa"]) else 1.8
    limit, kept_limit = (
        min(peaks[0] * 1e9 / flops, peaks[1] * 2**30 / needed[1])
        for flops in (needed[0], kept_flops)
    )
    change = kept["auc"] - eager["auc"]
    found = [
        _ratio(f"{profile}: export / eager", kept, eager, goal),
        _ratio(f"{profile}: export / eager, batches in parallel", kept, streams, None),
        {
            "name": f"{profile}: AUC change of the export", "unit": "AUC",
            "value": round(change, 6), "baseline": round(eager["auc"], 6),
            "goal": f"within {LARGEST_DROP}", "met": abs(change) <= LARGEST_DROP,
        },
        {
            "name": f"{profile}: part of the fp32 roofline", "unit": "%", "readme": True,
            "value": _percent(kept, kept_limit), "baseline": _percent(eager, limit),
            "note": f"{kept_flops / 1e3:.1f} kFLOP and {needed[1]:.0f} bytes a row: at most "
                    f"{kept_limit:,.0f} rows/s; baseline: eager, {needed[0] / 1e3:.1f} kFLOP",
        },
    ]  # fmt: skip
    for way in ways.values():
        ratio = way["rows_per_second"] / eager["rows_per_second"]
        found.append({
            "name": f"{profile}: {way['name']} ({way['precision']})", "unit": "rows/s",
            "value": round(way["rows_per_second"]), "baseline": round(eager["rows_per_second"]),
            "ratio": round(ratio, 2), "spread": round(spread(way["repeats"])),
            "note": f"{way['verdict']}; AUC {way['auc']:.5f}; "
                    f"{way['cpu_ms_per_batch']:.2f} CPU-ms a batch",
        })  # fmt: skip
    for which, points in bundle["measured"]["curves"].items():
        found += [{
            "name": f"{profile}: {which}, batch {point['batch_size']}", "unit": "rows/s",
            "value": round(point["rows_per_second"]),
            "note": f"latency p50 {point['p50_ms']:.3f} ms, p99 {point['p99_ms']:.3f} ms",
        } for point in points]  # fmt: skip
    return [row | about for row in found]


def _percent(way: dict[str, Any], limit: float) -> float:
    return round(100 * way["rows_per_second"] / limit, 1)


def _ratio(
    name: str, ours: dict[str, Any], theirs: dict[str, Any], goal: float | None
) -> dict[str, Any]:
    """How many times as fast, repeat by repeat."""
    ratios = [a / b for a, b in zip(ours["repeats"], theirs["repeats"], strict=True)]
    ratio, apart = median(ratios), spread(ratios)
    return {
        "name": name, "value": round(ratio, 2), "unit": "x", "ratio": round(ratio, 2),
        "baseline": round(theirs["rows_per_second"]), "spread": round(apart, 2),
        "goal": None if goal is None else f">= {goal:g}",
        "met": None if goal is None else judge(ratio, goal, apart),
        "note": f"{ours['name']}, {ours['precision']}: {ours['rows_per_second']:,.0f} rows/s; "
                f"CPU-time a batch: {theirs['cpu_ms_per_batch'] / ours['cpu_ms_per_batch']:.2f}x",
    }  # fmt: skip


def peak_gflops() -> float:
    """GFLOP/s of the largest fp32 product, all threads."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    return 2 * 2048**3 / _best(lambda: a @ b) / 1e9


def peak_gib_per_second() -> float:
    """GiB/s of copying 256 MiB, read and written, all threads."""
    a, b = torch.ones(1 << 26), torch.zeros(1 << 26)
    return 2 * a.nbytes / _best(lambda: b.copy_(a)) / 2**30


def _best(act: Any) -> float:
    """Seconds of the quickest of ten."""
    seconds = []
    for _ in range(10):
        begun = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)
