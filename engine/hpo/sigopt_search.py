"""SigOpt's optimizer through its own client and local driver, in an environment of its own.

The hosted service is gone; `Connection(driver="lite")` holds one experiment with one open
suggestion, in memory. So each suggestion is asked for with the whole history
(models/sigopt_server.py), and a trial that runs is told with a lie: the median of what was finished
(a constant liar), or not at all before anything was. A failed trial is one of SigOpt's failed
observations; a pruned one counts with the values it had reached, without any as failed.
"""

from __future__ import annotations

import random
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.errors import InputError
from engine.hpo.history import HistoryOptimizer
from engine.hpo.json_process import JsonProcess
from engine.hpo.sigopt_form import Form
from engine.hpo.study import Objective, Strategy, Study
from models.settings import Scalar

TRIES = 4  # of one trial: each takes about a second of CPU
MOST_OPTIMIZED = 2
BUDGET = 100  # trials of a search without a limit: two metrics are explored in parts of a budget
SERVER = Path(__file__).resolve().parents[2] / "models" / "sigopt_server.py"
# What it suggests must not depend on how many cores are free.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class SigoptSearch(HistoryOptimizer):
    """`python`: of the environment `sigopt`. ValueError says what SigOpt cannot search."""

    def __init__(self, study: Study, python: Path) -> None:
        super().__init__(study)
        if len(study.optimized) > MOST_OPTIMIZED:
            raise ValueError(f"it optimizes {MOST_OPTIMIZED} metrics at most")
        self._form = Form(study.space, self.history.axes)
        self._experiment = {
            "name": "aiok",
            "metrics": [_metric(study, n, o) for n, o in enumerate(study.searched)],
            "observation_budget": study.budget.trials or BUDGET,
            **self._form.declared,
        }
        self._process = JsonProcess([str(python), "-I", str(SERVER)], ONE_THREAD)

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def _choose(self, number: int) -> dict[str, Scalar] | None:
        observations = list(self._observations())

        def propose(numbers: random.Random) -> dict[str, Scalar]:
            answer = self._process.ask(
                {"experiment": self._experiment, "observations": observations,
                 "seed": numbers.getrandbits(32)}
            )  # fmt: skip
            if "refused" in answer:
                raise InputError("SigOpt refuses this search", why=answer["refused"])
            if "assignments" in answer:
                return self._form.decode(answer["assignments"])
            print(f"trial {number} is random, for SigOpt's model failed: {answer['failed']}",
                  file=sys.stderr)  # fmt: skip
            return self.study.space.sample(numbers)

        return self.history.draw(number, propose, TRIES)

    def _observations(self) -> Iterator[dict[str, Any]]:
        """All trials that say something, as arguments of observations().create."""
        names = [o.name for o in self.study.searched]
        trials = self.history.trials()
        whole = [t.values for t in trials if len(t.values) == len(names)]
        lie = (
            {name: statistics.median_low(v[name] for v in whole) for name in names}
            if whole
            else None
        )
        for trial in trials:
            values = trial.values if trial.state.is_over else lie
            if values is None:
                continue
            told: dict[str, Any] = {"assignments": self._form.encode(trial.assignment)}
            if len(values) == len(names):
                told["values"] = [
                    {"name": f"m{n}", "value": values[name]} for n, name in enumerate(names)
                ]
            else:
                told["failed"] = True
            yield told


def _metric(study: Study, number: int, objective: Objective) -> dict[str, Any]:
    """A metric as SigOpt takes it: of a single optimized one no threshold, which would change
    nothing but whether a trial is feasible."""
    told: dict[str, Any] = {
        "name": f"m{number}",
        "objective": "maximize" if objective.maximize else "minimize",
        "strategy": str(objective.strategy),
    }
    bounded = objective.strategy is Strategy.CONSTRAINT or len(study.optimized) > 1
    if bounded and objective.threshold is not None:
        told["threshold"] = objective.threshold
    return told
