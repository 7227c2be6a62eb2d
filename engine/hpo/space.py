"""What a search may choose: parameters, when each counts, and what they must keep together.

Bounds are inclusive. An assignment names the active parameters only: a parameter whose condition
does not hold is not in it. Standard library only.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum

from models.settings import Kind, Scalar, Setting, nearest, shown

Assignment = Mapping[str, Scalar]

MOST_POINTS = 1_000_000  # of a space that is listed point by point
COUNTED = 10_000  # assignments that are counted one by one, to leave out what is not allowed
SLACK = 1e-9  # of a linear constraint: sums are rounded
MOST_DRAWS = 10_000  # for one point that keeps the constraints
SPREAD = 8.0  # a log scale is searched from default / SPREAD to default x SPREAD


class Type(StrEnum):
    """What a parameter holds."""

    DOUBLE = "double"
    INT = "int"
    CATEGORICAL = "categorical"


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter: either a range (`low`, `high`, maybe `log` or in steps of `step`) or a list of
    `choices`, of numbers in rising order or of anything when categorical.

    `condition`: the values of other parameters under which it is active.
    """

    name: str
    type: Type
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    choices: tuple[Scalar, ...] = ()
    default: Scalar | None = None
    condition: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """ValueError names what is wrong with the declaration."""
        ranged = self.low is not None and self.high is not None
        if ranged == bool(self.choices):
            raise ValueError(f"{self.name}: either bounds or a list of values is needed")
        if self.type is Type.CATEGORICAL and not self.choices:
            raise ValueError(f"{self.name}: a categorical parameter needs a list of values")
        if len(set(map(repr, self.choices))) < len(self.choices):
            raise ValueError(f"{self.name}: a value is listed twice")
        if ranged:
            _check_range(self)
        if self.default is not None:
            self.check(self.default)

    def check(self, value: object) -> Scalar:
        """The value in the parameter's own type; ValueError says what was expected."""
        if self.choices:
            for choice in self.choices:
                if type(choice) is type(value) and choice == value:
                    return choice
                if _is_number(choice) and _is_number(value) and choice == value:
                    return choice
            listed = ", ".join(map(str, self.choices))
            raise ValueError(f"{self.name} must be one of {listed}, not {shown(value)}")
        if not _is_number(value):
            raise ValueError(f"{self.name} must be a number, not {shown(value)}")
        number = float(value)  # type: ignore[arg-type]
        low, high = self.range
        if not low <= number <= high:
            raise ValueError(f"{self.name} is {shown(value)}, outside of {low:g}..{high:g}")
        if self.type is Type.INT and number != int(number):
            raise ValueError(f"{self.name} must be a whole number, not {shown(value)}")
        if self.step and not math.isclose(
            (number - low) / self.step, round((number - low) / self.step), abs_tol=1e-6
        ):
            raise ValueError(f"{self.name} is {shown(value)}, not {low:g} + n x {self.step:g}")
        return int(number) if self.type is Type.INT else number

    def closest(self, value: object) -> Scalar:
        """The value itself where it is allowed, else the nearest number, the first word."""
        try:
            return self.check(value)
        except ValueError:
            pass
        numbers = [choice for choice in self.choices if _is_number(choice)]
        if not _is_number(value) or len(numbers) < len(self.choices):
            return self.choices[0] if self.choices else self.check(self.range[0])
        number = float(value)  # type: ignore[arg-type]
        if numbers:
            return min(numbers, key=lambda choice: abs(float(choice) - number))
        low, high = self.range
        step = self.step or (1 if self.type is Type.INT else None)
        if step is None:
            return min(high, max(low, number))
        place = min((self.count() or 1) - 1, max(0, round((number - low) / step)))
        moved = min(high, low + place * step)
        return int(moved) if self.type is Type.INT else moved

    @property
    def range(self) -> tuple[float, float]:
        """(low, high) of a parameter with bounds."""
        assert self.low is not None and self.high is not None
        return self.low, self.high

    def values(self) -> tuple[Scalar, ...] | None:
        """All values in order; None for a continuous range."""
        if self.choices:
            return self.choices
        count = self.count()
        return None if count is None else tuple(map(self.nth, range(count)))

    def nth(self, number: int) -> int | float:
        """The value so many steps (of an int without steps: of 1) above the lower bound."""
        low, high = self.range
        value = low + number * (self.step or 1)
        if self.type is Type.INT:
            return int(value)
        return float(min(high, float(f"{value:.12g}")))  # 0.7, not 0.7000000000000001

    def count(self) -> int | None:
        """How many values there are, None for a continuous range."""
        if self.choices:
            return len(self.choices)
        step = self.step or (1 if self.type is Type.INT else None)
        return math.floor((self.range[1] - self.range[0]) / step + 1e-9) + 1 if step else None

    def sample(self, draw: random.Random) -> Scalar:
        """A value drawn uniformly, on the log scale where the parameter has one."""
        if self.choices:
            return draw.choice(self.choices)
        low, high = self.range
        if self.type is Type.INT and not self.step:
            if not self.log:
                return draw.randint(int(low), int(high))
            number = math.exp(draw.uniform(math.log(low - 0.5), math.log(high + 0.5)))
            return min(int(high), max(int(low), round(number)))
        if self.step:
            return self.nth(draw.randrange(self.count() or 1))
        if self.log:
            return float(min(high, max(low, math.exp(draw.uniform(math.log(low), math.log(high))))))
        return draw.uniform(low, high)


def _check_range(parameter: Parameter) -> None:
    low, high = parameter.range
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{parameter.name}: bounds must be finite numbers")
    if low > high:
        raise ValueError(f"{parameter.name}: the lower bound {low:g} is above the upper {high:g}")
    if not math.isfinite(high - low):
        raise ValueError(f"{parameter.name}: from {low:g} to {high:g} is too far to be searched")
    if parameter.type is Type.INT and (low != int(low) or high != int(high)):
        raise ValueError(f"{parameter.name}: the bounds of an int are whole numbers")
    if parameter.log and low <= 0:
        raise ValueError(f"{parameter.name}: a log scale needs a lower bound above 0")
    if parameter.step is not None and parameter.step <= 0:
        raise ValueError(f"{parameter.name}: step must be above 0")
    if parameter.step is not None and not math.isfinite((high - low) / parameter.step):
        raise ValueError(f"{parameter.name}: step {parameter.step:g} is too small for the bounds")
    if parameter.log and parameter.step is not None:
        raise ValueError(f"{parameter.name}: a log scale has no steps")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True, kw_only=True)
class LinearConstraint:
    """low <= sum of weight x parameter <= high; an inactive parameter counts as 0."""

    weights: Mapping[str, float]
    low: float | None = None
    high: float | None = None

    def excess(self, assignment: Assignment) -> float:
        """How far an assignment is outside; 0 or less: it keeps the constraint."""
        total = sum(
            weight * float(assignment[name])
            for name, weight in self.weights.items()
            if name in assignment
        )
        over = total - self.high if self.high is not None else -math.inf
        under = self.low - total if self.low is not None else -math.inf
        return max(over, under)

    def check_reach(self, parameters: Mapping[str, Parameter]) -> None:
        """ValueError when no values of the parameters, each taken by itself, keep it."""
        ends = [_weighted(parameters[name], weight) for name, weight in self.weights.items()]
        least, most = sum(low for low, _ in ends), sum(high for _, high in ends)
        if self.high is not None and least - self.high > SLACK:
            raise ValueError(f"no values keep it: the sum is {least:g} at least, not {self.high:g}")
        if self.low is not None and self.low - most > SLACK:
            raise ValueError(f"no values keep it: the sum is {most:g} at most, not {self.low:g}")


def _weighted(parameter: Parameter, weight: float) -> tuple[float, float]:
    """The least and the most that a parameter adds to a sum; an inactive one adds 0."""
    found = [weight * float(value) for value in parameter.choices or parameter.range]
    if parameter.condition:
        found.append(0.0)
    return min(found), max(found)


@dataclass(frozen=True, kw_only=True)
class Space:
    """All parameters; one that others depend on stands before them."""

    parameters: tuple[Parameter, ...]
    constraints: tuple[LinearConstraint, ...] = ()

    def __post_init__(self) -> None:
        """ValueError names the first thing that is wrong."""
        if not self.parameters:
            raise ValueError("a search needs at least one parameter")
        known: dict[str, Parameter] = {}
        for parameter in self.parameters:
            if parameter.name in known:
                raise ValueError(f"{parameter.name} is declared twice")
            for parent, values in parameter.condition.items():
                if parent not in known:
                    raise ValueError(
                        f"{parameter.name} depends on {parent}, which is not declared before it"
                    )
                for value in values:
                    known[parent].check(value)
            known[parameter.name] = parameter
        for constraint in self.constraints:
            for name in constraint.weights:
                if name not in known:
                    raise ValueError(f"a constraint names {name}: {nearest(name, list(known))}")
                if known[name].type is Type.CATEGORICAL:
                    raise ValueError(f"a constraint names {name}, which is no number")
            constraint.check_reach(known)

    def names(self) -> list[str]:
        """The names in order."""
        return [parameter.name for parameter in self.parameters]

    def parameter(self, name: str) -> Parameter:
        """The parameter of that name."""
        return next(p for p in self.parameters if p.name == name)

    def is_active(self, parameter: Parameter, chosen: Assignment) -> bool:
        """Whether the condition of a parameter holds under what is chosen."""
        return all(
            parent in chosen and chosen[parent] in values
            for parent, values in parameter.condition.items()
        )

    def check(self, assignment: Mapping[str, object]) -> dict[str, Scalar]:
        """The assignment in the parameters' own types and order; ValueError says what is wrong:
        an unknown, missing or inactive parameter, a value out of bounds, a broken constraint."""
        for name in assignment:
            if name not in self.names():
                raise ValueError(f"there is no parameter {name}: {nearest(name, self.names())}")
        chosen: dict[str, Scalar] = {}
        for parameter in self.parameters:
            if not self.is_active(parameter, chosen):
                if parameter.name in assignment:
                    raise ValueError(f"{parameter.name} is not active here")
                continue
            if parameter.name not in assignment:
                raise ValueError(f"{parameter.name} has no value")
            chosen[parameter.name] = parameter.check(assignment[parameter.name])
        if not self.allows(chosen):
            raise ValueError("the values break a linear constraint")
        return chosen

    def active(self, values: Assignment) -> dict[str, Scalar]:
        """Those of the values that count, in the order of the parameters."""
        found: dict[str, Scalar] = {}
        for parameter in self.parameters:
            if parameter.name in values and self.is_active(parameter, found):
                found[parameter.name] = values[parameter.name]
        return found

    def allows(self, assignment: Assignment) -> bool:
        """Whether the linear constraints are kept."""
        return all(constraint.excess(assignment) <= SLACK for constraint in self.constraints)

    def default(self) -> dict[str, Scalar] | None:
        """The assignment of all defaults; None when an active parameter has none or they break a
        constraint."""
        chosen: dict[str, Scalar] = {}
        for parameter in self.parameters:
            if self.is_active(parameter, chosen):
                if parameter.default is None:
                    return None
                chosen[parameter.name] = parameter.check(parameter.default)
        return chosen if self.allows(chosen) else None

    def sample(self, draw: random.Random) -> dict[str, Scalar]:
        """An assignment drawn uniformly among those that keep the constraints."""
        for _ in range(MOST_DRAWS):
            chosen: dict[str, Scalar] = {}
            for parameter in self.parameters:
                if self.is_active(parameter, chosen):
                    chosen[parameter.name] = parameter.sample(draw)
            if self.allows(chosen):
                return chosen
        raise ValueError(f"no point of {MOST_DRAWS:,} drawn keeps the linear constraints")

    def size(self) -> int | None:
        """How many assignments there are (at most, where they are more than COUNTED); None when a
        parameter is continuous."""
        counts = [parameter.count() for parameter in self.parameters]
        if any(count is None for count in counts):
            return None
        most = math.prod(count or 1 for count in counts)
        return most if most > COUNTED else sum(1 for _ in self.points())

    def points(self) -> Iterator[dict[str, Scalar]]:
        """Every assignment once, the last parameter varying fastest; ValueError for a continuous
        parameter or more than MOST_POINTS points."""
        lists: list[tuple[Scalar, ...]] = []
        for parameter in self.parameters:
            if (parameter.count() or 0) > MOST_POINTS:
                raise ValueError(f"{parameter.name} has more than {MOST_POINTS:,} values")
            values = parameter.values()
            if values is None:
                raise ValueError(
                    f"{parameter.name} is continuous: give it a grid or a step to visit every point"
                )
            lists.append(values)
        if math.prod(map(len, lists)) > MOST_POINTS:
            raise ValueError(f"the grid has more than {MOST_POINTS:,} points")
        seen: set[str] = set()
        for values in itertools.product(*lists):
            chosen: dict[str, Scalar] = {}
            for parameter, value in zip(self.parameters, values, strict=True):
                if self.is_active(parameter, chosen):
                    chosen[parameter.name] = value
            key = json.dumps(chosen)
            if key not in seen and self.allows(chosen):
                seen.add(key)
                yield chosen

    def digest(self) -> str:
        """Short hash of the declarations."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def from_settings(settings: Sequence[Setting], defaults: Mapping[str, object],
                  names: Sequence[str] = ()) -> Space:  # fmt: skip
    """The space of a model's settings: those named, by default all tunable ones that count.

    `defaults` are the values the model would be trained with; one that cannot lie in the range
    (0 = off on a log scale) leaves its parameter without a default. A setting that needs a value
    which another one, not searched, does not have is left out.
    """
    chosen = [s for s in settings if (s.name in names if names else s.tunable)]
    searched = {setting.name for setting in chosen}
    made = []
    for setting in chosen:
        fixed = {name: allowed for name, allowed in setting.needs.items() if name not in searched}
        if all(defaults.get(name) in allowed for name, allowed in fixed.items()):
            made.append(_parameter(setting, defaults.get(setting.name, setting.default),
                                   searched & set(setting.needs)))  # fmt: skip
    return Space(parameters=tuple(parents_first(made)))


def parents_first(parameters: Sequence[Parameter]) -> list[Parameter]:
    """In the order given, except that one waits for those it depends on; a circle is left as it
    is, for the space to refuse."""
    ordered: list[Parameter] = []
    waiting = list(parameters)
    while waiting:
        names = {parameter.name for parameter in waiting}
        free = next((p for p in waiting if not names & set(p.condition)), None)
        if free is None:
            return [*ordered, *waiting]
        ordered.append(free)
        waiting.remove(free)
    return ordered


def _parameter(setting: Setting, default: object, parents: Iterable[str]) -> Parameter:
    condition = {name: setting.needs[name] for name in sorted(parents)}
    if setting.kind in (Kind.CHOICE, Kind.BOOL):
        choices: tuple[Scalar, ...] = setting.choices or (False, True)
        made = Parameter(name=setting.name, type=Type.CATEGORICAL, choices=choices,
                         condition=condition)  # fmt: skip
    elif setting.kind is Kind.WIDTHS:
        raise ValueError(f"{setting.name}: list the widths to try, as a categorical parameter")
    else:
        low, high = _range(setting, default)
        kind = Type.INT if setting.kind is Kind.INT else Type.DOUBLE
        made = Parameter(name=setting.name, type=kind, low=low, high=high, log=setting.log,
                         condition=condition)  # fmt: skip
    try:
        value = made.check(default)
    except ValueError:
        return made
    return Parameter(**{**vars(made), "default": value})


def _range(setting: Setting, default: object) -> tuple[float, float]:
    """Where to look for a number: what it declares (and up to the default), on a log scale from
    SPREAD times less to SPREAD times more than the default, else all that is allowed."""
    if setting.low is None or setting.high is None:
        raise ValueError(f"{setting.name} has no bounds to search in: give some")
    if not isinstance(default, int | float):
        return setting.search or (setting.low, setting.high)
    if setting.search is not None:
        return min(setting.search[0], default), max(setting.search[1], default)
    if not setting.log or default <= 0:
        return setting.low, setting.high
    low, high = default / SPREAD, default * SPREAD
    if setting.kind is Kind.INT:
        low, high = math.ceil(low), math.floor(high)
    return max(low, setting.low), min(high, setting.high)
