"""What every step over the hosts of a cluster begins with: connect, and clear what was left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any

from engine import clusters
from engine.steps.context import Context
from engine.work import run_of_job
from hosts import bringup
from hosts.job import sweep_jobs
from hosts.preflight import one_folder, same_folder
from hosts.site import Site
from hosts.transport import HostProblem


def connect(context: Context) -> list[Site]:
    """The hosts of this attempt, the head first, aiok's tree at the same path on each."""
    sites = clusters.connect(context.cluster, without=context.without)
    known = list(context.cluster_hosts())
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
    bringup.keep(sites[0], place)
    sites[0].transport.run(["mkdir", "-p", str(place)])
    if problems := one_folder(sites, str(place)):
        raise clusters.unreachable(problems)
