"""DLRM for inference: the graphs that are exported, and what each is fed.

Measured on 2 AVX2 cores, batch 1,024, CPU-ms a batch (eager, whole, head): profile `optimized`
9.3, 6.8, 5.5; `stock` 54, 19, 16. The pairs of the interaction are taken from the flattened
product by one index list: selecting by two index lists took 1.7x the time of the whole graph,
slices and concatenation 1.3x, weights of the top MLP widened to the full square 1.2x. OpenVINO's
Gather needs 2.5x the time of torch's bag kernel, hence the form that looks up in torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.dlrm.network import Dlrm, split_rows
from models.dlrm.task import load_network, score
from models.dlrm.workload import inference
from models.inference.scoring import Form, Score
from models.loop_tables import look_up

__all__ = ["eager", "forms", "inference", "load_network"]

Array = NDArray[Any]


class Head(nn.Module):
    """All of DLRM but its tables: numeric [B, N] and rows [B, T, d (+ 1)] -> logits [B]."""

    def __init__(self, network: Dlrm) -> None:
        super().__init__()
        self.bottom, self.top = network.bottom, network.top
        self.first_order = network.first_order
        self.register_buffer("pairs", network.pairs)

    def forward(self, numeric: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """Logits [B] from numeric [B, N] and looked-up rows [B, T, d (+ 1)]."""
        dense = self.bottom(numeric)
        embedded, weights = split_rows(embedded, self.first_order)
        vectors = torch.cat([dense.unsqueeze(1), embedded], dim=1)
        products = torch.bmm(vectors, vectors.transpose(1, 2)).flatten(1)
        dots = products.index_select(1, self.pairs)
        logits: torch.Tensor = self.top(torch.cat([dense, dots], dim=1)).squeeze(1)
        return logits if weights is None else logits + weights


class Whole(nn.Module):
    """DLRM with one storage for all tables: numeric [B, N] and ids [B, T] -> logits [B]."""

    def __init__(self, head: Head, storage: torch.Tensor, starts: torch.Tensor) -> None:
        super().__init__()
        self.head = head
        self.register_buffer("storage", storage)
        self.register_buffer("starts", starts)

    def forward(self, numeric: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Logits [B] from numeric [B, N] and per-table ids [B, T]."""
        embedded = nn.functional.embedding(ids + self.starts, self.storage)
        logits: torch.Tensor = self.head(numeric, embedded)
        return logits


def forms(network: Dlrm, model: dict[str, Any]) -> tuple[Form, ...]:
    """The graphs worth trying, for a network and its model.json as load_network returns them."""
    sizes = [int(size) for size in model["table_sizes"]]
    numeric, tables = len(model["numeric"]), len(sizes)
    parts = network.tables.parts(sizes)
    d = parts[0].shape[1]
    fused = getattr(network.tables, "weight", None)
    storage = torch.cat(parts) if fused is None else fused.detach()
    starts = torch.tensor([0, *sizes[:-1]], dtype=torch.int64).cumsum(0).int()
    head = Head(network).eval()

    def looked_up(numeric_values: Array, ids: Array) -> tuple[Array, ...]:
        rows = (torch.from_numpy(ids) + starts).flatten()
        return numeric_values, look_up(storage, rows).view(-1, tables, d).numpy()

    inputs: tuple[tuple[list[int], str], ...] = (([-1, numeric], "f32"), ([-1, tables], "i32"))
    vectors: tuple[tuple[list[int], str], ...] = (inputs[0], ([-1, tables, d], "f32"))
    return (
        Form(
            "openvino",
            "model",
            Whole(head, storage, starts).eval(),
            inputs,
            _as_they_are,
            numeric,
            tables,
        ),
        Form("openvino_head", "head", head, vectors, looked_up, numeric, tables),
    )


def eager(network: Dlrm) -> Score:
    """Scores by the torch network as it was trained: (numeric, ids) -> logits float32 [n]."""

    def run(numeric: Array, ids: Array) -> Array:
        with torch.inference_mode():
            logits: Array = score(
                network, torch.from_numpy(numeric), torch.from_numpy(ids)
            ).numpy()  # fmt: skip
        return logits.astype(np.float32, copy=False)

    return run


def _as_they_are(numeric: Array, ids: Array) -> tuple[Array, ...]:
    return numeric, ids
