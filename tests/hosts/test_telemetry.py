"""The promise of `aiok hosts top`, for a minute on four hosts: no gap, hardly any CPU time.

CPU time, not speed: it holds on a busy machine too. bench/telemetry.py is the whole promise.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.telemetry import GAP_S, follow
from tests.testbed import Testbeds

HOSTS, SECONDS = 4, 60.0


@pytest.mark.slow
@pytest.mark.cluster
def test_hosts_are_followed_without_gaps_at_little_cost(
    testbeds: Testbeds, aiok_home: Path
) -> None:
    testbed = testbeds(HOSTS, "telemetry")
    aiok_home.mkdir()
    testbed.inventory(aiok_home / "inventory.yaml", cluster="lab")
    found = follow(testbed, SECONDS)
    assert found.seconds >= SECONDS
    assert found.gap_s <= GAP_S, found
    assert found.samples >= 0.9 * HOSTS * SECONDS
    assert found.own_percent <= 5.0 and max(found.agent_percent) <= 1.0, found
    assert len(found.agent_percent) == HOSTS and min(found.agent_percent) >= 0.0
