"""Small training data with a planted signal, as blocks, and specs for the training worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import worker
from models.recdp.blocks import Manifest, write_block

ROOT = Path(__file__).parents[2]
TINY = {
    "embedding_size": 4, "bottom_widths": "16", "top_widths": "16", "batch_size": 100,
    "dense_optimizer": "adam", "table_optimizer": "rowwise_adagrad", "learning_rate": 0.005,
    "table_learning_rate": 0.05, "fused_tables": True, "epochs": 2, "evals_per_epoch": 2,
}  # fmt: skip


def write_data(
    folder: Path, rows: dict[str, int], sizes: tuple[int, ...] = (50, 7, 1, 300), numeric: int = 3,
    seed: int = 1, block_rows: int = 700,
) -> Path:  # fmt: skip
    """Blocks whose label depends on a number, an id and a product of two ids' effects."""
    rng = np.random.default_rng(seed)
    effects = [rng.normal(0, 1, size) for size in sizes]
    folder.mkdir(parents=True, exist_ok=True)
    splits = {}
    for split, count in rows.items():
        numbers = np.log1p(rng.integers(0, 50, (count, numeric))).astype(np.float32)
        ids = np.stack([(size * rng.random(count) ** 2).astype(np.int32) for size in sizes], 1)
        logit = (numbers[:, 0] - 3 + effects[0][ids[:, 0]]
                 + 2 * effects[1][ids[:, 1]] * effects[-1][ids[:, -1]])  # fmt: skip
        label = (rng.random(count) < 1 / (1 + np.exp(-logit))).astype(np.uint8)
        splits[split] = tuple(
            write_block(folder, f"{split}-{at}", numbers[at : at + block_rows],
                        ids[at : at + block_rows], label[at : at + block_rows])
            for at in range(0, count, block_rows)
        )  # fmt: skip
    Manifest(
        folder=folder, label="label", numeric=tuple(f"I{i + 1}" for i in range(numeric)),
        categorical=tuple(f"C{i + 1}" for i in range(len(sizes))), table_sizes=sizes, splits=splits,
        transform={"numeric": "log1p(max(x,0))"},
    ).save()  # fmt: skip
    return folder


def train_spec(work: Path, data: Path, **changes: Any) -> dict[str, Any]:
    """A spec of the training worker in a folder of its own."""
    settings = {**TINY, **changes.pop("settings", {})}
    for name in ("output", "checkpoints"):
        (work / name).mkdir(parents=True, exist_ok=True)
    return {
        "model": "dlrm", "settings": settings, "data": str(data), "output": str(work / "output"),
        "checkpoints": str(work / "checkpoints"), "checkpoint_s": 60, "ranks": 1, "threads": 1,
        "rendezvous": None, "seed": 7, "goal": {"metric": "auc", "target": None, "minutes": None},
        **changes,
    }  # fmt: skip


def start(
    spec: dict[str, Any], work: Path, module: str = "models.train",
    launch: list[str] | None = None, **environment: str,
) -> subprocess.Popen[bytes]:  # fmt: skip
    """Start a worker on a spec; its messages go to work/messages, its output to work/log."""
    path = work / "spec.json"
    path.write_text(json.dumps(spec))
    with open(work / "log", "ab") as log:
        return subprocess.Popen(
            [*(launch or []), sys.executable, "-m", module, str(path)], cwd=ROOT, stdout=log,
            stderr=log, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
                             "AIOK_MESSAGES": str(work / "messages"), **environment},
        )  # fmt: skip


def run_here(spec: dict[str, Any], work: Path, monkeypatch: pytest.MonkeyPatch,
             module: str = "models.train") -> int:  # fmt: skip
    """Run a worker on a spec in this process, which saves the import of torch; its exit code."""
    path = work / "spec.json"
    path.write_text(json.dumps(spec))
    monkeypatch.setenv("AIOK_MESSAGES", str(work / "messages"))
    monkeypatch.setattr(worker.StopFlag, "install", lambda flag: None)  # signals stay pytest's
    main = getattr(import_module(module), module.rpartition(".")[2])
    return worker.run(main, [module, str(path)])


def messages(work: Path, kind: str, rank: int = 0) -> list[dict[str, Any]]:
    """The messages of one kind that a rank has sent so far."""
    path = work / "messages" / f"rank-{rank:04d}.jsonl"
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    return [line for line in lines if line["kind"] == kind]


def result(work: Path) -> dict[str, Any]:
    """The values of the worker's result; fails with its log when there is none."""
    found = messages(work, "result")
    assert found, (work / "log").read_text()[-3000:]
    values: dict[str, Any] = found[-1]["values"]
    return values
