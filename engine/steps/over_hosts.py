"""What every step over the hosts of a cluster begins with: make them ready, connect, and clear what
was left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any

from engine import clusters, host_jobs
from engine import events as ev
from engine.environments import lock_of
from engine.errors import RunStopped
from engine.plan import Step
from engine.steps.context import Context
from engine.work import run_of_job
from hosts import bringup, folders
from hosts.inventory import LOCAL
from hosts.job import sweep_jobs
from hosts.preflight import one_folder, same_folder
from hosts.site import Site
from hosts.transport import HostProblem

TOLD_S = 0.3


def make_hosts_ready(context: Context, step: Step) -> dict[str, int]:
    """Complete the hosts of the cluster; how much was changed on each."""
    there = (s.environment for s in context.plan.steps if s.host == context.cluster)
    needed = {name for name in there if name}  # a program brings its own
    last: dict[str, float] = {}

    def report(host: str, phase: str, done: float, total: float) -> None:
        if context.stop_level():
            raise RunStopped("stopped on request")
        if time.monotonic() - last.get(host, 0.0) < TOLD_S and done < total:
            return
        last[host] = time.monotonic()
        phase = f"{host}: {phase}" if host else phase
        context.emit(ev.StepProgressed, step=step.id, phase=phase, done=done, total=total, unit="")

    sites = clusters.connect(context.cluster, without=context.without)
    try:
        outcomes = host_jobs.up(
            context.cluster, [lock_of(name) for name in sorted(needed)], report, sites=sites
        )
    finally:
        context.usage(step).moved(sum(site.transport.moved_bytes for site in sites))
        clusters.leave(sites)
    host_jobs.refuse(outcomes)
    return {outcome.host: len(outcome.changed) for outcome in outcomes}


def connect(context: Context) -> list[Site]:
    """The hosts of this attempt, the head first, aiok's tree at the same path on each."""
    sites = clusters.connect(context.cluster, without=context.without)
    known = list(context.cluster_hosts())
    clusters.leave([site for site in sites if site.name not in known])  # newer than the plan
    sites = [site for site in sites if site.name in known]
    if problems := same_folder({site.name: str(site.home) for site in sites}):
        clusters.leave(sites)
        raise clusters.unreachable(problems)
    return sites


def at_each(sites: Sequence[Site], what: Callable[[Site], Any]) -> list[Any]:
    """Do something on every host side by side; HostError lists all hosts where it failed."""

    def one(site: Site) -> Any:
        try:
            return what(site)
        except HostProblem as problem:
            return problem

    with ThreadPoolExecutor(clusters.AT_ONCE) as pool:
        found = list(pool.map(one, sites))
    if problems := [item for item in found if isinstance(item, HostProblem)]:
        raise clusters.unreachable(problems)
    return found


def clear_jobs(context: Context, site: Site) -> None:
    """End and remove what earlier attempts of this run left on a host."""
    jobs = site.home / "jobs"
    names = site.transport.run(["ls", "-1", str(jobs)]).stdout.splitlines()
    left = [str(jobs / name) for name in names if run_of_job(name) == context.folder.id]
    if left:
        agent = str(site.code(context.code.name) / "agent.py")
        sweep_jobs(site.transport, site.python, agent, left)
        site.transport.run(["rm", "-rf", *left])


def shared_place(cluster: str) -> PurePosixPath | None:
    """aiok's part of the folder that all hosts of a cluster see; None when none is declared."""
    shared = clusters.shared_folder(cluster)
    return PurePosixPath(shared) / "aiok" if shared else None


def make_shared(sites: Sequence[Site], place: PurePosixPath) -> None:
    """Make aiok's part of the shared folder; HostError when not all hosts see the same one."""

    def make(head: Site) -> list[HostProblem]:
        bringup.keep(head, place)
        head.transport.run(["mkdir", "-p", str(place)])
        return one_folder(sites, str(place))

    (problems,) = at_each(sites[:1], make)
    if problems:
        raise clusters.unreachable(problems)


def work_folder(context: Context, step: Step, site: Site) -> PurePosixPath:
    """Scratch space of a step on a host; the step removes it."""
    return site.home / "work" / f"{context.folder.tag}.{step.id}"


def data_on(context: Context, site: Site) -> PurePosixPath:
    """Where the training data lies on a host."""
    if site.name == LOCAL:
        return PurePosixPath(context.output_of("etl"))
    return place_on(context, site, context.plan.step("etl").identity)


def place_on(context: Context, site: Site, name: str) -> PurePosixPath:
    """Where something that all hosts get lies: once, where there is a folder that all see."""
    shared = shared_place(context.cluster)
    return shared / name if shared else site.output(name)


def send_data(context: Context, step: Step, sites: Sequence[Site]) -> None:
    """Training data to every host that lacks them."""
    send(context, step, sites, {context.plan.step("etl").identity: context.output_of("etl")})


def send(context: Context, step: Step, sites: Sequence[Site], sources: Mapping[str, Path]) -> None:
    """Folders of this machine to every host that lacks them, and files (DIGEST/NAME end theirs), by
    the names that `place_on` knows; the first host takes them for all that share a folder."""
    lock, done = Lock(), {(site.name, name): (0, 0) for site in sites for name in sources}

    def one(site: Site) -> None:
        for name, source in sources.items():

            def tell(sent: int, total: int, key: tuple[str, str] = (site.name, name)) -> None:
                with lock:
                    done[key] = (sent, total)
                    parts = list(done.values())
                context.emit(
                    ev.StepProgressed, step=step.id, phase="send data", unit="bytes",
                    done=sum(part[0] for part in parts), total=sum(part[1] for part in parts),
                )  # fmt: skip

            target = place_on(context, site, name)
            site.transport.run(["mkdir", "-p", str(target.parent)])
            if source.is_dir():
                folders.send_folder(site, source, target, tell)
            else:
                folders.send_file(site, source, target.parent.parent, tell)

    if shared := shared_place(context.cluster):
        make_shared(sites, shared)
    at_each(sites[:1] if shared else sites, one)
