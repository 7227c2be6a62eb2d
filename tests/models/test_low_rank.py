"""MLPs of a lower rank: what they keep, what they save, what becomes of bad files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from models.inference import low_rank
from models.worker import InputProblem

pytestmark = pytest.mark.environment("torch")

ROWS, WIDTH = 2000, 96


def mlp_of_rank(rank: int, seed: int = 3) -> nn.Sequential:
    """96 -> 96 -> 8 whose first layer's outputs vary in `rank` directions, and little in others."""
    torch.manual_seed(seed)
    first, second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 8)
    weight = torch.randn(WIDTH, rank) @ torch.randn(rank, WIDTH) / WIDTH
    first.weight.data = weight + 1e-4 * torch.randn(WIDTH, WIDTH)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())


def inputs() -> torch.Tensor:
    return torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(1)) + 2.0


@torch.inference_mode()
def factorized(mlp: nn.Sequential, share: float) -> dict[str, low_rank.Factors]:
    rows = inputs()
    return low_rank.factorize({"net": mlp}, lambda mlps: mlps["net"](rows), share)


@torch.inference_mode()
def test_a_layer_of_low_rank_is_replaced_and_gives_the_same() -> None:
    mlp = mlp_of_rank(12)
    found = factorized(mlp, 0.995)
    assert list(found) == ["net.0"]  # the narrow layer would not gain
    assert found["net.0"].first.shape == (16, WIDTH) and found["net.0"].second.shape == (WIDTH, 16)
    thin = low_rank.with_factors({"net": mlp}, found)["net"]
    difference = (thin(inputs()) - mlp(inputs())).abs().max()
    assert 0 < difference < 0.02 * mlp(inputs()).std()


@torch.inference_mode()
@pytest.mark.parametrize("share", [0.5, 0.8, 0.9])
def test_no_factors_of_that_rank_err_less_in_the_outputs(share: float) -> None:
    """Against the singular values of the centred outputs (Eckart and Young 1936)."""
    torch.manual_seed(5)
    mlp = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU())
    # inputs that vary much in some directions, as those of trained layers do
    rows = inputs() * torch.logspace(0, -3, WIDTH)
    found = low_rank.factorize({"net": mlp}, lambda mlps: mlps["net"](rows), share)["net.0"]
    wanted = mlp[0](rows).double()
    given = (rows @ found.first.T @ found.second.T + found.bias).double()
    values = torch.linalg.svdvals(wanted - wanted.mean(0)) ** 2
    rank = len(found.first)
    assert rank % 16 == 0 and values[:rank].sum() / values.sum() >= share
    assert ((given - wanted) ** 2).sum() == pytest.approx(float(values[rank:].sum()), rel=1e-3)
    assert (given.mean(0) - wanted.mean(0)).abs().max() < 1e-5


@torch.inference_mode()
def test_a_layer_of_full_rank_and_one_without_numbers_stay() -> None:
    torch.manual_seed(5)
    mlp = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU())
    assert factorized(mlp, 0.995) == {}
    mlp = mlp_of_rank(4)
    mlp[0].weight.data[0, 0] = float("nan")
    assert factorized(mlp, 0.95) == {}


@torch.inference_mode()
def test_factors_are_kept_as_they_are_and_say_what_they_save(tmp_path: Path) -> None:
    mlp = mlp_of_rank(12)
    found = factorized(mlp, 0.995)
    path = tmp_path / "rank_995.safetensors"
    low_rank.write(found, path)
    again = low_rank.read(path)
    first, second = (
        low_rank.with_factors({"net": mlp}, factors)["net"](inputs()) for factors in (found, again)
    )
    assert torch.equal(first, second)
    assert low_rank.saved(path) == 2 * (WIDTH * WIDTH - 16 * 2 * WIDTH)


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "cut", "other names"])
def test_a_bad_file_of_factors_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "rank_95.safetensors"
    with torch.inference_mode():
        low_rank.write(factorized(mlp_of_rank(12), 0.95), path)
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({
            "empty": b"", "text": b"no tensors", "cut": content[:-9],
            "other names": content.replace(b"second", b"sekond"),
        }[damage])  # fmt: skip
    with pytest.raises(InputProblem, match="safetensors holds no factors"):
        low_rank.read(path)


def test_factors_of_another_network_are_refused() -> None:
    with torch.inference_mode():
        found = factorized(mlp_of_rank(12), 0.95)
    other = nn.Sequential(nn.Linear(40, 40), nn.ReLU())
    for mlps in ({"net": other}, {"top": mlp_of_rank(12)}):
        with pytest.raises(InputProblem, match="which the network lacks"):
            low_rank.with_factors(mlps, found)
