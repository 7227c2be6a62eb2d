"""DLRM for inference: the forms that are offered, and what each is fed.

CPU-ms a batch of 1,024 on one AVX2 core (84 GFLOP/s by large products), profile `optimized`, whose
156 MFLOP take 1.9 ms there: eager 3.9 (one thread), `openvino` 3.6 to 4.5, `openvino_head` 3.6,
`torch_lean` 3.6, `torch_int8` 3.2; `stock`: 15.2, 13.6, 14.0, 14.0, 9.0. Eager by parts: lookups
0.33, bottom MLP 0.35, joining 0.17, products of pairs 0.94, their selection 0.15, joining 0.10, top
MLP 1.41. What was found on the way: 28 vectors instead of 27 are multiplied in 0.68; selecting
pairs by two index lists takes six times as long; OpenVINO's Gather needs 2.5x the time of torch's
bag kernel, hence the form that looks up in torch; the top MLP in 8 bits takes 0.87, by OpenVINO on
AVX2 4.2; chunks of 128 or 256 rows gain nothing; keeping freed memory gives OpenVINO a fifth.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.dlrm.network import Dlrm, pairwise_products, split_rows
from models.dlrm.task import load_network, score
from models.dlrm.workload import inference
from models.inference import int8, low_rank
from models.inference.graph import Graph, extension_form, graph_forms
from models.inference.scoring import FP32, INT8, Form, Score
from models.ipex import Extension
from models.loop_tables import look_up

__all__ = ["eager", "forms", "inference", "load_network"]

Array = NDArray[Any]
_RANGES = "int8.json"
_SHARES = {"95": 0.95, "98": 0.98, "995": 0.995}  # of the variance of a layer's outputs
_ALIGNED = 4  # MKL multiplies 28 vectors in 0.7 of the time of 27


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


class Lean(nn.Module):
    """DLRM by torch with one storage: numeric [B, N] and per-table ids [B, T] -> logits [B].

    The rows are looked up into a buffer with room for the bottom MLP's vector, so nothing is
    joined, and for rows that only fill it up to a multiple of 4 vectors. For inference only.
    """

    def __init__(
        self, network: Dlrm, storage: torch.Tensor, starts: torch.Tensor,
        bottom: nn.Module, top: nn.Module,
    ) -> None:  # fmt: skip
        super().__init__()
        self.bottom, self.top, self.first_order = bottom, top, network.first_order
        self.tables, self.d = len(starts), storage.shape[1] - network.first_order
        vectors = -(-(self.tables + 1) // _ALIGNED) * _ALIGNED
        self.storage = storage
        self.starts = nn.functional.pad(starts, (0, vectors - self.tables))
        places = torch.tensor([self.tables, *range(self.tables)])  # the bottom's vector comes last
        lower = torch.tril_indices(self.tables + 1, self.tables + 1, -1)
        self.pairs = places[lower[0]] * vectors + places[lower[1]]

    def forward(self, numeric: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Logits [B] from numeric [B, N] and per-table ids [B, T]."""
        vectors = len(self.starts)
        filled = nn.functional.pad(ids, (0, vectors - self.tables)).add_(self.starts)
        rows = look_up(self.storage, filled.flatten()).view(len(ids), vectors, -1)
        dense = self.bottom(numeric)
        rows[:, self.tables, : self.d] = dense
        dots = pairwise_products(rows[..., : self.d], self.pairs)
        logits: torch.Tensor = self.top(torch.cat([dense, dots], dim=1)).squeeze(1)
        return logits + rows[:, : self.tables, -1].sum(1) if self.first_order else logits


def forms(
    network: Dlrm, model: dict[str, Any], extension: Extension | None = None
) -> tuple[Form, ...]:
    """The forms worth trying, for a network and its model.json as load_network returns them.

    The first one is the whole network as a graph that other programs can read; with the extension
    there is one more, the graph without the tables by it.
    """
    sizes = [int(size) for size in model["table_sizes"]]
    parts = network.tables.parts(sizes)
    fused = getattr(network.tables, "weight", None)
    storage = torch.cat(parts) if fused is None else fused.detach()
    starts = torch.tensor([0, *sizes[:-1]], dtype=torch.int64).cumsum(0).int()
    whole, head = _graphs(network, len(model["numeric"]), storage, starts)
    return (
        *graph_forms("openvino", whole),
        *graph_forms("openvino_head", head),
        *_torch_forms(network, storage, starts),
        *([extension_form(head, extension)] if extension else []),
    )


def _graphs(
    network: Dlrm, numeric: int, storage: torch.Tensor, starts: torch.Tensor
) -> tuple[Graph, Graph]:
    """The whole network, and all but its lookups, which torch does."""
    tables, d = len(starts), storage.shape[1]
    head = Head(network).eval()

    def looked_up(numeric_values: Array, ids: Array) -> tuple[Array, ...]:
        rows = (torch.from_numpy(ids) + starts).flatten()
        return numeric_values, look_up(storage, rows).view(-1, tables, d).numpy()

    whole = Whole(head, storage, starts).eval()
    numbers = ([-1, numeric], "f32")
    return (
        Graph("model", whole, (numbers, ([-1, tables], "i32")), _as_they_are, numeric, tables),
        Graph("head", head, (numbers, ([-1, tables, d], "f32")), looked_up, numeric, tables),
    )


def _torch_forms(network: Dlrm, storage: torch.Tensor, starts: torch.Tensor) -> tuple[Form, ...]:
    """The lean network, and the same with cheaper MLPs: in 8 bits, or of a lower rank."""
    lean = Lean(network, storage, starts, network.bottom, network.top)
    mlps = {"bottom": network.bottom, "top": network.top}

    def nothing(_folder: Path, _numeric: Array, _ids: Array) -> None:
        """All it needs is in the torch form, which every bundle has."""

    def write_ranges(folder: Path, numeric: Array, ids: Array) -> None:
        ranges = int8.observe(mlps, partial(_scores(lean), numeric, ids))
        int8.write_ranges(ranges, folder / _RANGES)

    def load_int8(folder: Path, _threads: int) -> Score:
        ranges = int8.read_ranges(folder / _RANGES)
        bottom, top = (int8.quantized(mlp, ranges.get(name, [])) for name, mlp in mlps.items())
        return _scores(Lean(network, storage, starts, bottom, top))

    found = [Form("torch_lean", FP32, (), nothing, lambda _folder, _threads: _scores(lean))]
    if any(int8.layers_worth_it(mlp) for mlp in mlps.values()):
        found.append(Form("torch_int8", INT8, (_RANGES,), write_ranges, load_int8))

    def lean_with(mlps: low_rank.Mlps) -> Score:
        return _scores(Lean(network, storage, starts, mlps["bottom"], mlps["top"]))

    def write_factors(share: float, file: str, folder: Path, numeric: Array, ids: Array) -> None:
        factors = low_rank.factorize(mlps, lambda mlps: lean_with(mlps)(numeric, ids), share)
        if factors:
            low_rank.write(factors, folder / file)

    def load_factors(file: str, folder: Path, _threads: int) -> Score:
        return lean_with(low_rank.with_factors(mlps, low_rank.read(folder / file)))

    def saved_by(file: str, folder: Path) -> int:
        return low_rank.saved(folder / file)

    for name, share in _SHARES.items():
        file = f"rank_{name}.safetensors"
        found.append(Form(
            f"torch_rank_{name}", FP32, (file,), partial(write_factors, share, file),
            partial(load_factors, file), approximate=True,
            saved=partial(saved_by, file),
        ))  # fmt: skip
    return tuple(found)


def _scores(network: nn.Module) -> Score:
    def run(numeric: Array, ids: Array) -> Array:
        with torch.inference_mode():
            logits: Array = network(torch.from_numpy(numeric), torch.from_numpy(ids)).numpy()
        return logits

    return run


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
