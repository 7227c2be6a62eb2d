"""DLRM for the training loop: its rows, one training step, scores, and its files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from models import cpu
from models.dist import Ranks
from models.dlrm import workload
from models.dlrm.fused_head import FusedHead
from models.dlrm.network import (
    Dlrm,
    FusedTables,
    SeparateTables,
    first_order,
    initialize,
    row_width,
)
from models.dlrm.sharded import ShardedTables, place_tables
from models.ipex import Extension
from models.loop_data import Batch, Rows
from models.loop_dense import DenseParameters
from models.loop_shards import Fetched
from models.loop_tables import Exchange, RowwiseAdagrad, RowwiseSgd, combine
from models.messages import Workload
from models.placement import Placement
from models.recdp.blocks import Manifest
from models.worker import InputProblem


class DlrmTask:
    """The network with its optimizers, for one rank. Columns: numeric, ids, label."""

    def __init__(
        self, settings: Mapping[str, Any], data: str | Path, seed: int, ranks: Ranks, signals: int
    ) -> None:
        self.settings, self.ranks = settings, ranks
        self.manifest = Manifest.load(data)
        sizes = self.manifest.table_sizes
        self.placement = place_tables(
            dict(zip(self.manifest.categorical, sizes, strict=True)), settings, ranks.size
        )
        sharded = None
        if any(self.placement.sharded):
            sharded = ShardedTables(self.placement, row_width(settings), ranks)
        self.network = Dlrm(len(self.manifest.numeric), sizes, settings, sharded)
        initialize(self.network, sizes, seed, float(settings["table_init"]))
        self.dense = DenseParameters(
            self.network.dense_parameters(), str(settings["dense_optimizer"]),
            float(settings["weight_decay"]), signals, float(settings["average"]),
        )  # fmt: skip
        self.exchange = Exchange(ranks)
        tables = self.network.tables
        fused = ShardedTraining if sharded else FusedTraining
        trainer = fused if isinstance(tables, FusedTables) else SeparateTraining
        self.tables = trainer(tables, sizes, settings, ranks)
        self.precision, self.precision_reason = cpu.choose_precision(str(settings["precision"]))
        self.fused_head: FusedHead | None = None
        if settings["fused_head"]:
            self.fused_head = FusedHead(
                self.network, torch.bfloat16 if self.precision == "bf16" else torch.float32
            )

    def accelerate(self, extension: Extension) -> None:
        """Train with Intel Extension for PyTorch."""
        self.dense.fuse(self.network, extension)

    def rows(self, split: str) -> Rows:
        """The rows of a split."""
        rows: Rows = self.manifest.split(split)
        return rows

    def step(self, batch: Batch, factor: float, signals: Sequence[float]) -> list[float]:
        """Train on one global batch; returns the signals added over all ranks.

        signals[0] is replaced by the summed loss of the batch. `factor` scales both rates.
        """
        self.dense.zero()
        numeric, ids, label = batch.columns
        loss = 0.0
        if len(label):
            embedded = self.tables.embed(ids)
            if self.fused_head is not None:
                with torch.no_grad():
                    loss, gradient = self.fused_head.step(
                        numeric, embedded, label, batch.global_rows
                    )
                if embedded.is_leaf:
                    embedded.grad = gradient
                else:  # rows of separate tables, whose lookups autograd has recorded
                    embedded.backward(gradient)
            else:
                loss = self._recorded_step(numeric, embedded, label, batch.global_rows)
        touched, gradients = self.tables.gradients()
        self.dense.signals[:] = torch.tensor([loss, *signals[1:]])
        touched, gradients = self.exchange.add(self.dense.buffer, touched, gradients)
        with torch.no_grad():
            self.dense.step(float(self.settings["learning_rate"]) * factor)
            rate = float(self.settings["table_learning_rate"]) * factor
            self.tables.update(touched, gradients, rate, batch.global_rows)
        return [float(x) for x in self.dense.signals.tolist()]

    def _recorded_step(
        self, numeric: torch.Tensor, embedded: torch.Tensor, label: torch.Tensor, global_rows: int
    ) -> float:
        """Summed loss of rows; autograd leaves the gradients of their part of the mean loss."""
        with self._arithmetic():
            logits = self.network.head(numeric, embedded)
        total = nn.functional.binary_cross_entropy_with_logits(
            logits, label.float(), reduction="sum"
        )
        (total / global_rows).backward()
        return total.item()

    def workload(self) -> Workload:
        """What one row of a training step costs at least."""
        return workload.training(self.network, self.settings, self.precision)

    def scores(self, columns: Sequence[torch.Tensor]) -> torch.Tensor:
        """Logits [n] of rows."""
        with torch.inference_mode(), self._arithmetic():
            return score(self.network, columns[0], columns[1])

    def labels(self, columns: Sequence[torch.Tensor]) -> torch.Tensor:
        """Labels [n] of rows, 0 or 1."""
        return columns[2]

    def weights(self) -> dict[str, torch.Tensor]:
        """The weights by name, live: writing into them changes the network."""
        return {name: tensor.detach() for name, tensor in self.network.state_dict().items()}

    def averaged(self) -> AbstractContextManager[None]:
        """Within it the MLPs have their averaged weights; tables stay as they are."""
        return self.dense.averaged()

    def optimizer_state(self) -> dict[str, torch.Tensor]:
        """All else that the next step depends on, live."""
        dense = {f"dense.{name}": tensor for name, tensor in self.dense.state().items()}
        return {**dense, **self.tables.state()}

    def placed(self) -> dict[str, Placement]:
        """By name, the tensors of weights and optimizer whose rows are spread over the ranks."""
        names = ("tables.weight", "tables.accumulator") if any(self.placement.sharded) else ()
        return dict.fromkeys(names, self.placement)

    def describe(self) -> dict[str, Any]:
        """What model.json says of the network, enough to build it again."""
        return {
            "label": self.manifest.label, "numeric": list(self.manifest.numeric),
            "categorical": list(self.manifest.categorical),
            "table_sizes": list(self.manifest.table_sizes),
            "transform": dict(self.manifest.transform),
        }  # fmt: skip

    def _arithmetic(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16")


class FusedTraining:
    """Trains one storage of all tables by the rows that a batch touched."""

    def __init__(
        self, tables: FusedTables, _sizes: Sequence[int], settings: Mapping[str, Any], _ranks: Ranks
    ) -> None:
        self.tables = tables
        tables.weight.requires_grad_(False)
        self.optimizer = _row_optimizer(tables.weight.data, settings)
        self.ids: torch.Tensor | None = None

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Vectors [B, T, d] of ids [B, T]: the leaf whose gradient is kept."""
        self.ids = self.tables.storage_ids(ids)
        self.embedded = self.tables.look_up(self.ids).requires_grad_()
        return self.embedded

    def gradients(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Unique storage rows [u] and the gradients [u, d] of the last batch of this rank."""
        d = self.tables.weight.shape[1]
        if self.ids is None:
            return torch.empty(0, dtype=torch.int64), torch.empty(0, d)
        ids, self.ids = self.ids, None
        return combine(ids, self.embedded.grad.view(-1, d))

    def update(
        self, ids: torch.Tensor, gradients: torch.Tensor, rate: float, global_rows: int
    ) -> None:
        """Step the touched rows [u] by gradients [u, d] of the mean loss."""
        _update(self.optimizer, ids, gradients, rate, global_rows)

    def state(self) -> dict[str, torch.Tensor]:
        """The optimizer's tensors by name, live."""
        if isinstance(self.optimizer, RowwiseAdagrad):
            return {"tables.accumulator": self.optimizer.accumulator}
        return {}


class ShardedTraining(FusedTraining):
    """The same where rows are spread over the ranks: each takes part in every lookup."""

    tables: ShardedTables

    def __init__(
        self, tables: ShardedTables, sizes: Sequence[int], settings: Mapping[str, Any],
        ranks: Ranks,
    ) -> None:  # fmt: skip
        super().__init__(tables, sizes, settings, ranks)
        self.none = torch.empty(0, len(sizes), dtype=torch.int32)
        self.fetched: Fetched | None = None

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Vectors [B, T, d] of ids [B, T]: the leaf whose gradient is kept."""
        embedded, self.fetched = self.tables.fetch(self.tables.storage_ids(ids))
        self.embedded = embedded.requires_grad_()
        return self.embedded

    def gradients(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows [u] of tables that every rank has, and their gradients of this rank [u, d].

        Those of other rows go to their owners at once.
        """
        if self.fetched is None:  # a batch without rows for this rank: others may ask for its rows
            self.embed(self.none)
        fetched, self.fetched = self.fetched, None
        assert fetched is not None  # embed has just set it
        gradient = self.embedded.grad
        if gradient is None:
            gradient = torch.zeros_like(self.embedded)
        shards, width = self.tables.shards, self.tables.weight.shape[1]
        replicated, self.own = shards.give(fetched, gradient.view(-1, width))
        return replicated

    def update(
        self, ids: torch.Tensor, gradients: torch.Tensor, rate: float, global_rows: int
    ) -> None:
        """Step the touched rows [u] by gradients [u, d] of the mean loss, and the own ones."""
        super().update(ids, gradients, rate, global_rows)
        super().update(*self.own, rate, global_rows)


class SeparateTraining:
    """Trains one EmbeddingBag a table; with plain SGD by torch's own optimizer."""

    def __init__(
        self, tables: SeparateTables, sizes: Sequence[int], settings: Mapping[str, Any],
        ranks: Ranks,
    ) -> None:  # fmt: skip
        self.tables, self.sizes = tables, list(sizes)
        self.weights = [bag.weight for bag in tables.bags]
        self.starts = torch.tensor([0, *sizes[:-1]]).cumsum(0)
        self.optimizers: list[RowwiseAdagrad | RowwiseSgd] = []
        self.sgd = settings["table_optimizer"] == "sgd"
        if not self.sgd:
            self.optimizers = [_row_optimizer(weight.data, settings) for weight in self.weights]
        # One rank with SGD takes its gradients as autograd left them, as the public code does.
        self.direct = ranks.size == 1 and self.sgd

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Vectors [B, T, d] of ids [B, T]."""
        for weight in self.weights:
            weight.grad = None
        embedded: torch.Tensor = self.tables(ids)
        return embedded

    def gradients(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Unique rows [u], counted through all tables, and the gradients [u, d] of this rank."""
        if self.direct:
            return torch.empty(0, dtype=torch.int64), torch.empty(0)
        tables = zip(self.starts, self.weights, strict=True)
        found = [(start, weight.grad) for start, weight in tables if weight.grad is not None]
        if not found:
            return torch.empty(0, dtype=torch.int64), torch.empty(0, self.weights[0].shape[1])
        ids = torch.cat([gradient._indices()[0] + start for start, gradient in found])
        values = torch.cat([gradient._values() for _, gradient in found])
        return combine(ids, values)

    def update(
        self, ids: torch.Tensor, gradients: torch.Tensor, rate: float, global_rows: int
    ) -> None:
        """Step the touched rows [u] by gradients [u, d] of the mean loss."""
        if not self.direct:
            self._share_out(ids, gradients, rate, global_rows)
        for weight in self.weights:
            if self.sgd and weight.grad is not None:
                weight.data.add_(weight.grad, alpha=-rate)
            weight.grad = None

    def _share_out(
        self, ids: torch.Tensor, gradients: torch.Tensor, rate: float, global_rows: int
    ) -> None:
        """Give each table its part of the merged gradients."""
        cuts = [*torch.searchsorted(ids, self.starts).tolist(), len(ids)]
        for i, weight in enumerate(self.weights):
            own = slice(cuts[i], cuts[i + 1])
            rows = ids[own] - self.starts[i]
            if not self.sgd:
                _update(self.optimizers[i], rows, gradients[own], rate, global_rows)
            else:
                weight.grad = torch.sparse_coo_tensor(
                    rows[None], gradients[own], weight.shape, check_invariants=False,
                    is_coalesced=True,
                )  # fmt: skip

    def state(self) -> dict[str, torch.Tensor]:
        """The optimizers' tensors by name, live."""
        return {f"tables.{i}.accumulator": optimizer.accumulator
                for i, optimizer in enumerate(self.optimizers)
                if isinstance(optimizer, RowwiseAdagrad)}  # fmt: skip


def _row_optimizer(table: torch.Tensor, settings: Mapping[str, Any]) -> RowwiseAdagrad | RowwiseSgd:
    if settings["table_optimizer"] == "rowwise_adagrad":
        own = None
        if first_order(settings):
            times = float(settings["first_order_rate"]) / float(settings["table_learning_rate"])
            own = (times, float(settings["first_order_start"]))
        return RowwiseAdagrad(table, float(settings["table_start"]), own)
    return RowwiseSgd(table)


def _update(
    optimizer: RowwiseAdagrad | RowwiseSgd, ids: torch.Tensor, gradients: torch.Tensor,
    rate: float, global_rows: int,
) -> None:  # fmt: skip
    # Adagrad sees the gradient of the summed loss, so that its rate does not depend on the batch.
    scaled = gradients * global_rows if isinstance(optimizer, RowwiseAdagrad) else gradients
    optimizer.update(ids, scaled, rate)


def score(network: Dlrm, numeric: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Logits [n] of a trained network, by the fastest eager path; call it without gradients."""
    tables = network.tables
    if isinstance(tables, FusedTables):
        return network.head(numeric, tables.look_up(tables.storage_ids(ids)))
    return network(numeric, ids)


def load_network(folder: str | Path) -> tuple[Dlrm, dict[str, Any]]:
    """The trained network in a folder and its model.json; InputProblem when they do not fit."""
    folder = Path(folder)
    try:
        model = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        network = Dlrm(len(model["numeric"]), model["table_sizes"], model["settings"])
        network.load_state_dict(load_file(folder / "weights.safetensors"))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputProblem(
            f"{folder} holds no trained model: {str(error).splitlines()[0][:200]}",
            todo="give the output folder of a finished training",
        ) from error
    network.eval().requires_grad_(False)
    return network, model


class DlrmScorer:
    """A trained network and the rows of a data folder, for scoring only."""

    def __init__(self, network: Dlrm, manifest: Manifest) -> None:
        self.network, self.manifest = network, manifest

    def accelerate(self, extension: Extension) -> None:
        """Score with Intel Extension for PyTorch."""
        extension.for_inference(self.network)

    def rows(self, split: str) -> Rows:
        """The rows of a split."""
        rows: Rows = self.manifest.split(split)
        return rows

    def scores(self, columns: Sequence[torch.Tensor]) -> torch.Tensor:
        """Logits [n] of rows, in fp32."""
        with torch.inference_mode():
            return score(self.network, columns[0], columns[1])

    def labels(self, columns: Sequence[torch.Tensor]) -> torch.Tensor:
        """Labels [n] of rows, 0 or 1."""
        return columns[2]


def load_scorer(weights: str | Path, data: str | Path) -> DlrmScorer:
    """A trained network to score a data folder with; InputProblem when they do not fit."""
    network, model = load_network(weights)
    manifest = Manifest.load(data)
    if list(manifest.table_sizes) != list(model["table_sizes"]):
        raise InputProblem(
            f"the model in {weights} was trained on other dictionaries than those of {data}",
            todo="score it on the output of the ETL it was trained on",
        )
    return DlrmScorer(network, manifest)


TASK = DlrmTask
