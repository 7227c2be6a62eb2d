"""The dense parameters of a network as one flat buffer: one optimizer step, one collective."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import nn

from models.ipex import Extension

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8
_RECENT = 3.0


class DenseParameters:
    """Views of all dense parameters and their gradients into two flat tensors.

    The gradient buffer ends with `signals` extra numbers, which travel along when the ranks add
    their gradients: the loss, and what the ranks have to agree on. With `average` above 0 a running
    average of the values is kept, of which that part stays at each step.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], optimizer: str, weight_decay: float, signals: int,
        average: float = 0.0,
    ) -> None:  # fmt: skip
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
        self.optimizer, self.weight_decay = optimizer, weight_decay
        self.average = average
        self._state = {"step": torch.zeros(())}
        if optimizer == "adam":
            self._state |= {"mean": torch.zeros(total), "square": torch.zeros(total)}
        if average:
            self._state["average"] = torch.zeros(total)
        self._fused: Callable[[float], None] | None = None

    def fuse(self, network: nn.Module, extension: Extension) -> None:
        """Let the extension do the optimizer's steps, on these values and this state."""
        made: torch.optim.Optimizer = torch.optim.SGD([self.values], lr=1.0)
        if self.optimizer == "adam":
            made = torch.optim.Adam([self.values], lr=1.0, betas=(_BETA_1, _BETA_2), eps=_EPSILON)
            made.state[self.values] = {
                "step": self._state["step"], "exp_avg": self._state["mean"],
                "exp_avg_sq": self._state["square"],
            }  # fmt: skip
        self._fused = extension.fused_step(network, made)

    def zero(self) -> None:
        """Clear gradients and signals."""
        self.buffer.zero_()

    def step(self, rate: float) -> None:
        """One optimizer step at that learning rate, with decoupled weight decay.

        Adam: Kingma and Ba 2015; decoupled decay: Loshchilov and Hutter 2019. Written out, since
        torch.optim imports torch's compiler, which costs seconds of CPU at every start.
        """
        values, gradient = self.values.data, self.values.grad
        values.mul_(1.0 - rate * self.weight_decay)
        if self._fused is not None:
            self._fused(rate)
            if self.optimizer == "sgd":  # Adam counts in the same tensor itself
                self._state["step"] += 1
        else:
            self._state["step"] += 1
            self._plain_step(values, gradient, rate)
        if self.average:
            count = float(self._state["step"])
            share = max(1.0 - self.average, (1.0 + _RECENT) / (count + _RECENT))
            self._state["average"].lerp_(values, share)

    def _plain_step(self, values: torch.Tensor, gradient: torch.Tensor, rate: float) -> None:
        if self.optimizer == "sgd":
            values.add_(gradient, alpha=-rate)
            return
        count = float(self._state["step"])
        mean, square = self._state["mean"], self._state["square"]
        mean.lerp_(gradient, 1.0 - _BETA_1)
        square.mul_(_BETA_2).addcmul_(gradient, gradient, value=1.0 - _BETA_2)
        scale = square.sqrt().div_(math.sqrt(1.0 - _BETA_2**count)).add_(_EPSILON)
        values.addcdiv_(mean, scale, value=-rate / (1.0 - _BETA_1**count))

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Within it the values are their running average, if there is one.

        Averaging (Polyak and Juditsky 1992) takes out the noise of the last steps, which else only
        a falling rate does. At the start it covers about the last quarter of the steps so far
        (polynomial decay, Shamir and Zhang 2013).
        """
        if not self.average or not float(self._state["step"]):
            yield
            return
        live = self.values.data.clone()
        self.values.data.copy_(self._state["average"])
        try:
            yield
        finally:
            self.values.data.copy_(live)

    def state(self) -> dict[str, torch.Tensor]:
        """The optimizer's tensors by name, live."""
        return dict(self._state)
