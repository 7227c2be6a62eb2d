"""The DLRM network and its sparse training, against slow and plain forms of the same thing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as rules
from hypothesis import strategies as st

from models.cpu import choose_precision
from models.dlrm import spec
from models.dlrm.fused_head import FusedHead
from models.dlrm.network import Dlrm, initialize
from models.dlrm.task import score
from models.loop_data import ShuffledRows, own_slices
from models.loop_dense import DenseParameters
from models.loop_tables import RowwiseAdagrad, combine
from models.settings import resolve

SIZES = (5, 1, 9)


def settings(profile: str, **changes: object) -> dict[str, object]:
    values, problems = resolve(spec.SETTINGS, spec.SPEC.profiles[profile], changes)
    assert not problems
    return dict(values)


def build(profile: str, **changes: object) -> Dlrm:
    network = Dlrm(4, SIZES, settings(profile, **changes))
    initialize(network, SIZES, seed=3, table_scale=0.0)
    return network


def rows(count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    ids = np.stack([rng.integers(0, size, count) for size in SIZES], 1).astype(np.int32)
    return torch.from_numpy(rng.random((count, 4), np.float32)), torch.from_numpy(ids)


@pytest.mark.parametrize("profile", list(spec.SPEC.profiles))
def test_profiles_are_valid(profile: str) -> None:
    settings(profile)


def test_stock_is_the_public_network() -> None:
    network = Dlrm(13, [3] * 26, settings("stock"))
    shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
    linear = [shape for name, shape in shapes.items() if len(shape) == 2 and "bags" not in name]
    assert linear == [(512, 13), (256, 512), (64, 256), (16, 64), (512, 367), (256, 512), (1, 256)]
    assert sum(name.startswith("tables.bags") for name in shapes) == 26
    assert shapes["tables.bags.0.weight"] == (3, 16)


def test_terabyte_is_the_network_of_mlperf() -> None:
    network = Dlrm(13, [3] * 26, settings("terabyte"))
    linear = [tuple(p.shape) for p in network.dense_parameters() if p.ndim == 2]
    assert linear == [(512, 13), (256, 512), (128, 256), (1024, 479), (1024, 1024), (512, 1024),
                      (256, 512), (1, 256)]  # fmt: skip
    assert sum(p.numel() for p in network.dense_parameters()) == 2_368_897
    assert network.tables.bags[0].weight.shape == (3, 128)


def test_forward_is_the_formula_of_the_paper() -> None:
    network, (numeric, ids) = build("stock", bottom_widths="8", top_widths="7"), rows()
    vectors = [network.bottom(numeric)] + [
        bag.weight[ids[:, i].long()] for i, bag in enumerate(network.tables.bags)
    ]
    dots = [(vectors[i] * vectors[j]).sum(1) for i in range(4) for j in range(i)]
    expected = network.top(torch.cat([vectors[0], torch.stack(dots, 1)], 1)).squeeze(1)
    torch.testing.assert_close(network(numeric, ids), expected)


def test_fused_and_separate_tables_are_the_same_network() -> None:
    fused, separate = build("tiny"), build("tiny", fused_tables=False)
    numeric, ids = rows()
    with torch.no_grad():
        torch.testing.assert_close(fused(numeric, ids), separate(numeric, ids))
        torch.testing.assert_close(fused(numeric, ids), score(fused, numeric, ids))


def test_interaction_gradient_is_that_of_autograd() -> None:
    network, (numeric, ids) = build("tiny"), rows()
    leaf = network.tables(ids).detach().requires_grad_()
    network.head(numeric, leaf).sum().backward()
    with torch.no_grad():
        assert leaf.grad is not None
        step = torch.zeros_like(leaf)
        for at in [(0, 0, 0), (3, 2, 1), (5, 1, 3)]:
            step.zero_()
            step[at] = 1e-2
            slope = (network.head(numeric, leaf + step) - network.head(numeric, leaf - step)).sum()
            assert abs(float(slope) / 2e-2 - float(leaf.grad[at])) < 1e-3


Gradients = tuple[float, list[torch.Tensor]]


def head_gradients(
    network: Dlrm, way: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Gradients]
) -> Gradients:
    """Loss, and gradients of the dense parameters and of the looked-up rows, by one way."""
    numeric, ids = rows(300)
    label = (torch.arange(300) % 3 == 0).byte()
    for parameter in network.dense_parameters():
        parameter.grad = torch.zeros_like(parameter)
    loss, last = way(numeric, network.tables(ids).detach().requires_grad_(), label)
    return loss, [*(p.grad.clone() for p in network.dense_parameters()), *last]


def recorded(network: Dlrm, bf16: bool) -> Gradients:
    def way(numeric: torch.Tensor, embedded: torch.Tensor, label: torch.Tensor) -> Gradients:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = network.head(numeric, embedded)
        total = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, label.float(), reduction="sum"
        )
        (total / 400).backward()
        return total.item(), [embedded.grad]

    return head_gradients(network, way)


def written_out(network: Dlrm, precision: torch.dtype) -> Gradients:
    def way(numeric: torch.Tensor, embedded: torch.Tensor, label: torch.Tensor) -> Gradients:
        with torch.no_grad():
            loss, gradient = FusedHead(network, precision).step(numeric, embedded, label, 400)
        return loss, [gradient]

    return head_gradients(network, way)


def errors(found: Gradients, plain: Gradients) -> list[float]:
    """Relative error of the loss and, by norm, of each gradient."""
    pairs = zip(found[1], plain[1], strict=True)
    return [abs(found[0] / plain[0] - 1), *(float((a - b).norm() / b.norm()) for a, b in pairs)]


@pytest.mark.parametrize("first_order_rate", [0.0, 0.1])
def test_written_out_gradients_are_those_of_autograd(first_order_rate: float) -> None:
    network = build("optimized", first_order_rate=first_order_rate)
    plain = recorded(network, bf16=False)
    assert max(errors(written_out(network, torch.float32), plain)) < 1e-5
    # bf16 is an approximation: no worse than torch's own mixed precision
    ours = errors(written_out(network, torch.bfloat16), plain)
    for error, theirs in zip(ours, errors(recorded(network, bf16=True), plain), strict=True):
        assert error <= max(1.5 * theirs, 0.01)
        assert error < 0.1


@given(st.lists(st.integers(0, 6), max_size=40))
def test_combine_adds_the_values_of_equal_ids(ids: list[int]) -> None:
    values = torch.arange(2.0 * len(ids)).view(-1, 2)
    unique, sums = combine(torch.tensor(ids, dtype=torch.int32), values)
    assert unique.tolist() == sorted(set(ids))
    for at, one in enumerate(unique.tolist()):
        expected = values[[i for i, other in enumerate(ids) if other == one]].sum(0)
        torch.testing.assert_close(sums[at], expected)


def test_rowwise_adagrad_is_its_formula_and_touches_no_other_row() -> None:
    table = torch.ones(4, 2)
    optimizer = RowwiseAdagrad(table, start=0.5)
    for _ in range(2):
        optimizer.update(torch.tensor([1, 3]), torch.tensor([[1.0, 2.0], [0.0, 4.0]]), rate=0.1)
    first, second = 0.5 + 2.5, 0.5 + 2 * 2.5
    assert torch.equal(table[[0, 2]], torch.ones(2, 2))
    torch.testing.assert_close(table[1, 1], torch.tensor(1 - 0.2 / first**0.5 - 0.2 / second**0.5))
    torch.testing.assert_close(optimizer.accumulator, torch.tensor([[0.5], [5.5], [0.5], [16.5]]))


def test_first_order_weights_add_to_the_logit_and_have_their_own_rate() -> None:
    network = build("optimized", first_order_rate=0.1, table_learning_rate=0.5)
    without = build("optimized", first_order_rate=0.0)
    without.load_state_dict(
        {**network.state_dict(), "tables.weight": network.tables.weight[:, :-1]}
    )
    ids = torch.tensor([[1, 0, 2], [3, 0, 8]], dtype=torch.int32)
    numeric = torch.rand(2, 4)
    before = without(numeric, ids)
    assert torch.equal(network(numeric, ids), before)  # they start at 0
    with torch.no_grad():
        network.tables.weight[:, -1] = torch.arange(15.0)
    expected = before + torch.tensor([1.0 + 5 + 8, 3.0 + 5 + 14])
    torch.testing.assert_close(network(numeric, ids), expected)
    table = torch.zeros(2, 3)
    optimizer = RowwiseAdagrad(table, start=0.0, first_order=(0.2, 3.0))
    optimizer.update(torch.tensor([1]), torch.tensor([[2.0, 2.0, 1.0]]), rate=0.5)
    torch.testing.assert_close(table[1], torch.tensor([-0.5, -0.5, -0.5 * 0.2 / 4**0.5]))
    assert torch.equal(table[0], torch.zeros(3))


def test_tables_start_the_same_whatever_the_other_tables_are() -> None:
    for part, size in zip(build("tiny").tables.parts(SIZES), SIZES, strict=True):
        assert float(part.abs().max()) <= size**-0.5


@pytest.mark.parametrize(
    ("wanted", "flags", "chosen"),
    [("auto", {"amx_bf16"}, "bf16"), ("auto", {"avx512_bf16"}, "bf16"), ("auto", {"avx2"}, "fp32"),
     ("fp32", {"amx_bf16"}, "fp32"), ("bf16", {"avx2"}, "bf16")],
)  # fmt: skip
def test_bf16_only_where_the_cpu_has_it(wanted: str, flags: set[str], chosen: str) -> None:
    assert choose_precision(wanted, flags)[0] == chosen


class Numbers:
    """Rows that are their own numbers."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def read(self, start: int, stop: int) -> tuple[np.ndarray]:
        return (np.arange(start, stop),)


@rules(deadline=None, max_examples=50)
@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 5), st.integers(1, 50),
       st.integers(1, 90), st.booleans(), st.data())  # fmt: skip
def test_batches_are_one_permutation_for_any_ranks_and_resume_anywhere(
    count: int, batch: int, ranks: int, chunk: int, window: int, prefetch: bool,
    data: st.DataObject,
) -> None:  # fmt: skip
    def epoch(rank: int, size: int, number: int = 1, start: int = 0) -> list[list[int]]:
        shuffled = ShuffledRows(
            Numbers(count), batch, 5, rank, size, window, chunk, prefetch=prefetch
        )
        found = list(shuffled.batches(number, start))
        assert len(found) == shuffled.steps - start
        assert sum(part.global_rows for part in found) == min(count, count - start * batch)
        return [part.columns[0].tolist() for part in found]

    alone = epoch(0, 1)
    assert sorted(row for part in alone for row in part) == list(range(count))
    assert all(len(part) == batch for part in alone[:-1])
    for rank in range(ranks):
        assert epoch(rank, ranks) == [part[rank::ranks] for part in alone]
    start = data.draw(st.integers(0, len(alone) - 1))
    assert epoch(0, 1, start=start) == alone[start:]


def test_epochs_differ() -> None:
    shuffled = ShuffledRows(Numbers(100), 100, 5)
    first, second = (next(shuffled.batches(epoch)).columns[0].tolist() for epoch in (0, 1))
    assert first != second


@given(st.integers(0, 100), st.integers(1, 9), st.integers(1, 4))
def test_every_row_is_scored_once(count: int, batch: int, size: int) -> None:
    found = [i for rank in range(size) for start, stop in own_slices(count, batch, rank, size)
             for i in range(start, stop)]  # fmt: skip
    assert sorted(found) == list(range(count))


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_the_dense_optimizers_are_those_of_torch(name: str) -> None:
    def parameters() -> list[torch.nn.Parameter]:
        return [torch.nn.Parameter(torch.linspace(-1, 1, n).view(-1, 2)) for n in (4, 6)]

    ours, theirs = parameters(), parameters()
    dense = DenseParameters(ours, name, weight_decay=0.0, signals=2)
    reference = (torch.optim.AdamW(theirs, lr=0.01, weight_decay=0.0) if name == "adam"
                 else torch.optim.SGD(theirs, lr=0.01))  # fmt: skip
    for step in range(1, 4):
        dense.zero()
        for own, other in zip(ours, theirs, strict=True):
            own.pow(2).mul(step).sum().backward()
            other.grad = own.grad.clone()
        dense.step(0.01)
        reference.step()
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other, atol=1e-7, rtol=1e-6)
