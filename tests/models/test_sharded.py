"""Tables spread over ranks: the same training, in less memory, and checkpoints for any ranks."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from models import checkpoint
from models.dist import Ranks
from models.dlrm.network import Dlrm, initialize, row_width
from models.dlrm.sharded import ShardedTables, place_tables
from models.placement import GIB, place
from tests.models.test_dist import MPI, MPIRUN, needs_mpi, rank_pid, wait_for
from tests.models.training_data import TINY, messages, result, start, train_spec, write_data

SIZES = (50, 7, 1, 300, 2)
FORMS: list[dict[str, Any]] = [
    {"first_order_rate": 0.08},
    {"table_optimizer": "sgd", "table_learning_rate": 0.5},
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,501 training rows: the last global batch of 100 has one row, so some ranks have none."""
    return write_data(
        tmp_path_factory.mktemp("data"), {"train": 1501, "valid": 401, "test": 0}, SIZES
    )


def limit(rows: int, settings: dict[str, Any]) -> float:
    """table_memory_gib for so many rows a rank."""
    whole = place_tables({"": 1}, {**TINY, "first_order_rate": 0.0, **settings,
                                   "table_memory_gib": 0}, 1)  # fmt: skip
    return (rows + 0.5) * whole.row_bytes / GIB


def spec_of(work: Path, data: Path, ranks: int, rows: int | None, **changes: Any) -> dict[str, Any]:
    """A spec for so many ranks, each with memory for `rows` rows (None: for all)."""
    settings = {"epochs": 2, "patience": 100, **changes.pop("settings", {})}
    if rows is not None:
        settings["table_memory_gib"] = limit(rows, settings)
    return train_spec(work, data, ranks=ranks, settings=settings, **changes)


def launch(spec: dict[str, Any], work: Path, seconds: float = 80) -> int:
    """Run one training to its end; its exit code."""
    (work / "meeting").unlink(missing_ok=True)
    spec = {**spec, "rendezvous": f"file://{work}/meeting"}
    argv = [str(MPIRUN), "-n", str(spec["ranks"])] if spec["ranks"] > 1 else None
    return start(spec, work, launch=argv, **MPI).wait(seconds)


def train(work: Path, data: Path, ranks: int, rows: int | None, **changes: Any) -> dict[str, Any]:
    """A finished training's weights."""
    work.mkdir(exist_ok=True)
    code = launch(spec_of(work, data, ranks, rows, **changes), work)
    assert code == 0, (work / "log").read_text()[-3000:] + str(messages(work, "problem"))
    weights: dict[str, Any] = load_file(work / "output" / "weights.safetensors")
    return weights


@needs_mpi
@pytest.mark.parametrize("settings", FORMS)
@pytest.mark.parametrize(("ranks", "rows", "spread"), [(2, 250, 1), (3, 124, 3)])
def test_sharded_tables_train_like_those_of_one_rank(
    tmp_path: Path, data: Path, settings: dict[str, Any], ranks: int, rows: int, spread: int
) -> None:
    alone = train(tmp_path / "alone", data, 1, None, settings=settings)
    sharded = train(tmp_path / "sharded", data, ranks, rows, settings=settings)
    for name, weights in alone.items():
        np.testing.assert_allclose(sharded[name], weights, atol=1e-5, err_msg=name)
    one, many = result(tmp_path / "alone"), result(tmp_path / "sharded")
    assert many["parameters"] == one["parameters"]
    for metric, value in one["best"]["valid"].items():
        assert many["best"]["valid"][metric] == pytest.approx(value, abs=1e-4)
    assert list(many["placement"]["tables"].values()).count("sharded") == spread
    assert set(one["placement"]["tables"].values()) == {"replicated"}
    notes = [note["text"] for note in messages(tmp_path / "sharded", "note")]
    assert [
        text for text in notes if f"{spread} of 5 tables are sharded over {ranks} ranks" in text
    ]
    model = json.loads((tmp_path / "sharded" / "output" / "model.json").read_text())
    written = {name: torch.from_numpy(values) for name, values in sharded.items()}
    assert checkpoint.weights_sha256(written) == model["weights_sha256"] == many["weights_sha256"]
