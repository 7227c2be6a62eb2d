"""What is said of a daemon of Spark that does not come up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import pytest

from hosts import spark
from hosts.fake import FakeTransport
from hosts.job import Frame, JobSpec
from hosts.site import Site
from hosts.spark import SparkCluster, SparkHost, SparkPlan, Watcher, _Daemon
from hosts.transport import HostProblem, NoAnswer

UNRELATED = "26/11/25 WARN Proxy: Authentication failed for user bob\n"
REFUSED = "26/11/25 WARN Worker: Failed to connect to master 10.0.0.1:29600\n"


SITE = Site(
    name="h2", transport=FakeTransport(), home=PurePosixPath("/aiok"), python="python3",
    address="10.0.0.2", slots=1,
)  # fmt: skip
HOST = SparkHost(site=SITE, java="/java", cores=1)
PLAN = SparkPlan(
    environment=PurePosixPath("/env"), agent="/agent.py", job=lambda role: f"x.etl-{role}.1",
    executor_mib=512, grace_s=5.0,
)  # fmt: skip


def worker(monkeypatch: pytest.MonkeyPatch, *frames: Frame) -> _Daemon:
    """A worker on h2 that has said this."""
    daemon = _Daemon("worker", HOST, PLAN)
    monkeypatch.setattr(daemon.group, "poll", lambda _timeout_s: [("h2", f) for f in frames])
    monkeypatch.setattr(daemon.group, "silent", dict)
    daemon.poll(Watcher())
    return daemon


def test_a_master_tells_its_port_and_takes_the_next_one_when_the_first_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: dict[str, str] = {}
    started: list[JobSpec] = []
    lines = (
        "26/11/25 WARN Utils: Service 'sparkMaster' could not bind on port 29600.\n"
        "26/11/25 INFO Master: Starting Spark master at spark://10.0.0.2:29601\n"
        "26/11/25 INFO Master: I have been elected leader! New state: ALIVE\n"
    )
    daemon = _Daemon("master", HOST, PLAN)
    monkeypatch.setattr(spark, "write_properties", lambda _site, _path, said: written.update(said))
    monkeypatch.setattr(daemon.group, "start", started.append)
    monkeypatch.setattr(daemon.group, "poll", lambda _timeout_s: [("h2", Frame("output", lines))])
    monkeypatch.setattr(daemon.group, "silent", dict)
    daemon.start(spark.DAEMON_SETTINGS, spark.MASTER_PORTS)
    daemon.poll(Watcher())
    assert "--port 29600 --webui-port 0" in " ".join(started[0].argv)
    assert written["spark.port.maxRetries"] == "19"
    assert (daemon.ready, daemon.address) == (True, "spark://10.0.0.2:29601")


def test_a_worker_that_the_master_refuses_may_have_another_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    daemon = worker(monkeypatch, Frame("output", REFUSED), Frame("output", REFUSED))
    problem = daemon.problem("did not register with the master")
    assert daemon.refusals == 2
    assert "another secret" in problem.todo
    assert "ports 29600-29699" in problem.todo
    assert "Failed to connect to master 10.0.0.1:29600" in problem.why


@pytest.mark.parametrize(
    "frames",
    [
        (Frame("output", UNRELATED),),
        (Frame("output", UNRELATED), Frame("end", {"code": -9})),
        (Frame("output", REFUSED), Frame("end", {"code": 1})),
    ],
)
def test_other_troubles_are_no_matter_of_the_secret(
    frames: tuple[Frame, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = worker(monkeypatch, *frames).problem("did not register with the master")
    assert "secret" not in problem.todo
    assert "spark-worker-h2.log" in problem.todo


def test_a_worker_is_away_when_its_host_is_silent_not_when_it_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = worker(monkeypatch, Frame("end", {"code": 1}))
    silent = worker(monkeypatch)
    for daemon in (ended, silent):
        monkeypatch.setattr(daemon.group, "silent", lambda: {"h2": PLAN.grace_s + 1})
        daemon.poll(Watcher())
    assert type(ended.problem("did not start")) is HostProblem
    away = silent.problem("did not start")
    assert isinstance(away, NoAnswer)
    assert away.why == "nothing was heard from it for 6 s"


@pytest.mark.parametrize(
    ("refused", "limit_s"), [(0, spark.READY_S), (1, spark.REFUSED_S), (2, 0.0)]
)
def test_a_worker_that_is_refused_is_not_waited_for_as_long_as_a_slow_one(
    refused: int, limit_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    daemon = worker(monkeypatch, *[Frame("output", REFUSED)] * refused)
    monkeypatch.setattr(spark.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(spark.time, "sleep", sleep)
    cluster = SparkCluster([HOST], PLAN, Watcher())
    with pytest.raises(HostProblem, match="the Spark worker did not register"):
        cluster._await([daemon], "did not register with the master", began=1000.0)
    assert now[0] - 1000.0 == pytest.approx(limit_s, abs=0.2)
    assert spark.REFUSED_S < 60.0  # a wrong secret ends within a minute


def test_what_a_daemon_takes_reaches_the_watcher(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    class Told(Watcher):
        def daemon_sample(self, role: str, host: str, sample: Mapping[str, Any]) -> None:
            told.append((role, host, sample["job_cpu_s"]))

    daemon = worker(monkeypatch, Frame("sample", {"job_cpu_s": 0.75}))
    daemon.poll(Told())
    assert told == [("worker", "h2", 0.75)]
