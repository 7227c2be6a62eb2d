"""Which parameters made the difference: Optuna's PED-ANOVA over the finished trials.

Watanabe, Bansal and Hutter 2023, PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in
Arbitrary Subspaces, arXiv 2304.10255.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.hpo import optuna_study
from engine.hpo.study import Objective, Study
from engine.hpo.trials import Trial, TrialState

GOOD = 5  # trials that the best part should have, else the figures are noise
FEWEST = 2 * GOOD
BEST_PART = 0.1


@dataclass(frozen=True)
class Importance:
    """For one metric the share of each parameter, summing to 1, the largest first; or why there is
    none. `few`: parameters with a condition that held in too few trials to have a share."""

    metric: str
    trials: int
    shares: dict[str, float] = field(default_factory=dict)
    why_not: str = ""
    few: tuple[str, ...] = ()


def importance(study: Study, trials: Sequence[Trial]) -> list[Importance]:
    """One entry for each optimized metric. What it tells: which parameters separate the best part
    of the finished trials (a tenth, at least GOOD of them) from all of them."""
    return [_of(study, trials, objective) for objective in study.optimized]


def _of(study: Study, trials: Sequence[Trial], objective: Objective) -> Importance:
    known = [
        trial for trial in trials
        if trial.state is TrialState.FINISHED and trial.as_trial is None
        and math.isfinite(trial.values.get(objective.name, math.nan))
    ]  # fmt: skip
    count, name = len(known), objective.name
    if count < FEWEST:
        few = "1 finished trial is" if count == 1 else f"{count} finished trials are"
        why_not = f"{few} too few to tell what matters: {FEWEST} are needed"
        return Importance(name, count, why_not=why_not)
    if len({trial.values[name] for trial in known}) == 1:
        return Importance(name, count, why_not=f"all {count} trials have the same {name}")
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    evaluator = PedAnovaImportanceEvaluator(target_quantile=max(BEST_PART, GOOD / count))
    found = get_param_importances(
        optuna_study.in_memory(study, known, objective), evaluator=evaluator
    )
    tried = Counter(key for trial in known for key in trial.assignment)
    rare = tuple(key for key in found if tried[key] < FEWEST)
    shares = {key: float(share) for key, share in found.items() if key not in rare}
    total = sum(shares.values())
    if not total or not math.isfinite(total):
        why_not = f"the {count} trials do not tell what matters"
        return Importance(name, count, why_not=why_not, few=rare)
    return Importance(name, count, {k: share / total for k, share in shares.items()}, few=rare)
