"""What Intel Extension for PyTorch gains over stock torch, in training and in inference.

Three ways on the same files, alternating: the `torch` environment, the `ipex` environment with the
extension switched off (its older torch alone), and with it. One thread each: that is what the
kernels cost, and waiting for a second thread on a busy machine would hide it. Inference is batch
1,024 by the export worker's own measurement. The weights of the ways are compared number by number,
and scored by stock torch.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import training
from bench.harness import spread

ENVIRONMENTS = ("bench", "etl", "torch", "ipex")
ROWS, SEED, PAIRS = 100_000, 20261127, 3
PROFILES = ("optimized", "stock")
WAYS = {"torch": ("torch", False), "older torch": ("ipex", False), "ipex": ("ipex", True)}
LARGEST_WEIGHT_DIFFERENCE = 0.01
LARGEST_AUC_DIFFERENCE = 0.001
Figures = dict[str, Any]


def measure() -> list[dict[str, Any]]:
    """Rows for training, inference and equality of each profile."""
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        logs = training.generated(folder / "logs", ROWS, SEED)
        for profile in PROFILES:
            data = training.prepared(folder / f"etl-{profile}", logs, profile)
            runs: dict[str, list[Figures]] = {way: [] for way in WAYS}
            for pair in range(PAIRS):
                for way in WAYS:
                    runs[way].append(run(folder / profile / way / str(pair), data, profile, way))
                    print(profile, way, runs[way][-1], flush=True)
            last = [folder / profile / way / str(PAIRS - 1) for way in ("torch", "ipex")]
            found += speed_rows(profile, runs)
            found += equality_rows(profile, data, *last)
    return found


def run(folder: Path, data: Path, profile: str, way: str) -> Figures:
    """One epoch, and the scoring speeds by name."""
    environment, switch = WAYS[way]
    spec = training.train_spec(
        folder, data, profile, ipex=switch, settings={"epochs": 1, "evals_per_epoch": 1}
    )
    trained = training.work("models.train", environment, folder, spec)
    speeds: dict[str, float] = {}
    if way != "older torch":  # the export in the ipex environment times it beside the extension
        exported = training.work("models.inference.export", environment, folder / "export", {
            "ipex": switch, "model": "dlrm", "data": str(data), "weights": str(folder / "output"),
            "dataset": {"format": "criteo", "columns": None}, "threads": 1,
            "max_metric_drop": 1.0, "metric": "auc",
        })  # fmt: skip
        bundle = json.loads((Path(exported["bundle"]) / "bundle.json").read_text())
        speeds = {one["name"]: one["rows_per_second"] for one in bundle["measured"]["ways"]}
    return {
        "rows_per_second": trained["rows_per_second"], "cpu_seconds": trained["cpu_seconds"],
        "speeds": speeds,
        "versions": json.loads((folder / "output" / "model.json").read_text())["versions"],
    }  # fmt: skip


def difference(one: Path, other: Path) -> float:
    """The largest difference of a weight between two trainings."""
    ours, theirs = (weights(folder / "output" / "weights.safetensors") for folder in (one, other))
    return max(float(np.abs(ours[name] - theirs[name]).max()) for name in ours)


def weights(path: Path) -> dict[str, NDArray[np.float32]]:
    """The fp32 tensors of a safetensors file, flat: 8 bytes length, JSON header, raw numbers."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    header.pop("__metadata__", None)
    places = {name: entry["data_offsets"] for name, entry in header.items()}
    return {
        name: np.frombuffer(raw[start + first : start + last], np.float32)
        for name, (first, last) in places.items()
    }


def speed_rows(profile: str, runs: dict[str, list[Figures]]) -> list[dict[str, Any]]:
    """Training and inference of one profile, the extension beside stock torch."""
    stock, ipex = runs["torch"], runs["ipex"]
    names = {way: figures[-1]["versions"] for way, figures in runs.items()}
    about = {
        "data": f"{ROWS:,} generated rows, seed {SEED}, 70/10/20 by time, one epoch, "
                f"one thread; torch {names['torch']['torch']} against torch "
                f"{names['ipex']['torch']} with extension {names['ipex']['ipex']}",
    }  # fmt: skip
    older = median(f["rows_per_second"] for f in runs["older torch"])
    found = [
        _compared(f"training, {profile}", "rows/s", [f["rows_per_second"] for f in ipex],
                  [f["rows_per_second"] for f in stock],
                  f"its torch without the extension: {older:,.0f} rows/s"),
        _compared(f"training, {profile}, an epoch", "CPU-s", [f["cpu_seconds"] for f in ipex],
                  [f["cpu_seconds"] for f in stock], ""),
        _compared(f"inference, {profile}, batch 1,024", "rows/s",
                  [f["speeds"]["ipex"] for f in ipex], [_eager(f) for f in stock],
                  f"its torch without the extension: {median(_eager(f) for f in ipex):,.0f}, "
                  f"OpenVINO: {median(_openvino(f) for f in stock):,.0f} rows/s"),
    ]  # fmt: skip
    return [{**about, **row} for row in found]


def equality_rows(profile: str, data: Path, stock: Path, ipex: Path) -> list[dict[str, Any]]:
    """Whether the two trainings in these folders came to the same model."""
    apart = difference(stock, ipex)
    theirs, ours = (
        training.evaluated(folder / "test", data, folder / "output", None)["auc"]
        for folder in (stock, ipex)
    )
    return [
        {"name": f"largest weight difference, {profile}", "value": float(f"{apart:.2g}"),
         "unit": "", "goal": f"<= {LARGEST_WEIGHT_DIFFERENCE}",
         "met": apart <= LARGEST_WEIGHT_DIFFERENCE},
        {"name": f"test AUC, {profile}", "value": round(ours, 4), "unit": "AUC",
         "baseline": round(theirs, 4), "goal": f"within {LARGEST_AUC_DIFFERENCE} of stock torch's",
         "met": abs(ours - theirs) <= LARGEST_AUC_DIFFERENCE},
    ]  # fmt: skip


def _eager(figures: Figures) -> float:
    """The faster of torch's two eager ways."""
    return max(speed for name, speed in figures["speeds"].items() if name.startswith("torch"))


def _openvino(figures: Figures) -> float:
    return max(speed for name, speed in figures["speeds"].items() if name.startswith("openvino"))


def _compared(
    name: str, unit: str, ipex: list[float], stock: list[float], more: str
) -> dict[str, Any]:
    """A row whose ratio, the extension to stock torch pair by pair, is told in words."""
    ratios = [a / b for a, b in zip(ipex, stock, strict=True)]
    if unit == "CPU-s":  # less is better
        ratios = [1 / ratio for ratio in ratios]
    ratio, apart = median(ratios), spread(ratios)
    words = f"the extension gains nothing: {ratio:.2f}x"
    if abs(ratio - 1) <= apart:
        words = f"no difference beyond the noise of the runs: {ratio:.2f}x"
    elif ratio > 1:
        words = f"the extension gains {ratio:.2f}x"
    digits = 2 if unit == "CPU-s" else None
    return {
        "name": name, "value": round(median(ipex), digits), "unit": unit,
        "baseline": round(median(stock), digits), "ratio": round(ratio, 3),
        "spread": round(apart, 3), "note": f"{words}; {more}".removesuffix("; "),
    }  # fmt: skip
