"""The processes that a worker's command has started, whatever they did to get away.

The worker is made the reaper of its descendants: one that leaves its group and its session, drops
its environment and outlives its parent becomes a child of the worker. Linux; standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
KILLED_WITHIN_S = 10.0


def adopt_orphans() -> None:
    """From now on descendants whose parent ends become children of this process; OSError when the
    kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl: cannot adopt orphans")


def descendants(root: int) -> list[int]:
    """The pids below a process; zombies are not in it."""
    children: dict[int, list[int]] = {}
    zombies = set()
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = Path("/proc", entry, "stat").read_bytes().rpartition(b")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(entry))
            if fields[0] == b"Z":
                zombies.add(int(entry))
    found, todo = [], [root]
    while todo:
        below = children.get(todo.pop(), [])
        todo += below
        found += [pid for pid in below if pid not in zombies]
    return found


def end_all(root: int, grace_s: float, meanwhile: Callable[[], None]) -> int:
    """TERM to all descendants, KILL to those that are left after `grace_s`; how many there were.
    `meanwhile` is called now and then while they end."""
    first = descendants(root)
    _signal(first, signal.SIGTERM)
    _signal(first, signal.SIGCONT)  # a stopped process does not see TERM
    wait_for_all(root, grace_s, meanwhile)
    end = time.monotonic() + KILLED_WITHIN_S
    while time.monotonic() < end and (left := descendants(root)):
        _signal(left, signal.SIGKILL)
        meanwhile()
        time.sleep(0.02)
    return len(first)


def wait_for_all(root: int, seconds: float, meanwhile: Callable[[], None]) -> None:
    """Until no descendant is left, or so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and descendants(root):
        meanwhile()
        time.sleep(0.05)


def reap(but: int) -> None:
    """Bury the adopted children that have ended, and leave the exit code of child `but` to its
    owner."""
    with contextlib.suppress(ChildProcessError):
        while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if found.si_pid == but:
                return
            os.waitpid(found.si_pid, os.WNOHANG)


def memory_bytes(pids: Sequence[int], limit: float) -> int:
    """Memory of processes together: resident pages, and only where their sum is above `limit` the
    exact share of those they have in common."""
    resident = sum(_resident(pid) for pid in pids)
    return resident if resident <= limit else sum(_proportional(pid) for pid in pids)


def _resident(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = Path("/proc", str(pid), "statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _proportional(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc", str(pid), "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def oom_kills() -> int:
    """How many processes of this machine the kernel has killed for want of memory."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):  # already gone
            os.kill(pid, number)
