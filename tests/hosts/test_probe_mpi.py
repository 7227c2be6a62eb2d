"""Host facts of this machine, and the layout of ranks over cores."""

from __future__ import annotations

import ast
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosts import facts as programs
from hosts import mpi
from hosts.job import AGENT
from hosts.local import LocalTransport
from hosts.probe import FACTS, HostFacts, free_port, probe
from hosts.transport import HostProblem


def facts_of(numa: list[list[int]]) -> HostFacts:
    cores = [core for node in numa for core in node]
    base = probe(LocalTransport(), sys.executable, "/")
    return replace(base, cores=cores, numa=numa, physical_cores=len(cores))


BASE = facts_of([[0, 1]])


def test_probe_agrees_with_the_system(tmp_path: Path) -> None:
    facts = probe(LocalTransport(), sys.executable, str(tmp_path / "not" / "there"))
    assert facts.cores == sorted(os.sched_getaffinity(0))
    assert facts.hostname == os.uname().nodename
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    assert 0.5 <= facts.memory_gib <= pages + 0.1
    assert facts.disk_free_gib > 0
    assert ("avx2" in facts.isa) == (" avx2 " in Path("/proc/cpuinfo").read_text())


def test_what_runs_on_hosts_has_python_3_8_syntax() -> None:
    for program in (AGENT, FACTS):
        ast.parse(program.read_text(encoding="utf-8"), feature_version=(3, 8))


def test_agent_without_arguments_explains_itself_and_fails() -> None:
    done = subprocess.run([sys.executable, str(AGENT)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "agent.py start FOLDER" in done.stdout


def test_cpu_list() -> None:
    assert programs.parse_cpu_list("0-3,8\n") == [0, 1, 2, 3, 8]


@given(nodes=st.integers(1, 4), width=st.integers(1, 16), ranks=st.integers(1, 80))
def test_layout_gives_every_rank_its_own_cores(nodes: int, width: int, ranks: int) -> None:
    numa = [list(range(n * width, (n + 1) * width)) for n in range(nodes)]
    facts = replace(BASE, cores=list(range(nodes * width)), numa=numa)
    layout = mpi.plan_layout(facts, ranks)
    assert len(layout.cores) == ranks
    assert all(len(cores) == layout.threads for cores in layout.cores)
    used = [core for cores in layout.cores for core in cores]
    assert set(used) <= set(facts.cores)
    if ranks <= len(facts.cores):
        assert len(used) == len(set(used))


def test_launch_binds_ranks_by_hex_masks() -> None:
    layout = mpi.Layout(ranks=2, threads=2, cores=((0, 1), (2, 3)))
    argv, env = mpi.launch("/env", layout, ["python", "-m", "x"])
    assert argv == ["/env/bin/mpirun", "-n", "2", "python", "-m", "x"]
    assert env["I_MPI_PIN_DOMAIN"] == "[0x3,0xc]"
    assert env["OMP_NUM_THREADS"] == "2"
    assert env["PATH"].startswith("/env/bin:")


def test_ports_are_sought_from_anywhere_in_their_range() -> None:
    """Two runs that start together ask before either listens: they must not get the same one."""
    with LocalTransport() as here, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = {free_port(here, sys.executable, "127.0.0.1", port - 9, port) for _ in range(12)}
        assert len(found) > 1
        assert found <= set(range(port - 9, port))
        with pytest.raises(HostProblem, match=f"no port from {port} to {port} is free"):
            free_port(here, sys.executable, "127.0.0.1", port, port)
