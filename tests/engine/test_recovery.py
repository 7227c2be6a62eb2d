"""The fault policies: what is tried again, on which hosts, how often, and what is told of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine import api, clusters, host_jobs, recovery
from engine import events as ev
from engine.clusters import Inventory, local_site
from engine.errors import (
    AiokError,
    ExitCode,
    HostAway,
    HostError,
    HostLost,
    InputError,
    RunStopped,
    StepFailed,
    WorkerLost,
)
from engine.plan import Plan, PlannedValue, Step
from engine.recovery import with_policy
from engine.run import RunProcess, StopSignals
from engine.state import RunState, RunStatus, fold
from engine.steps import etl, over_hosts, provision
from engine.steps.context import Context
from engine.store import (
    EventLog,
    RunFolder,
    cache_folder,
    create_run_folder,
    home,
    make_folder,
    read_events,
    write_atomically,
)
from hosts import facts as host_facts
from hosts.fake import FakeTransport
from hosts.site import Site
from hosts.transport import Completed, HostProblem, NoAnswer, Refusal

PROVISION = Step(id="provision", kind="provision", title="make ready")
STEP = Step(id="train", kind="train", title="train", host="lab")
REFUSAL = Refusal("h3", "its host key has changed: not connected")
LOSS = HostLost("h2 was lost", why="silent", todo="aiok resume RUN", log="/the/log")


class Lab:
    """A run on a cluster of three hosts that are only said to be there.

    `absent` holds, for each look in turn, who does not answer; the last one stays. `refusing` are
    those that answer and refuse to work, as long as they answer.
    """

    def __init__(self, folder: Path, policy: str, restarts: int, cluster: str = "lab") -> None:
        self.absent: list[set[str]] = [set()]
        self.refusing: set[str] = set()
        self.stop = 0
        self.made_ready = 0
        self.folder = RunFolder(folder)
        folder.mkdir()
        values = {"cluster": cluster, "faults.policy": policy, "faults.restarts": restarts}
        facts = host_facts.probe(str(folder))
        self.context = Context(
            folder=self.folder, log=EventLog(self.folder.events), attempt=1, site=local_site(),
            code=folder, stop_level=lambda: self.stop,
            plan=Plan(
                recipe="tiny", model="dlrm", steps=(PROVISION, STEP), environments=(),
                values=tuple(PlannedValue(key=k, value=v, origin="") for k, v in values.items()),
                facts={"localhost": facts, "h1": facts, "h2": facts, "h3": facts},
            ),
        )  # fmt: skip

    def reach(
        self, wanted: Sequence[Any], _known: Inventory
    ) -> tuple[list[Site], list[HostProblem]]:
        now = self.absent.pop(0) if len(self.absent) > 1 else self.absent[0]
        names = [entry.name for entry in wanted]
        return [], [
            *(NoAnswer(name, "no answer") for name in names if name in now),
            *(REFUSAL for name in names if name in self.refusing - now),
        ]

    def ready(self, _context: Context, _step: Step) -> None:
        self.made_ready += 1

    def events(self) -> list[ev.Event]:
        return read_events(self.folder.events, 0)[0]

    def told(self, cls: type[ev.Event]) -> list[Any]:
        return [event for event in self.events() if isinstance(event, cls)]


Labs = Callable[..., Lab]


@pytest.fixture
def labs(aiok_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Labs]:
    hosts = {name: {"address": f"10.0.0.{i}"} for i, name in enumerate(("h1", "h2", "h3"), 1)}
    data = {"hosts": hosts, "clusters": {"lab": {"hosts": list(hosts)}}}
    clusters.write_inventory(Inventory.model_validate(data))

    made: list[Lab] = []

    def make(policy: str, restarts: int = 3, cluster: str = "lab") -> Lab:
        lab = Lab(tmp_path / "run-1", policy, restarts, cluster)
        made.append(lab)
        monkeypatch.setattr(clusters, "reach", lab.reach)
        monkeypatch.setattr(over_hosts, "make_hosts_ready", lab.ready)
        monkeypatch.setattr(recovery, "LOOK_S", 0.1)
        return lab

    yield make
    for lab in made:
        lab.context.log.close()


def failing(times: int, loss: AiokError = LOSS) -> Callable[[], dict[str, Any]]:
    """Work that is lost so often, then ends well and says how often it was begun."""
    begun = 0

    def work() -> dict[str, Any]:
        nonlocal begun
        begun += 1
        if begun <= times:
            raise loss
        return {"begun": begun}

    return work


def test_stop_passes_a_loss_on_and_tells_nothing(labs: Labs) -> None:
    lab = labs("stop")
    with pytest.raises(HostLost, match="h2 was lost"):
        with_policy(lab.context, STEP, failing(1))
    assert lab.events() == []


def test_wait_goes_on_when_the_host_is_back(labs: Labs) -> None:
    lab = labs("wait")
    lab.absent = [{"h2"}, {"h2"}, {"h2"}, set()]
    assert with_policy(lab.context, STEP, failing(1)) == {"begun": 2}
    assert lab.made_ready == 1
    (lost,) = lab.told(ev.WorkLost)
    assert (lost.hosts, lost.policy, lost.restart, lost.restarts) == (["h2"], "wait", 1, 3)
    assert (lost.what, lost.log) == ("h2 was lost", "/the/log")
    (awaited,) = lab.told(ev.HostsAwaited)  # once, as long as nothing changes
    assert (awaited.hosts, awaited.why) == (["h2"], "h2: no answer")
    (again,) = lab.told(ev.WorkRestarted)
    assert (again.attempt, again.without) == (2, [])
    assert list(lab.context.cluster_hosts()) == ["h1", "h2", "h3"]
    waiting = fold(lab.events()[:2])
    assert waiting.status is RunStatus.WAITING
    assert waiting.status.is_live
    after = fold(lab.events())
    assert (after.status, after.attempt, after.awaited) == (RunStatus.RUNNING, 2, None)


def test_shrink_goes_on_without_the_host(labs: Labs) -> None:
    lab = labs("shrink")
    lab.absent = [{"h2"}]
    assert with_policy(lab.context, STEP, failing(1)) == {"begun": 2}
    assert list(lab.context.cluster_hosts()) == ["h1", "h3"]
    assert lab.told(ev.HostsAwaited) == []
    assert lab.told(ev.WorkRestarted)[0].without == ["h2"]


def test_shrink_ends_when_no_host_is_left(labs: Labs) -> None:
    lab = labs("shrink")
    lab.absent = [{"h1", "h2", "h3"}]
    with pytest.raises(HostLost) as caught:
        with_policy(lab.context, STEP, failing(1))
    assert caught.value.todo == "no host is left; aiok resume RUN"
    assert caught.value.exit_code is ExitCode.STOPPED


@pytest.mark.parametrize("policy", ["wait", "shrink"])
def test_a_rank_that_is_lost_while_its_host_answers_starts_again_there(
    labs: Labs, policy: str
) -> None:
    lab = labs(policy)
    assert with_policy(lab.context, STEP, failing(2)) == {"begun": 3}
    assert lab.context.attempt == 3
    assert [lost.hosts for lost in lab.told(ev.WorkLost)] == [[], []]
    assert list(lab.context.cluster_hosts()) == ["h1", "h2", "h3"]


def test_resume_remembers_who_was_left_out_and_says_so(
    labs: Labs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under `shrink`, or by an earlier resume, until all are taken back."""
    plan = labs("shrink").context.plan
    folder = create_run_folder("left")
    (home() / "code" / "c0").mkdir(parents=True)
    write_atomically(folder.plan, replace(plan, code="c0").to_json())
    log = EventLog(folder.events)
    steps = [{"id": s.id, "kind": s.kind, "title": s.title} for s in plan.steps]
    log.append(ev.RunCreated(t=1, run=folder.id, recipe="tiny", steps=steps))
    log.append(ev.RunStarted(t=2, pid=1, attempt=1))
    log.append(ev.WorkRestarted(t=3, step=STEP.id, attempt=2, without=["h2"]))
    log.append(ev.RunEnded(t=4, status="stopped", exit_code=4))
    log.close()
    launched: list[tuple[str, ...]] = []
    monkeypatch.setattr(api, "_launch", lambda _folder, without: launched.append(tuple(without)))
    api.resume(folder.id)
    api.resume(folder.id, ["h3"])
    api.resume(folder.id, all_hosts=True)
    assert launched == [("h2",), ("h2", "h3"), ()]
    with pytest.raises(InputError, match="no host is left") as caught:
        api.resume(folder.id, ["h1", "h3"])
    assert "--all-hosts" in caught.value.todo
    signals = StopSignals()
    signals.level = 1
    process = RunProcess(folder, signals, launched[1])
    assert process.run() == ExitCode.STOPPED
    process.log.close()
    state = folder.state()
    assert state.without == ["h2", "h3"]
    assert state.steps[PROVISION.id].notes == [
        ("info", "without h2, as before; all work again with --all-hosts")
    ]


def test_restarts_are_limited_and_the_run_ends_resumable(labs: Labs) -> None:
    lab = labs("wait", restarts=2)
    with pytest.raises(HostLost, match="h2 was lost") as caught:
        with_policy(lab.context, STEP, failing(9))
    assert "the 2 restarts (faults.restarts) are used up" in caught.value.todo
    assert [lost.restart for lost in lab.told(ev.WorkLost)] == [1, 2]


def test_a_killed_worker_on_this_machine_starts_again_and_ends_stopped(labs: Labs) -> None:
    lab = labs("shrink", restarts=1, cluster="localhost")
    killed = WorkerLost("rank 1 on localhost ended without a word")
    with pytest.raises(HostLost, match="rank 1 on localhost") as caught:
        with_policy(lab.context, STEP, failing(2, killed))
    assert caught.value.todo == (
        "the 1 restarts (faults.restarts) are used up; then: aiok resume RUN"
    )
    assert lab.context.attempt == 2
    assert lab.made_ready == 0


def test_stop_is_obeyed_while_it_waits(labs: Labs) -> None:
    lab = labs("wait")
    lab.absent = [{"h2"}]
    begun = time.monotonic()
    levels = iter([0] * 5 + [1] * 1000)
    lab.context.stop_level = lambda: next(levels)
    with pytest.raises(RunStopped, match="stopped on request"):
        with_policy(lab.context, STEP, failing(1))
    assert time.monotonic() - begun < 5
    assert lab.told(ev.WorkRestarted) == []


@pytest.mark.parametrize(
    "told", [StepFailed("the disk of h2 is full"), HostError("h2: no Python 3.11")]
)
def test_what_a_host_says_is_no_loss(labs: Labs, told: AiokError) -> None:
    lab = labs("wait")
    with pytest.raises(type(told)):
        with_policy(lab.context, STEP, failing(1, told))
    assert lab.events() == []


@pytest.mark.parametrize("policy", ["wait", "shrink"])
def test_a_short_outage_is_a_loss_though_all_hosts_answer_again(labs: Labs, policy: str) -> None:
    lab = labs(policy)
    away = clusters.unreachable([NoAnswer("h2", "the connection was lost")])
    assert with_policy(lab.context, STEP, failing(1, away)) == {"begun": 2}
    (lost,) = lab.told(ev.WorkLost)
    assert (lost.what, lost.hosts) == ("h2: the connection was lost", [])
    assert list(lab.context.cluster_hosts()) == ["h1", "h2", "h3"]
    assert lab.told(ev.HostsAwaited) == []


def test_only_hosts_that_gave_no_answer_are_away() -> None:
    full, gone = HostProblem("h1", "its disk is full"), NoAnswer("h2", "no answer")
    assert type(clusters.unreachable([full])) is HostError
    assert type(clusters.unreachable([full, REFUSAL])) is HostError
    assert type(clusters.unreachable([full, gone])) is HostAway
    told = host_jobs.told([host_jobs.Outcome("h2", problem=gone)])
    assert (type(told), told.what) == (HostAway, "h2: no answer")


def test_a_host_without_a_python_refuses_to_work(labs: Labs) -> None:
    labs("wait")
    fake = FakeTransport("h1")
    for python in clusters.PYTHONS[1:]:
        fake.answer(python, Completed(0, f"{python} cpython 3 9\n", ""))
    with pytest.raises(Refusal, match=r"no CPython 3\.11"):
        clusters.find_python(clusters.inventory().entry("h1"), fake)


@pytest.mark.parametrize("policy", ["wait", "shrink"])
@pytest.mark.parametrize("absent", [[set()], [{"h2"}]])
def test_a_host_that_refuses_ends_the_run_and_is_never_left_out(
    labs: Labs, policy: str, absent: list[set[str]]
) -> None:
    """Whatever else is lost."""
    lab = labs(policy)
    lab.absent, lab.refusing = absent, {"h3"}
    with pytest.raises(HostError, match="h3: its host key has changed") as caught:
        with_policy(lab.context, STEP, failing(1))
    assert caught.value.exit_code is ExitCode.ENVIRONMENT
    assert lab.context.without == ()
    assert lab.told(ev.WorkRestarted) == []


def test_a_host_that_comes_back_with_another_key_is_waited_for_no_longer(
    labs: Labs, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = labs("wait")
    monkeypatch.setattr(recovery, "REFUSED_S", 0.0)
    lab.absent, lab.refusing = [{"h3"}, {"h3"}, set()], {"h3"}
    with pytest.raises(HostError, match="h3: its host key has changed"):
        with_policy(lab.context, STEP, failing(1))
    assert [awaited.hosts for awaited in lab.told(ev.HostsAwaited)] == [["h3"]]
    assert lab.told(ev.WorkRestarted) == []


def test_a_host_that_boots_may_refuse_at_first(labs: Labs, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lets nobody in until it is up."""
    lab = labs("wait")
    refuses = iter([False, False, True, True, False])

    def booting(wanted: Sequence[Any], known: Inventory) -> tuple[list[Site], list[HostProblem]]:
        lab.refusing = {"h3"} if next(refuses) else set()
        return lab.reach(wanted, known)

    monkeypatch.setattr(clusters, "reach", booting)
    lab.absent = [{"h3"}, {"h3"}, set()]
    assert with_policy(lab.context, STEP, failing(1)) == {"begun": 2}
    assert next(refuses, None) is None
    assert len(lab.told(ev.WorkRestarted)) == 1


def provisioned(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The first step of a resumed run while h2 is down."""
    lab.absent = [{"h2"}, {"h2"}, set()]
    tried: list[tuple[str, ...]] = []

    def make_ready(context: Context, _step: Step) -> dict[str, int]:
        tried.append(context.without)
        if len(tried) == 1:
            raise clusters.unreachable([NoAnswer("h2", "no answer")])
        return dict.fromkeys(context.cluster_hosts(), 0)

    monkeypatch.setattr(over_hosts, "make_hosts_ready", make_ready)
    try:
        return provision.run(lab.context, PROVISION, lab.folder.path)
    finally:
        assert len(tried) <= 2  # the work makes ready itself: once an attempt


@pytest.mark.parametrize(
    ("policy", "hosts"), [("wait", ["h1", "h2", "h3"]), ("shrink", ["h1", "h3"])]
)
def test_a_host_that_is_down_at_a_resume_is_met_as_the_policy_says(
    labs: Labs, monkeypatch: pytest.MonkeyPatch, policy: str, hosts: list[str]
) -> None:
    lab = labs(policy)
    lab.context.log.append(loss_at(40))  # of the attempt before: not lost now
    assert list(provisioned(lab, monkeypatch)["hosts"]) == hosts
    (lost,) = lab.told(ev.WorkLost)
    assert (lost.step, lost.hosts, lost.steps_lost) == ("provision", ["h2"], 0)
    assert len(lab.told(ev.HostsAwaited)) == (policy == "wait")


def test_a_host_that_is_down_at_a_resume_ends_the_run_under_stop(
    labs: Labs, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HostError, match="h2: no answer"):
        provisioned(labs("stop"), monkeypatch)


def test_hosts_on_which_nothing_is_left_to_do_are_not_asked(
    labs: Labs, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = labs("stop")
    done = replace(STEP, identity="train-0")
    made = make_folder(cache_folder() / "train-0")
    for name in ("files.json", "result.json"):
        write_atomically(made / name, "{}")
    lab.context.plan = replace(lab.context.plan, steps=(PROVISION, done))
    assert "hosts" not in provisioned(lab, monkeypatch)


def test_data_are_prepared_anew_after_a_loss(
    labs: Labs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing of the lost attempt is in the output."""
    lab = labs("shrink")
    lab.absent = [{"h1"}]
    output = tmp_path / "output"
    output.mkdir()

    def prepare(context: Context, _step: Step, _plain: object, output: Path) -> dict[str, Any]:
        (output / f"attempt-{context.attempt}").touch()
        if context.attempt == 1:
            raise HostLost("h1 was lost")
        return {"rows": 1}

    monkeypatch.setattr(etl, "etl_over_hosts", prepare)
    settings = {"split": {}, "settings": {}}
    step = Step(id="etl", kind="etl", title="prepare", host="lab", settings=settings)
    assert etl.run(lab.context, step, output) == {"rows": 1}
    assert [path.name for path in output.iterdir()] == ["attempt-2"]
    assert lab.context.without == ("h1",)


def test_a_host_that_is_away_at_the_start_is_waited_for(labs: Labs) -> None:
    lab = labs("wait")
    lab.absent = [{"h3"}, set()]
    assert with_policy(lab.context, STEP, failing(1, HostError("h3: no answer"))) == {"begun": 2}
    assert lab.told(ev.HostsAwaited)[0].hosts == ["h3"]


def loss_at(step: int) -> ev.Measured:
    return ev.Measured(
        t=step, step="train", name="loss", value=0.5, split="train", rows=64 * step,
        step_count=step,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("saved", "lost"), [(None, (40, 2560)), (25, (15, 960)), (40, (0, 0)), (41, (0, 0))]
)
def test_what_was_done_since_the_last_checkpoint(saved: int | None, lost: tuple[int, int]) -> None:
    events: list[ev.Event] = [loss_at(step) for step in (10, 20, 40)]
    if saved is not None:
        events.append(ev.CheckpointSaved(t=50, step="train", step_count=saved))
    assert fold(events).unsaved() == lost
    assert RunState().unsaved() == (0, 0)
