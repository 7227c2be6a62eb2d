"""One hyper-parameter, declared once.

A `Setting` feeds four readers: the TUI form, `--set`, the search space and the generated docs.
Standard library only: the engine imports this file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import StrEnum
from typing import Any

Scalar = bool | int | float | str
Value = Scalar | tuple[int, ...]


class Kind(StrEnum):
    """What a setting holds."""

    INT = "int"
    FLOAT = "float"
    BOOL = "bool"
    CHOICE = "choice"
    WIDTHS = "widths"  # layer widths, written 512-256-64 or [512, 256, 64]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A hyper-parameter with its bounds (inclusive) and its help text.

    A search looks only in `search` where that is given, and chooses a value only while each setting
    named in `needs` has one of the values listed there.
    """

    name: str
    kind: Kind
    default: Value
    help: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Scalar, ...] = ()
    tunable: bool = False
    unit: str = ""
    search: tuple[float, float] | None = None
    needs: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind is Kind.CHOICE and not self.choices:
            raise ValueError(f"{self.name}: a choice needs choices")
        if self.log and (self.low is None or self.low <= 0):
            raise ValueError(f"{self.name}: a log scale needs a lower bound above 0")
        self.parse(self.default)
        for end in self.search or ():
            self.parse(end)

    def parse(self, raw: Any) -> Value:
        """Turn what a person or a file wrote into a value; ValueError says what was expected."""
        value = _PARSERS[self.kind](self, raw)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, str | bool):
                continue
            if self.low is not None and number < self.low:
                raise ValueError(
                    f"{self.name} is {shown(number)}, the lowest allowed is {_number(self.low)}"
                )
            if self.high is not None and number > self.high:
                raise ValueError(
                    f"{self.name} is {shown(number)}, the highest allowed is {_number(self.high)}"
                )
        return value

    def bounds(self) -> str:
        """The allowed range in words, for help texts."""
        if self.kind is Kind.CHOICE:
            return " | ".join(map(str, self.choices))
        if self.kind is Kind.BOOL:
            return "true | false"
        low, high = _number(self.low), _number(self.high)
        return f"{low}..{high}" if low or high else str(self.kind)


def _number(value: float | None) -> str:
    """A bound as people write it: 1,048,576 and 1e-06."""
    if value is None:
        return ""
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def _parse_int(setting: Setting, raw: Any) -> int:
    try:
        if isinstance(raw, bool):
            raise ValueError
        number = int(raw) if isinstance(raw, int | str) else float(raw)
        if number != int(number):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{setting.name} must be a whole number, not {shown(raw)}") from None
    return int(number)


def _parse_float(setting: Setting, raw: Any) -> float:
    try:
        if isinstance(raw, bool):
            raise ValueError
        number = float(raw)
        if number != number or number in (float("inf"), float("-inf")):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{setting.name} must be a finite number, not {shown(raw)}") from None
    return number


def _parse_bool(setting: Setting, raw: Any) -> bool:
    if isinstance(raw, bool):
        return raw
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    if isinstance(raw, str) and raw.lower() in words:
        return words[raw.lower()]
    raise ValueError(f"{setting.name} must be true or false, not {shown(raw)}")


def _parse_choice(setting: Setting, raw: Any) -> Scalar:
    for choice in setting.choices:  # 1 is not True, and the text 1 is not the number
        numbers = {type(choice), type(raw)} <= {int, float}
        if choice == raw and (type(choice) is type(raw) or numbers):
            return choice
    choices = ", ".join(map(str, setting.choices))
    raise ValueError(f"{setting.name} must be one of {choices}, not {shown(raw)}")


def _parse_widths(setting: Setting, raw: Any) -> tuple[int, ...]:
    parts: Sequence[Any]
    if isinstance(raw, str):
        parts = raw.split("-")
    elif isinstance(raw, list | tuple):
        parts = raw
    else:
        parts = [raw]
    try:
        return tuple(_parse_int(setting, part) for part in parts)
    except ValueError:
        raise ValueError(
            f"{setting.name} must be widths like 512-256-64, not {shown(raw)}"
        ) from None


_PARSERS: Mapping[Kind, Callable[[Setting, Any], Value]] = {
    Kind.INT: _parse_int,
    Kind.FLOAT: _parse_float,
    Kind.BOOL: _parse_bool,
    Kind.CHOICE: _parse_choice,
    Kind.WIDTHS: _parse_widths,
}


def shown(raw: Any) -> str:
    """A value as a message names it: quoted, at most 60 characters."""
    try:
        text = repr(raw)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def nearest(word: object, valid: Sequence[str]) -> str:
    """A hint for a mistyped name, of whatever type: the closest valid one, or the list of all."""
    close = get_close_matches(str(word), valid, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"valid: {', '.join(sorted(valid))}"


def resolve(
    settings: Sequence[Setting], *layers: Mapping[str, Any]
) -> tuple[dict[str, Value], list[str]]:
    """Defaults overlaid by each layer in turn; returns the values and every problem found."""
    by_name = {setting.name: setting for setting in settings}
    values: dict[str, Value] = {setting.name: setting.default for setting in settings}
    problems = []
    for layer in layers:
        for name, raw in layer.items():
            if name not in by_name:
                problems.append(f"unknown setting {name}: {nearest(name, list(by_name))}")
                continue
            try:
                values[name] = by_name[name].parse(raw)
            except ValueError as error:
                problems.append(str(error))
    return values, problems
