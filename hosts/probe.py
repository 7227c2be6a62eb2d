"""What a machine is: HostFacts, read by the agent on it."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

from hosts.transport import HostProblem, Transport


@dataclass(frozen=True, kw_only=True)
class HostFacts:
    """Facts of a host. Memory and disk in GiB; `cores` are processor ids this user may use."""

    hostname: str
    cpu_model: str
    cores: list[int]
    physical_cores: int
    sockets: int
    numa: list[list[int]]
    isa: list[str]
    memory_gib: float
    memory_free_gib: float
    disk_free_gib: float
    disk_total_gib: float
    python: str
    python_path: str
    kernel: str
    java: str
    clock: float
    load1: float

    @property
    def has_bf16(self) -> bool:
        """Whether bf16 arithmetic is native (AMX or AVX512-BF16)."""
        return bool({"amx_bf16", "avx512_bf16"} & set(self.isa))


def probe(transport: Transport, python: str, agent: str, folder: str) -> HostFacts:
    """Ask a host for its facts; `folder` is the place whose disk counts."""
    done = transport.run([python, "-I", "-S", agent, "probe", folder], timeout_s=30)
    try:
        said: dict[str, Any] = json.loads(done.stdout)
        return HostFacts(**{f.name: said[f.name] for f in fields(HostFacts)})
    except (ValueError, KeyError, TypeError):
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise HostProblem(transport.host, f"the probe failed: {last}") from None
