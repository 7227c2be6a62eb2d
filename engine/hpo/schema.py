"""How people write a search: the recipe's part `search`. What it means is said in experiment.py,
what SigOpt's experiment files write otherwise in experiment_file.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from engine.hpo.study import TRAINING_TIME
from engine.strict_yaml import Count, Name, Part
from models.settings import Scalar

Condition = dict[str, Scalar | list[Scalar]]
TRIALS = 20  # of a search whose budget neither the user nor the advisor gave


class Bounds(Part):
    """An inclusive range."""

    min: float
    max: float


class ParameterPart(Part):
    """One parameter: a range, a list of values (`grid` of numbers, `categorical_values`), or a
    flag, which is on or off.

    `condition` (SigOpt writes `conditions`): other parameters and the values of theirs under which
    this one counts.
    """

    name: Name
    type: Literal["double", "int", "categorical", "flag"]
    bounds: Bounds | None = None
    grid: list[float] | None = Field(default=None, min_length=1)
    categorical_values: list[Scalar] | None = Field(default=None, min_length=1)
    transformation: Literal["none", "log"] = "none"
    step: float | None = Field(default=None, gt=0)
    condition: Condition = Field(default_factory=dict)
    conditions: Condition = Field(default_factory=dict)
    default: Scalar | None = None

    @model_validator(mode="after")
    def _one_domain(self) -> ParameterPart:
        given = [key for key in ("bounds", "grid", "categorical_values") if getattr(self, key)]
        if self.type == "categorical" and given != ["categorical_values"]:
            raise ValueError("a categorical parameter needs categorical_values and nothing else")
        if self.type == "flag" and (given or self.default not in (None, True, False)):
            raise ValueError("a flag is on or off: it has no values of its own")
        if self.type in ("double", "int") and given not in (["bounds"], ["grid"]):
            raise ValueError(f"a parameter of type {self.type} needs bounds {{min, max}} or a grid")
        if self.condition and self.conditions:
            raise ValueError("condition and conditions say the same thing: write one of them")
        if self.transformation == "log" and given != ["bounds"]:
            raise ValueError("transformation: log needs bounds")
        return self


class MetricPart(Part):
    """One metric; `objective` may be left out for one whose better direction is known."""

    name: Name
    strategy: Literal["optimize", "store", "constraint"] = "optimize"
    objective: Literal["maximize", "minimize"] | None = None
    threshold: float | None = None

    @model_validator(mode="after")
    def _threshold(self) -> MetricPart:
        if self.strategy == "constraint" and self.threshold is None:
            raise ValueError("a constraint needs a threshold")
        if self.strategy == "store" and self.threshold is not None:
            raise ValueError("a stored metric has no threshold: make it a constraint")
        return self


class Term(Part):
    """One parameter of a sum and its weight."""

    name: Name
    weight: float


class LinearConstraintPart(Part):
    """The sum of weight x parameter has to stay on one side of `threshold`."""

    type: Literal["less_than", "greater_than"]
    threshold: float
    terms: list[Term] = Field(min_length=1)


class Search(Part):
    """How hyper-parameters are looked for.

    Without `parameters` the model's tunable settings, without `metrics` the goal's metric. The
    search ends after `trials`, after `minutes`, or after `patience` trials without a better one,
    whatever comes first; the advisor says how many where none of them is said. `file` names an
    experiment file that says parameters, metrics and budget.
    """

    optimizer: Literal["optuna", "sigopt", "random", "grid"] = "optuna"
    trials: int | None = Field(default=TRIALS, ge=1, le=1_000_000)
    minutes: float | None = Field(default=None, gt=0)
    patience: int | None = Field(default=None, ge=1)
    parallel: Count = "auto"
    parameters: list[ParameterPart] | None = Field(default=None, min_length=1)
    metrics: list[MetricPart] | None = Field(default=None, min_length=1)
    linear_constraints: list[LinearConstraintPart] | None = None
    pruner: Literal["asha", "median", "none"] = "asha"
    start: list[dict[str, Scalar]] = Field(default_factory=list)
    warm: list[Name] = Field(default_factory=list)
    timeout_minutes: float | None = Field(default=None, gt=0)
    retries: int = Field(default=1, ge=0, le=100)
    file: Name | None = None

    @model_validator(mode="before")
    @classmethod
    def _no_number_of_trials(cls, data: Any) -> Any:
        """What ends by itself or by another limit has no number of trials unless one is given."""
        if isinstance(data, dict):
            limited = any(data.get(key) is not None for key in ("minutes", "patience"))
            if limited or data.get("optimizer") == "grid":
                return {"trials": None, **data}
        return data

    @model_validator(mode="after")
    def _ends(self) -> Search:
        limits = (self.trials, self.minutes, self.patience)
        if self.optimizer != "grid" and limits == (None, None, None):
            raise ValueError("without trials, minutes and patience the search would never end")
        return self

    def goal_of_trial(self, goal: Mapping[str, Any]) -> dict[str, Any]:
        """What a recipe's goal asks of one trial. Target and minutes are those of the search: every
        trial is trained to its end, unless the search looks for the one that is there first."""
        for_time = any(
            part.name == TRAINING_TIME and part.strategy == "optimize"
            for part in self.metrics or ()
        )
        return {**goal, "target": goal["target"] if for_time else None, "minutes": None}
