"""What steps took beside what was estimated: counted while they run, scored, kept over runs.

A ratio is actual / estimate: 1 is right, 2 means that it took twice as much. The score of a run is
the median of its steps; what earlier runs scored lies in $AIOK_HOME/estimates.jsonl, a line a run.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from engine import strict_json
from engine.state import RunState, StepState, StepStatus
from engine.store import home, make_folder

# What is estimated -> the least estimate that is worth a ratio, and how people read it.
LEAST = {"minutes": 0.02, "memory_gib": 0.05, "disk_gib": 0.002, "network_gib": 0.001}
WORDS = {"minutes": "time", "memory_gib": "memory", "disk_gib": "disk", "network_gib": "network"}
KEPT_RUNS = 50


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
