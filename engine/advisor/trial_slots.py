"""How many trials of a search run side by side, and on which hosts: as far as each host's own
cores and memory go, since a trial lies on one host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine import catalog
from engine.advisor.job import Job
from engine.advisor.layout import ClusterHost
from engine.plan import Estimate, Step
from engine.programs import registry
from hosts.inventory import LOCAL

MEMORY_SHARE = 0.8  # of a host's memory, for trials together


@dataclass(frozen=True)
class Slots:
    """Trials at a time, and why so many."""

    count: int
    reason: str


def trials_at(host: ClusterHost, cores: int, memory_gib: float) -> int:
    """How many trials a host takes that need so many cores and GiB each."""
    count = host.capacity // cores
    if memory_gib > 0:
        count = min(count, int(MEMORY_SHARE * host.facts.memory_gib / memory_gib))
    return count


def advised_slots(job: Job, name: str, one: Estimate) -> Slots:
    """Trials at a time: each on cores of its own, they compute more than one on all cores. At least
    one, slow as it may be; one that fits nowhere is told by `obstacle`."""
    each, gib = _cores_of_trial(name), one.memory_gib
    hosts = job.cluster or [_this_host(job)]
    takes = {host.name: trials_at(host, each, gib) for host in hosts}
    count = sum(takes.values())
    by_cores = sum(host.capacity // each for host in hosts)
    if job.cluster:
        needs = f"{each} core{'s' * (each > 1)} and about {gib:.1f} GiB for each trial"
        shares = ", ".join(f"{taken} on {name}" for name, taken in takes.items())
        if not count:
            return Slots(1, f"no host has {needs}: one at a time, slower")
        return Slots(count, f"what the hosts take, {needs}: {shares}")
    cores, memory = job.facts.physical_cores, job.facts.memory_gib
    if count < by_cores:
        return Slots(max(1, count), f"each trial needs about {gib:.1f} of {memory:.1f} GiB")
    if each > 1:
        return Slots(max(1, count), f"each trial takes {each} of {cores} cores")
    return Slots(max(1, count), f"one trial for each of {cores} cores")


def _cores_of_trial(name: str) -> int:
    return registry.get(name).program.resources.cores if catalog.is_program(name) else 1


def _this_host(job: Job) -> ClusterHost:
    return ClusterHost(name=LOCAL, slots=max(1, job.facts.physical_cores), facts=job.facts)


def obstacle(job: Job, step: Step) -> str:
    """Why no host of the cluster can run a trial of a search step, "" where one can."""
    gib = memory_of_trial(step)
    if not job.cluster or any(host.facts.memory_gib >= gib for host in job.cluster):
        return ""
    there = ", ".join(f"{host.name} has {host.facts.memory_gib:.1f}" for host in job.cluster)
    return (
        f"a trial needs about {gib:.1f} GiB of memory and no host of {job.recipe.cluster} has so "
        f"much ({there}); choose other hosts, or raise model.settings.min_count"
        if not catalog.is_program(job.recipe.model.name) else
        f"a trial needs {gib:.1f} GiB of memory (resources.memory_gb) and no host of "
        f"{job.recipe.cluster} has so much ({there}); choose other hosts, or lower it"
    )  # fmt: skip


def memory_of_trial(step: Step) -> float:
    """GiB of one of the trials that a search step runs side by side, as planned."""
    part = step.settings["search"]
    at_once = min(int(part["parallel"]), int(part["trials"] or part["parallel"]))
    return step.estimate.memory_gib / max(1, at_once)


def hosts_for_trials(hosts: Sequence[ClusterHost], step: Step) -> list[ClusterHost]:
    """The hosts that take a trial of a planned search, each with as many slots as it takes; all of
    them as they are where none does."""
    settings, gib = step.settings, memory_of_trial(step)
    each = registry.planned(settings).program.resources.cores if "program" in settings else 1
    found = [(host, trials_at(host, each, gib)) for host in hosts]
    return [replace(host, slots=count) for host, count in found if count] or list(hosts)
