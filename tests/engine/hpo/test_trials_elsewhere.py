"""Trials on other hosts: what they need goes there, what they make comes back, a dead one is left.

The other hosts are folders of this machine, reached through the interface of any transport.
"""

from __future__ import annotations

import json
import queue
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from bench import fake_training, search_faults
from engine import events as ev
from engine.clusters import local_site
from engine.environments import lock_of
from engine.hpo import optimizers
from engine.hpo import search as search_module
from engine.hpo.experiment import study_of
from engine.hpo.leases import Lease, Slot
from engine.hpo.schema import Search as SearchPart
from engine.hpo.search import Search
from engine.hpo.trials import Trial, TrialState
from engine.plan import read_plan
from engine.steps import over_hosts
from engine.steps import search as search_step
from engine.steps.context import Context
from engine.steps.trial_runner import TrialListener, TrialRunner
from engine.steps.trial_training import TrialTraining
from engine.store import EventLog, home, read_events
from hosts.local import LocalTransport
from hosts.site import Site
from hosts.transport import HostProblem
from models import catalog


class Elsewhere(LocalTransport):
    """A host that is a folder; one that is down answers nothing."""

    def __init__(self, name: str) -> None:
        self.host, self.down = name, False

    def _check(self) -> None:
        if self.down:
            raise HostProblem(self.host, "it does not answer")

    def run(self, *args: Any, **kwargs: Any) -> Any:
        self._check()
        return super().run(*args, **kwargs)

    def start(self, *args: Any, **kwargs: Any) -> Any:
        self._check()
        return super().start(*args, **kwargs)

    def put(self, *args: Any) -> None:
        self._check()
        super().put(*args)


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    """A run with a search, in a home of its own."""
    with search_faults.fake_home(tmp_path / "home"):
        folder = search_faults.new_run(trials=4, slots=2, pause_s=0.02)
        log = EventLog(folder.events)
        yield Context(
            folder=folder, plan=read_plan(folder.plan), log=log, attempt=1, site=local_site(),
            code=home() / "code" / "fake", stop_level=lambda: 0,
        )  # fmt: skip
        log.close()


def test_the_files_of_a_programs_trial_stay_as_it_left_them(
    context: Context, tmp_path: Path
) -> None:
    step = context.plan.step("search")
    names = ("events.jsonl", "result.json", "files.json", "model.json")
    best = Trial(0, {}, state=TrialState.FINISHED, token=1, host="localhost", values={"auc": 0.5})
    context.emit(ev.TrialQueued, step="search", trial=0, assignment={}, origin="default")
    for settings, place in ((step.settings, ""), ({**step.settings, "program": {}}, "trial")):
        step = replace(step, settings=settings)
        runner = TrialRunner(context, step, TrialTraining(context, step, 1), {}, ["auc"])
        lease = Lease(number=0, token=1, assignment={}, slot=Slot(host="localhost", cores=()))
        files = runner.files(lease)
        files.output.mkdir(parents=True, exist_ok=True)
        mine = names if place else names[-1:]
        for name in mine:
            (files.output / name).write_text(f"my {name}")
        files.outcome.write_text('{"auc": 0.5}')
        output = tmp_path / f"output-{place}"
        output.mkdir()
        result = search_step._keep(context, step, runner, best, {0: best}, output)
        assert (result["trial"], result["auc"]) == (0, 0.5)
        for name in mine:
            assert (files.output / name).read_text() == f"my {name}"
            assert (output / place / name).read_text() == f"my {name}"
        assert b"trial_queued" in (output / "events.jsonl").read_bytes()


def other(context: Context, name: str, place: Path) -> Site:
    """A host with environment and code, as the provision step leaves it."""
    site = Site(name=name, transport=Elsewhere(name), home=PurePosixPath(place),
                python=local_site().python, address="127.0.0.1")  # fmt: skip
    shutil.copytree(context.code, str(site.code("fake")))
    environment = Path(site.environment(lock_of("torch")))
    shutil.copytree(home() / "envs" / environment.name, environment, symlinks=True)
    return site


def search(context: Context, sites: list[Site], slots: list[Slot]) -> tuple[Search, TrialRunner]:
    step = context.plan.step("search")
    part = SearchPart.model_validate(step.settings["search"])
    study = study_of(part, catalog.load("dlrm"), step.settings["settings"], "auc", 7)
    over_hosts.send_data(context, step, sites)
    by_name = {site.name: site for site in sites}
    runner = TrialRunner(context, step, TrialTraining(context, step, 1), by_name, ["auc"])
    trials = search_module.fold(read_events(context.folder.events, 0)[0]).trials
    made = Search(study, optimizers.make("random", study), runner, slots, context.log.append,
                  trials=trials)  # fmt: skip
    return made, runner


def slot(site: Site, core: int = 0) -> Slot:
    return Slot(host=site.name, cores=(core,))


def test_trials_on_another_host_come_home(context: Context, tmp_path: Path) -> None:
    site = other(context, "b", tmp_path / "b")
    made, runner = search(context, [site], [slot(site), slot(site)])
    best = made.run()
    assert {trial.state for trial in made.trials.values()} == {TrialState.FINISHED}
    assert {trial.host for trial in made.trials.values()} == {"b"}
    lease = Lease(number=best.number, token=best.token, assignment=best.assignment, slot=slot(site))
    kept = runner.files(lease).home.output / "model.json"
    assert json.loads(kept.read_text())["auc"] == fake_training.auc(dict(best.assignment))
    runner.close()
    assert not list(Path(tmp_path / "b" / "work").iterdir())
    assert not list(Path(tmp_path / "b" / "jobs").iterdir())


def test_a_host_that_dies_gets_no_more_trials(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_module, "REST_S", 0.01)
    good, dead = other(context, "b", tmp_path / "b"), other(context, "c", tmp_path / "c")
    made, _ = search(context, [good, dead], [slot(good), slot(dead)])
    assert isinstance(dead.transport, Elsewhere)
    dead.transport.down = True
    made.run()
    assert {(t.state, t.host) for t in made.trials.values()} == {(TrialState.FINISHED, "b")}
    events = read_events(context.folder.events, 0)[0]
    lost = [e for e in events if isinstance(e, ev.TrialEnded) and e.state == "interrupted"]
    assert len(lost) == search_module.MOST_LOSSES
    assert all("c: it does not answer" in event.what for event in lost)


def test_what_a_host_had_finished_is_fetched_by_the_next_engine(
    context: Context, tmp_path: Path
) -> None:
    site = other(context, "b", tmp_path / "b")
    _, runner = search(context, [site], [slot(site)])
    lease = Lease(number=3, token=9, assignment={}, slot=slot(site))
    assert runner.recover(lease) is None
    files = runner.files(lease)
    files.output.mkdir(parents=True)
    (files.output / "model.json").write_text("{}")
    files.outcome.write_text(json.dumps({"best": {"valid": {"auc": 0.75}}}))
    files.here.mkdir(parents=True)
    files.spec.write_text("{}")
    found = runner.recover(lease)
    assert found is not None
    assert (found.state, found.values["auc"]) == (TrialState.FINISHED, 0.75)
    assert (files.home.output / "model.json").read_text() == "{}"


def test_memory_of_trials_side_by_side_adds_up_and_that_of_a_slot_does_not(
    context: Context, tmp_path: Path
) -> None:
    step = context.plan.step("search")
    for number, core, gib in ((0, 0, 1.0), (1, 1, 2.0), (2, 0, 1.5)):
        slot = Slot(host="localhost", cores=(core,))
        lease = Lease(number=number, token=number + 1, assignment={}, slot=slot)
        listener = TrialListener(context, step, lease, tmp_path / "trial.log", queue.Queue())
        listener.sample("localhost", {"t": float(number), "job_memory_gib": gib})
        listener.close()
    assert context.usage(step).actual(60.0, {}, tmp_path / "none")["memory_gib"] == 3.5
