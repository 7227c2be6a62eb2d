"""The machine's peaks are plausible, and a row's work is what a hand counts."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from models import cpu, roofline
from models.dlrm import cost, spec, workload
from models.dlrm.network import Dlrm
from models.messages import Progress
from models.settings import resolve
from models.worker import StopFlag, Stopped


@pytest.fixture
def peaks(monkeypatch: pytest.MonkeyPatch, recorder: Any) -> dict[str, Any]:
    monkeypatch.setattr(roofline, "BUDGET_S", 0.4)
    monkeypatch.setattr(roofline, "ARRAY_MIB", (8, 16))
    before = torch.get_num_threads()
    found = roofline.measure({"threads": 1}, recorder, StopFlag())
    torch.set_num_threads(before)
    assert any(isinstance(message, Progress) for message in recorder.messages)
    return found


def test_peaks_are_above_what_a_plain_product_reaches(peaks: dict[str, Any]) -> None:
    """A product written as a loop over rows, each a vector times a matrix, is no match."""
    n = 256
    left, right = torch.rand(n, n), torch.rand(n, n)
    begun = time.perf_counter()
    torch.stack([(left[i, :, None] * right).sum(0) for i in range(n)])
    naive = 2 * n**3 / (time.perf_counter() - begun) / 1e9
    assert peaks["matmul_gflops"]["fp32"] >= naive > 0
    assert peaks["memory_gb_per_s"] == max(peaks["memory"].values()) > 0
    assert set(peaks["memory"]) == {"copy", "triad"}
    assert peaks["threads"] == 1
    assert peaks["cores_kept"] > 0


def test_only_formats_with_instructions_are_measured(peaks: dict[str, Any]) -> None:
    assert set(peaks["matmul_gflops"]) == {"fp32", *cpu.native_instructions()}
    names = {
        (): ["fp32"],
        ("avx2", "avx512f"): ["fp32"],
        ("avx512_bf16",): ["fp32", "bf16"],
        ("avx_vnni",): ["fp32", "int8"],
        ("amx_bf16", "amx_int8", "avx512_vnni"): ["fp32", "bf16", "int8"],
    }
    for flags, formats in names.items():
        cases = roofline.matmul_cases(16, set(flags))
        assert [case.name for case in cases] == formats
        for case in cases:
            case.time()
            assert case.best > 0
    assert cpu.native_instructions({"amx_int8", "avx512_vnni"}) == {"int8": "amx_int8"}


def test_arrays_are_beyond_the_cache_and_within_bounds() -> None:
    assert roofline.array_size(0) == 64 << 20
    assert roofline.array_size(32 << 20) == 128 << 20
    assert roofline.array_size(1 << 30) == 256 << 20


def test_measuring_obeys_a_stop(recorder: Any) -> None:
    stop = StopFlag()
    stop.requested = True
    with pytest.raises(Stopped):
        roofline.best_of([roofline.Case("nothing", lambda: None, 1.0)], 1, recorder, stop)


@pytest.mark.parametrize(("optimizer", "first_order_rate", "state", "width"), [
    ("sgd", 0.0, 0, 4), ("rowwise_adagrad", 0.0, 1, 4), ("rowwise_adagrad", 0.1, 2, 5),
])  # fmt: skip
def test_work_of_a_row_is_the_count_by_hand(
    optimizer: str, first_order_rate: float, state: int, width: int
) -> None:
    """3 numbers, 2 tables, d = 4: bottom 3-5-4, F = 3 vectors, P = 3 pairs, top 7-6-1."""
    settings, problems = resolve(spec.SETTINGS, spec.SPEC.profiles["tiny"], {
        "embedding_size": 4, "bottom_widths": "5", "top_widths": "6",
        "table_optimizer": optimizer, "first_order_rate": first_order_rate,
    })  # fmt: skip
    assert not problems
    network = Dlrm(3, [10, 20], settings)
    layers = [3 * 5, 5 * 4, 7 * 6, 6 * 1]
    dots = 3 * 4
    forward = 2 * (sum(layers) + dots)
    by_weights = 2 * sum(layers)
    by_inputs = 2 * sum(layers[1:])  # the first layer's input is data
    by_vectors = 2 * 2 * dots  # each product's gradient goes to both of its vectors
    row = 3 * 4 + 2 * 4  # numbers and ids
    inference = workload.inference(network, "fp32")
    assert inference.flops_per_row == forward
    assert inference.bytes_per_row == row + 2 * width * 4 + 4
    training = workload.training(network, settings, "bf16")
    assert training.flops_per_row == forward + by_weights + by_inputs + by_vectors
    read, updated, accumulators = 2 * width * 4, 2 * 2 * width * 4, 2 * 2 * state * 4
    assert training.bytes_per_row == row + 1 + read + updated + accumulators
    assert training.precision == "bf16"
    # what the advisor counts on without a network
    counted = cost.row_cost(settings, 3, 2)
    assert counted.dense_us * cost.FLOPS_PER_US == pytest.approx(training.flops_per_row)
    assert counted.id_bytes == 4 * (2 * width + 2)
