"""The model behind the predicted efficiency, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from bench.scaling import LATENCY_S, _predictions, _rows, efficiency


def test_efficiency_is_own_work_over_own_work_and_the_ring() -> None:
    told = 1.25e6  # 1 ms at 10 Gbit/s
    step = 0.010 + 3 * (0.001 + LATENCY_S)
    assert efficiency(4, 10, 0.010, told, 0.0) == pytest.approx(0.010 / step)
    merged = 0.010 + 3 * (0.001 + LATENCY_S + told * 2e-9)
    assert efficiency(4, 10, 0.010, told, 2e-9) == pytest.approx(0.010 / merged)
    assert efficiency(1, 10, 0.010, told, 2e-9) == 1.0
    assert efficiency(16, 25, 0.010, told, 0.0) < efficiency(4, 25, 0.010, told, 0.0)
    assert efficiency(4, 25, 0.010, told, 0.0) > efficiency(4, 10, 0.010, told, 0.0)


def test_readme_shows_what_a_step_tells_and_what_is_predicted() -> None:
    def result(own: float, wait: float, heard: float) -> dict[str, Any]:
        step = {"own_s": own, "wait_s": wait, "heard_bytes": heard}
        return {"rows_per_second": 1000.0, "mean_step": step}

    one, two = result(0.008, 0.0, 0.0), result(0.010, 0.005, 2**20)
    (_, alone), (_, shared) = (
        _rows(hosts, [(found, 2000.0)] * 2, "rows") for hosts, found in ((1, one), (2, two))
    )
    assert (alone["readme"], shared["readme"]) == (False, True)
    assert shared["value"] == 33.3
    assert shared["note"] == "5.00 ms and 1.00 MiB a step"
    predicted = _predictions({1: [one], 2: [two]}, "rows")
    assert [row["readme"] for row in predicted] == [True] * 4
    merge = 0.002 / 2**20
    assert predicted[0]["value"] == round(100 * efficiency(4, 10, 0.008, 2**20, merge), 1)
