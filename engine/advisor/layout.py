"""The hosts of a cluster, and how ranks lie on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hosts import mpi
from hosts.probe import HostFacts

MANY_CORES = 8  # above it a rank gets several cores


@dataclass(frozen=True, kw_only=True)
class ClusterHost:
    """A host of the cluster that trains."""

    name: str
    slots: int | None
    facts: HostFacts
    problems: Sequence[str] = ()  # a sentence for each thing that keeps it from working
    missing_gib: Mapping[str, float] = field(default_factory=dict)  # wheels it lacks
    room_gib: Mapping[str, float] = field(default_factory=dict)  # disk for what it lacks

    @property
    def capacity(self) -> int:
        """How many ranks it takes: what the inventory says, else one for each core, a few of them
        on a large host."""
        return self.slots or one_host_ranks(self.facts)


def one_host_ranks(facts: HostFacts) -> int:
    """Ranks that use a host well: one a core, on a large host one for several cores of a node."""
    cores = facts.physical_cores
    return cores if cores <= MANY_CORES else max(len(facts.numa), cores // MANY_CORES)


def lay_out(
    hosts: Sequence[ClusterHost], ranks: int | None = None
) -> list[tuple[ClusterHost, mpi.Layout]]:
    """How ranks lie on the hosts of a cluster, by default as many as they take; a host that gets
    none is left out."""
    capacities = [host.capacity for host in hosts]
    shares = mpi.share_ranks(capacities, sum(capacities) if ranks is None else ranks)
    return [
        (host, mpi.plan_layout(host.facts, share))
        for host, share in zip(hosts, shares, strict=True)
        if share
    ]


def spark_cores(slots: int | None, facts: HostFacts) -> int:
    """Cores that a host gives Spark: its slots, where the inventory names them."""
    return slots or len(facts.cores)
