"""What ending bad trials early saves, and how often trials report so that it can.

A trial of a search is ended by what it reports; with few reports the first comparison comes late.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from engine.advisor.job import Job
from engine.hpo.pruner import FINISHED_FIRST, FIRST_RUNG, KEPT, RIVALS_FIRST
from engine.hpo.schema import TRIALS
from engine.hpo.study import Study
from engine.recipe import Value

ENOUGH = 12  # reports of a trial: with 24 little more is saved, and they cost their time
SCORED = 1 / 3  # what scoring a row costs, of training it (engine/advisor/estimate.py)
EVALS, PATIENCE = "evals_per_epoch", "patience"


def saved(pruner: str, reports: int, trials: int) -> float:
    """The part of all steps that a pruner saves, about, with so many reports of a trial.

    ASHA ends all but one of KEPT trials at report FIRST_RUNG, the median rule more than half at the
    first (those that finish are the better ones, so their median rises), once there are rivals.
    What later reports end besides is left out. tests/engine/test_pruner.py replays recorded DLRM
    trials beside it.
    """
    if pruner == "asha":
        first, ended, rivals = FIRST_RUNG, 1 - 1 / KEPT, RIVALS_FIRST
    elif pruner == "median":
        first, ended, rivals = 1, 0.55, FINISHED_FIRST
    else:
        return 0.0
    if reports <= first or trials <= rivals:
        return 0.0
    return (1 - first / reports) * ended * (1 - rivals / trials)


def is_pruned(study: Study, pruner: str) -> bool:
    """Whether any trial can be ended early: several metrics to optimize give trials no order."""
    return pruner != "none" and len(study.optimized) == 1


def reports_of(values: Mapping[str, Any]) -> int:
    """How often a training reports: once for each of its validations; 0 where none is planned."""
    often, epochs = values.get(f"model.settings.{EVALS}"), values.get("model.settings.epochs", 1)
    return int(often) * int(epochs) if often is not None else 0


def validations(
    job: Job, values: Mapping[str, Any], study: Study, trials: int | None
) -> list[Value]:
    """More validations for the trials of a search, where they save more than they cost.

    Patience counts validations, so it grows with them: trials that nobody ends train as long as
    before. Values that the user gave stay, and so do those that the search itself chooses.
    """
    keys = (f"model.settings.{EVALS}", f"model.settings.{PATIENCE}")
    pruner = str(values["search.pruner"])
    if keys[0] not in values or not is_pruned(study, pruner):
        return []
    if any(key in job.origins for key in keys) or {EVALS, PATIENCE} & set(study.space.names()):
        return []
    trials = trials or TRIALS  # where only time or patience ends the search
    often, epochs = int(values[keys[0]]), int(values.get("model.settings.epochs", 1))
    more = math.ceil(ENOUGH / epochs)
    before, after = (_cost(job, pruner, count, epochs, trials) for count in (often, more))
    if more <= often or after >= before:
        return []
    kept = [saved(pruner, count * epochs, trials) for count in (often, more)]
    found = [Value(keys[0], more, "advisor", (
        f"{more * epochs} reports of a trial instead of {often * epochs}: {pruner} saves about "
        f"{100 * kept[1]:.0f} % of the steps instead of {100 * kept[0]:.0f} %, at "
        f"{100 * (_scoring(job, more) - _scoring(job, often)):.0f} % more for validations"
    ))]  # fmt: skip
    if keys[1] in values:
        patience = math.ceil(int(values[keys[1]]) * more / often)
        reason = f"in validations, of which an epoch has {more} instead of {often}"
        found.append(Value(keys[1], patience, "advisor", reason))
    return found


def _cost(job: Job, pruner: str, often: int, epochs: int, trials: int) -> float:
    """What trials take, of what they would without validations and without a pruner."""
    return (1 - saved(pruner, often * epochs, trials)) * (1 + _scoring(job, often))


def _scoring(job: Job, often: int) -> float:
    """What the validations of an epoch cost, of its training."""
    split = job.recipe.split
    return often * SCORED * split.valid / (1 - split.valid - split.test)
