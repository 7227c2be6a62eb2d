"""What is said of a daemon of Spark that does not come up."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from hosts.fake import FakeTransport
from hosts.job import Frame
from hosts.site import Site
from hosts.spark import SparkHost, SparkPlan, _Daemon

UNRELATED = "26/11/25 WARN Proxy: Authentication failed for user bob\n"
REFUSED = "26/11/25 WARN Worker: Failed to connect to master 10.0.0.1:29600\n"


def worker(monkeypatch: pytest.MonkeyPatch, *frames: Frame) -> _Daemon:
    """A worker on h2 that has said this."""
    site = Site(
        name="h2", transport=FakeTransport(), home=PurePosixPath("/aiok"), python="python3",
        address="10.0.0.2", slots=1,
    )  # fmt: skip
    plan = SparkPlan(
        environment=PurePosixPath("/env"), agent="/agent.py", job=lambda role: f"x.etl-{role}.1",
        executor_mib=512, grace_s=5.0,
    )  # fmt: skip
    daemon = _Daemon("worker", SparkHost(site=site, java="/java", cores=1), plan)
    monkeypatch.setattr(daemon.group, "poll", lambda _timeout_s: [("h2", f) for f in frames])
    monkeypatch.setattr(daemon.group, "silent", dict)
    daemon.poll()
    return daemon


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
