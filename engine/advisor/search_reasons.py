"""Words to what a search does with values that nobody chose for it: its space, its pruner, its
ends. The values stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine import catalog
from engine.advisor import pruning
from engine.advisor.job import Job
from engine.hpo.space import Parameter, Space
from engine.hpo.study import Study
from engine.programs import registry
from engine.recipe import Value
from models.api import ModelSpec

MOST_SHOWN = 24  # parameters, or values of one


def said(
    job: Job, spec: ModelSpec, values: Mapping[str, Any], study: Study, trials: int | None
) -> list[Value]:
    """The values of the part `search` with a word to each that needs one; `trials`: at most."""
    found = {
        "search.parameters": about_space(study.space, values["search.parameters"] is None),
        "search.pruner": _about_pruner(values, study, trials),
        "search.timeout_minutes": _about_timeout(job, spec, values),
        "search.minutes": "" if values["search.minutes"] else _about_end(job, values, "minutes"),
        "search.trials": "" if values["search.trials"] else _about_end(job, values, "trials"),
    }
    return [
        Value(key, values[key], job.origins.get(key, "built-in"), reason)
        for key, reason in found.items() if reason
    ]  # fmt: skip


def about_space(space: Space, is_derived: bool) -> str:
    """All parameters with their bounds."""
    count = len(space.parameters)
    shown = [parameter_in_words(parameter) for parameter in space.parameters[:MOST_SHOWN]]
    if count > MOST_SHOWN:
        shown.append(f"and {count - MOST_SHOWN} more")
    whose = f"the {count} settings of the model that a training can try: " if is_derived else ""
    return whose + ", ".join(shown)


def parameter_in_words(parameter: Parameter) -> str:
    """learning_rate 0.0005..0.032 log"""
    if parameter.choices:
        some = ", ".join(map(str, parameter.choices[:MOST_SHOWN]))
        words = f"{parameter.name} {{{some}{', ...' * (len(parameter.choices) > MOST_SHOWN)}}}"
    else:
        low, high = parameter.range
        words = f"{parameter.name} {low:g}..{high:g}"
        words += " log" * parameter.log
        words += f" by {parameter.step:g}" if parameter.step else ""
    conditions = (f"{name} is {' or '.join(map(str, allowed))}"
                  for name, allowed in parameter.condition.items())  # fmt: skip
    when = " and ".join(conditions)
    return f"{words} (if {when})" if when else words


def _about_pruner(values: Mapping[str, Any], study: Study, trials: int | None) -> str:
    pruner = str(values["search.pruner"])
    if pruner == "none":
        return ""
    if not pruning.is_pruned(study, pruner):
        return "ends none: several metrics to optimize give trials no order"
    reports = pruning.reports_of(values)
    if not reports:
        return "ends trials by what they stream; how often they report is not known"
    if trials is None:
        return f"{reports} reports of a trial"
    part = pruning.saved(pruner, reports, trials)
    if not part:
        return f"ends none: too few reports of a trial ({reports}), or trials ({trials})"
    return (
        f"saves about {100 * part:.0f} % of the steps with {reports} reports of a trial and "
        f"{trials} trials (by recorded DLRM trials)"
    )


def _about_timeout(job: Job, spec: ModelSpec, values: Mapping[str, Any]) -> str:
    """Nobody watches whether a program goes on; the ranks of a model are watched."""
    if values["search.timeout_minutes"] is not None:
        return ""
    if not catalog.is_program(spec.name):
        hang_s = job.recipe.faults.hang_s
        return f"no limit: a training that is silent for {hang_s:g} s (faults.hang_s) is ended"
    limit = registry.get(spec.name).program.timeout_s
    if limit:
        return f"no other limit than the program's own, {limit:g} s"
    end = "the search's minutes are over" if values["search.minutes"] else "someone stops the run"
    return f"no limit: a trial that hangs is waited for until {end}; timeout_s of its file ends it"


def _about_end(job: Job, values: Mapping[str, Any], key: str) -> str:
    """Which limits end a search that has none of one kind."""
    names = ("trials", "minutes", "patience")
    others = {name: values[f"search.{name}"] for name in names if name != key}
    ends = [f"{value:g} {name}" if name != "patience" else f"{value:g} trials without a better one"
            for name, value in others.items() if value]  # fmt: skip
    if values["search.optimizer"] == "grid":
        ends.append("the last point of the grid")
    if job.recipe.goal.target is not None:
        ends.append(f"goal.target {job.recipe.goal.target:g}")
    return f"no limit: what ends it is {' or '.join(ends)}" if ends else ""
