"""Memory that the ranks of one host share, for the messages of a training step.

Through the loopback interface two megabytes cost milliseconds, and every wait the waking of
threads on both sides; through memory they cost a copy, and a wait the reading of a counter. The
memory is a memfd: it has no name in any file system and goes with its last process, so a kill at
any moment leaves nothing behind, and the small /dev/shm of containers does not limit it.
"""

from __future__ import annotations

import mmap
import os
import select
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

_WORD_BYTES = 4
_COUNTER_BYTES = 64  # a cache line each: ranks that write do not disturb those that read
_PHASES = 2  # a rank writes one while another may still read the other
_SPIN_S, _SLEEP_MS = 2e-3, 0.1


class PeerLost(Exception):
    """A rank ended, or did not come in time, while others waited for it."""


class SharedMemory:
    """Room for one float32 message of up to `words` from each rank, twice.

    Every rank calls `exchange` in the same order. Messages alternate between two places, so what
    one call returns stays as it is until the next but one call of any rank. A counter tells the
    others that a message is whole: x86 shows stores to other cores in the order they were made.
    """

    def __init__(self, descriptor: int, rank: int, ranks: int, words: int) -> None:
        self._descriptor, self.rank, self.words = descriptor, rank, words
        memory = mmap.mmap(descriptor, _size(ranks, words))
        head = ranks * _COUNTER_BYTES
        lines = np.frombuffer(memory, np.int64, head // 8).reshape(ranks, -1)
        self._pids, self._counters = lines[:, 0], lines[:, 1]
        with torch.inference_mode(False):  # it outlives a caller that only scores
            self._places = torch.frombuffer(memory, dtype=torch.float32, offset=head).view(
                _PHASES, ranks, words
            )
        self._calls = 0
        self._others = select.poll()
        self._peers: list[int] = []
        self._pids[rank] = os.getpid()

    @classmethod
    def create(cls, ranks: int, words: int) -> SharedMemory:
        """New memory, made by rank 0; OSError when the kernel has not enough of it."""
        descriptor = os.memfd_create("aiok-ranks", os.MFD_CLOEXEC)
        try:
            os.posix_fallocate(descriptor, 0, _size(ranks, words))
        except OSError:
            os.close(descriptor)
            raise
        return cls(descriptor, 0, ranks, words)

    @property
    def address(self) -> dict[str, Any]:
        """How another process of this host finds it, and what tells it from everything else."""
        return {"path": f"/proc/{os.getpid()}/fd/{self._descriptor}", **_mark(self._descriptor)}

    @classmethod
    def attach(cls, rank: int, ranks: int, words: int, address: dict[str, Any]) -> SharedMemory:
        """The memory at that address; OSError when it is on another host or out of reach."""
        descriptor = os.open(address["path"], os.O_RDWR | os.O_CLOEXEC)
        mark = _mark(descriptor)
        if any(address[key] != value for key, value in mark.items()):
            os.close(descriptor)
            raise OSError(f"{address['path']} is another file here")
        return cls(descriptor, rank, ranks, words)

    def meet(self) -> None:
        """Watch the other ranks; call it when all have attached. OSError where that cannot be."""
        for rank, pid in enumerate(self._pids.tolist()):
            if rank != self.rank:
                self._peers.append(os.pidfd_open(pid))
                self._others.register(self._peers[-1], select.POLLIN)  # readable when it has ended

    def exchange(self, message: torch.Tensor, patience_s: float) -> list[torch.Tensor]:
        """Give this rank's message [m], m <= words; the messages [m] of all ranks, as views.

        Raises PeerLost when a rank has ended, or has not come after `patience_s`.
        """
        phase = self._calls % _PHASES
        self._places[phase, self.rank, : len(message)] = message
        self._calls += 1
        self._counters[self.rank] = self._calls
        self._wait(patience_s)
        return list(self._places[phase, :, : len(message)])

    def _wait(self, patience_s: float) -> None:
        begun = time.monotonic()
        while (self._counters < self._calls).any():
            waited = time.monotonic() - begun
            if waited < _SPIN_S:
                os.sched_yield()
            elif self._others.poll(_SLEEP_MS) and (self._counters < self._calls).any():
                raise PeerLost("a rank of this host ended")
            elif waited > patience_s:
                raise PeerLost(f"a rank of this host did not come for {patience_s:g} s")

    def __del__(self) -> None:
        for descriptor in (self._descriptor, *getattr(self, "_peers", ())):
            os.close(descriptor)


def _size(ranks: int, words: int) -> int:
    """Bytes of counters and messages."""
    return ranks * (_COUNTER_BYTES + _PHASES * words * _WORD_BYTES)


def _mark(descriptor: int) -> dict[str, Any]:
    """This boot of this host, and the file on it."""
    status = os.fstat(descriptor)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return {"boot": boot, "device": status.st_dev, "inode": status.st_ino}
