"""Validation curves of DLRM trials over a random search, recorded for the replay of pruners.

Writes tests/data/dlrm_curves.json: what it holds depends on the seed, not on the machine's speed.
The first trial is that of the default assignment.
"""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
from typing import Any

from bench import training
from bench.harness import ROOT
from engine.hpo.experiment import searched_settings
from engine.hpo.pruner import AshaPruner, MedianPruner, Pruner, replay
from engine.hpo.space import from_settings
from engine.hpo.study import Objective
from engine.hpo.trials import Report
from models import catalog
from models.settings import Scalar, resolve

ENVIRONMENTS = ("app", "etl", "torch")
ROWS, SEED, TRIALS, EVALUATIONS = 60_000, 20261125, 48, 24
RECORDED = ROOT / "tests" / "data" / "dlrm_curves.json"
AUC = Objective(name="auc", maximize=True)
WHOLE = {"epochs": 1, "evals_per_epoch": EVALUATIONS, "patience": EVALUATIONS}


def measure() -> list[dict[str, Any]]:
    """Record the trials, then replay both pruners over them."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        logs = training.generated(folder / "logs", ROWS, SEED)
        data = training.prepared(folder / "etl", logs, "optimized")
        trials = [
            trial(folder / f"trial-{number}", data, assignment)
            for number, assignment in enumerate(assignments())
        ]
    keep(trials)
    rules: dict[str, Pruner] = {"asha": AshaPruner(AUC), "median": MedianPruner(AUC)}
    return [row for name, rule in rules.items() for row in judged(name, trials, rule)]


def keep(trials: list[dict[str, Any]]) -> None:
    """Write the recorded trials, one a line."""
    header = {"data": f"{ROWS:,} generated rows, seed {SEED}", "metric": AUC.name,
              "reports": ["step", "rows", "value"]}  # fmt: skip
    lines = ",\n".join(json.dumps(one) for one in trials)
    RECORDED.write_text(f'{json.dumps(header)[:-1]}, "trials": [\n{lines}\n]}}\n')


def assignments() -> list[dict[str, Scalar]]:
    """The default assignment, then points drawn uniformly from the space of a default search."""
    spec = catalog.load("dlrm")
    defaults, _ = resolve(spec.settings, spec.profiles["optimized"])
    space = from_settings(searched_settings(spec), defaults)
    first = space.default()
    if first is None:
        raise RuntimeError("the default assignment lies outside of the default space")
    return [first, *(space.sample(random.Random(SEED + n)) for n in range(1, TRIALS))]


def trial(folder: Path, data: Path, assignment: dict[str, Scalar]) -> dict[str, Any]:
    """One training with an assignment: {assignment, reports [[step, rows, AUC]]}."""
    spec = training.train_spec(folder, data, "optimized", settings={**assignment, **WHOLE})
    training.trained(folder, spec)
    lines = (folder / "messages" / "rank-0000.jsonl").read_text().splitlines()
    said = [
        line
        for line in map(json.loads, lines)
        if line["kind"] == "scalar" and (line["name"], line["split"]) == (AUC.name, "valid")
    ]
    return {
        "assignment": assignment,
        "reports": [[line["step"], line["rows"], round(line["value"], 6)] for line in said],
    }  # fmt: skip


def judged(name: str, trials: list[dict[str, Any]], rule: Pruner) -> list[dict[str, Any]]:
    """What a pruner saves of the recorded trainings, and what it loses of the best one. Trials are
    compared after as many rows: their batch sizes differ."""
    curves = [[Report(rows, value) for _, rows, value in one["reports"]] for one in trials]
    found = replay(curves, rule, AUC)
    steps = [[step for step, _, _ in one["reports"]] for one in trials]
    done = sum(own[count - 1] for own, count in zip(steps, found.reports, strict=True))
    saved, lost = 1 - done / sum(own[-1] for own in steps), found.best_of_all - found.best
    data = f"{len(curves)} trials of {ROWS:,} generated rows, {EVALUATIONS} evaluations each"
    needed = name == "asha"  # what a search uses unless told otherwise
    return [
        {"name": f"{name}: training steps saved", "value": round(100 * saved, 1), "unit": "%",
         "goal": ">= 40 %" if needed else None, "met": saved >= 0.4 if needed else None,
         "data": data},
        {"name": f"{name}: training rows saved", "value": round(100 * found.saved, 1),
         "unit": "%", "data": data},
        {"name": f"{name}: best AUC lost", "value": round(lost, 6), "unit": "auc",
         "goal": "<= 0.001" if needed else None, "met": lost <= 0.001 if needed else None,
         "data": data},
    ]  # fmt: skip
