"""One parameter as optimizers of other projects take it: a range of numbers, or numbered options.

Values go there and come back by number, so that nothing a value or a name holds can matter to them:
text of any kind, a list of numbers (its order is kept), steps (numbered without rounding).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from engine.hpo.space import Parameter, Type
from models.settings import Scalar


class Kind(StrEnum):
    """What the numbers of an axis are."""

    REAL = "real"
    WHOLE = "whole"
    OPTION = "option"  # without an order: 0 .. high


@dataclass(frozen=True)
class Axis:
    """`low` and `high` are inclusive; whole numbers unless the kind is REAL."""

    parameter: Parameter
    kind: Kind
    low: float
    high: float
    log: bool = False

    @classmethod
    def of(cls, parameter: Parameter) -> Axis:
        """The axis of a parameter."""
        if parameter.choices:
            unordered = parameter.type is Type.CATEGORICAL
            kind = Kind.OPTION if unordered else Kind.WHOLE
            return cls(parameter, kind, 0, len(parameter.choices) - 1)
        if parameter.step:
            return cls(parameter, Kind.WHOLE, 0, (parameter.count() or 1) - 1)
        low, high = parameter.range
        kind = Kind.WHOLE if parameter.type is Type.INT else Kind.REAL
        return cls(parameter, kind, low, high, parameter.log)

    @property
    def name(self) -> str:
        """Of its parameter."""
        return self.parameter.name

    @property
    def is_constant(self) -> bool:
        """Whether there is nothing to choose."""
        return self.low == self.high

    def encode(self, value: Scalar) -> float:
        """The number of a value that the parameter allows."""
        if self.parameter.choices:
            options = [repr(choice) for choice in self.parameter.choices]  # True is not 1 here
            return options.index(repr(self.parameter.check(value)))
        number = float(value)
        if self.parameter.step:
            return round((number - self.parameter.range[0]) / self.parameter.step)
        return int(number) if self.kind is Kind.WHOLE else number

    def decode(self, number: float) -> Scalar:
        """The value of a number; one that rounding put past an end is that end."""
        number = min(self.high, max(self.low, number))
        if self.kind is not Kind.REAL:
            number = round(number)
        if self.parameter.choices:
            return self.parameter.choices[int(number)]
        if self.parameter.step:
            return self.parameter.nth(int(number))
        return int(number) if self.parameter.type is Type.INT else float(number)
