"""The model behind the predicted efficiency, by hand."""

from __future__ import annotations

import pytest

from bench.scaling import LATENCY_S, efficiency


def test_efficiency_is_own_work_over_own_work_and_the_ring() -> None:
    told = 1.25e6  # 1 ms at 10 Gbit/s
    step = 0.010 + 3 * (0.001 + LATENCY_S)
    assert efficiency(4, 10, 0.010, told, 0.0) == pytest.approx(0.010 / step)
    merged = 0.010 + 3 * (0.001 + LATENCY_S + told * 2e-9)
    assert efficiency(4, 10, 0.010, told, 2e-9) == pytest.approx(0.010 / merged)
    assert efficiency(1, 10, 0.010, told, 2e-9) == 1.0
    assert efficiency(16, 25, 0.010, told, 0.0) < efficiency(4, 25, 0.010, told, 0.0)
    assert efficiency(4, 25, 0.010, told, 0.0) > efficiency(4, 10, 0.010, told, 0.0)
