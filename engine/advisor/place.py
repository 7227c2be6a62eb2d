"""The hosts of a job as what was measured there is filed under."""

from __future__ import annotations

from engine.advisor.job import Job


def place_of(job: Job) -> str:
    """The hosts of the cluster, else this machine: another place is measured anew."""
    if job.cluster:
        return ", ".join(f"{host.name}: {len(host.facts.cores)} cores" for host in job.cluster)
    return this_host(job)


def this_host(job: Job) -> str:
    """This machine."""
    facts = job.facts
    return f"{facts.hostname}, {facts.cpu_model}, {len(facts.cores)} cores"
