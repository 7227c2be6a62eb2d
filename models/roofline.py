"""`python -m models.roofline spec.json`: what this machine can do at most, measured in seconds.

Two peaks: how fast torch multiplies large matrices in each number format the CPU has instructions
for, and how fast it streams arrays that no cache holds (copy and triad: McCalpin 1995, "Memory
Bandwidth and Machine Balance in Current High Performance Computers"). What a training reaches is
shown as a part of them (Williams et al. 2009, "Roofline"). The keys of the spec: models/README.md.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from models import cpu
from models.messages import Messenger, Note, Progress
from models.worker import StopFlag, run

BUDGET_S = 2.0
LEAST_ROUNDS = 3
MATRIX = 1024  # three fp32 matrices of 4 MiB: the kernel, not the memory, sets the pace
CACHES = 4  # an array is that many last-level caches, as STREAM asks
ARRAY_MIB = (64, 256)  # its bounds: three of them must fit into a small host, too
DISTURBED = 0.8  # below this part of the cores' time the peaks are too low to trust ...
PATIENCE = 3  # ... and the measuring goes on for so many times its budget: the load may end


@dataclass
class Case:
    """One operation to time: `work` operations or bytes a call, `best` the most in a second."""

    name: str
    call: Callable[[], Any]
    work: float
    best: float = 0.0

    def time(self) -> None:
        """Call once; keep the rate if it is the best so far."""
        begun = time.perf_counter()
        self.call()
        self.best = max(self.best, self.work / (time.perf_counter() - begun))


def measure(spec: dict[str, Any], messenger: Messenger, stop: StopFlag) -> dict[str, Any]:
    """The peaks of the threads in the spec: GFLOP/s by number format, GB/s of memory."""
    threads = int(spec["threads"])
    cpu.prepare(threads, keep_memory=False)
    matmul = matmul_cases(MATRIX)
    array_bytes = array_size(cpu.last_level_cache())
    memory = memory_cases(array_bytes)
    share = best_of([*matmul, *memory], threads, messenger, stop)
    if share < DISTURBED * threads:
        text = f"the peaks may be too low: other programs took {1 - share / threads:.0%} of the CPU"
        messenger.send(Note(text=text, level="warning"))
    return {
        "threads": threads,
        "matmul_gflops": {case.name: round(case.best / 1e9, 2) for case in matmul},
        "memory_gb_per_s": round(max(case.best for case in memory) / 1e9, 2),
        "memory": {case.name: round(case.best / 1e9, 2) for case in memory},
        "matrix": MATRIX, "array_mib": array_bytes >> 20, "cores_kept": round(share, 2),
    }  # fmt: skip


def best_of(cases: list[Case], threads: int, messenger: Messenger, stop: StopFlag) -> float:
    """Time all cases in turns for BUDGET_S; returns how many cores' time the process got.

    A peak is the best of many short tries, not their median: nothing makes a machine faster than
    it is, while any other program makes it slower. In turns, so that a busy moment hits all.
    """
    for case in cases:
        case.call()  # pages and kernels are made ready outside the clock
    begun, used, rounds, share = time.perf_counter(), time.process_time(), 0, 0.0
    limit = BUDGET_S
    while (gone := time.perf_counter() - begun) < limit or rounds < LEAST_ROUNDS:
        stop.check()
        for case in cases:
            case.time()
        rounds += 1
        messenger.send(Progress(phase="measure", done=min(gone, limit), total=limit, unit="s"))
        share = (time.process_time() - used) / (time.perf_counter() - begun)
        limit = BUDGET_S * (PATIENCE if share < DISTURBED * threads else 1)
    return share


def matmul_cases(n: int, flags: set[str] | None = None) -> list[Case]:
    """Products of [n, n] matrices in fp32 and in each format the CPU multiplies natively."""
    left, right = torch.rand(n, n), torch.rand(n, n)
    out = torch.empty(n, n)
    cases = [Case("fp32", lambda: torch.mm(left, right, out=out), 2.0 * n**3)]
    native = cpu.native_instructions(flags)
    if "bf16" in native:
        a, b = left.bfloat16(), right.bfloat16()
        cases.append(Case("bf16", lambda: torch.mm(a, b), 2.0 * n**3))
    if "int8" in native:
        x, y = (torch.randint(-128, 128, (n, n), dtype=torch.int8) for _ in "xy")
        cases.append(Case("int8", lambda: torch._int_mm(x, y), 2.0 * n**3))
    return cases


def memory_cases(array_bytes: int) -> list[Case]:
    """STREAM's copy and triad over fp32 arrays; bytes as STREAM counts them: read and written."""
    a, b, c = (torch.ones(array_bytes // 4) for _ in "abc")
    return [
        Case("copy", lambda: a.copy_(b), 2.0 * array_bytes),
        Case("triad", lambda: torch.add(b, c, alpha=3.0, out=a), 3.0 * array_bytes),
    ]


def array_size(cache_bytes: int) -> int:
    """Bytes of one array: well beyond the last-level cache, within ARRAY_MIB."""
    low, high = (mib << 20 for mib in ARRAY_MIB)
    return min(max(CACHES * cache_bytes, low), high)


if __name__ == "__main__":
    sys.exit(run(measure))
