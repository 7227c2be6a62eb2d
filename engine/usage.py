"""What one step takes while it runs: CPU-seconds, memory, disk and network."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.store import folder_gib
from hosts.inventory import LOCAL

LONGEST_S = 5.0  # between two samples: above it nobody knows what went over the network


class Usage:
    """What one step takes while it runs. Every call may be made from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._peaks: dict[tuple[str, str], float] = {}  # of each job on each host
        self._at: dict[str, float] = {}
        self._moved = 0.0
        self._sampled_s: dict[str, float] = {}  # CPU-seconds of the job by its samples
        self._ended_s: dict[str, float] = {}  # and as the system counted them when it was over
        self._largest = 0.0

    def sample(self, host: str, sample: Mapping[str, Any], job: str = "") -> None:
        """A second of a host (agent.Sampler.sample), by the agent of one of the step's jobs there.

        Hosts of a cluster tell what reaches them, which counts what goes between hosts once; where
        several jobs sample a host, each tells of the time since the last sample of any of them.
        """
        t, memory = sample.get("t"), sample.get("job_memory_gib")
        received, used = sample.get("net_rx_mib_s"), sample.get("job_cpu_s")
        with self._lock:
            if isinstance(used, int | float):
                self._sampled_s[host] = self._sampled_s.get(host, 0.0) + float(used)
            if isinstance(memory, int | float):
                peak = self._peaks.get((host, job), 0.0)
                self._peaks[host, job] = max(peak, float(memory))
            if host != LOCAL and isinstance(t, int | float) and isinstance(received, int | float):
                before = self._at.get(host, float(t))
                self._at[host] = max(before, float(t))
                self._moved += received * 2**20 * min(self._at[host] - before, LONGEST_S)

    def ended(self, host: str, end: Mapping[str, Any]) -> None:
        """The end of a job on a host (agent.Supervisor): what the system has counted."""
        used, largest = end.get("cpu_s"), end.get("largest_gib")
        with self._lock:
            if isinstance(used, int | float):
                self._ended_s[host] = self._ended_s.get(host, 0.0) + float(used)
            if isinstance(largest, int | float):
                self._largest = max(self._largest, float(largest))

    def moved(self, size: float) -> None:
        """Bytes of files that travelled to or from a host."""
        with self._lock:
            self._moved += size

    def actual(self, seconds: float, result: Mapping[str, Any], output: Path) -> dict[str, float]:
        """The step's figures by the names of Estimate; what nobody measured is left out.

        CPU-seconds are those the system counted for the ended processes, on each host, or the sum
        of the samples if that is more: of ranks that are only watched, or were killed, the system
        tells nothing. Memory is the peak of each job's samples, added over hosts, or what the
        worker or its largest process took if that is more: a short peak falls between two samples.
        """
        with self._lock:
            memory, moved = max(sum(self._peaks.values()), self._largest), self._moved
            cpu_s = sum(
                max(self._sampled_s.get(host, 0.0), self._ended_s.get(host, 0.0))
                for host in {*self._sampled_s, *self._ended_s}
            )
        seen = result.get("peak_rss_gib")
        memory = max(memory, float(seen) if isinstance(seen, int | float) else 0.0)
        found = {"minutes": seconds / 60, "network_gib": moved / 2**30}
        found |= {"cpu_s": cpu_s} if cpu_s else {}
        found |= {"memory_gib": memory} if memory else {}
        found |= {"disk_gib": folder_gib(output)} if output.is_dir() else {}
        return {key: round(value, 6) for key, value in found.items()}
