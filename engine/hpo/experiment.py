"""From what people write about a search to the study: with every problem at once, each at its key.

problems   what is wrong with a search of a model
study_of   the Study of a search
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from engine.errors import InputError
from engine.hpo import space as sp
from engine.hpo.schema import (
    LinearConstraintPart,
    MetricPart,
    ParameterPart,
    Search,
)
from engine.hpo.study import TRAINING_TIME, Budget, Objective, Strategy, Study
from models.api import Goal, Metric, ModelSpec
from models.settings import Kind, Scalar, Setting, nearest, shown

Problem = tuple[str, str]  # the dotted key it belongs to, and what is wrong there


def study_of(
    search: Search, spec: ModelSpec, defaults: Mapping[str, object], metric: str, seed: int = 0
) -> Study:
    """The study of a search over a model's settings.

    `defaults`: the settings the model would be trained with, by name; `metric`: the recipe's goal,
    looked for when the search names no metrics. InputError tells every problem with its key.
    """
    study, found = _build(search, spec, defaults, metric, seed)
    if study is None or found:
        raise InputError("\n".join(["the search cannot be run",
                                    *(f"  - {key}: {text}" for key, text in found)]))  # fmt: skip
    return study


def problems(
    search: Search, spec: ModelSpec, defaults: Mapping[str, object], metric: str
) -> list[Problem]:
    """Everything that keeps a search of a model from running, each with its dotted key."""
    study, found = _build(search, spec, defaults, metric, 0)
    if study is None or found or "trials" not in search.model_fields_set:
        return found  # an open number of trials is the advisor's, who leaves room for the first
    return list(_beyond_budget(study))


def _beyond_budget(study: Study) -> Iterator[Problem]:
    """Whether what is to be tried first is more than the trials there are."""
    first, trials = len(study.first()), study.budget.trials
    if study.start and trials is not None and first > trials:
        whole = "these" if study.space.default() is None else "the default assignment and these"
        yield (
            "search.start",
            f"{whole} are {first} trials, search.trials is {trials}: raise it, or leave some out",
        )


def _build(
    search: Search, spec: ModelSpec, defaults: Mapping[str, object], metric: str, seed: int
) -> tuple[Study | None, list[Problem]]:
    found: list[Problem] = []
    parameters = _parameters(search, spec, defaults, found)
    objectives = _objectives(search.metrics, spec, metric, found)
    if found:
        return None, found
    space = _space(search, parameters, found)
    if space is None:
        return None, found
    start = _start(search.start, space, found)
    try:
        if search.optimizer == "grid":
            next(space.points())
    except ValueError as error:
        found.append(("search.optimizer", f"a grid visits every point, but {error}"))
    except StopIteration:
        found.append(("search.linear_constraints", "no point of the grid keeps them"))
    if search.optimizer != "grid" and space.constraints and space.size() == 0:
        found.append(("search.linear_constraints", "no values keep all of them"))
    try:
        budget = Budget(trials=search.trials, minutes=search.minutes, patience=search.patience)
        study = Study(space=space, objectives=objectives, budget=budget, seed=seed, start=start)
    except ValueError as error:
        found.append(("search.metrics", str(error)))
        return None, found
    return study, found


def searched_settings(spec: ModelSpec) -> list[Setting]:
    """The settings that a trial may choose: those its training reads, not those of the ETL alone
    (a search prepares the data once)."""
    elsewhere = {
        name for key, worker in spec.workers.items() if key != "train" for name in worker.settings
    }
    return [setting for setting in spec.settings if setting.name not in elsewhere]


def _parameters(
    search: Search, spec: ModelSpec, defaults: Mapping[str, object], found: list[Problem]
) -> list[sp.Parameter]:
    """The parameters, one that others depend on before them."""
    settings = searched_settings(spec)
    if search.parameters is None:
        return list(sp.from_settings(settings, defaults).parameters)
    parents = {name for part in search.parameters for name in part.condition or part.conditions}
    made = []
    for number, part in enumerate(search.parameters):
        key = f"search.parameters.{number}"
        setting = next((s for s in settings if s.name == part.name), None)
        if setting is None:
            found.append((f"{key}.name", _unknown(part.name, spec, settings, part.name in parents)))
            continue
        said = list(_misfits(part, setting))
        found += [(f"{key}.{where}", text) for where, text in said]
        if said:
            continue
        try:
            made.append(_parameter(part, setting, defaults.get(part.name, setting.default)))
        except ValueError as error:
            found.append((key, str(error)))
    return sp.parents_first(made)


def _unknown(name: str, spec: ModelSpec, settings: Sequence[Setting], is_parent: bool) -> str:
    if any(setting.name == name for setting in spec.settings):
        return f"{name} is read by the ETL, which a search does once: set it in model.settings"
    hint = _hint(name, [s.name for s in settings])
    if is_parent:
        return (
            f"{spec.name} has no setting {name}: the value that other parameters depend on "
            f"would reach nothing; {hint}"
        )
    return f"{spec.name} has no setting {name}, {hint}"


def _hint(name: str, known: Sequence[str]) -> str:
    """The nearest name, and all of them."""
    near = nearest(name, known)
    return f"{near} valid: {', '.join(sorted(known))}" if near.startswith("did") else near


def _misfits(part: ParameterPart, setting: Setting) -> Iterator[Problem]:
    """Where a parameter asks for values that the setting refuses."""
    if part.type == "flag" and setting.kind is not Kind.BOOL:
        yield "type", f"{part.name} is not on or off ({setting.bounds()})"
    if part.bounds is not None:
        if setting.kind not in (Kind.INT, Kind.FLOAT):
            yield (
                "bounds",
                f"{part.name} is no number ({setting.bounds()}): list categorical_values",
            )
            return
        if setting.kind is Kind.INT and part.type == "double":
            yield "type", f"{part.name} is a whole number: type int"
        for end, value in (("min", part.bounds.min), ("max", part.bounds.max)):
            yield from _misfit(f"bounds.{end}", setting, value)
    for word, values in (("grid", part.grid), ("categorical_values", part.categorical_values)):
        for number, item in enumerate(values or ()):
            yield from _misfit(f"{word}.{number}", setting, item)


def _misfit(key: str, setting: Setting, value: object) -> Iterator[Problem]:
    try:
        setting.parse(value)
    except ValueError as error:
        yield key, str(error)


def _parameter(part: ParameterPart, setting: Setting, default: object) -> sp.Parameter:
    """The parameter as written; its default is the model's, moved to the nearest value of the space
    where it lies outside: so there always is one to begin with."""
    choices: tuple[Scalar, ...] = tuple(part.categorical_values or ())
    if part.type == "flag":
        choices = (False, True)
    if part.grid is not None:
        if part.type == "int":
            wrong = next((value for value in part.grid if value != int(value)), None)
            if wrong is not None:
                raise ValueError(f"{part.name}: {shown(wrong)} in the grid is no whole number")
        choices = tuple(int(v) if part.type == "int" else v for v in sorted(part.grid))
    made = sp.Parameter(
        name=part.name,
        type=sp.Type.CATEGORICAL if part.type == "flag" else sp.Type(part.type),
        low=part.bounds.min if part.bounds else None,
        high=part.bounds.max if part.bounds else None,
        log=part.transformation == "log",
        step=part.step,
        choices=choices,
        default=part.default,
        condition={
            parent: tuple(values) if isinstance(values, list) else (values,)
            for parent, values in (part.condition or part.conditions).items()
        },
    )
    if part.default is not None:
        return made
    value = _as_written(setting, default, choices)
    return sp.Parameter(**{**vars(made), "default": made.closest(value)})


def _as_written(setting: Setting, value: object, choices: Sequence[Scalar]) -> object:
    """The choice that means the value (512-256 is (512, 256)), or the value itself."""
    parsed = setting.parse(value)
    return next((choice for choice in choices if setting.parse(choice) == parsed), value)


def _objectives(
    parts: Sequence[MetricPart] | None, spec: ModelSpec, metric: str, found: list[Problem]
) -> tuple[Objective, ...]:
    """The metrics; a threshold of the only one bounds what is accepted, it is no error."""
    known = {m.name: m for m in spec.metrics}
    words = "seconds of a trial, as the engine measures them"
    known[TRAINING_TIME] = Metric(name=TRAINING_TIME, goal=Goal.MINIMIZE, unit="s", help=words)
    made = []
    for number, part in enumerate(parts or [MetricPart(name=metric)]):
        key = f"search.metrics.{number}"
        if part.name not in known:
            place, hint = f"{key}.name" if parts else "goal.metric", _hint(part.name, list(known))
            found.append((place, f"{spec.name} has no metric {part.name}, {hint}"))
            continue
        goal = known[part.name].goal
        if part.objective not in (None, str(goal)):
            found.append((f"{key}.objective", f"a better {part.name} is one to {goal}"))
        made.append(
            Objective(name=part.name, maximize=goal is Goal.MAXIMIZE,
                      strategy=Strategy(part.strategy), threshold=part.threshold)
        )  # fmt: skip
    return tuple(made)


def _space(
    search: Search, parameters: Sequence[sp.Parameter], found: list[Problem]
) -> sp.Space | None:
    try:
        sp.Space(parameters=tuple(parameters))
    except ValueError as error:
        found.append(("search.parameters", str(error)))
        return None
    kept = []
    for number, part in enumerate(search.linear_constraints or ()):
        try:
            constraint = _constraint(part)
            sp.Space(parameters=tuple(parameters), constraints=(constraint,))
            kept.append(constraint)
        except ValueError as error:
            found.append((f"search.linear_constraints.{number}", str(error)))
    return sp.Space(parameters=tuple(parameters), constraints=tuple(kept))


def _constraint(part: LinearConstraintPart) -> sp.LinearConstraint:
    weights = {term.name: term.weight for term in part.terms}
    if len(weights) < len(part.terms):
        raise ValueError("a parameter is named twice in the terms")
    if part.type == "less_than":
        return sp.LinearConstraint(weights=weights, high=part.threshold)
    return sp.LinearConstraint(weights=weights, low=part.threshold)


def _start(
    assignments: Sequence[Mapping[str, Scalar]], space: sp.Space, found: list[Problem]
) -> list[dict[str, Scalar]]:
    """The assignments to try first; what one leaves open takes its default."""
    made = []
    for number, assignment in enumerate(assignments):
        whole: dict[str, Scalar] = {}
        for parameter in space.parameters:
            value = assignment.get(parameter.name, parameter.default)
            if value is not None and space.is_active(parameter, whole):
                whole[parameter.name] = value
        try:
            made.append(space.check({**whole, **assignment}))
        except ValueError as error:
            found.append((f"search.start.{number}", str(error)))
    return made
