"""What steps took beside what was estimated: scored, and kept for the runs to come.

A ratio is actual / estimate: 1 is right, 2 means that it took twice as much. The score of a run is
the median of its steps. What runs scored, and what each of their steps was made of and took, lies
in $AIOK_HOME/estimates.jsonl, a line a run; engine/learned.py learns from it.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from engine import strict_json
from engine.hpo.trials import TrialState
from engine.learned import Learned, Record, Terms
from engine.state import RunState, StepState, StepStatus
from engine.store import home, make_folder

# What is estimated -> the least estimate that is worth a ratio, and how people read it.
LEAST = {"minutes": 0.02, "cpu_s": 1.0, "memory_gib": 0.05, "disk_gib": 0.002,
         "network_gib": 0.001}  # fmt: skip
WORDS = {"minutes": "time", "cpu_s": "CPU time", "memory_gib": "memory", "disk_gib": "disk",
         "network_gib": "network"}  # fmt: skip
KEPT_RUNS = 50
KEPT_TRIALS = 20  # of a run
READ_BYTES = 4 << 20  # of the file, at its end: more runs than are ever looked at
LARGEST = 1e12  # of any figure: what is larger was written by no run


@dataclass(frozen=True, kw_only=True)
class Basis:
    """What an estimate was made of; see engine.learned.Record. `epochs`: of a training, at most;
    `trials`: each trial of the step is an example of the group, not the step."""

    group: str
    terms: Mapping[str, Terms] = field(default_factory=dict)
    open: bool = False
    epochs: int = 0
    trials: bool = False

    def to_json(self) -> dict[str, Any]:
        """As plan.json and the events hold it."""
        return asdict(self)


# --- scores -------------------------------------------------------------------------------------


def ratios(step: StepState) -> dict[str, float]:
    """actual / estimate of a step that ran from its start to its end in one go."""
    if not _in_one_go(step):
        return {}
    return {
        key: round(step.actual[key] / step.estimate[key], 3)
        for key, least in LEAST.items()
        if step.actual.get(key, 0.0) > 0 and step.estimate.get(key, 0.0) >= least
    }


def _in_one_go(step: StepState) -> bool:
    return step.status is StepStatus.DONE and step.starts == 1


def score(state: RunState) -> dict[str, float]:
    """The median ratio over the steps of a run, for each thing that is estimated."""
    found: dict[str, list[float]] = {}
    for step in state.steps.values():
        for key, ratio in ratios(step).items():
            found.setdefault(key, []).append(ratio)
    return {key: round(median(values), 3) for key, values in found.items()}


# --- what is kept over runs ---------------------------------------------------------------------


def _file() -> Path:
    return home() / "estimates.jsonl"


def keep(state: RunState) -> None:
    """Add a run to the earlier ones: its score and its steps; a run without any adds nothing."""
    found = score(state)
    steps = [one for step in state.steps.values() for one in _kept(step, state)]
    if found or steps:
        make_folder(home())
        line = {"run": state.id, "t": time.time(), "ratios": found, "steps": steps}
        with open(_file(), "a", encoding="utf-8") as file:
            file.write(strict_json.dumps(line) + "\n")


def _kept(step: StepState, state: RunState) -> list[dict[str, Any]]:
    """What is learned from a step, [] where nothing can be: it ran in pieces, or not at all."""
    basis = step.basis
    if basis.get("trials"):
        return _trials(step, state)
    if not basis or not step.actual or not _in_one_go(step):
        return []
    return [{
        "group": basis.get("group"), "terms": basis.get("terms"), "actual": step.actual,
        "open": bool(basis.get("open")), "share": _share(step, state),
    }]  # fmt: skip


def _trials(step: StepState, state: RunState) -> list[dict[str, Any]]:
    """The last trials of a search that ran to their end in one go. Of their memory only the peak of
    them all is known, and on several hosts not even that."""
    done = [trial for trial in state.trials.values() if trial.is_own and trial.tries == 1
            and trial.state is TrialState.FINISHED and trial.seconds > 0]  # fmt: skip
    memory = step.actual.get("memory_gib") if len({trial.host for trial in done}) == 1 else None
    peak = {"memory_gib": memory} if memory else {}
    return [
        {"group": step.basis.get("group"), "terms": {},
         "actual": {"minutes": round(trial.seconds / 60, 6), **peak}}
        for trial in done[-KEPT_TRIALS:]
    ]  # fmt: skip


def _share(step: StepState, state: RunState) -> float:
    """How much of the planned epochs a training did, 1 for other steps."""
    epochs, rows = step.basis.get("epochs"), state.result("etl").get("rows")
    trained = step.result.get("rows")
    if not epochs or not isinstance(rows, Mapping) or not isinstance(trained, int | float):
        return 1.0
    planned = float(rows.get("train") or 0.0) * float(epochs)
    return min(1.0, trained / planned) if planned > 0 and trained > 0 else 1.0


@dataclass(frozen=True)
class Earlier:
    """What the file of earlier runs tells, each run once by its last line, the oldest first.

    `damaged`: how many of its lines no run has written; they are left out.
    """

    ratios: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    records: Mapping[str, tuple[Record, ...]] = field(default_factory=dict)
    damaged: int = 0
    unreadable: str = ""

    def learned(self) -> Learned:
        """What the runs teach."""
        return Learned(tuple(one for records in self.records.values() for one in records))

    def warning(self) -> str:
        """What is wrong with the file, "" when nothing is."""
        if self.unreadable:
            return f"{_file()} cannot be read ({self.unreadable}): built-in estimates"
        lines = f"{self.damaged} damaged line{'s' * (self.damaged > 1)}"
        return f"{_file()}: {lines} left out" if self.damaged else ""


def earlier() -> Earlier:
    """The runs before; nothing in the file can make this fail."""
    ratios: dict[str, Mapping[str, float]] = {}
    records: dict[str, tuple[Record, ...]] = {}
    damaged, unreadable = 0, ""
    try:
        for line in _last_lines(_file()):
            try:
                said = json.loads(line)
                run = str(said["run"])
                scored = _figures(said["ratios"])
                steps = tuple(_record(step) for step in said.get("steps", ()))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                damaged += 1
                continue
            for kept in (ratios, records):
                kept.pop(run, None)  # a resumed run counts once, by its last line
            ratios[run] = {key: value for key, value in scored.items() if key in LEAST}
            records[run] = steps
    except FileNotFoundError:
        pass  # the first run
    except OSError as error:
        unreadable = error.strerror or str(error)
    return Earlier(ratios, records, damaged, unreadable)


def _last_lines(path: Path) -> Iterator[str]:
    """The whole lines at the end of the file; where it begins in the middle of one that is cut."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - READ_BYTES))
        lines = file.read().split(b"\n")
    for line in lines[1 if size > READ_BYTES else 0 :]:
        if line.strip():
            yield line.decode("utf-8", errors="replace")


def _figures(said: Any) -> dict[str, float]:
    """Names to figures; ValueError for what no run can have taken."""
    found = {str(key): float(value) for key, value in dict(said).items()}
    if not all(math.isfinite(value) and 0 <= value <= LARGEST for value in found.values()):
        raise ValueError("a figure out of bounds")
    return found


def _record(said: Mapping[str, Any]) -> Record:
    share = float(said.get("share", 1.0))
    if not 0 < share <= 1:
        raise ValueError("a share out of bounds")
    return Record(
        group=str(said["group"]),
        terms={str(quantity): _figures(terms) for quantity, terms in said["terms"].items()},
        actual=_figures(said["actual"]), share=share, open=bool(said.get("open")),
    )  # fmt: skip


def record() -> dict[str, Any]:
    """What the last runs scored: {"runs": how many, "ratios": their medians}."""
    known = earlier()
    last = list(known.ratios.values())[-KEPT_RUNS:]
    medians = {key: round(median(values), 3) for key in LEAST
               if (values := [scored[key] for scored in last if key in scored])}  # fmt: skip
    return {"runs": len(last), "ratios": medians, "warning": known.warning()}


def sentence(scored: Mapping[str, float]) -> str:
    """time 0.8x, memory 0.5x of the estimate; "" for no score."""
    parts = [f"{WORDS[key]} {scored[key]:.2g}x" for key in LEAST if key in scored]
    return f"{', '.join(parts)} of the estimate" if parts else ""


def record_sentence() -> str:
    """What the runs so far scored, and whether their file is whole; "" when there are none."""
    known = record()
    said = sentence(known["ratios"])
    runs = known["runs"]
    scored = f"{runs} run{'s' * (runs > 1)} on record: {said} (median)" if said else ""
    return "; ".join(filter(None, (scored, known["warning"])))


def in_words(value: float, within: float, form: str = "{:.1f}") -> str:
    """A figure with its 90 % interval: 3.2 (2.5 to 4.1); alone where nobody gave one."""
    figure = form.format(value)
    if within <= 1 or value <= 0:
        return figure
    return f"{figure} ({form.format(value / within)} to {form.format(value * within)})"


def intervals(estimate: Mapping[str, Any]) -> dict[str, list[float]]:
    """The 90 % interval [low, high] of each figure of an estimate as plan.json has it."""
    within, found = estimate.get("within"), {}
    for key, factor in within.items() if isinstance(within, Mapping) else ():
        value = estimate.get(key)
        if isinstance(value, int | float) and isinstance(factor, int | float) and factor >= 1:
            found[key] = [round(value / factor, 6), round(value * factor, 6)]
    return found
