"""What a search may take where the user left it open, and what it will take.

Trials grow with the parameters: the sampler begins with ten random ones, and needs some more for
each parameter. They end where all assignments are tried, or the time is over: that of the goal,
else a night. Trials at a time: one a core, as far as the memory goes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from engine import catalog
from engine.advisor import pruning, search_reasons
from engine.advisor.estimate import environment_of, estimate, search_traffic_gib
from engine.advisor.job import Job
from engine.advisor.program_cost import in_words, program_trial
from engine.advisor.trial_slots import Slots, advised_slots
from engine.hpo.experiment import study_of
from engine.hpo.schema import Search
from engine.hpo.space import Space
from engine.hpo.study import Study
from engine.plan import Estimate
from engine.recipe import Value
from models.api import ModelSpec

STARTUP, EACH = 10, 5  # trials: Optuna's random ones, and for each parameter
NIGHT = 8 * 60.0  # minutes of a search to which nobody gave any
PRUNED_WITHIN = 1.25  # the doubt that a pruner adds to how much is trained
BUDGET = ("search.trials", "search.minutes", "search.patience")


def advised(job: Job, spec: ModelSpec, values: Mapping[str, Any]) -> list[Value]:
    """Validations of a trial, trials at a time, trials and minutes of a search, as far as they are
    open, and words to what stays. `values`: all others of the finished recipe, by key."""
    search = job.recipe.search
    if search is None:
        return []
    study = _study(job, spec, values)
    is_open = not any(key in job.origins for key in BUDGET) and search.optimizer != "grid"
    expected = _by_parameters(study.space)[0] if is_open else study.most_trials()
    found = pruning.validations(job, values, study, expected)
    values = {**values, **{value.key: value.value for value in found}}
    one = one_trial(job, spec, values)
    slots = advised_slots(job, spec.name, one)
    if is_open:
        trials, reason = _trials(job, spec, one, study.space, slots.count)
        first = len(study.first())
        if first > trials:
            trials, reason = first, f"all that search.start begins with; else {trials}"
        found.append(Value("search.trials", trials, "advisor", reason))
    if job.recipe.goal.minutes is not None and "search.minutes" not in job.origins:
        reason = "goal.minutes is for the whole search"
        found.append(Value("search.minutes", job.recipe.goal.minutes, "advisor", reason))
    values = {**values, **{value.key: value.value for value in found}}
    most = _study(job, spec, values).most_trials()
    if search.parallel == "auto":
        if most is not None and most < slots.count:
            slots = Slots(most, f"no more than {most} trial{'s' * (most > 1)} to run")
        found.append(Value("search.parallel", slots.count, "advisor", slots.reason))
    return [*search_reasons.said(job, spec, values, study, most), *found]


def _study(job: Job, spec: ModelSpec, values: Mapping[str, Any]) -> Study:
    part = Search.model_validate(search_part(values))
    defaults = {s.name: values[f"model.settings.{s.name}"] for s in spec.settings}
    return study_of(part, spec, defaults, job.recipe.goal.metric)


def _trials(
    job: Job, spec: ModelSpec, one: Estimate, space: Space, slots: int
) -> tuple[int, str]:  # fmt: skip
    """How many trials, and why: by the parameters, the assignments there are, and the time."""
    trials, reason = _by_parameters(space)
    if one.minutes <= 0 or (catalog.is_program(spec.name) and not one.runs):
        return trials, reason  # nobody knows how long it takes
    limit = job.recipe.goal.minutes or NIGHT
    fitting = max(1, int(limit / one.minutes)) * slots
    if fitting < trials:
        whose = "goal.minutes" if job.recipe.goal.minutes else "a night"
        reason = (
            f"what fits in {limit:g} minutes ({whose}): about {in_words(one.minutes)} each, "
            f"{slots} at a time; else {trials}"
        )
        trials = fitting
    return trials, reason


def _by_parameters(space: Space) -> tuple[int, str]:
    parameters = len(space.parameters)
    trials = STARTUP + EACH * parameters
    size = space.size()
    if size is not None and size <= trials:
        return size, f"all {size} assignments that there are"
    if parameters == 1:
        return trials, f"{STARTUP} to begin with, {EACH} for the parameter"
    return trials, f"{STARTUP} to begin with, {EACH} for each of {parameters} parameters"


# --- what it takes ------------------------------------------------------------------------------


def one_trial(job: Job, spec: ModelSpec, values: Mapping[str, Any]) -> Estimate:
    """What one trial takes, alone on one rank."""
    if catalog.is_program(spec.name):
        return program_trial(job, spec.name)
    environment = environment_of(spec, "train", values)
    return estimate(job, spec, "train", "train", environment, {**values, "train.ranks": 1})


def search_part(values: Mapping[str, Any]) -> dict[str, Any]:
    """The part `search` of the finished recipe."""
    return {key.removeprefix("search."): value for key, value in values.items()
            if key.startswith("search.")}  # fmt: skip


def count_trials(job: Job, spec: ModelSpec, values: Mapping[str, Any]) -> int | None:
    """How many trials a search has at most; None when only time or patience ends it."""
    return _study(job, spec, values).most_trials()


def search_estimate(job: Job, spec: ModelSpec, values: Mapping[str, Any]) -> Estimate:
    """What a search takes: its trials, so many at a time, until its time is over. What is learned
    from it are its trials, of a program; from a model's nobody learns what one training takes."""
    part, one = Search.model_validate(search_part(values)), one_trial(job, spec, values)
    parallel, study = int(values["search.parallel"]), _study(job, spec, values)
    known = study.most_trials()
    trials = known or max(part.patience or 1, parallel)
    within = dict(one.within)
    pruner = part.pruner if pruning.is_pruned(study, part.pruner) else "none"
    kept = 1 - pruning.saved(pruner, pruning.reports_of(values), trials)
    if kept < 1:
        for key in {"minutes", "cpu_s"} & set(within):
            within[key] = round(within[key] * PRUNED_WITHIN, 3)
    minutes = one.minutes * math.ceil(trials / parallel) * kept
    cpu_s = one.cpu_s * trials * kept
    by_time = known is None and part.patience is None
    if part.minutes is not None and one.minutes > 0 and (by_time or part.minutes < minutes):
        minutes = part.minutes
        cpu_s = one.cpu_s / one.minutes * minutes * parallel
    at_once = min(parallel, trials)
    return replace(
        one,
        minutes=round(minutes, 3),
        memory_gib=round(one.memory_gib * at_once, 2),
        disk_gib=round(one.disk_gib * (at_once + 1), 3) or 0.01,
        network_gib=search_traffic_gib(job, one, trials * kept),
        cpu_s=round(cpu_s, 2),
        within=within,
        basis=one.basis if one.basis.get("trials") else {},
    )
