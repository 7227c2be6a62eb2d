"""Launch lines and rank layout for Intel MPI (impi-rt, inside the worker environment)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hosts.probe import HostFacts


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the ranks lie on one host: `threads` cores each, bound to `masks[rank]`."""

    ranks: int
    threads: int
    cores: tuple[tuple[int, ...], ...]


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


def launch(prefix: str, layout: Layout, argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The argv and the environment that start `argv` as ranks on this host.

    `prefix` is the worker environment; its bin folder must be on PATH (mpirun is a script that
    looks there for its helpers). One host needs no remote shell: bootstrap is fork.
    """
    masks = ",".join(f"{sum(1 << core for core in cores):#x}" for cores in layout.cores)
    env = {
        "I_MPI_ROOT": prefix,
        "PATH": f"{prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "I_MPI_HYDRA_BOOTSTRAP": "fork",
        "I_MPI_PIN_DOMAIN": f"[{masks}]",
        "OMP_NUM_THREADS": str(layout.threads),
        "MKL_NUM_THREADS": str(layout.threads),
        "KMP_BLOCKTIME": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    return [f"{prefix}/bin/mpirun", "-n", str(layout.ranks), *argv], env
