"""What a program is to the rest of aiok: a model of the catalog, and a space to search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from engine.hpo import experiment
from engine.hpo.schema import MetricPart, ParameterPart, Search
from engine.hpo.space import Space
from engine.programs.schema import Program, ProgramMetric
from models.api import Goal, Metric, ModelSpec, Worker
from models.settings import Kind, Scalar, Setting

PROFILE = "program"  # the one profile of such a model
WORKER = Worker(module="models.program", environment="")  # any Python of the host runs it


def spec_of(program: Program) -> ModelSpec:
    """The program as a model of the catalog."""
    return ModelSpec(
        name=program.name,
        title=program.title or program.name,
        summary=program.summary or "a program of yours",
        task="program",
        formats=("criteo", "table"),
        settings=tuple(setting_of(part) for part in program.parameters),
        profiles={PROFILE: {}},
        metrics=tuple(_metric(metric) for metric in program.metrics),
        workers={"train": WORKER},
    )


def _metric(metric: ProgramMetric) -> Metric:
    clocked = metric.source == "wall_clock"
    return Metric(
        name=metric.name,
        goal=Goal(metric.objective or "minimize"),
        help="seconds of the program, measured" if clocked else "as the program says it",
        unit="s" if clocked else "",
    )


def setting_of(part: ParameterPart) -> Setting:
    """A parameter as a setting; where the file has no default it is the middle of what may be."""
    what = ", ".join(f"{parent} is {values}" for parent, values in part.condition.items())
    text = f"counts when {what}" if what else ""
    if part.type == "flag":
        return Setting(name=part.name, kind=Kind.BOOL, help=text, tunable=True,
                       default=False if part.default is None else part.default)  # fmt: skip
    choices: Sequence[Scalar] = part.categorical_values or sorted(part.grid or ())
    if choices:
        if part.type == "int":
            choices = [int(value) for value in choices]
        middle = 0 if part.categorical_values else len(choices) // 2
        return Setting(name=part.name, kind=Kind.CHOICE, help=text, choices=tuple(choices),
                       default=choices[middle] if part.default is None else part.default,
                       tunable=True)  # fmt: skip
    assert part.bounds is not None
    low, high = part.bounds.min, part.bounds.max
    if low > high:
        raise ValueError(f"the lower bound {low:g} is above the upper {high:g}")
    log = part.transformation == "log"
    if log and low <= 0:
        raise ValueError("a log scale needs a lower bound above 0")
    # Each end by itself: their product or sum may be no finite number.
    center = float(f"{low**0.5 * high**0.5:.12g}") if log else low / 2 + high / 2
    center = min(high, max(low, center))
    if part.step and math.isfinite((center - low) / part.step):  # else the space refuses it
        center = low + part.step * ((center - low) // part.step)
    return Setting(
        name=part.name, kind=Kind.INT if part.type == "int" else Kind.FLOAT, help=text, low=low,
        high=high, log=log, tunable=True,
        default=part.default if part.default is not None
        else int(center) if part.type == "int" else center,
    )  # fmt: skip


def search_of(program: Program) -> Search:
    """The search that the file alone describes."""
    parameters = [part.model_dump(exclude_unset=True) for part in program.parameters]
    return Search.model_validate({**search_part(program), "parameters": parameters})


def search_part(program: Program) -> dict[str, Any]:
    """What the program's file says for the part `search` of a recipe; defaults are in the settings
    of the model, which the recipe may overrule."""
    own = set(ProgramMetric.model_fields) - set(MetricPart.model_fields)
    spec = spec_of(program)
    metrics = [
        {**metric.model_dump(exclude=own, exclude_unset=True),
         "objective": str(spec.metric(metric.name).goal)}
        for metric in program.metrics
    ]  # fmt: skip
    found: dict[str, Any] = {
        "parameters": [
            part.model_dump(exclude_unset=True, exclude={"default"}) for part in program.parameters
        ],
        "metrics": metrics,
    }
    if program.linear_constraints:
        found["linear_constraints"] = [
            part.model_dump(exclude_unset=True) for part in program.linear_constraints
        ]
    if program.budget:
        found["trials"] = program.budget
    return found


def space_of(program: Program) -> Space:
    """The parameters of a program as a space to search."""
    study = experiment.study_of(search_of(program), spec_of(program), {}, program.asked_for())
    return study.space


def active_defaults(program: Program) -> dict[str, Scalar]:
    """The default of every parameter that counts under the other defaults."""
    space = space_of(program)
    defaults = {p.name: p.default for p in space.parameters if p.default is not None}
    return space.active(defaults)
