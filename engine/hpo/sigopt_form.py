"""A space as an experiment of SigOpt's local driver, and assignments there and back.

SigOpt sees the numbers of the axes (engine/hpo/axis.py) under the names p0, p1, ... What it lacks
is translated: a log scale of whole numbers is one of real numbers, rounded; a parameter with one
value is left out; a parameter that others depend on is a `conditional`. ValueError says what cannot
be: a condition of a condition, some linear constraints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.hpo.axis import Axis, Kind
from engine.hpo.space import Assignment, LinearConstraint, Parameter, Space
from models.settings import Scalar

MOST_OPTIONS = 32  # of a parameter that others depend on
UNUSED = "unused"


class Form:
    """See the module. `declared`: the arguments of experiments().create that tell the space."""

    def __init__(self, space: Space, axes: Mapping[str, Axis]) -> None:
        self._space, self._axes = space, axes
        self._ids = {p.name: f"p{n}" for n, p in enumerate(space.parameters)}
        named = {name for p in space.parameters for name in p.condition}
        self._parents = {name for name in named if not axes[name].is_constant}
        for name in self._parents:
            self._check_parent(name)
        self.declared = self._declare()

    def encode(self, assignment: Assignment) -> dict[str, Any]:
        """An assignment as SigOpt knows it."""
        told: dict[str, Any] = {
            self._ids[name]: self._told(self._axes[name], value)
            for name, value in assignment.items()
            if not self._axes[name].is_constant
        }
        return {**told, UNUSED: 0.5} if self._has_unused else told

    def decode(self, told: Mapping[str, Any]) -> dict[str, Scalar]:
        """An assignment as we know it."""
        chosen: dict[str, Scalar] = {}
        for parameter in self._space.parameters:
            if self._space.is_active(parameter, chosen):
                axis = self._axes[parameter.name]
                number = axis.low if axis.is_constant else told[self._ids[parameter.name]]
                if isinstance(number, str):
                    number = _options_number(number)
                chosen[parameter.name] = axis.decode(number)
        return chosen

    def _told(self, axis: Axis, value: Scalar) -> float | str:
        number = axis.encode(value)
        if axis.kind is Kind.OPTION or axis.name in self._parents:
            return _option(number)
        return float(number) if axis.kind is Kind.REAL or axis.log else int(number)

    def _check_parent(self, name: str) -> None:
        parent = self._space.parameter(name)
        if parent.condition:
            raise ValueError(f"{name} has a condition, and others depend on it in turn")
        if not 1 < (parent.count() or 0) <= MOST_OPTIONS:
            raise ValueError(
                f"others depend on {name}, which may have {MOST_OPTIONS} values at most"
            )

    def _declare(self) -> dict[str, Any]:
        parameters, conditionals, always = [], [], False
        for parameter in self._space.parameters:
            axis = self._axes[parameter.name]
            conditions = self._conditions(parameter)
            if axis.is_constant or conditions is None:
                continue
            if parameter.name in self._parents:
                values = [_option(n) for n in range(int(axis.low), int(axis.high) + 1)]
                conditionals.append({"name": self._ids[axis.name], "values": values})
                continue
            declared = {"name": self._ids[axis.name], **_shape(axis)}
            parameters.append({**declared, "conditions": conditions} if conditions else declared)
            always = always or not conditions
        if not parameters and not conditionals:
            raise ValueError("each parameter has one value only")
        # SigOpt wants a parameter under each value of a conditional.
        self._has_unused = not always
        if self._has_unused:
            parameters.append({"name": UNUSED, "type": "double", "bounds": {"min": 0, "max": 1}})
        constraints = [c for one in self._space.constraints for c in self._inequalities(one)]
        optional = {"conditionals": conditionals, "linear_constraints": constraints}
        return {
            "parameters": parameters,
            **{key: value for key, value in optional.items() if value},
        }

    def _conditions(self, parameter: Parameter) -> dict[str, list[str]] | None:
        """Of a parameter; None when it is never active."""
        conditions = {}
        for name, values in parameter.condition.items():
            axis = self._axes[name]
            numbers = {axis.encode(value) for value in values}
            if not axis.is_constant:
                conditions[self._ids[name]] = [_option(number) for number in sorted(numbers)]
            elif axis.low not in numbers:
                return None
        return conditions

    def _inequalities(self, constraint: LinearConstraint) -> list[dict[str, Any]]:
        weights = {name: weight for name, weight in constraint.weights.items() if weight}
        axes = [self._axes[name] for name in weights]
        plain = all(
            not (a.log or a.is_constant or a.parameter.step or a.parameter.choices
                 or a.parameter.condition or a.name in self._parents) for a in axes
        )  # fmt: skip
        if len(axes) < 2 or not plain or len({axis.kind for axis in axes}) > 1:
            raise ValueError(
                f"its linear constraints need two or more parameters, all double or all int, with "
                f"bounds and without log, step or condition: not {', '.join(weights)}"
            )
        terms = [{"name": self._ids[name], "weight": weight} for name, weight in weights.items()]
        bounds = (("greater_than", constraint.low), ("less_than", constraint.high))
        return [
            {"type": kind, "terms": terms, "threshold": bound}
            for kind, bound in bounds
            if bound is not None
        ]


def _option(number: float) -> str:
    return f"v{int(number):05d}"  # SigOpt sorts the values by name


def _options_number(option: str) -> int:
    return int(option[1:])


def _shape(axis: Axis) -> dict[str, Any]:
    """Type, range and scale of a parameter."""
    if axis.kind is Kind.OPTION:
        options = [_option(number) for number in range(int(axis.high) + 1)]
        return {"type": "categorical", "categorical_values": options}
    if axis.kind is Kind.WHOLE and axis.log:
        bounds = {"min": axis.low - 0.5, "max": axis.high + 0.5}  # each number has its share
        return {"type": "double", "bounds": bounds, "transformation": "log"}
    if axis.kind is Kind.WHOLE:
        return {"type": "int", "bounds": {"min": int(axis.low), "max": int(axis.high)}}
    shape = {"type": "double", "bounds": {"min": axis.low, "max": axis.high}}
    return {**shape, "transformation": "log"} if axis.log else shape
