"""What a machine is: HostFacts, told by a program that is sent there."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hosts.transport import HostProblem, Transport, clean

FACTS = Path(__file__).with_name("facts.py")


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


def probe(transport: Transport, python: str, folder: str) -> HostFacts:
    """Ask a host for its facts; `folder` is the place whose disk counts. Nothing is put there."""
    done = transport.run([python, "-I", "-S", "-", folder], stdin=FACTS.read_bytes(), timeout_s=30)
    try:
        said: dict[str, Any] = json.loads(done.stdout)
        told: dict[str, Any] = {name: clean(value) if isinstance(value, str) else value
                                for name, value in said.items()}  # fmt: skip
        return HostFacts(**{f.name: told[f.name] for f in fields(HostFacts)})
    except (ValueError, KeyError, TypeError):
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise HostProblem(transport.host, f"the probe failed: {last}") from None


@dataclass(frozen=True)
class Route:
    """Which way a host takes to an address: its interface and its own address on it."""

    interface: str
    address: str


ROUTE = """
import fcntl, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
    probe.connect((sys.argv[1], 9))  # UDP: nothing is sent
    own = probe.getsockname()[0]
    for _, name in socket.if_nameindex():
        try:
            answer = fcntl.ioctl(probe.fileno(), 0x8915, struct.pack("256s", name.encode()[:15]))
        except OSError:
            continue
        if socket.inet_ntoa(answer[20:24]) == own:
            print(name, own)
"""


def route_to(transport: Transport, python: str, address: str) -> Route:
    """The way from a host to an address; HostProblem when there is none."""
    done = transport.run([python, "-I", "-S", "-c", ROUTE, address], timeout_s=20)
    words = done.stdout.split()
    if len(words) != 2:
        last = (done.stderr.strip().splitlines() or ["no interface has that address"])[-1]
        raise HostProblem(
            transport.host, f"it has no way to {address}", last,
            "check the address, or set cluster_address and interface in the inventory",
        )  # fmt: skip
    return Route(words[0], words[1])


FREE_PORT = """
import random, socket, sys
ports = range(int(sys.argv[2]), int(sys.argv[3]))
for port in random.sample(ports, len(ports)):
    with socket.socket() as trial:
        try:
            trial.bind((sys.argv[1], port))
        except OSError:
            continue
    print(port)
    break
"""


def free_port(transport: Transport, python: str, address: str, first: int, last: int) -> int:
    """A port of a host on which nobody listens, first <= port <= last; HostProblem if none is.

    Any of them: who asks at the same moment hardly ever gets the same one.
    """
    argv = [python, "-I", "-S", "-c", FREE_PORT, address, str(first), str(last + 1)]
    said = transport.run(argv, timeout_s=20).stdout.strip()
    if not said.isdigit():
        raise HostProblem(transport.host, f"no port from {first} to {last} is free on {address}")
    return int(said)
