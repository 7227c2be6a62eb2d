"""DLRM's tables where they do not fit into every rank's memory: each rank holds a part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from models.dist import Ranks
from models.dlrm.network import FusedTables, first_order, row_width
from models.loop_shards import Fetched, ShardedRows
from models.loop_tables import look_up
from models.placement import GIB, Placement, place
from models.worker import InputProblem

_FLOAT_BYTES = 4


def place_tables(tables: Mapping[str, int], settings: Mapping[str, Any], ranks: int) -> Placement:
    """Which rows of the tables {name: rows} each rank holds, by `table_memory_gib`.

    Counted for each row: its weights, their best copy, and the optimizer's accumulators. Raises
    InputProblem when that does not fit.
    """
    numbers = 2 * row_width(settings)
    if settings["table_optimizer"] == "rowwise_adagrad":
        numbers += 1 + first_order(settings)
    limit = float(settings["table_memory_gib"]) * GIB
    placement = place(tables, _FLOAT_BYTES * numbers, ranks, limit)
    if any(placement.sharded) and not settings["fused_tables"]:
        raise InputProblem(
            "the embedding tables exceed table_memory_gib, and separate tables cannot be sharded",
            todo="set fused_tables, or raise table_memory_gib",
        )
    return placement


class ShardedTables(FusedTables):
    """This rank's storage [local rows, d] of all tables; a lookup asks all ranks."""

    def __init__(self, placement: Placement, d: int, ranks: Ranks) -> None:
        nn.Module.__init__(self)
        self.placement = placement
        self.shards = ShardedRows(placement, ranks)
        # The room that a part may have to spare is 0, so that equal trainings have equal bytes.
        self.weight = nn.Parameter(torch.zeros(placement.local_rows, d))

    def storage_ids(self, ids: torch.Tensor) -> torch.Tensor:
        """Keys [B * T] for per-table ids [B, T]."""
        return self.shards.keys(ids)

    def fetch(self, keys: torch.Tensor) -> tuple[torch.Tensor, Fetched]:
        """Vectors [B, T, d] at keys [B * T], and what is needed to send gradients back."""
        fetched = self.shards.fetch(self.weight.detach(), keys)
        tables, d = len(self.placement.sizes), self.weight.shape[1]
        return look_up(fetched.rows, fetched.inverse).view(-1, tables, d), fetched

    def look_up(self, rows: torch.Tensor) -> torch.Tensor:
        """Vectors [B, T, d] at keys [B * T]; every rank must call it, with keys or without."""
        return self.fetch(rows)[0]

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Vectors [B, T, d] of ids [B, T], like `look_up`."""
        return self.look_up(self.storage_ids(ids))

    def parts(self, _sizes: Sequence[int]) -> list[torch.Tensor]:
        """The rows of each table that are here, as a view."""
        runs = self.placement.runs(self.shards.ranks.rank)
        return [self.weight.data[run.at : run.at + run.rows] for run in runs]

    def strides(self) -> list[tuple[int, int]]:
        """By table, which of its rows are here: (first, step)."""
        runs = self.placement.runs(self.shards.ranks.rank)
        starts = self.placement.starts
        return [(run.first - start, run.step) for run, start in zip(runs, starts, strict=True)]
