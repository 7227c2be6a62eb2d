"""MLPs with less to multiply for inference: the product of two thin matrices for a wide one.

What a layer gives lies mostly in few directions. Those that hold a share of its variance over
training rows are kept, the rest is replaced by its mean: of all factors of that rank these err
least in the layer's output (principal components of the outputs: Denton et al. 2014, arXiv
1404.0736; Zhang et al. 2015, arXiv 1505.06798). Layers are taken in order, each on what the ones
before it now give. Shapes: B rows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from models import tensor_file
from models.worker import InputProblem

_STEP = 16  # a rank is a multiple of it: vector units take no less
_WORTH_IT = 0.8  # of the operations of the layer; two small products have a price of their own
_PARTS = ("first", "second", "bias")

Mlps = Mapping[str, nn.Sequential]


class Factors(NamedTuple):
    """A layer's product of rank r: first [r, in], second [out, r], bias [out], float32."""

    first: torch.Tensor
    second: torch.Tensor
    bias: torch.Tensor


def saved(path: Path) -> int:
    """Floating point operations a row that the layers of a file of factors do without."""
    return sum(
        2 * (len(second) * first.shape[1] - len(first) * (len(second) + first.shape[1]))
        for first, second, _ in read(path).values()
    )


def factorize(mlps: Mlps, score: Callable[[Mlps], object], share: float) -> dict[str, Factors]:
    """Factors by "MLP.layer", for the layers that get cheaper by them.

    `score` sends training rows through a network with the MLPs it is given; `share` of the
    variance of every layer's output is kept, above 0 and below 1.
    """
    mlps = {name: copy.deepcopy(mlp) for name, mlp in mlps.items()}
    found = {}
    for name, mlp in mlps.items():
        for place, layer in enumerate(mlp):
            if not isinstance(layer, nn.Linear):
                continue
            factors = _factors(layer, _inputs(layer, mlps, score), share)
            if factors is not None:
                found[f"{name}.{place}"] = factors
                mlp[place] = _layers(factors)
    return found


def _inputs(layer: nn.Linear, mlps: Mlps, score: Callable[[Mlps], object]) -> torch.Tensor:
    """What reaches a layer, float32 [B, in]."""
    seen: list[torch.Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    try:
        score(mlps)
    finally:
        hook.remove()
    return torch.cat(seen)


def _factors(layer: nn.Linear, inputs: torch.Tensor, share: float) -> Factors | None:
    """The fewest directions of the outputs with this share of their variance; None: no gain."""
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    outputs = inputs.double() @ weight.T
    if not outputs.isfinite().all():
        return None
    mean = outputs.mean(0)
    spread = outputs - mean
    variances, directions = torch.linalg.eigh(spread.T @ spread)
    variances, directions = variances.flip(0).clamp_min(0), directions.flip(1)
    held = variances.cumsum(0) / variances.sum()
    rank = int((held < share).sum()) + 1
    rank = -(-rank // _STEP) * _STEP
    if not rank * sum(weight.shape) <= _WORTH_IT * weight.numel():
        return None
    kept = directions[:, :rank]
    rest = bias + mean - kept @ (kept.T @ mean)
    return Factors(*(part.float().contiguous() for part in (kept.T @ weight, kept, rest)))


def _layers(factors: Factors) -> nn.Sequential:
    rank, into = factors.first.shape
    first, second = nn.Linear(into, rank, bias=False), nn.Linear(rank, len(factors.second))
    first.weight.data, second.weight.data = factors.first, factors.second
    second.bias.data = factors.bias
    return nn.Sequential(first, second)


def with_factors(mlps: Mlps, found: Mapping[str, Factors]) -> dict[str, nn.Sequential]:
    """The MLPs with their factors in place of the layers; the others are shared.

    InputProblem when the factors are of another network.
    """
    for name, factors in found.items():
        mlp, _, place = name.rpartition(".")
        layer = dict(mlps[mlp].named_children()).get(place) if mlp in mlps else None
        shape = (len(factors.second), factors.first.shape[-1])
        if not isinstance(layer, nn.Linear) or layer.weight.shape != shape:
            raise InputProblem(
                f"factors for a layer {name} of {shape[0]} x {shape[1]}, which the network lacks",
                todo="export the model again",
            )
    return {
        mlp: nn.Sequential(*(
            _layers(found[f"{mlp}.{place}"]) if f"{mlp}.{place}" in found else layer
            for place, layer in enumerate(layers)
        ))
        for mlp, layers in mlps.items()
    }  # fmt: skip


def write(found: Mapping[str, Factors], path: Path) -> None:
    """Keep the factors as a safetensors file."""
    tensor_file.write(path, {
        f"{name}.{part}": tensor_file.whole(tensor)
        for name, factors in found.items()
        for part, tensor in zip(_PARTS, factors, strict=True)
    })  # fmt: skip


def read(path: Path) -> dict[str, Factors]:
    """What `write` wrote; InputProblem when it is something else."""
    try:
        tensors = load_file(path)
        names = sorted({name.rpartition(".")[0] for name in tensors})
        found = {name: Factors(*(tensors[f"{name}.{part}"] for part in _PARTS)) for name in names}
        if any(one.first.dim() != 2 or one.second.dim() != 2 for one in found.values()):
            raise ValueError("a factor is no matrix")
        return found
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InputProblem(
            f"{path} holds no factors: {error}", todo="export the model again"
        ) from None
