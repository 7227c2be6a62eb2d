"""Test AUC on 10,000 real Criteo rows: optimized DLRM, stock DLRM, hashed logistic regression.

Split 7,000/1,000/2,000 by time; each model at its best validation epoch, at most 20 epochs. A
difference comes with its paired 95 % bootstrap interval over the test rows.
"""

from __future__ import annotations

import gzip
import os
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from bench import training
from bench.harness import ROOT
from models.metrics import auc

ENVIRONMENTS = ("bench", "etl", "torch")
FILE = "ctr/criteo_kaggle_first10k.tsv.gz"
TRAIN, VALID = 7000, 1000
BUCKETS = 1 << 20
STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0)  # C of scikit-learn: the inverse of the L2 weight
DRAWS, SEED = 2000, 1
Array = NDArray[Any]


def measure() -> list[dict[str, Any]]:
    """AUC of the three models and the two differences that the goal is about."""
    source = Path(os.environ.get("AIOK_TEST_DATA") or ROOT.parent / "shared" / "data") / FILE
    labels, features = read(source)
    test = slice(TRAIN + VALID, None)
    with tempfile.TemporaryDirectory() as scratch:
        scores = {name: dlrm(Path(scratch) / name, source, name) for name in ("optimized", "stock")}
    scores["logistic"] = logistic(labels, features)
    data = "Criteo Kaggle, first 10,000 rows, 7,000/1,000/2,000 by time"
    rows: list[dict[str, Any]] = [
        {"name": f"{name} test AUC", "value": round(auc(labels[test], values), 4), "unit": "AUC",
         "data": data}
        for name, values in scores.items()
    ]  # fmt: skip
    for other in ("stock", "logistic"):
        low, middle, high = difference(labels[test], scores["optimized"], scores[other])
        rows.append({
            "name": f"optimized minus {other}", "value": round(middle, 4), "unit": "AUC",
            "baseline": other, "goal": "95 % interval not wholly below 0", "met": high >= 0,
            "data": data, "note": f"paired 95 % interval {low:+.4f} to {high:+.4f}",
        })  # fmt: skip
    return rows


def read(source: Path) -> tuple[Array, csr_matrix]:
    """Labels [n] and features [n, 13 + 2^20]: log of the ints, hashed ids."""
    with gzip.open(source, "rt", encoding="ascii") as file:
        lines = [line.rstrip("\n").split("\t") for line in file]
    labels = np.array([line[0] == "1" for line in lines], np.uint8)
    numeric = [[np.log1p(max(int(x or 0), 0)) for x in line[1:14]] for line in lines]
    ids = [[13 + zlib.crc32(f"{i}={x}".encode()) % BUCKETS for i, x in enumerate(line[14:])]
           for line in lines]  # fmt: skip
    columns = np.concatenate([np.tile(np.arange(13), (len(lines), 1)), np.array(ids)], axis=1)
    values = np.concatenate([np.array(numeric), np.ones((len(lines), 26))], axis=1)
    starts = np.arange(0, columns.size + 1, columns.shape[1])
    shape = (len(lines), 13 + BUCKETS)
    return labels, csr_matrix((values.ravel(), columns.ravel(), starts), shape=shape)


def dlrm(folder: Path, source: Path, profile: str) -> Array:
    """Test logits of a profile, one validation an epoch, the best of 20 epochs."""
    data = training.prepared(folder / "etl", source, profile)
    settings = {"epochs": 20, "evals_per_epoch": 1, "patience": 20}
    spec = training.train_spec(folder / "train", data, profile, settings=settings)
    training.work("models.train", "torch", folder / "train", spec)
    training.evaluated(folder / "test", data, folder / "train" / "output", None)
    scores: Array = np.load(folder / "test" / "output" / "scores.npy")
    return scores


def logistic(labels: Array, features: csr_matrix) -> Array:
    """Test scores of logistic regression, its L2 weight chosen on the validation rows."""
    valid = slice(TRAIN, TRAIN + VALID)
    # A bucket without a training row keeps the weight 0; without them a fit takes seconds.
    features = features[:, np.unique(features[:TRAIN].indices)]
    fitted = [LogisticRegression(C=c, max_iter=1000).fit(features[:TRAIN], labels[:TRAIN])
              for c in STRENGTHS]  # fmt: skip
    best = max(fitted, key=lambda f: auc(labels[valid], f.decision_function(features[valid])))
    scores: Array = best.decision_function(features[TRAIN + VALID :])
    return scores


def difference(labels: Array, ours: Array, theirs: Array) -> tuple[float, float, float]:
    """AUC of ours minus theirs: lower end, value and upper end of the paired 95 % interval."""
    rng = np.random.default_rng(SEED)
    draws = []
    for _ in range(DRAWS):
        at = rng.integers(0, len(labels), len(labels))
        draws.append(auc(labels[at], ours[at]) - auc(labels[at], theirs[at]))
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), auc(labels, ours) - auc(labels, theirs), float(high)
