"""The dense parameters of a network as one flat buffer: one optimizer step, one collective."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


class DenseParameters:
    """Views of all dense parameters and their gradients into two flat tensors.

    The gradient buffer ends with `signals` extra numbers, which travel along when the ranks add
    their gradients: the loss, and what the ranks have to agree on.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], optimizer: str, weight_decay: float, signals: int
    ) -> None:
        parameters = list(parameters)
        total = sum(p.numel() for p in parameters)
        self.values = nn.Parameter(torch.empty(total))
        self.buffer = torch.zeros(total + signals)
        self.signals = self.buffer[total:]
        self.values.grad = self.buffer[:total]
        at = 0
        for parameter in parameters:
            view = slice(at, at + parameter.numel())
            self.values.data[view] = parameter.data.flatten()
            parameter.data = self.values.data[view].view_as(parameter)
            parameter.grad = self.buffer[view].view_as(parameter)
            at += parameter.numel()
        self.optimizer: torch.optim.Optimizer
        if optimizer == "adam":
            self.optimizer = torch.optim.AdamW([self.values], weight_decay=weight_decay, fused=True)
            # Made here, not at the first step, so that a checkpoint can be loaded into it.
            self.optimizer.state[self.values] = {
                "step": torch.zeros(()),
                "exp_avg": torch.zeros(total),
                "exp_avg_sq": torch.zeros(total),
            }
        else:
            self.optimizer = torch.optim.SGD([self.values], lr=0.0, weight_decay=weight_decay)

    def zero(self) -> None:
        """Clear gradients and signals."""
        self.buffer.zero_()

    def step(self, rate: float) -> None:
        """One optimizer step at that learning rate."""
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()

    def state(self) -> dict[str, torch.Tensor]:
        """The optimizer's tensors by name, live."""
        return dict(self.optimizer.state.get(self.values, {}))
