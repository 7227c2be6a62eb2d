"""What Intel Extension for PyTorch gains over stock torch, in training and in inference.

Three ways on the same files, alternating: the `torch` environment, the `ipex` environment with the
extension switched off (its older torch alone), and with it. One thread each: that is what the
kernels cost, and waiting for a second thread on a busy machine would hide it. Inference is batch
1,024 by the export worker's own measurement, where the ways of one environment alternate. The
weights are compared number by number, and scored by stock torch.
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
ROWS, SEED, PAIRS = 80_000, 20261127, 3
PROFILES = ("optimized", "stock")
WAYS = {"torch": ("torch", False), "older torch": ("ipex", False), "ipex": ("ipex", True)}
LARGEST_WEIGHT_DIFFERENCE = 0.01
LARGEST_AUC_DIFFERENCE = 0.001
Figures = dict[str, float]


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
            stock, ipex = (folder / profile / way / str(PAIRS - 1) for way in ("torch", "ipex"))
            found += training_rows(profile, runs)
            speeds = scored(ipex, data, "ipex"), scored(stock, data, "torch")
            found.append(inference_row(profile, *speeds))
            found += equality_rows(profile, data, stock, ipex)
        torches = [versions(folder / "stock" / way / "0") for way in ("torch", "ipex")]
    about = {
        "data": f"{ROWS:,} generated rows, seed {SEED}, 70/10/20 by time, one epoch, one thread; "
                f"torch {torches[0]['torch']} against {torches[1]['torch']} with extension "
                f"{torches[1]['ipex']}",
    }  # fmt: skip
    return [{**about, **row} for row in found]


def versions(folder: Path) -> dict[str, str]:
    """What a training in that folder ran on."""
    model = json.loads((folder / "output" / "model.json").read_text())
    found: dict[str, str] = model["versions"]
    return found


def run(folder: Path, data: Path, profile: str, way: str) -> Figures:
    """One epoch of training."""
    environment, switch = WAYS[way]
    settings = {"epochs": 1, "evals_per_epoch": 1, "min_steps": 1}
    spec = training.train_spec(folder, data, profile, ipex=switch, settings=settings)
    values = training.work("models.train", environment, folder, spec)
    return {"rows/s": values["rows_per_second"], "CPU-s": values["cpu_seconds"]}


def scored(folder: Path, data: Path, way: str) -> dict[str, list[float]]:
    """Rows/s of every way to score the model in a folder; the repeats of all of them alternate."""
    environment, switch = WAYS[way]
    result = training.work("models.inference.export", environment, folder / "export", {
        "ipex": switch, "model": "dlrm", "data": str(data), "weights": str(folder / "output"),
        "dataset": {"format": "criteo", "columns": None}, "threads": 1, "max_metric_drop": 1.0,
        "metric": "auc",
    })  # fmt: skip
    bundle = json.loads((Path(result["bundle"]) / "bundle.json").read_text())
    return {one["name"]: one["repeats"] for one in bundle["measured"]["ways"]}


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


def training_rows(profile: str, runs: dict[str, list[Figures]]) -> list[dict[str, Any]]:
    """Training with the extension beside the `torch` environment, pair by pair."""
    found = []
    for unit, name in (("rows/s", f"training, {profile}"), ("CPU-s", f"an epoch, {profile}")):
        ours, stock, older = ([one[unit] for one in runs[way]]
                              for way in ("ipex", "torch", "older torch"))  # fmt: skip
        alone = f"its torch without it: {_rounded(median(older), unit)} {unit}"
        found.append(_compared(name, unit, ours, stock, alone))
    return found


def inference_row(
    profile: str, ipex: dict[str, list[float]], stock: dict[str, list[float]]
) -> dict[str, Any]:
    """Scoring with the extension beside its own torch, which took turns with it."""
    newer, exported = median(_best(stock, "torch")), median(_best(stock, "openvino"))
    return _compared(
        f"inference, {profile}, batch 1,024", "rows/s", ipex["ipex"], _best(ipex, "torch"),
        f"baseline: its own torch; the torch environment: {newer:,.0f} rows/s, with OpenVINO "
        f"{exported:,.0f}",
    )  # fmt: skip


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


def _best(speeds: dict[str, list[float]], kind: str) -> list[float]:
    """The repeats of the fastest way of a kind."""
    return max((found for name, found in speeds.items() if name.startswith(kind)), key=median)


def _rounded(value: float, unit: str) -> float:
    return round(value, 2) if unit == "CPU-s" else round(value)


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
    return {
        "name": name, "value": _rounded(median(ipex), unit), "unit": unit,
        "baseline": _rounded(median(stock), unit), "ratio": round(ratio, 3),
        "spread": round(apart, 3), "note": f"{words}; {more}", "readme": True,
    }  # fmt: skip
