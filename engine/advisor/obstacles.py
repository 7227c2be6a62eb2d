"""What would make a run fail, known before it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.advisor import trial_slots
from engine.advisor.estimate import environments_there, hosts_room_gib
from engine.advisor.etl_place import place_etl
from engine.advisor.job import Job
from engine.environments import WORKS_IN
from engine.errors import EnvironmentProblem
from engine.plan import Plan, Step
from hosts import java
from hosts.inventory import LOCAL


def refuse(plan: Plan) -> None:
    """EnvironmentProblem with all obstacles of a plan, if it has any."""
    if plan.problems:
        raise EnvironmentProblem("\n".join(plan.problems))


def obstacles(job: Job, steps: Sequence[Step], values: Mapping[str, Any]) -> list[str]:
    """What would make the run fail, known before it starts."""
    problems = [problem for host in job.cluster for problem in host.problems]
    need = sum(step.estimate.disk_gib for step in steps if not step.reuse)
    need -= hosts_room_gib(job, steps)  # on their disks, which are looked at below
    if need > job.facts.disk_free_gib:
        problems.append(
            f"the disk has {_size(job.facts.disk_free_gib)} free, the run needs about "
            f"{_size(need)}; "
            "free some (aiok clean), or set AIOK_HOME to a larger disk"
        )
    problems += _host_disks(job, environments_there(job, steps))
    memory = max(step.estimate.memory_gib for step in steps if step.host == LOCAL)
    if memory > job.facts.memory_gib:
        problems.append(
            f"a step needs about {memory:.1f} GiB of memory, "
            f"this machine has {job.facts.memory_gib:.1f}"
        )
    trials = (trial_slots.obstacle(job, step) for step in steps if step.kind == "search")
    problems += filter(None, trials)
    if values["train.environment"] == "ipex" and "avx2" not in job.facts.isa:
        problems.append(
            "Intel Extension for PyTorch needs a CPU with AVX2 and this host has none; "
            "set train.environment=torch"
        )
    return problems + _java_problems(job, values)


def _host_disks(job: Job, needed: Sequence[str]) -> list[str]:
    """Hosts without space for the environments that this recipe needs there; the preflight, which
    knows no recipe, has counted that of `train` alone."""
    problems = []
    for host in job.cluster:
        lacks = [name for name in needed if name in host.room_gib]
        need, free = sum(host.room_gib[name] for name in lacks), host.facts.disk_free_gib
        if need > free and lacks != [WORKS_IN]:
            problems.append(
                f"{host.name}: {_size(free)} free, the environments {' and '.join(lacks)} need "
                f"about {_size(need)}; free some, or choose another work_folder in the inventory"
            )
    return problems


def _java_problems(job: Job, values: Mapping[str, Any]) -> list[str]:
    """Spark needs Java, where its driver and its workers run."""
    if values["etl.engine"] != "spark":
        return []
    place = place_etl(job)
    if place is not None:
        lacking = [host.name for host in job.cluster if not java.is_fit(host.facts.java)]
        return [java.is_missing(lacking)] if lacking and not job.has_jdk else []
    address = str(values["etl.address"] or "")
    if address.startswith("sc://") or job.facts.java:
        return []
    return [
        "the plan needs Java 17 or 21 for Apache Spark and this host has none; install it "
        "(Debian: apt-get install openjdk-17-jre-headless), or set etl.engine=sail"
    ]


def _size(gib: float) -> str:
    """A size as people read it: 30 MiB, 2.50 GiB."""
    return f"{gib * 1024:.0f} MiB" if gib < 0.1 else f"{gib:.2f} GiB"
