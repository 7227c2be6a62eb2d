"""DLRM: embeddings and a bottom MLP, all pairwise dot products, a top MLP.

Naumov et al. 2019, "Deep Learning Recommendation Model for Personalization and Recommendation
Systems", arXiv 1906.00091. Written from the paper. Shapes: B rows, T tables, d embedding size,
F = T + 1 vectors, P = F (F - 1) / 2 pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from models.loop_tables import look_up

_PIECE_ROWS = 1 << 14


class Dlrm(nn.Module):
    """numeric [B, 13] float32 and ids [B, T] int -> logits [B]."""

    def __init__(
        self, numeric: int, table_sizes: Sequence[int], settings: Mapping[str, Any],
        tables: nn.Module | None = None,
    ) -> None:  # fmt: skip
        """`tables`: what looks up rows, where it is none of the two kinds of this file."""
        super().__init__()
        d = int(settings["embedding_size"])
        vectors = len(table_sizes) + 1
        kind = FusedTables if settings["fused_tables"] else SeparateTables
        self.table_count, self.embedding_size = len(table_sizes), d
        self.first_order = first_order(settings)
        self.tables = kind(table_sizes, row_width(settings)) if tables is None else tables
        self.bottom = _mlp([numeric, *settings["bottom_widths"], d], last_relu=True)
        pairs = vectors * (vectors - 1) // 2
        self.top = _mlp([d + pairs, *settings["top_widths"], 1], last_relu=False)
        lower = torch.tril_indices(vectors, vectors, -1)
        self.register_buffer("pairs", lower[0] * vectors + lower[1], persistent=False)
        place = torch.zeros(vectors, vectors, dtype=torch.int64)
        place[lower[0], lower[1]] = place[lower[1], lower[0]] = torch.arange(pairs)
        self.register_buffer("places", place.flatten(), persistent=False)

    def forward(self, numeric: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Logits [B] from numeric [B, 13] and per-table ids [B, T]."""
        return self.head(numeric, self.tables(ids))

    def head(self, numeric: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """Logits [B] from numeric [B, 13] and looked-up rows [B, T, d (+ 1)]."""
        dense = self.bottom(numeric)
        embedded, weights = split_rows(embedded, self.first_order)
        vectors = torch.cat([dense.unsqueeze(1), embedded.to(dense.dtype)], dim=1)
        if torch.is_grad_enabled() and vectors.requires_grad:
            dots = _PairwiseDots.apply(vectors, self.pairs, self.places)
        else:
            dots = pairwise_products(vectors, self.pairs)
        logits = self.top(torch.cat([dense, dots], dim=1)).squeeze(1).float()
        return logits if weights is None else logits + weights.float()

    def dense_parameters(self) -> list[nn.Parameter]:
        """The parameters of the two MLPs."""
        return [*self.bottom.parameters(), *self.top.parameters()]


def first_order(settings: Mapping[str, Any]) -> bool:
    """Whether ids have a weight of their own that is added to the logit."""
    return float(settings.get("first_order_rate", 0.0)) > 0


def row_width(settings: Mapping[str, Any]) -> int:
    """Numbers in the row of an id: its vector and, last, its first-order weight if it has one.

    In one row they need one lookup and one gradient.
    """
    return int(settings["embedding_size"]) + first_order(settings)


def split_rows(rows: torch.Tensor, first_order: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Looked-up rows [B, T, d (+ 1)] -> vectors [B, T, d] and summed first-order weights [B]."""
    if not first_order:
        return rows, None
    return rows[..., :-1], rows[..., -1].sum(1)


class FusedTables(nn.Module):
    """All tables in one storage [sum of sizes, d]: ids [B, T] -> [B, T, d] by one lookup."""

    def __init__(self, sizes: Sequence[int], d: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(sum(sizes), d))
        starts = torch.tensor([0, *sizes[:-1]], dtype=torch.int64).cumsum(0)
        self.register_buffer("starts", starts.int(), persistent=False)

    def storage_ids(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows of the storage [B * T] for per-table ids [B, T]."""
        return (ids + self.starts).flatten()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Vectors [B, T, d] of ids [B, T]."""
        return nn.functional.embedding(ids + self.starts, self.weight)

    def look_up(self, rows: torch.Tensor) -> torch.Tensor:
        """The same by rows of the storage [B * T], without gradient and faster."""
        return look_up(self.weight.detach(), rows).view(-1, len(self.starts), self.weight.shape[1])

    def parts(self, sizes: Sequence[int]) -> list[torch.Tensor]:
        """Each table as a view [size, d]."""
        return list(torch.split(self.weight.data, list(sizes)))

    def strides(self) -> list[tuple[int, int]]:
        """By table, which of its rows are here: (first, step)."""
        return [(0, 1)] * len(self.starts)


class SeparateTables(nn.Module):
    """One EmbeddingBag a table, as the public network has them: ids [B, T] -> [B, T, d]."""

    def __init__(self, sizes: Sequence[int], d: int) -> None:
        super().__init__()
        self.bags = nn.ModuleList(
            nn.EmbeddingBag(size, d, mode="sum", sparse=True) for size in sizes
        )

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Vectors [B, T, d] of ids [B, T]."""
        bags = torch.arange(len(ids))
        columns = ids.t().contiguous().long()
        return torch.stack([bag(columns[i], bags) for i, bag in enumerate(self.bags)], dim=1)

    def parts(self, _sizes: Sequence[int]) -> list[torch.Tensor]:
        """Each table as a tensor [size, d]."""
        return [bag.weight.data for bag in self.bags]

    def strides(self) -> list[tuple[int, int]]:
        """By table, which of its rows are here: (first, step)."""
        return [(0, 1)] * len(self.bags)


def pairwise_products(vectors: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """Dot products [B, P] of vectors [B, F, d] for pairs [P] of the flattened [F, F].

    Selected in fp32: torch's selection of bf16 columns takes 6 times as long.
    """
    return torch.bmm(vectors, vectors.transpose(1, 2)).flatten(1).float().index_select(1, pairs)


class _PairwiseDots(torch.autograd.Function):
    """Dot products of all pairs of vectors [B, F, d] -> [B, P], pairs (1,0), (2,0), (2,1), ...

    The gradient of a symmetric product needs one batched product, not two, and a gather, not a
    scatter: each element of the [F, F] gradient matrix is read from its pair.
    """

    @staticmethod
    def forward(
        ctx: Any, vectors: torch.Tensor, pairs: torch.Tensor, places: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(vectors, places)
        return pairwise_products(vectors, pairs)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        vectors, places = ctx.saved_tensors
        count = vectors.shape[1]
        full = gradient.float().index_select(1, places).view(-1, count, count)
        full.diagonal(dim1=1, dim2=2).zero_()
        return torch.bmm(full.to(vectors.dtype), vectors), None, None


def initialize(network: Dlrm, table_sizes: Sequence[int], seed: int, table_scale: float) -> None:
    """Set all weights as the public network does; equal for any number of ranks.

    Linear W ~ N(0, sqrt(2 / (in + out))), b ~ N(0, sqrt(1 / out)); table k from a generator of its
    own, U(-s, s) with s = sqrt(1 / n) or `table_scale` when that is above 0.
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in [*network.bottom, *network.top]:
        if isinstance(layer, nn.Linear):
            out, into = layer.weight.shape
            layer.weight.data.normal_(0.0, math.sqrt(2.0 / (into + out)), generator=generator)
            layer.bias.data.normal_(0.0, math.sqrt(1.0 / out), generator=generator)
    seeds = torch.randint(1 << 62, (len(table_sizes),), generator=generator).tolist()
    parts, strides = network.tables.parts(table_sizes), network.tables.strides()
    for table, own, size, table_seed in zip(parts, strides, table_sizes, seeds, strict=True):
        scale = table_scale or math.sqrt(1.0 / size)
        _draw(table, own, size, scale, torch.Generator().manual_seed(table_seed))
        if network.first_order:
            table[:, -1] = 0.0


def _draw(
    table: torch.Tensor, own: tuple[int, int], size: int, scale: float, generator: torch.Generator
) -> None:
    """Fill the own rows first::step of a table of `size` rows, drawn row by row from U(-s, s)."""
    first, step = own
    if step == 1:
        table.uniform_(-scale, scale, generator=generator)
        return
    for start in range(0, size, step * _PIECE_ROWS):
        rows = torch.empty(min(step * _PIECE_ROWS, size - start), table.shape[1])
        rows.uniform_(-scale, scale, generator=generator)
        kept = rows[first::step]
        table[start // step :][: len(kept)] = kept


def _mlp(widths: Sequence[int], *, last_relu: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for into, out in pairwise(widths):
        layers += [nn.Linear(into, out), nn.ReLU()]
    return nn.Sequential(*layers[: len(layers) if last_relu else -1])
