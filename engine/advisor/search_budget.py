"""What a search may take where the user left it open, and what it will take.

Trials grow with the parameters: the sampler begins with ten random ones, and needs some more for
each parameter. They end where all assignments are tried, or the time is over: that of the goal,
else a night. Trials at a time: one a core, as far as the memory goes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from engine import catalog
from engine.advisor.estimate import environment_of, estimate, search_traffic_gib
from engine.advisor.job import Job
from engine.hpo.experiment import study_of
from engine.hpo.schema import Search
from engine.hpo.space import Space
from engine.hpo.study import Study
from engine.plan import Estimate
from engine.programs import registry
from engine.recipe import Value
from models.api import ModelSpec

STARTUP, EACH = 10, 5  # trials: Optuna's random ones, and for each parameter
NIGHT = 8 * 60.0  # minutes of a search to which nobody gave any
MEMORY_SHARE = 0.8  # of the host's memory, for trials together
PROGRAM_S, PROGRAM_GIB = 60.0, 0.5  # a trial of a program that says nothing about itself
# A pruner was measured to save up to two fifths of the steps (tests/engine/test_pruner.py), and
# saves none where trials report too seldom: the middle, and the factor to both ends.
KEPT_STEPS, KEPT_WITHIN = 0.8, 1.25
RIVALS = 5  # trials before a pruner has any to compare with
BUDGET = ("search.trials", "search.minutes", "search.patience")


@dataclass(frozen=True)
class _Slots:
    """Trials at a time, and why so many."""

    count: int
    reason: str


def advised(job: Job, spec: ModelSpec, values: Mapping[str, Any]) -> list[Value]:
    """Trials at a time, trials and minutes of a search, as far as they are open. `values`: all
    others of the finished recipe, by key."""
    if job.recipe.search is None:
        return []
    one, space = one_trial(job, spec, values), _study(job, spec, values).space
    slots = _slots(job, spec, one)
    found: list[Value] = []
    trials = _int(values["search.trials"])
    if not any(key in job.origins for key in BUDGET) and job.recipe.search.optimizer != "grid":
        trials, reason = _trials(job, spec, one, space, slots.count)
        found.append(Value("search.trials", trials, "advisor", reason))
        if job.recipe.goal.minutes is not None:
            reason = "goal.minutes is for the whole search"
            found.append(Value("search.minutes", job.recipe.goal.minutes, "advisor", reason))
    if job.recipe.search.parallel == "auto":
        most = min(trials or slots.count, space.size() or slots.count)
        if most < slots.count:
            slots = _Slots(most, f"no more than {most} trial{'s' * (most > 1)} to run")
        found.append(Value("search.parallel", slots.count, "advisor", slots.reason))
    return found


def _int(value: Any) -> int | None:
    return None if value is None else int(value)


def _study(job: Job, spec: ModelSpec, values: Mapping[str, Any]) -> Study:
    part = Search.model_validate(search_part(values))
    defaults = {s.name: values[f"model.settings.{s.name}"] for s in spec.settings}
    return study_of(part, spec, defaults, job.recipe.goal.metric)


def _trials(
    job: Job, spec: ModelSpec, one: Estimate, space: Space, slots: int
) -> tuple[int, str]:  # fmt: skip
    """How many trials, and why: by the parameters, the assignments there are, and the time."""
    parameters = len(space.parameters)
    trials = STARTUP + EACH * parameters
    reason = f"{STARTUP} to begin with, {EACH} for each of {parameters} parameters"
    if parameters == 1:
        reason = f"{STARTUP} to begin with, {EACH} for the parameter"
    size = space.size()
    if size is not None and size <= trials:
        trials, reason = size, f"all {size} assignments that there are"
    if catalog.is_program(spec.name) or one.minutes <= 0:  # nobody knows how long it takes
        return trials, reason
    limit = job.recipe.goal.minutes or NIGHT
    fitting = max(1, int(limit / one.minutes)) * slots
    if fitting < trials:
        whose = "goal.minutes" if job.recipe.goal.minutes else "a night"
        reason = (
            f"what fits in {limit:g} minutes ({whose}): about {_minutes(one.minutes)} each, "
            f"{slots} at a time; else {trials}"
        )
        trials = fitting
    return trials, reason


def _minutes(minutes: float) -> str:
    return f"{minutes:.1f} minutes" if minutes >= 1 else f"{60 * minutes:.0f} seconds"


def _slots(job: Job, spec: ModelSpec, one: Estimate) -> _Slots:
    """Trials at a time: each on a core of its own, they compute more than one on all cores."""
    cores, name = job.facts.physical_cores, spec.name
    each = registry.get(name).program.resources.cores if catalog.is_program(name) else 1
    if job.cluster:
        shares = ", ".join(f"{host.capacity} on {host.name}" for host in job.cluster)
        count = max(1, sum(host.capacity for host in job.cluster) // each)
        return _Slots(count, f"what the hosts take: {shares}")
    count = max(1, cores // each)
    memory = job.facts.memory_gib
    room = max(1, int(MEMORY_SHARE * memory / one.memory_gib)) if one.memory_gib > 0 else count
    if room < count:
        return _Slots(room, f"each trial needs about {one.memory_gib:.1f} of {memory:.1f} GiB")
    if each > 1:
        return _Slots(count, f"each trial takes {each} of {cores} cores")
    return _Slots(count, f"one trial for each of {cores} cores")


# --- what it takes ------------------------------------------------------------------------------


def one_trial(job: Job, spec: ModelSpec, values: Mapping[str, Any]) -> Estimate:
    """What one trial takes, alone on one rank."""
    if catalog.is_program(spec.name):
        program = registry.get(spec.name).program
        return Estimate(
            minutes=(program.timeout_s or PROGRAM_S) / 60,
            memory_gib=program.resources.memory_gb or PROGRAM_GIB, disk_gib=0.0,
        )  # fmt: skip
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
    """What a search takes: its trials, so many at a time, until its time is over. Nobody learns
    from it what one training takes."""
    part, one = Search.model_validate(search_part(values)), one_trial(job, spec, values)
    parallel = int(values["search.parallel"])
    known = count_trials(job, spec, values)
    trials = known or max(part.patience or 1, parallel)
    kept, within = 1.0, dict(one.within)
    if part.pruner != "none" and trials > RIVALS and within:
        kept = KEPT_STEPS
        for key in ("minutes", "cpu_s"):
            within[key] = round(within[key] * KEPT_WITHIN, 3)
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
        basis={},
    )
