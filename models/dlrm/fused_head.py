"""Loss and gradients of DLRM's head for a training step, written out instead of recorded.

The head is all but the tables: bottom MLP, pairwise products, top MLP, mean cross-entropy. Autograd
under autocast converts every weight and every intermediate between fp32 and bf16 and makes a new
tensor for each operation; here the flat weights are converted once a step, ReLU and its gradient
work in place, and gradients go straight into the optimizer's flat buffer. Shapes: B rows, T tables,
d embedding size, F = T + 1 vectors, P = F (F - 1) / 2 pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from models.dlrm.network import Dlrm, pairwise_products, split_rows


class FusedHead:
    """One network's head. Its dense parameters and gradients are views of one flat tensor each."""

    def __init__(self, network: Dlrm, precision: torch.dtype) -> None:
        self.network, self.precision = network, precision
        self.bottom, self.top = _linears(network.bottom), _linears(network.top)

    def step(
        self, numeric: torch.Tensor, embedded: torch.Tensor, label: torch.Tensor, global_rows: int
    ) -> tuple[float, torch.Tensor]:
        """The summed loss of rows, and the gradient of their part of the mean loss by `embedded`.

        numeric [B, N], embedded [B, T, d (+ 1)], label [B] of 0 and 1. The gradients of the dense
        parameters are written into `parameter.grad`.
        """
        network, b = self.network, len(label)
        rows, first_order = split_rows(embedded, network.first_order)
        bottom = _forward(self.bottom, numeric.to(self.precision), last_relu=True)
        dense, f, d = bottom[-1], rows.shape[1] + 1, rows.shape[2]
        vectors = torch.empty(b, f, d, dtype=self.precision)
        vectors[:, 0], vectors[:, 1:] = dense, rows
        joined = torch.empty(b, d + len(network.pairs), dtype=self.precision)
        joined[:, :d], joined[:, d:] = dense, pairwise_products(vectors, network.pairs)
        top = _forward(self.top, joined, last_relu=False)
        logits = top[-1].squeeze(1).float()
        if first_order is not None:
            logits = logits + first_order
        label = label.float()
        loss = nn.functional.binary_cross_entropy_with_logits(logits, label, reduction="sum")
        slope = torch.sigmoid(logits).sub_(label).div_(global_rows)

        by_joined = _backward(self.top, top, slope[:, None].to(self.precision))
        by_products = by_joined[:, d:].float().index_select(1, network.places).view(b, f, f)
        by_products.diagonal(dim1=1, dim2=2).zero_()
        by_vectors = torch.bmm(by_products.to(self.precision), vectors)
        by_dense = by_joined[:, :d] + by_vectors[:, 0]
        _backward(self.bottom, bottom, _relu_gradient(by_dense, dense), to_input=False)
        gradient = torch.empty_like(embedded)
        gradient[..., :d] = by_vectors[:, 1:]
        if first_order is not None:
            gradient[..., d] = slope[:, None]
        return float(loss), gradient


def _linears(layers: nn.Sequential) -> list[nn.Linear]:
    return [layer for layer in layers if isinstance(layer, nn.Linear)]


def _forward(
    layers: Sequence[nn.Linear], rows: torch.Tensor, *, last_relu: bool
) -> list[torch.Tensor]:
    """The input [B, in] and the output [B, out] of every layer."""
    values = [rows]
    for at, layer in enumerate(layers):
        weight, bias = layer.weight.data.to(rows.dtype), layer.bias.data.to(rows.dtype)
        out = torch.addmm(bias, values[-1], weight.t())
        values.append(out.relu_() if last_relu or at + 1 < len(layers) else out)
    return values


def _backward(
    layers: Sequence[nn.Linear], values: Sequence[torch.Tensor], gradient: torch.Tensor, *,
    to_input: bool = True,
) -> torch.Tensor:  # fmt: skip
    """Write each layer's gradients; `gradient` is by the last layer's sum, before its ReLU.

    Returns the gradient by the input [B, in]; without `to_input` that of the first layer's sum.
    """
    for at in reversed(range(len(layers))):
        layer, rows = layers[at], values[at]
        layer.weight.grad.copy_(torch.mm(gradient.t(), rows))
        layer.bias.grad.copy_(gradient.sum(0, dtype=torch.float32))
        if at or to_input:
            gradient = torch.mm(gradient, layer.weight.data.to(gradient.dtype))
            gradient = _relu_gradient(gradient, rows) if at else gradient
    return gradient


def _relu_gradient(gradient: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """The gradient before a ReLU from that behind it, in its place where torch allows."""
    return torch.ops.aten.threshold_backward(gradient, output, 0)
