"""Hosts without a run, on real SSH hosts: who is heard, who is not, and what is left there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from engine.monitor import LOCAL, STALE_S, Monitor, Reading, Standing
from hosts.local import LocalTransport
from hosts.testbed import Testbed
from hosts.transport import HostProblem
from hosts.watch import HostWatch
from tests.testbed import Testbeds

HEARD_S = 20.0  # a busy machine logs in slowly
LOST_S = 15.0  # promised: a lost host is noticed within it


@pytest.fixture
def monitor() -> Iterator[Monitor]:
    made = Monitor()
    yield made
    made.close(20.0)


def place(testbed: Testbed, home: Path) -> None:
    """The hosts of a testbed, as the user's own."""
    home.mkdir(parents=True, exist_ok=True)
    testbed.inventory(home / "inventory.yaml", cluster="lab")


def until(
    monitor: Monitor, wanted: Callable[[dict[str, Reading]], bool], limit_s: float
) -> dict[str, Reading]:
    """The readings by host, as soon as they are as wanted."""
    end = time.monotonic() + limit_s
    while not wanted(found := {one.host: one for one in monitor.readings()}):
        assert time.monotonic() < end, found
        time.sleep(0.05)
    return found


def all_live(found: dict[str, Reading]) -> bool:
    return all(one.standing is Standing.LIVE for one in found.values())


def agents(testbed: Testbed, name: str) -> list[str]:
    return [p.command for p in testbed.processes(name) if "python" in p.command]


def test_a_bare_host_tells_its_figures_and_keeps_nothing(
    testbeds: Testbeds, aiok_home: Path, monitor: Monitor
) -> None:
    testbed = testbeds(3)
    place(testbed, aiok_home)
    before = testbed.listing("h1")
    monitor.follow(["lab"])
    found = until(monitor, all_live, HEARD_S)
    assert list(found) == ["h1", "h2", "h3"]
    assert [len(agents(testbed, name)) for name in found] == [1, 1, 1]  # one agent a host
    for one in found.values():
        assert one.sample is not None and one.age_s is not None and one.age_s < STALE_S
        assert len(one.sample["cpu"]) >= 1 and all(0 <= core <= 100 for core in one.sample["cpu"])
        assert 0 < one.sample["memory_used_gib"] < one.sample["memory_total_gib"]
        assert one.sample["net_tx_mib_s"] >= 0 and one.sample["load1"] >= 0
        assert "job_cpu" not in one.sample
    heard = found["h1"].sample
    until(monitor, lambda now: now["h1"].sample != heard, 5.0)
    monitor.close(20.0)
    end = time.monotonic() + 10
    while any(agents(testbed, name) for name in found):
        assert time.monotonic() < end
        time.sleep(0.1)
    assert testbed.listing("h1") == before
    assert monitor.readings() == []


def test_a_cut_host_is_stale_then_lost_with_its_last_value_and_comes_back(
    testbeds: Testbeds, aiok_home: Path, monitor: Monitor
) -> None:
    testbed = testbeds(3)
    place(testbed, aiok_home)
    monitor.follow(["h1", "h2"])
    last = until(monitor, all_live, HEARD_S)["h2"]
    assert last.sample is not None
    testbed.cut("h2")
    try:
        cut = time.monotonic()
        stale = until(monitor, lambda now: now["h2"].standing is Standing.STALE, 5.0)["h2"]
        assert stale.age_s is not None and stale.age_s >= STALE_S
        found = until(monitor, lambda now: now["h2"].standing is Standing.LOST, LOST_S)
        lost = found["h2"]
        assert "connection" in lost.problem
        assert lost.sample is not None and lost.sample["t"] >= last.sample["t"]
        assert lost.age_s is not None and lost.age_s > time.monotonic() - cut - 2.5
        assert found["h1"].standing is Standing.LIVE
        end = time.monotonic() + 20  # no heartbeat: the agent there ends by itself
        while agents(testbed, "h2"):
            assert time.monotonic() < end
            time.sleep(0.2)
    finally:
        testbed.heal("h2")
    until(monitor, all_live, HEARD_S + 30)  # the longest wait between two tries


def test_a_host_that_refuses_is_not_asked_again_and_holds_up_nobody(
    testbeds: Testbeds, aiok_home: Path, monitor: Monitor
) -> None:
    testbed = testbeds(3)
    place(testbed, aiok_home)
    place_of = aiok_home / "inventory.yaml"
    text = place_of.read_text()
    data = yaml.safe_load(text)
    data["hosts"]["h2"]["user"] = "nobody-known"
    place_of.write_text(yaml.safe_dump(data))
    monitor.follow()
    found = until(monitor, lambda now: now["h2"].standing is Standing.LOST
                  and now["h3"].standing is Standing.LIVE, HEARD_S)  # fmt: skip
    assert "it refuses nobody-known" in found["h2"].problem
    assert found["h2"].sample is None and found["h2"].age_s is None
    asked = [thread.name for thread in threading.enumerate()]
    assert "watch h3" in asked and "watch h2" not in asked  # it gave up
    place_of.write_text(text)
    monitor.follow()  # the inventory was mended
    until(monitor, all_live, HEARD_S)


def test_this_machine_is_watched_where_there_are_no_hosts(
    aiok_home: Path, monitor: Monitor
) -> None:
    monitor.follow()
    found = until(monitor, all_live, HEARD_S)
    assert list(found) == [LOCAL]


def test_a_python_that_does_not_run_the_agent_is_named() -> None:
    watch = HostWatch(LocalTransport(), "/bin/true")
    watch.open()
    with pytest.raises(HostProblem, match="/bin/true does not run the agent"):
        next(watch.samples())
    watch.close()
    watch = HostWatch(LocalTransport(), "/bin/echo")
    watch.open()
    with pytest.raises(HostProblem, match="something else than the agent answers"):
        next(watch.samples())
    watch.close()
