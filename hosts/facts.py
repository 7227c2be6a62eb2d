"""The program that tells what a machine is: `facts.py FOLDER` prints one JSON object.

It is sent to `python3 -` on a host. FOLDER is the place whose disk counts. Standard library only,
Python >= 3.8.
"""

import contextlib
import glob
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from typing import Any, Dict, List

ISA_FLAGS = (
    "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8",
)  # fmt: skip


def probe(folder):  # type: (str) -> Dict[str, Any]
    """What this machine is."""
    model, flags, sockets = "", set(), set()
    with open("/proc/cpuinfo") as file:
        for line in file:
            key, _, value = line.partition(":")
            key = key.strip()
            if key == "model name":
                model = value.strip()
            elif key == "flags":
                flags = set(value.split())
            elif key == "physical id":
                sockets.add(value.strip())
    cores = sorted(os.sched_getaffinity(0))
    siblings = set()
    for core in cores:
        try:
            with open("/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list" % core) as file:
                siblings.add(file.read().strip())
        except OSError:
            siblings.add(str(core))
    place = folder
    while not os.path.exists(place):
        place = os.path.dirname(place) or "/"
    disk = shutil.disk_usage(place)
    return {
        "hostname": socket.gethostname(),
        "cpu_model": model or platform.processor(),
        "cores": cores,
        "physical_cores": len(siblings),
        "sockets": max(1, len(sockets)),
        "numa": numa_nodes(cores),
        "isa": [flag for flag in ISA_FLAGS if flag in flags],
        "memory_gib": round(memory_limit() / 2**30, 2),
        "memory_free_gib": round(free_memory() / 2**30, 2),
        "disk_free_gib": round(disk.free / 2**30, 2),
        "disk_total_gib": round(disk.total / 2**30, 2),
        "python": platform.python_version(),
        "python_path": sys.executable,
        "kernel": platform.release(),
        "java": java_version(),
        "clock": time.time(),
        "load1": os.getloadavg()[0],
    }


def free_memory():  # type: () -> int
    """Bytes that a program can still get."""
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) * 1024 for line in file if "MemAvailable" in line)


def memory_limit():  # type: () -> int
    """Bytes this process may use: the machine's memory or a smaller cgroup limit."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            with open(path) as file:
                total = min(total, int(file.read()))
    return total


def numa_nodes(cores):  # type: (List[int]) -> List[List[int]]
    """The usable processors of each NUMA node."""
    nodes = []
    for path in sorted(glob.glob("/sys/devices/system/node/node[0-9]*/cpulist")):
        with contextlib.suppress(OSError, ValueError):
            with open(path) as file:
                mine = [core for core in parse_cpu_list(file.read()) if core in cores]
            if mine:
                nodes.append(mine)
    return nodes or [cores]


def parse_cpu_list(text):  # type: (str) -> List[int]
    """ "0-3,8" -> [0, 1, 2, 3, 8]."""
    found = []  # type: List[int]
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        found.extend(range(int(first), int(last or first) + 1))
    return found


def java_version():  # type: () -> str
    """The version line of `java`, from JAVA_HOME or PATH; empty when there is none."""
    home = os.environ.get("JAVA_HOME")
    program = os.path.join(home, "bin", "java") if home else shutil.which("java")
    if not program:
        return ""
    try:
        # Without that option a JVM leaves /tmp/hsperfdata_USER behind.
        argv = [program, "-XX:-UsePerfData", "-version"]
        said = subprocess.run(argv, capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    lines = (said.stderr or said.stdout).decode(errors="replace").splitlines()
    return lines[0] if lines else ""


if __name__ == "__main__":
    print(json.dumps(probe(sys.argv[1])))
