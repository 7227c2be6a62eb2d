"""Embedding rows: sparse gradients and their update, never a dense gradient of a table."""

from __future__ import annotations

import torch
from torch import nn

from models.dist import Ranks

_EPSILON = 1e-10


def look_up(table: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Rows of `table` [n, d] at ids [m] -> [m, d].

    A bag of one id each: the bag kernel prefetches and is 3 to 10 times as fast as index_select.
    """
    return nn.functional.embedding_bag(ids.view(-1, 1), table, mode="sum")


def combine(ids: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Add the values of equal ids: ids [n] int, values [n, d] -> unique ids [u] ascending, [u, d].

    Values of one id are added in the order they come, so the result is the same bit for bit.
    """
    if not len(ids):
        return ids.long(), values
    unique, order, starts = group(ids)
    return unique.long(), nn.functional.embedding_bag(order, values, starts, mode="sum")


def group(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids [n] -> unique ids [u] ascending, a stable order [n] that sorts, where each starts [u]."""
    ordered, order = torch.sort(ids, stable=True)
    first = torch.ones(len(ids), dtype=torch.bool)
    torch.ne(ordered[1:], ordered[:-1], out=first[1:])
    starts = first.nonzero().squeeze(1)
    return ordered[starts], order, starts


class Exchange:
    """The gradients of all ranks, by one collective a step.

    A rank's message: its dense numbers, how many table rows it touched, and these rows as 32-bit
    words (id, gradient). The message has room for a little more rows than the largest number in
    the last step; rows past it travel by a second collective, which is seldom needed.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self.room = ranks, 0

    def add(
        self, dense: torch.Tensor, ids: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add `dense` [m] over all ranks in place; the summed rows, the same on every rank.

        ids [u] unique, values [u, w] -> unique ids ascending and their sums over all ranks.
        """
        if self.ranks.size == 1:
            return ids, values
        m, room, width = len(dense), self.room, values.shape[1]
        sent = min(room, len(ids))
        words = ids.int().view(torch.float32)
        message = torch.empty(m + 1 + room * (1 + width))
        message[:m] = dense
        message[m : m + 1] = torch.tensor([len(ids)], dtype=torch.int32).view(torch.float32)
        message[m + 1 :][:sent] = words[:sent]
        message[m + 1 + room :].view(room, width)[:sent] = values[:sent]
        everyone = self.ranks.gather_equal(message)
        torch.sum(torch.stack([mail[:m] for mail in everyone]), 0, out=dense)
        counts = [int(mail[m : m + 1].view(torch.int32)) for mail in everyone]
        most = max(counts)
        if not most:
            return ids, values
        inside = [min(room, count) for count in counts]
        parts = [[(mail[m + 1 :][:count], mail[m + 1 + room :].view(room, width)[:count])]
                 for mail, count in zip(everyone, inside, strict=True)]  # fmt: skip
        if most > room:
            left = [count - kept for count, kept in zip(counts, inside, strict=True)]
            late = torch.cat([words[sent:, None], values[sent:]], dim=1)
            for part, more in zip(parts, self.ranks.gather(late, left).split(left), strict=True):
                part.append((more[:, 0], more[:, 1:]))
        self.room = most + most // 16
        pieces = [piece for part in parts for piece in part]
        rows = torch.cat([piece[0] for piece in pieces]).view(torch.int32)
        return combine(rows, torch.cat([piece[1] for piece in pieces]))


class RowwiseAdagrad:
    """Adagrad with one accumulator a row: sum of the mean squared gradient of that row.

    Duchi et al. 2011; the row-wise form is that of Naumov et al. 2019 (DLRM). `start` is the
    accumulator's first value: it damps rows that were seen only a few times. Gradients are those
    of the summed loss, so rate and start do not depend on the batch size. With `first_order`, the
    last number of a row is a group of its own: (its rate as a multiple of the rate, its start).
    """

    def __init__(
        self, table: torch.Tensor, start: float, first_order: tuple[float, float] | None = None
    ) -> None:
        self.table = table  # [n, d (+ 1)]
        self.accumulator = torch.full((table.shape[0], 2 if first_order else 1), start)
        self.first_order = first_order
        if first_order:
            self.accumulator[:, 1] = first_order[1]

    def update(self, ids: torch.Tensor, gradients: torch.Tensor, rate: float) -> None:
        """Step the rows at unique ids [u] by gradients [u, d (+ 1)]."""
        if not len(ids):
            return
        d = gradients.shape[1] - bool(self.first_order)
        squares = gradients.square()
        total = self.accumulator.index_select(0, ids)
        total[:, 0] += squares[:, :d].mean(1)
        if self.first_order:
            total[:, 1] += squares[:, d]
        self.accumulator.index_copy_(0, ids, total)
        scale = total.sqrt_().add_(_EPSILON).reciprocal_().mul_(-rate)
        rows = look_up(self.table, ids)
        rows[:, :d].addcmul_(gradients[:, :d], scale[:, :1])
        if self.first_order:
            rows[:, d].addcmul_(gradients[:, d], scale[:, 1], value=self.first_order[0])
        self.table.index_copy_(0, ids, rows)


class RowwiseSgd:
    """Plain gradient descent on the touched rows."""

    def __init__(self, table: torch.Tensor) -> None:
        self.table = table

    def update(self, ids: torch.Tensor, gradients: torch.Tensor, rate: float) -> None:
        """Step the rows at unique ids [u] by gradients [u, d] (or [u])."""
        self.table.index_add_(0, ids, gradients, alpha=-rate)
