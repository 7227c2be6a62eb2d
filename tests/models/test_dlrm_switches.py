"""Each switch of DLRM on and off: three training steps end with the weights of a plain reference.

The reference is written here with dense tensors, autograd and loops, and knows only the formulas:
the network of the paper, mean cross-entropy, SGD, Adam, and Adagrad with one number a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from models.dist import Ranks
from models.dlrm import spec
from models.dlrm.task import DlrmTask
from models.loop import SIGNALS
from models.loop_data import Batch
from models.settings import resolve
from models.train import plan
from tests.models.training_data import result, run_here, train_spec, write_data

SIZES = (50, 7, 1, 300)
SMALL = {"embedding_size": 4, "bottom_widths": "8", "top_widths": "8-5"}
STEPS, BATCH = 3, 128
FACTORS = (0.5, 1.0, 0.25)  # of the rates, as a schedule gives them

ON = {
    "fused_tables": {"fused_tables": True},
    "fused_head": {"fused_head": True},
    "row-wise Adagrad": {"table_optimizer": "rowwise_adagrad", "table_learning_rate": 0.05},
    "damped Adagrad": {"table_optimizer": "rowwise_adagrad", "table_start": 0.5},
    "Adam": {"dense_optimizer": "adam", "learning_rate": 0.01},
    "first order": {"table_optimizer": "rowwise_adagrad", "first_order_rate": 0.08,
                    "first_order_start": 3.0},
    "weight decay": {"weight_decay": 0.1},
    "average": {"average": 0.4},
}  # fmt: skip
OFF = {
    "fused_tables": {"fused_tables": False},
    "fused_head": {"fused_head": False},
    "row-wise Adagrad": {
        "table_optimizer": "sgd",
        "table_learning_rate": 3.0,
        "first_order_rate": 0.0,
    },
    "Adam": {"dense_optimizer": "sgd", "learning_rate": 0.1},
    "first order": {"first_order_rate": 0.0},
    "average": {"average": 0.0},
    "fused tables and head": {"fused_tables": False, "fused_head": False},
}
CASES = [
    pytest.param("stock", {}, id="stock"),
    pytest.param("optimized", {"precision": "fp32"}, id="optimized"),
    *(pytest.param("stock", changes, id=f"stock with {name}") for name, changes in ON.items()),
    *(pytest.param("optimized", {"precision": "fp32", **changes}, id=f"optimized without {name}")
      for name, changes in OFF.items()),
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(
        tmp_path_factory.mktemp("data"), {"train": STEPS * BATCH, "valid": 200, "test": 0}, SIZES
    )


def settings_of(profile: str, **changes: object) -> dict[str, Any]:
    quick = {"learning_rate": 1.0, "table_learning_rate": 3.0} if profile == "stock" else {}
    values, problems = resolve(
        spec.SETTINGS, spec.SPEC.profiles[profile], {**SMALL, **quick, **changes}
    )
    assert not problems
    return dict(values)


def trained(settings: Mapping[str, Any], data: Path) -> DlrmTask:
    """A task after STEPS steps."""
    task = DlrmTask(settings, data, 7, Ranks(0, 1), SIGNALS)
    rows = task.rows("train")
    for step in range(STEPS):
        columns = rows.read(step * BATCH, (step + 1) * BATCH)
        batch = Batch(tuple(torch.tensor(column) for column in columns), BATCH)
        task.step(batch, FACTORS[step], [0.0] * SIGNALS)
    return task


class Plain:
    """The reference. Weights: lists of (W, b) of both MLPs, and one dense tensor a table."""

    def __init__(self, settings: Mapping[str, Any], data: Path) -> None:
        self.settings = settings
        start = DlrmTask(settings, data, 7, Ranks(0, 1), SIGNALS)
        self.rows = start.rows("train")
        self.dense = [p.detach().clone() for p in start.network.dense_parameters()]
        self.bottom = len(list(start.network.bottom.parameters()))
        self.tables = [t.clone() for t in start.network.tables.parts(SIZES)]
        self.first = float(settings["first_order_rate"]) > 0
        self.damping = [[[float(settings["table_start"]), float(settings["first_order_start"])]
                         for _ in table] for table in self.tables]  # fmt: skip
        self.moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in self.dense]
        self.average = [torch.zeros_like(p) for p in self.dense]

    def logits(self, numeric: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """The network, row by row in its interaction."""
        d = int(self.settings["embedding_size"])
        dense = self.mlp(numeric, self.dense[: self.bottom], last_relu=True)
        rows = [table[ids[:, i].long()] for i, table in enumerate(self.tables)]
        vectors = [dense, *(row[:, :d] for row in rows)]
        dots = [(vectors[i] * vectors[j]).sum(1) for i in range(len(vectors)) for j in range(i)]
        joined = torch.cat([dense, torch.stack(dots, 1)], 1)
        found = self.mlp(joined, self.dense[self.bottom :], last_relu=False).squeeze(1)
        return found + sum(row[:, d] for row in rows) if self.first else found

    @staticmethod
    def mlp(x: torch.Tensor, weights: list[torch.Tensor], *, last_relu: bool) -> torch.Tensor:
        for at in range(0, len(weights), 2):
            x = x @ weights[at].t() + weights[at + 1]
            if last_relu or at + 2 < len(weights):
                x = x.relu()
        return x

    def train(self) -> None:
        """STEPS steps, as the settings say."""
        for step in range(STEPS):
            numeric, ids, label = (
                torch.tensor(part) for part in self.rows.read(step * BATCH, (step + 1) * BATCH)
            )
            weights = [*self.dense, *self.tables]
            for weight in weights:
                weight.requires_grad_()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                self.logits(numeric, ids), label.float()
            )
            gradients = torch.autograd.grad(loss, weights)
            for weight in weights:
                weight.requires_grad_(False)
            self.step_dense(gradients[: len(self.dense)], step, FACTORS[step])
            self.step_tables(gradients[len(self.dense) :], FACTORS[step])

    def step_dense(self, gradients: tuple[torch.Tensor, ...], step: int, factor: float) -> None:
        rate = float(self.settings["learning_rate"]) * factor
        kept, share = float(self.settings["average"]), 4.0 / (step + 4.0)
        for at, (weight, gradient) in enumerate(zip(self.dense, gradients, strict=True)):
            weight -= rate * float(self.settings["weight_decay"]) * weight
            if self.settings["dense_optimizer"] == "adam":
                mean, square = self.moments[at]
                mean += 0.1 * (gradient - mean)
                square += 0.001 * (gradient**2 - square)
                bent = (square / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
                weight -= rate * mean / (1 - 0.9 ** (step + 1)) / bent
            else:
                weight -= rate * gradient
            share = max(1 - kept, share)
            self.average[at] += share * (weight - self.average[at])

    def step_tables(self, gradients: tuple[torch.Tensor, ...], factor: float) -> None:
        d = int(self.settings["embedding_size"])
        rate = float(self.settings["table_learning_rate"]) * factor
        for table, gradient, damping in zip(self.tables, gradients, self.damping, strict=True):
            if self.settings["table_optimizer"] == "sgd":
                table -= rate * gradient
                continue
            for row, summed in enumerate(gradient * BATCH):  # Adagrad: of the summed loss
                damping[row][0] += float((summed[:d] ** 2).mean())
                table[row, :d] -= rate * summed[:d] / (damping[row][0] ** 0.5 + 1e-10)
                if self.first:
                    damping[row][1] += float(summed[d] ** 2)
                    own = float(self.settings["first_order_rate"]) * factor
                    table[row, d] -= own * summed[d] / (damping[row][1] ** 0.5 + 1e-10)


def distance(found: list[torch.Tensor], plain: list[torch.Tensor]) -> float:
    """The largest difference of two lists of weights."""
    return max(float((a - b).abs().max()) for a, b in zip(found, plain, strict=True))


@pytest.mark.parametrize(("profile", "changes"), CASES)
def test_a_training_ends_with_the_weights_of_the_plain_one(
    profile: str, changes: dict[str, Any], data: Path
) -> None:
    settings = settings_of(profile, **changes)
    plain = Plain(settings, data)
    began = [t.clone() for t in plain.tables]
    plain.train()
    task = trained(settings, data)
    tables = task.network.tables.parts(SIZES)
    assert distance(began, plain.tables) > 1e-3  # it is a training
    assert distance(tables, plain.tables) < 1e-5
    dense = task.network.dense_parameters()
    assert distance([p.detach() for p in dense], plain.dense) < 1e-5
    with task.averaged():
        kept = [p.detach().clone() for p in dense]
    assert distance(kept, plain.average if settings["average"] else plain.dense) < 1e-5
    assert distance([p.detach() for p in dense], plain.dense) < 1e-5  # and back


def test_bf16_is_an_approximation_of_the_same_training(data: Path) -> None:
    settings = settings_of("optimized", dense_optimizer="sgd", learning_rate=0.1)
    plain = Plain({**settings, "average": 0.0}, data)
    began = torch.cat([p.flatten() for p in plain.dense])
    plain.train()
    moved = torch.cat([p.flatten() for p in plain.dense]) - began
    task = trained({**settings, "precision": "bf16"}, data)
    assert task.precision == "bf16"
    found = torch.cat([p.detach().flatten() for p in task.network.dense_parameters()]) - began
    assert float((found - moved).norm() / moved.norm()) < 0.03
    assert float((found - moved).norm()) > 0  # it did compute in bf16


@pytest.mark.parametrize("switch", ["keep_memory", "prefetch"])
def test_memory_and_loader_change_no_number(
    switch: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = []
    for value in (False, True):
        work = tmp_path / str(value)
        work.mkdir()
        assert run_here(train_spec(work, data, settings={switch: value}), work, monkeypatch) == 0
        hashes.append(result(work)["weights_sha256"])
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize(
    ("rows", "min_steps", "batch"),
    [(1_000_000, 32, 1024), (8000, 32, 256), (5, 32, 1), (9, 1, 1024)],
)
def test_small_data_gets_small_batches(rows: int, min_steps: int, batch: int) -> None:
    settings = settings_of("optimized", min_steps=min_steps, batch_size=1024)
    made = plan({"seed": 1, "checkpoint_s": 60}, spec.SPEC, settings, rows)
    assert made.batch_size == batch
    assert -(-rows // made.batch_size) >= min(min_steps, rows)
