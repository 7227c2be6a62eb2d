"""Launch lines and rank layout for Intel MPI (impi-rt, inside the worker environment).

mpirun only starts processes here: ranks read their number from its environment and talk by gloo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hosts.probe import HostFacts

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the ranks lie on one host: `threads` cores each, bound to `masks[rank]`."""

    ranks: int
    threads: int
    cores: tuple[tuple[int, ...], ...]

    def variables(self) -> dict[str, str]:
        """What the ranks of this host get to know of it."""
        masks = ",".join(f"{sum(1 << core for core in cores):#x}" for cores in self.cores)
        return {
            "I_MPI_PIN_DOMAIN": f"[{masks}]",
            "OMP_NUM_THREADS": str(self.threads),
            "MKL_NUM_THREADS": str(self.threads),
        }


@dataclass(frozen=True, kw_only=True)
class HostRanks:
    """The ranks of one host of a cluster; `address` is where its other hosts reach it."""

    host: str
    address: str
    layout: Layout


def plan_layout(facts: HostFacts, ranks: int) -> Layout:
    """Cut the usable cores into `ranks` equal runs, NUMA node by NUMA node.

    With more ranks than cores the ranks share cores, one thread each.
    """
    order = [core for node in facts.numa for core in node]
    if ranks >= len(order):
        return Layout(
            ranks=ranks,
            threads=1,
            cores=tuple((order[rank % len(order)],) for rank in range(ranks)),
        )
    width = len(order) // ranks
    return Layout(
        ranks=ranks,
        threads=width,
        cores=tuple(tuple(order[rank * width : (rank + 1) * width]) for rank in range(ranks)),
    )


def share_ranks(capacities: Sequence[int], ranks: int) -> list[int]:
    """How many of `ranks` each host gets, in proportion to its capacity (slots or cores).

    Every host gets one before any gets its second; hosts past the number of ranks get none. The
    remainder goes to the hosts with the largest share left, the first of them first.
    """
    given = [0] * len(capacities)
    for _ in range(ranks):
        load = [
            (n + 1) / capacity if n else 0.0 for n, capacity in zip(given, capacities, strict=True)
        ]
        given[load.index(min(load))] += 1
    return given


def launch(prefix: str, layout: Layout, argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The argv and the environment that start `argv` as ranks on this host.

    `prefix` is the worker environment; its bin folder must be on PATH (mpirun is a script that
    looks there for its helpers). One host needs no remote shell: bootstrap is fork.
    """
    env = {**_variables(prefix), "I_MPI_HYDRA_BOOTSTRAP": "fork", **layout.variables()}
    return [f"{prefix}/bin/mpirun", "-n", str(layout.ranks), *argv], env


def launch_over_hosts(
    prefix: str, rsh: str, interface: str, hosts: Sequence[HostRanks], argv: Sequence[str]
) -> tuple[list[str], dict[str, str]]:
    """The same over several hosts, from the first of them: ranks in the order of the hosts.

    `rsh` is aiok's own remote shell (its key, its pinned host keys); `interface` the one of the
    first host that leads to the others. `prefix` and `argv` must hold on every host alike.
    """
    command = [f"{prefix}/bin/mpirun"]
    for number, host in enumerate(hosts):
        own = [
            word for key, value in host.layout.variables().items() for word in ("-env", key, value)
        ]
        command += [":"] if number else []
        command += ["-host", host.address, "-n", str(host.layout.ranks), *own, *argv]
    env = {
        **_variables(prefix),
        "I_MPI_HYDRA_BOOTSTRAP": "ssh",
        "I_MPI_HYDRA_BOOTSTRAP_EXEC": rsh,
        "I_MPI_HYDRA_IFACE": interface,
    }
    return command, env


def _variables(prefix: str) -> dict[str, str]:
    return {
        "I_MPI_ROOT": prefix,
        "PATH": f"{prefix}/bin:{SYSTEM_PATH}",
        "KMP_BLOCKTIME": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
