"""What a training or scoring process asks of its CPU: threads, number formats, memory."""

from __future__ import annotations

import ctypes
import resource
from pathlib import Path

import torch

_MALLOC_TRIM_THRESHOLD, _MALLOC_MMAP_THRESHOLD = -1, -3  # the names of mallopt(3)
_KEEP_BYTES = 1 << 30
FLOPS_A_THREAD = 2e7  # about a millisecond of one core


def prepare(threads: int, keep_memory: bool) -> None:
    """Set the threads of this process and flush denormal numbers to zero.

    `keep_memory` makes the C library keep freed blocks up to 1 GiB instead of giving them back to
    the kernel: a training step frees and asks for the same few megabytes again and again, and the
    page faults of that cost up to half of its CPU time.
    """
    torch.set_num_threads(max(1, threads))
    torch.set_flush_denormal(True)
    if keep_memory:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it, musl has not
        if mallopt is not None:
            mallopt(_MALLOC_MMAP_THRESHOLD, _KEEP_BYTES)
            mallopt(_MALLOC_TRIM_THRESHOLD, _KEEP_BYTES)


def worthwhile_threads(threads: int, flops: float) -> int:
    """How many of `threads` pay for a step of `flops`: each gets at least FLOPS_A_THREAD.

    Threads that wait for each other at every small operation make it slower, ten times where
    another process takes their core. The rule looks at the work alone, so it gives the same sums.
    """
    return max(1, min(threads, int(flops // FLOPS_A_THREAD)))


def choose_precision(wanted: str, flags: set[str] | None = None) -> tuple[str, str]:
    """The precision to compute in, "fp32" or "bf16", and the reason in words.

    `wanted` is fp32, bf16 or auto; auto takes bf16 only where the CPU multiplies it natively.
    """
    native = native_instructions(flags).get("bf16")
    if wanted == "fp32":
        return "fp32", "fp32 was asked for"
    if wanted == "bf16":
        return "bf16", f"bf16 was asked for ({'this CPU has ' + native if native else 'emulated'})"
    if native:
        return "bf16", f"this CPU has {native}"
    return "fp32", "this CPU has neither AMX nor AVX512-BF16"


def native_instructions(flags: set[str] | None = None) -> dict[str, str]:
    """Number formats below fp32 that the CPU multiplies natively: format -> its instructions."""
    flags = cpu_flags() if flags is None else flags
    known = {"bf16": ("amx_bf16", "avx512_bf16"),
             "int8": ("amx_int8", "avx512_vnni", "avx_vnni")}  # fmt: skip
    return {
        form: next(name for name in names if name in flags)
        for form, names in known.items() if flags & set(names)
    }  # fmt: skip


def cpu_flags() -> set[str]:
    """The feature flags of the first processor, as Linux names them; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return set()
    for line in text.splitlines():
        if line.startswith("flags"):
            return set(line.partition(":")[2].split())
    return set()


def last_level_cache() -> int:
    """Bytes of the first processor's largest cache as Linux tells them; 0 where it does not."""
    sizes = [0]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        try:
            text = path.read_text(encoding="ascii").strip()
            sizes.append(int(text[:-1]) << {"K": 10, "M": 20}[text[-1]])
        except (OSError, ValueError, KeyError, IndexError):
            continue  # a kernel that says it otherwise, or not at all
    return max(sizes)


def peak_rss_gib() -> float:
    """The largest resident memory of this process so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
