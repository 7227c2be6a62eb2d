"""Which real hosts count as lost: those that give no answer, not those that refuse to work."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from engine import clusters
from engine import events as ev
from engine.code import deploy
from engine.errors import ExitCode, HostAway, HostError
from engine.recovery import with_policy
from engine.run import RunProcess, StopSignals
from engine.state import RunStatus
from engine.steps import over_hosts, train
from engine.store import EventLog, create_run_folder, home, write_atomically
from hosts.testbed import Testbed
from tests.engine.test_recovery import STEP, Lab, Labs, labs  # noqa: F401
from tests.testbed import Testbeds

REACH, MAKE_READY = clusters.reach, over_hosts.make_hosts_ready  # before the labs replace them


def real(lab: Lab, testbed: Testbed, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Work of the lab on the hosts of a testbed: it connects and names them."""
    testbed.inventory(home() / "inventory.yaml", "lab")
    monkeypatch.setattr(clusters, "reach", REACH)

    def work() -> dict[str, Any]:
        sites = clusters.connect("lab", without=lab.context.without)
        clusters.leave(sites)
        return {"hosts": [site.name for site in sites]}

    return work


def test_a_crashed_host_is_left_out_and_one_that_refuses_the_key_ends_the_run(
    labs: Labs,  # noqa: F811
    testbeds: Testbeds,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    testbed, lab = testbeds(3, "absent"), labs("shrink")
    work = real(lab, testbed, monkeypatch)
    keys = f"/home/{testbed.layout.user}/.ssh/authorized_keys"
    testbed.crash("h2")
    try:
        with pytest.raises(HostAway, match="h2: "):
            work()
        testbed.run_as_root("h3", ["mv", keys, f"{keys}.revoked"])
        with pytest.raises(HostError, match="h3: it refuses") as caught:
            with_policy(lab.context, STEP, work)
        assert not isinstance(caught.value, HostAway)
        assert lab.events() == []
        testbed.run_as_root("h3", ["mv", f"{keys}.revoked", keys])
        assert with_policy(lab.context, STEP, work) == {"hosts": ["h1", "h3"]}
    finally:
        testbed.boot("h2")
    (lost,) = lab.told(ev.WorkLost)
    assert lost.hosts == ["h2"]


def test_a_host_that_boots_again_is_waited_for(
    labs: Labs,  # noqa: F811
    testbeds: Testbeds,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    testbed, lab = testbeds(3, "absent"), labs("wait")
    work = real(lab, testbed, monkeypatch)
    testbed.crash("h1")
    emit = lab.context.emit

    def boot_when_awaited(cls: type[ev.Event], **fields: Any) -> None:
        emit(cls, **fields)
        if cls is ev.HostsAwaited:
            testbed.boot("h1")

    monkeypatch.setattr(lab.context, "emit", boot_when_awaited)
    try:
        assert with_policy(lab.context, STEP, work) == {"hosts": ["h1", "h2", "h3"]}
    finally:
        testbed.boot("h1")
    assert [awaited.hosts for awaited in lab.told(ev.HostsAwaited)] == [["h1"]]


def test_shrink_resumes_a_run_without_the_host_that_is_down(
    labs: Labs,  # noqa: F811
    testbeds: Testbeds,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The whole run process; only the training is none."""
    testbed, lab = testbeds(3, "absent"), labs("shrink")
    real(lab, testbed, monkeypatch)
    monkeypatch.setattr(over_hosts, "make_hosts_ready", MAKE_READY)
    monkeypatch.setattr(train, "run", lambda context, *_words: {"on": [*context.cluster_hosts()]})
    folder = create_run_folder("left")
    write_atomically(folder.plan, replace(lab.context.plan, code=deploy().name).to_json())
    with contextlib.closing(EventLog(folder.events)) as log:
        steps = [{"id": s.id, "kind": s.kind, "title": s.title} for s in lab.context.plan.steps]
        log.append(ev.RunCreated(t=1, run=folder.id, recipe="tiny", steps=steps))
        log.append(ev.RunStarted(t=2, pid=1, attempt=1))
    testbed.crash("h3")
    try:
        process = RunProcess(folder, StopSignals())
        assert process.run() == ExitCode.OK
    finally:
        testbed.boot("h3")
        process.log.close()
    state = folder.state()
    assert (state.status, state.attempt, state.without) == (RunStatus.DONE, 3, ["h3"])
    assert state.result("train")["on"] == ["h1", "h2"]
    assert sorted(state.result("provision")["hosts"]) == ["h1", "h2"]
    (lost,) = state.losses
    assert (lost.step, lost.hosts) == ("provision", ["h3"])
