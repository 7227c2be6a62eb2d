"""Embedding rows that lie on other ranks: fetched for a batch, their gradients sent back.

Every rank must fetch and give back at the same time, with ids or without. A key says where a row
is: owner * local rows + local row. Rows of tables that every rank has whole count as its own.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from models.dist import Ranks
from models.loop_tables import combine, group, look_up
from models.placement import Placement

RowGradients = tuple[torch.Tensor, torch.Tensor]


class Request(NamedTuple):
    """The rows of one batch. u unique keys, the first ones those of rank 0."""

    local: torch.Tensor  # [u] int64, row in the owner's storage
    own: slice  # those that this rank holds
    counts: list[list[int]]  # [a][b]: rows that rank a asked of rank b
    asked: list[torch.Tensor]  # by rank, the local rows it asked of this one


class Fetched(NamedTuple):
    """What the keys of a batch [m] came to."""

    request: Request
    rows: torch.Tensor  # [u, w]
    order: torch.Tensor  # [m], sorts the keys
    starts: torch.Tensor  # [u], where each unique key starts in `order`
    inverse: torch.Tensor  # [m], which row each key has


class ShardedRows:
    """The rows of a placement, of which this rank holds a part."""

    def __init__(self, placement: Placement, ranks: Ranks) -> None:
        self.placement, self.ranks = placement, ranks
        self._starts = torch.tensor(placement.local_starts)
        spread = torch.tensor(placement.sharded)
        self._divisors = torch.where(spread, placement.ranks, 1)
        self._here = torch.where(spread, 0, ranks.rank)

    def keys(self, ids: torch.Tensor) -> torch.Tensor:
        """Keys [B * T] int64 of per-table ids [B, T]."""
        local = ids // self._divisors + self._starts
        owners = ids % self._divisors + self._here
        return (owners * self.placement.local_rows + local).flatten()

    def fetch(self, table: torch.Tensor, keys: torch.Tensor) -> Fetched:
        """The rows at keys [m]; `table` [local rows, w] is this rank's storage."""
        unique, order, starts = group(keys)
        counts = torch.zeros(len(keys), dtype=torch.int64)
        counts[starts] = 1
        inverse = torch.empty_like(order)
        inverse[order] = counts.cumsum(0) - 1
        request = self._ask(unique)
        answers = torch.cat([look_up(table, rows) for rows in request.asked])
        given = list(zip(*request.counts, strict=True))
        others = self.ranks.swap(answers, given)
        others[self.ranks.rank] = look_up(table, request.local[request.own])
        return Fetched(request, torch.cat(others), order, starts, inverse)

    def give(self, fetched: Fetched, gradients: torch.Tensor) -> tuple[RowGradients, RowGradients]:
        """Send the gradients [m, w] of a batch to the owners of the rows.

        Returns twice unique local rows [u] and their gradients [u, w]: of tables that every rank
        has, summed over this rank alone; and of rows that only this rank has, over all ranks.
        """
        request, width = fetched.request, fetched.rows.shape[1]
        sums = gradients.new_empty((0, width))
        if len(fetched.order):
            sums = torch.nn.functional.embedding_bag(
                fetched.order, gradients, fetched.starts, mode="sum"
            )
        own, own_sums = request.local[request.own], sums[request.own]
        others = torch.cat([sums[: request.own.start], sums[request.own.stop :]])
        parts = self.ranks.swap(others, request.counts)
        whole = int(torch.searchsorted(own, self.placement.replicated_rows))
        rows = list(request.asked)
        parts[self.ranks.rank], rows[self.ranks.rank] = own_sums[whole:], own[whole:]
        mine = combine(torch.cat(rows), torch.cat(parts))
        return (own[:whole], own_sums[:whole]), mine

    def _ask(self, unique: torch.Tensor) -> Request:
        """Tell the owners which of their rows this rank needs: unique keys [u], ascending."""
        rank, local_rows = self.ranks.rank, self.placement.local_rows
        borders = torch.arange(self.ranks.size + 1) * local_rows
        cuts = torch.searchsorted(unique, borders)
        own = slice(int(cuts[rank]), int(cuts[rank + 1]))
        asked_of = cuts.diff()
        asked_of[rank] = 0
        everyone = self.ranks.gather_equal(asked_of.int().view(torch.float32))
        counts = [mail.view(torch.int32).tolist() for mail in everyone]
        local = unique % local_rows
        sent = torch.cat([local[: own.start], local[own.stop :]]).int()
        parts = self.ranks.swap(sent.view(torch.float32)[:, None], counts)
        asked = [part.reshape(-1).view(torch.int32).long() for part in parts]
        return Request(local, own, counts, asked)
