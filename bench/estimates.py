"""Estimates made before a run beside what it took, learned from runs with other settings only.

RUNS whole runs (data to report) of small click logs, no two with the same settings, in an AIOK_HOME
of their own: the first LEARN teach, each later one is estimated with what the earlier ones taught.
Of a run are judged its CPU-seconds (all steps that ran, added) and its peak memory (the step with
the most), and for the intervals each of its steps.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.harness import ROOT
from bench.sandbox import fresh_home
from engine.plan import Plan, read_plan
from engine.state import RunState
from engine.store import open_run_folder

ENVIRONMENTS = ("app", "etl", "torch")
RUNS, LEARN, SEED = 28, 6, 20261125
GOAL_ERROR, GOAL_COVERED = 0.20, 0.80
CHOICES: dict[str, tuple[Any, ...]] = {
    "dataset.generate.rows": (30_000, 60_000, 120_000),
    "embedding_size": (4, 8, 16, 32), "top_widths": ("32", "64-32", "128-64", "256"),
    "bottom_widths": ("32", "64", "128"), "batch_size": (256, 512, 1024, 2048),
    "min_steps": (8,), "evals_per_epoch": (1, 2, 4), "epochs": (1, 2), "train.ranks": (1, 2),
}  # fmt: skip
KEYS = ("cpu_s", "memory_gib")


@dataclass(frozen=True)
class Figure:
    """Something estimated with its interval, and what was taken."""

    estimate: float
    low: float
    high: float
    actual: float

    @property
    def error(self) -> float:
        """Relative to what was taken."""
        return abs(self.estimate - self.actual) / self.actual

    @property
    def covered(self) -> bool:
        """Whether the interval holds what was taken."""
        return self.low <= self.actual <= self.high


def measure() -> list[dict[str, Any]]:
    """Median errors and the coverage of the intervals."""
    return _measure(RUNS, LEARN)


def small() -> list[dict[str, Any]]:
    """A look whether it works: too few runs to learn from."""
    return _measure(6, 3)


def _measure(runs: int, learn: int) -> list[dict[str, Any]]:
    judged: list[dict[str, list[Figure]]] = []
    with fresh_home():
        for number, settings in enumerate(different_settings(runs)):
            plan, state = run(settings)
            figures = steps_of(plan, state)
            if number >= learn:
                judged.append(figures)
            print(number, settings, {key: [round(f.error, 3) for f in figures[key]]
                                     for key in KEYS}, flush=True)  # fmt: skip
    return rows(judged, learn)


def different_settings(count: int) -> list[dict[str, Any]]:
    """So many settings, no two alike."""
    draw, found = random.Random(SEED), dict[str, dict[str, Any]]()
    while len(found) < count:
        one = {key: draw.choice(options) for key, options in CHOICES.items()}
        found.setdefault(json.dumps(one), one)
    return list(found.values())


def run(settings: dict[str, Any]) -> tuple[Plan, RunState]:
    """One whole run, its plan with the estimates and what came of it."""
    # a machine that does other work as well is no fault of the run's
    patient = {"faults.grace_s": 120, "faults.hang_s": 600}
    chosen = {**settings, **patient}.items()
    words = [word for key, value in chosen for word in ("--set", f"{key}={value}")]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "aiok_tui", "run", "quickstart", *words, "--detach"],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"aiok run {words}: exit {done.returncode}: {done.stderr[-2000:]}")
    name = done.stdout.strip()
    followed = subprocess.run(
        [sys.executable, "-P", "-m", "aiok_tui", "show", name, "--follow"],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    folder = open_run_folder(name)
    state = folder.state()
    if state.status != "done":
        raise RuntimeError(f"{name} is {state.status}: {followed.stderr[-2000:]}")
    return read_plan(folder.plan), state


def steps_of(plan: Plan, state: RunState) -> dict[str, list[Figure]]:
    """The figures of the steps that ran, by what is estimated."""
    found: dict[str, list[Figure]] = {key: [] for key in KEYS}
    for step in plan.steps:
        actual = state.steps[step.id].actual
        for key in KEYS:
            value, within = getattr(step.estimate, key), step.estimate.within.get(key)
            if within and actual.get(key):
                found[key].append(Figure(value, value / within, value * within, actual[key]))
    return found


def rows(judged: Sequence[dict[str, list[Figure]]], learn: int) -> list[dict[str, Any]]:
    """The result's rows."""
    about = {
        "data": f"{len(judged)} runs of generated rows, each with settings of its own, after "
                f"{learn} that only teach",
    }  # fmt: skip
    whole = {
        "CPU-seconds": [_added(one["cpu_s"]) for one in judged],
        "peak memory": [_most(one["memory_gib"]) for one in judged],
    }
    found: list[dict[str, Any]] = []
    for name, errors in whole.items():
        worst = max(errors)
        found.append({
            "name": f"median error of a run's {name}", "value": round(median(errors), 3),
            "unit": "of what it took", "goal": f"<= {GOAL_ERROR}",
            "met": median(errors) <= GOAL_ERROR, "note": f"largest {worst:.2f}", "readme": True,
            **about,
        })  # fmt: skip
    for key, name in zip(KEYS, whole, strict=True):
        steps = [figure for one in judged for figure in one[key]]
        covered = sum(figure.covered for figure in steps) / len(steps)
        width = median(figure.high / figure.estimate for figure in steps)
        found.append({
            "name": f"90 % interval of a step's {name} covers", "value": round(covered, 3),
            "unit": "of the steps", "goal": f">= {GOAL_COVERED}", "met": covered >= GOAL_COVERED,
            "note": f"{len(steps)} steps; median interval: / and x {width:.2f}", "readme": True,
            **about,
        })  # fmt: skip
    return found


def _added(figures: Sequence[Figure]) -> float:
    """The relative error of the sum."""
    actual = sum(figure.actual for figure in figures)
    return abs(sum(figure.estimate for figure in figures) - actual) / actual


def _most(figures: Sequence[Figure]) -> float:
    """The relative error of the largest."""
    actual = max(figure.actual for figure in figures)
    return abs(max(figure.estimate for figure in figures) - actual) / actual
