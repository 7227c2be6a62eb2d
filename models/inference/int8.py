"""MLPs with 8-bit weights and inputs for inference, by the oneDNN kernels that torch brings.

Symmetric weights with one scale an output, inputs with one scale and zero point a layer, fixed at
export from training rows, so that a row's score does not depend on its batch (Jacob et al. 2018,
arXiv 1712.05877). Inputs have 7 bits: CPUs without VNNI add two products in 16 bits, which 8 by 8
bits overflow, and a bundle must score alike on every CPU. Shapes: B rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from models.worker import InputProblem

LEVELS = 127
SMALLEST = 64  # inputs and outputs of a layer; below that quantizing takes what it gains
_CLIPPED = 1e-4  # the part of the inputs beyond each end of the range: outliers cost precision


@dataclass(frozen=True)
class Range:
    """Numbers of a layer's input: (step - zero) * scale for the steps 0..LEVELS."""

    scale: float
    zero: int


def layers_worth_it(mlp: nn.Sequential) -> list[nn.Linear]:
    """The layers of an MLP that gain from 8 bits. Each of them is followed by a ReLU."""
    return [
        layer for layer in mlp
        if isinstance(layer, nn.Linear) and min(layer.in_features, layer.out_features) >= SMALLEST
    ]  # fmt: skip


def observe(
    mlps: Mapping[str, nn.Sequential], score: Callable[[], object]
) -> dict[str, list[Range]]:
    """Ranges of the inputs of every layer worth it, by MLP, while `score` sends rows through."""
    seen: dict[nn.Module, Range] = {}

    def note(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen[layer] = _range_of(inputs[0])

    hooks = [
        layer.register_forward_pre_hook(note)
        for mlp in mlps.values() for layer in layers_worth_it(mlp)
    ]  # fmt: skip
    try:
        score()
    finally:
        for hook in hooks:
            hook.remove()
    return {name: [seen[layer] for layer in layers_worth_it(mlp)] for name, mlp in mlps.items()}


def _range_of(values: torch.Tensor) -> Range:
    """The range that holds 0 and all of the values but the few at its ends."""
    ends = torch.tensor([_CLIPPED, 1 - _CLIPPED])
    low, high = torch.quantile(values.flatten()[: 1 << 23], ends).tolist()
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / LEVELS or 1.0
    return Range(scale, round(-low / scale))


def write_ranges(ranges: Mapping[str, Sequence[Range]], path: Path) -> None:
    """Keep the ranges; the weights are quantized again at each load."""
    text = json.dumps({name: [asdict(one) for one in many] for name, many in ranges.items()})
    path.write_text(text + "\n", encoding="utf-8")


def read_ranges(path: Path) -> dict[str, list[Range]]:
    """What write_ranges wrote; InputProblem when it is something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {name: [Range(**one) for one in many] for name, many in content.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputProblem(
            f"{path} holds no ranges: {error}", todo="export the model again"
        ) from None


def quantized(mlp: nn.Sequential, ranges: Sequence[Range]) -> nn.Sequential:
    """The MLP with its layers worth it in 8 bits, the others as they are."""
    wanted = layers_worth_it(mlp)
    if len(wanted) != len(ranges):
        raise InputProblem(
            f"{len(ranges)} ranges for {len(wanted)} layers", todo="export the model again"
        )
    found = dict(zip(wanted, ranges, strict=True))
    modules: list[nn.Module] = []
    run: list[tuple[nn.Linear, Range]] = []
    for layer in mlp:
        if isinstance(layer, nn.Linear) and layer in found:
            run.append((layer, found[layer]))
            continue
        if run and isinstance(layer, nn.ReLU):
            continue  # the kernel of the layer before applies it
        if run:
            modules.append(Int8Layers(run))
            run = []
        modules.append(layer)
    return nn.Sequential(*modules, *([Int8Layers(run)] if run else []))


class Int8Layers(nn.Module):
    """Linear layers with ReLU, one after the other: float32 [B, in] -> float32 [B, out].

    Between them the numbers stay in 8 bits.
    """

    def __init__(self, run: Sequence[tuple[nn.Linear, Range]]) -> None:
        super().__init__()
        self.ranges = [found for _, found in run]
        self.layers = [_packed(layer) for layer, _ in run]

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Float32 [B, out] of float32 [B, in]."""
        first = self.ranges[0]
        half = torch.tensor(first.zero + 0.5)  # the conversion cuts off: so it rounds
        steps = torch.add(half, values, alpha=1.0 / first.scale).clamp_(0, LEVELS)
        steps = steps.to(torch.int8).view(torch.uint8)  # torch takes 6 times as long to uint8
        for i, (weights, scales, zeros, bias) in enumerate(self.layers):
            own = self.ranges[i]
            last = i + 1 == len(self.layers)
            after = Range(1.0, 0) if last else self.ranges[i + 1]
            steps = torch.ops.onednn.qlinear_pointwise(
                steps, own.scale, own.zero, weights, scales, zeros, bias, after.scale, after.zero,
                torch.float32 if last else torch.uint8, "relu", [], "",
            )  # fmt: skip
        return steps


def _packed(
    layer: nn.Linear,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights in the kernel's layout, scales and zero points of the outputs, bias."""
    weight = layer.weight.detach()
    scales = (weight.abs().amax(1) / LEVELS).clamp_min(1e-12)
    steps = (weight / scales[:, None]).round().to(torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(steps, None)
    return packed, scales, torch.zeros(len(scales), dtype=torch.int64), layer.bias.detach()
