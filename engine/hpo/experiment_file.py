"""SigOpt-style experiment files: how they are written, and the part `search` they stand for.

A file is in the words of SigOpt's API, as people wrote it or as the service gave it back: nulls,
and `object`, which names the kind of a thing, say nothing. What aiok has under another name is
translated, what it cannot do is refused, and keys that change nothing are told in the plan. A
recipe's own part `search` knows none of these words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from engine.errors import InputError
from engine.hpo.schema import LinearConstraintPart, MetricPart, ParameterPart
from engine.strict_yaml import Name, Part, Source, read, refuse, sentences
from models.settings import Scalar

SAID_BY_FILE = ("parameters", "metrics", "linear_constraints")
BY_NAME = ("conditions", "condition", "metadata")  # mappings whose keys are the user's own names
LABELS = ("project", "experiment", "name")  # what nobody expects an effect of


def inline(search: Mapping[str, Any], folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The part `search` with its experiment file in the place of the key `file`, so that a run
    keeps all it needs; also where each of the keys that came from the file stands there, and at
    search.file what of it has no effect.

    A relative file lies in `folder`. InputError names the file, the line and all that is wrong.
    """
    named = search.get("file")
    if not isinstance(named, str) or not named:
        return dict(search), {}
    written = read(folder / Path(named).expanduser(), "experiment")
    source = Source(written.name, written.file, _said(written.data), written.lines)
    try:
        found = ExperimentFile.model_validate(source.data)
    except ValidationError as error:
        raise refuse(source, sentences(ExperimentFile, source, {}, error)) from None
    doubled = [key for key in SAID_BY_FILE if search.get(key) is not None]
    if doubled:
        raise InputError(f"search.{doubled[0]} is said by {source.file} too: write it in one place")
    taken = found.search()
    own = {key: value for key, value in search.items() if key != "file"}
    places = {f"search.{key}": source.file for key in taken if key not in own}
    places |= {
        f"search.{_place(key, len(found.parameters))}": f"{source.file}, line {line}"
        for key, line in source.lines.items()
        if key.partition(".")[0] in (*SAID_BY_FILE, "conditionals")
    }
    without = ", ".join(_without_effect(source.data))
    places["search.file"] = f"{source.file} (without effect: {without})" if without else source.file
    return {**taken, **own}, places


def _said(data: Any) -> Any:
    """Without what says nothing."""
    if isinstance(data, list):
        return [_said(item) for item in data]
    if not isinstance(data, Mapping):
        return data
    return {
        key: value if key in BY_NAME else _said(value)
        for key, value in data.items()
        if value is not None and key != "object"
    }


def _place(key: str, parameters: int) -> str:
    """Where a key of the file stands in the recipe: conditionals come after the parameters."""
    part, _, rest = key.partition(".")
    if part != "conditionals":
        return key
    number, _, rest = rest.partition(".")
    whole = f"parameters.{parameters + int(number)}" if number else "parameters"
    rest = rest.replace("values", "categorical_values", 1)
    return f"{whole}.{rest}" if rest else whole


def _without_effect(data: Mapping[str, Any]) -> Iterator[str]:
    """The keys of a valid file that change nothing here."""
    yield from (key for key in _ignored(ExperimentFile) if key in data and key not in LABELS)
    for part in data["parameters"]:
        ignored = [key for key in _ignored(FileParameter) if key in part]
        if "grid" in part and part.get("transformation") == "log":
            ignored.append("transformation")
        yield from (f"{key} of {part['name']}" for key in ignored)


def _ignored(part: type[Part]) -> list[str]:
    """The keys of a part that may be anything, for nothing is done with them."""
    return [name for name, field in part.model_fields.items() if field.annotation is Any]


def _by_name(values: Any) -> Any:
    """A list of values, those written {name: a, enum_index: 1} by their names."""
    if not isinstance(values, list):
        return values
    return [v["name"] if isinstance(v, Mapping) and "name" in v else v for v in values]


class FileParameter(ParameterPart):
    """A parameter as SigOpt writes it.

    A `prior` says where good values are likely and `precision` how a value is rounded: neither has
    an effect. Nor has a log scale over a grid: its values are one step apart, whatever they are.
    """

    default_value: Scalar | None = None
    prior: Any = None
    precision: Any = None
    tunable: Any = None

    @model_validator(mode="before")
    @classmethod
    def _in_our_words(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        words = {**data, "categorical_values": _by_name(data.get("categorical_values"))}
        if data.get("type") == "categorical" and words["categorical_values"] is None:
            words["categorical_values"] = _by_name(words.pop("grid", None))
        if "grid" in words:
            words.pop("transformation", None)
        if "default_value" in data:
            if "default" in data:
                raise ValueError("default and default_value say the same thing: write one of them")
            words["default"] = words.pop("default_value")
        return {key: value for key, value in words.items() if value is not None}


class Conditional(Part):
    """What the `conditions` of parameters refer to: a parameter by itself, one of `values`."""

    name: Name
    values: list[Scalar] = Field(min_length=1)

    @field_validator("values", mode="before")
    @classmethod
    def _names(cls, values: Any) -> Any:
        return _by_name(values)


class ExperimentFile(Part):
    """A SigOpt-style experiment file.

    `name` and `budget` are other words for `experiment` and `observation_budget`, which is
    search.trials; `parallel_bandwidth` is search.parallel and `type` search.optimizer, where the
    recipe does not say them.
    """

    project: Any = None
    experiment: Any = None
    name: Any = None
    type: Literal["offline", "random", "grid"] = "offline"
    parameters: list[FileParameter] = Field(min_length=1)
    conditionals: list[Conditional] = Field(default_factory=list)
    metrics: list[MetricPart] = Field(min_length=1)
    linear_constraints: list[LinearConstraintPart] | None = None
    observation_budget: int | None = Field(default=None, ge=1, le=1_000_000)
    budget: int | None = Field(default=None, ge=1, le=1_000_000)
    parallel_bandwidth: int | None = Field(default=None, ge=1, le=4096)
    num_solutions: int = 1
    tasks: list[Any] = Field(default_factory=list)
    # without effect: what the service keeps, and how it ends training runs (search.pruner does)
    metadata: Any = None
    tags: Any = None
    client: Any = None
    user: Any = None
    id: Any = None
    state: Any = None
    created: Any = None
    updated: Any = None
    development: Any = None
    folder: Any = None
    progress: Any = None
    training_monitor: Any = None

    @field_validator("metrics", mode="before")
    @classmethod
    def _named(cls, metrics: Any) -> Any:
        if not isinstance(metrics, list):
            return metrics
        return [{"name": one} if isinstance(one, str) else one for one in metrics]

    @field_validator("num_solutions")
    @classmethod
    def _one_solution(cls, number: int) -> int:
        if number != 1:
            raise ValueError("a search has one solution (all trials: aiok trials): leave it out")
        return number

    @field_validator("tasks")
    @classmethod
    def _no_tasks(cls, tasks: list[Any]) -> list[Any]:
        if tasks:
            raise ValueError(
                "trials are trained in full, not on cheaper tasks: leave them out "
                "(search.pruner ends bad ones early)"
            )
        return tasks

    @model_validator(mode="after")
    def _one_word(self) -> ExperimentFile:
        for one, other in (("experiment", "name"), ("observation_budget", "budget")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ValueError(f"{one} and {other} say the same thing: write one of them")
        return self

    def search(self) -> dict[str, Any]:
        """What the file says, as keys of the recipe's part `search`."""
        known = set(ParameterPart.model_fields)
        parameters = [p.model_dump(exclude_unset=True, include=known) for p in self.parameters]
        parameters += [
            {"name": one.name, "type": "categorical", "categorical_values": one.values}
            for one in self.conditionals
        ]
        said = {
            "parameters": parameters,
            "metrics": [metric.model_dump(exclude_unset=True) for metric in self.metrics],
            "linear_constraints": [
                part.model_dump(exclude_unset=True) for part in self.linear_constraints or ()
            ],
            "trials": self.observation_budget or self.budget,
            "optimizer": self.type if self.type != "offline" else None,
            "parallel": self.parallel_bandwidth,
        }
        return {key: value for key, value in said.items() if value}
