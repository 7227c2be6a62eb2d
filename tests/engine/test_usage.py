"""What a step takes is counted from samples, transfers and what the system says at its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.usage import LONGEST_S, Usage
from hosts.inventory import LOCAL

T0 = 1_700_000_000.0


def sample(t: float, memory: float, received: float = 0.0) -> dict[str, float]:
    return {"t": t, "job_memory_gib": memory, "net_rx_mib_s": received}


def test_peak_memory_is_that_of_all_hosts_and_of_what_the_worker_saw(tmp_path: Path) -> None:
    usage = Usage()
    for t, memory in enumerate((0.1, 0.7, 0.3)):
        usage.sample("h1", sample(T0 + t, memory))
        usage.sample("h2", sample(T0 + t, memory / 2))
    (tmp_path / "part").write_bytes(b"x" * 2**20)
    took = usage.actual(90.0, {}, tmp_path)
    assert took == {"minutes": 1.5, "memory_gib": 1.05, "disk_gib": round(1 / 1024, 6),
                    "network_gib": 0.0}  # fmt: skip
    assert usage.actual(1.0, {"peak_rss_gib": 2.5}, tmp_path)["memory_gib"] == 2.5
    nothing = Usage().actual(1.2, {}, tmp_path / "none")
    assert nothing == {"minutes": 0.02, "network_gib": 0.0}


def test_network_is_what_reaches_the_hosts_of_a_cluster_and_what_was_sent(tmp_path: Path) -> None:
    usage = Usage()
    for second in range(11):
        usage.sample("h1", sample(T0 + second, 0.1, received=64.0))
        usage.sample(LOCAL, sample(T0 + second, 0.1, received=999.0))  # not of this run
    usage.sample("h1", sample(T0 + 1000, 0.1, received=64.0))  # after a long silence
    usage.moved(2**30)
    sent = usage.actual(1.0, {}, tmp_path)["network_gib"]
    assert sent == pytest.approx(1.0 + 64 * (10 + LONGEST_S) / 1024, abs=1e-5)


def test_cpu_seconds_are_the_systems_or_those_of_the_samples_if_these_are_more() -> None:
    usage = Usage()
    for second in range(4):
        usage.sample("h1", sample(T0 + second, 0.1) | {"job_cpu_s": 1.5})
        usage.sample("h2", sample(T0 + second, 0.1) | {"job_cpu_s": 1.0})
    usage.ended("h1", {"code": 0, "cpu_s": 7.25, "largest_gib": 0.75})
    usage.ended("h2", {"code": 0, "cpu_s": 0.0, "largest_gib": 0.01})  # its ranks were only watched
    took = usage.actual(60.0, {}, Path("none"))
    assert took["cpu_s"] == 7.25 + 4.0
    assert took["memory_gib"] == 0.75  # a peak between two samples
    usage.ended("h1", {"code": 1, "cpu_s": 2.0, "largest_gib": "much"})  # a second attempt
    assert usage.actual(60.0, {}, Path("none"))["cpu_s"] == 9.25 + 4.0


def test_several_jobs_of_a_step_on_a_host_count_each_and_its_network_once() -> None:
    """Such as Spark's worker and its driver; their samples come between each other's."""
    usage = Usage()
    for second in range(11):
        usage.sample("h1", sample(T0 + second, 0.5, received=64.0) | {"job_cpu_s": 1.0}, "driver")
        late = sample(T0 + second + 0.4, 0.25, received=64.0) | {"job_cpu_s": 0.5}
        usage.sample("h1", late, "worker")
    took = usage.actual(1.0, {}, Path("none"))
    assert took["memory_gib"] == 0.75
    assert took["cpu_s"] == 16.5
    assert took["network_gib"] == pytest.approx(64 * 10.4 / 1024, abs=1e-5)
