"""What steps took beside what was estimated: counted while they run, scored, kept over runs.

A ratio is actual / estimate: 1 is right, 2 means that it took twice as much. The score of a run is
the median of its steps; what earlier runs scored lies in $AIOK_HOME/estimates.jsonl, a line a run.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from engine import strict_json
from engine.state import RunState, StepState, StepStatus
from engine.store import folder_gib, home, make_folder
from hosts.inventory import LOCAL

# What is estimated -> the least estimate that is worth a ratio, and how people read it.
LEAST = {"minutes": 0.02, "memory_gib": 0.05, "disk_gib": 0.002, "network_gib": 0.001}
WORDS = {"minutes": "time", "memory_gib": "memory", "disk_gib": "disk", "network_gib": "network"}
LONGEST_S = 5.0  # between two samples: above it nobody knows what went over the network
KEPT_RUNS = 50


class Usage:
    """What one step takes while it runs. Every call may be made from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._peaks: dict[str, float] = {}
        self._at: dict[str, float] = {}
        self._moved = 0.0

    def sample(self, host: str, sample: Mapping[str, Any]) -> None:
        """A second of a host (agent.Sampler.sample). Hosts of a cluster tell what reaches them,
        which counts what goes between hosts once."""
        t, memory = sample.get("t"), sample.get("job_memory_gib")
        received = sample.get("net_rx_mib_s")
        with self._lock:
            if isinstance(memory, int | float):
                self._peaks[host] = max(self._peaks.get(host, 0.0), float(memory))
            if host != LOCAL and isinstance(t, int | float) and isinstance(received, int | float):
                span = t - self._at.get(host, t)
                self._at[host] = float(t)
                self._moved += received * 2**20 * min(max(0.0, span), LONGEST_S)

    def moved(self, size: float) -> None:
        """Bytes of files that travelled to or from a host."""
        with self._lock:
            self._moved += size

    def actual(self, seconds: float, result: Mapping[str, Any], output: Path) -> dict[str, float]:
        """The step's figures by the names of Estimate; what nobody measured is left out.

        Memory is the peak of the job's samples, added over hosts, or what the worker itself saw if
        that is more: a short peak falls between two samples.
        """
        with self._lock:
            memory, moved = sum(self._peaks.values()), self._moved
        seen = result.get("peak_rss_gib")
        memory = max(memory, float(seen) if isinstance(seen, int | float) else 0.0)
        found = {"minutes": seconds / 60, "network_gib": moved / 2**30}
        found |= {"memory_gib": memory} if memory else {}
        found |= {"disk_gib": folder_gib(output)} if output.is_dir() else {}
        return {key: round(value, 6) for key, value in found.items()}


# --- scores -------------------------------------------------------------------------------------


def ratios(step: StepState) -> dict[str, float]:
    """actual / estimate of a step that ran from its start to its end in one go."""
    if step.status is not StepStatus.DONE or step.starts != 1:
        return {}
    return {
        key: round(step.actual[key] / step.estimate[key], 3)
        for key, least in LEAST.items()
        if step.actual.get(key, 0.0) > 0 and step.estimate.get(key, 0.0) >= least
    }


def score(state: RunState) -> dict[str, float]:
    """The median ratio over the steps of a run, for each thing that is estimated."""
    found: dict[str, list[float]] = {}
    for step in state.steps.values():
        for key, ratio in ratios(step).items():
            found.setdefault(key, []).append(ratio)
    return {key: round(median(values), 3) for key, values in found.items()}


def _file() -> Path:
    return home() / "estimates.jsonl"


def keep(state: RunState) -> None:
    """Add the score of a run to those of earlier ones; a run without one adds nothing."""
    found = score(state)
    if found:
        make_folder(home())
        line = strict_json.dumps({"run": state.id, "t": time.time(), "ratios": found})
        with open(_file(), "a", encoding="utf-8") as file:
            file.write(line + "\n")


def record() -> dict[str, Any]:
    """What the last runs scored: {"runs": how many, "ratios": their medians}."""
    runs: dict[str, dict[str, float]] = {}
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in _file().read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                said = json.loads(line)
                runs.pop(str(said["run"]), None)  # a resumed run counts once, by its last score
                runs[str(said["run"])] = {
                    key: float(value) for key, value in said["ratios"].items() if key in LEAST
                }
    last = list(runs.values())[-KEPT_RUNS:]
    medians = {key: round(median(values), 3) for key in LEAST
               if (values := [scored[key] for scored in last if key in scored])}  # fmt: skip
    return {"runs": len(last), "ratios": medians}


def sentence(scored: Mapping[str, float]) -> str:
    """time 0.8x, memory 0.5x of the estimate; "" for no score."""
    parts = [f"{WORDS[key]} {scored[key]:.2g}x" for key in LEAST if key in scored]
    return f"{', '.join(parts)} of the estimate" if parts else ""


def record_sentence() -> str:
    """What earlier runs scored, "" when there are none."""
    known = record()
    said = sentence(known["ratios"])
    runs = known["runs"]
    return f"{runs} earlier run{'s' * (runs > 1)}: {said} (median)" if said else ""
