"""YAML that people write, read strictly: data only, every problem at once, with its line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from engine.errors import InputError
from models.settings import nearest, shown

Name = Annotated[str, Field(min_length=1)]


def _up_to_4096(value: int | Literal["auto"]) -> int | Literal["auto"]:
    if isinstance(value, int) and not 1 <= value <= 4096:
        raise ValueError("must be auto or 1..4096")
    return value


Count = Annotated[int | Literal["auto"], AfterValidator(_up_to_4096)]  # of what works side by side
SHORT_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")

PYDANTIC_WORDS = re.compile(r"^(?:Input|String|List) (?=should )| after validation, not \d+$")


class _Loader(yaml.SafeLoader):
    """Reads 1e-3 as a number, as YAML 1.2 does; YAML 1.1 takes it for a text."""


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that _Loader would take for numbers."""


for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver("tag:yaml.org,2002:float", SHORT_FLOAT, list("-+.0123456789"))


class Part(BaseModel):
    """A mapping that people write: unknown keys and numbers that are none are refused."""

    model_config = ConfigDict(extra="forbid", strict=False, frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_not_one(cls, value: Any, info: ValidationInfo) -> Any:
        """ValueError for true or false where a number stands: Python takes them for 1 and 0."""
        kind = cls.model_fields[info.field_name or ""].annotation
        kinds = get_args(kind) or (kind,)
        if isinstance(value, bool) and bool not in kinds and {int, float} & set(kinds):
            raise ValueError("should be a number")
        return value


@dataclass(frozen=True)
class Source:
    """A file as written: what it is, its nested mapping, and the line of each dotted key."""

    name: str
    file: str
    data: Mapping[str, Any]
    lines: Mapping[str, int] = field(default_factory=dict)

    def place(self, dotted: str) -> str:
        """A dotted key with its line, or that of what it should stand in."""
        known = dotted
        while known and known not in self.lines:
            known = known.rpartition(".")[0]
        return f"{dotted} (line {self.lines[known]})" if known else dotted or "the whole"


def read(path: Path, what: str = "recipe") -> Source:
    """Read a YAML file: data only, no tags, no duplicate keys."""
    if path.exists() and not path.is_file():  # to read from a pipe would wait for ever
        raise InputError(f"cannot read {path}: it is not a file", todo="name a .yaml file")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"there is no {what} file {path}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: byte {error.start}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    return parse(text, path.stem, str(path), what)


def parse(text: str, name: str, file: str = "recipe", what: str = "recipe") -> Source:
    """Text to a Source; InputError names file, line and what YAML expected."""
    try:
        node = yaml.compose(text, Loader=_Loader)
        lines: dict[str, int] = {}
        if node is not None:
            _collect_lines(node, "", lines, file)
        data = from_yaml(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        place = f"{file}, line {mark.line + 1}, column {mark.column + 1}" if mark else file
        said = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(f"{place}: {said}", todo="mend the YAML there") from None
    except ValueError as error:  # a date that does not exist
        raise InputError(f"{file}: {error}", todo="mend the YAML there") from None
    except RecursionError:
        raise InputError(f"{file}: nested too deeply, or within itself") from None
    if data is None:
        raise InputError(
            f"{file} is empty",
            todo="start from `aiok new` or a shipped recipe" if what == "recipe" else "",
        )
    if not isinstance(data, dict):
        raise InputError(f"{file}: the {what} is a mapping of keys, not a {type(data).__name__}")
    return Source(name, file, data, lines)


def from_yaml(text: str) -> Any:
    """The data that a YAML text stands for; yaml.YAMLError or ValueError when it is none."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader


def _collect_lines(node: yaml.Node, prefix: str, lines: dict[str, int], file: str) -> None:
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            lines[f"{prefix}{number}"] = item.start_mark.line + 1
            _collect_lines(item, f"{prefix}{number}.", lines, file)
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        dotted = f"{prefix}{key.value}"
        if dotted in lines:
            raise InputError(f"{file}, line {key.start_mark.line + 1}: {dotted} stands there twice")
        lines[dotted] = key.start_mark.line + 1
        _collect_lines(value, f"{dotted}.", lines, file)


def refuse(source: Source, problems: Sequence[str]) -> InputError:
    """All problems of a file as one error."""
    head = f"{source.file}: {len(problems)} problem{'s' if len(problems) > 1 else ''}"
    return InputError("\n".join([head, *(f"  - {problem}" for problem in problems)]))


def sentences(
    root: type[BaseModel], source: Source, origins: Mapping[str, str], error: ValidationError
) -> list[str]:
    """One sentence for each bad key; a union's members are told as one choice."""
    by_key: dict[str, list[str]] = {}
    for item in error.errors():
        place, text = _sentence(root, source, origins, item)
        by_key.setdefault(place, []).append(text)
    return [f"{place}: {' or '.join(dict.fromkeys(texts))}" for place, texts in by_key.items()]


def _sentence(
    root: type[BaseModel], source: Source, origins: Mapping[str, str], item: Any
) -> tuple[str, str]:
    """One problem as (key with its line or origin, what is wrong and what is valid)."""
    parts: list[str] = []
    for part in map(str, item["loc"]):
        written = ".".join([*parts, part]) in source.lines  # a host may be named `int`
        if written or not _is_union_tag(part):
            parts.append(part)
    place = place_of(source, origins, ".".join(parts))
    if item["type"] == "extra_forbidden":
        return place, f"unknown key, {nearest(parts[-1], _valid_keys(root, parts[:-1]))}"
    if item["type"] == "missing":
        return place, "this key is needed"
    message = _message(item)
    if isinstance(item["input"], Mapping):
        return place, message
    return place, f"{message}, not {shown(item['input'])}"


def place_of(source: Source, origins: Mapping[str, str], dotted: str) -> str:
    """A key with what set it: its line in the file, or the variable or --set that gave it.

    What was given for a part of the key, or for a whole that holds it, counts where the file
    does not have the key itself.
    """
    origin = origins.get(dotted)
    if origin is None and dotted not in source.lines:
        origin = next(
            (said for key, said in origins.items() if said != "recipe"
             and (key.startswith(f"{dotted}.") or dotted.startswith(f"{key}."))),
            None,
        )  # fmt: skip
    return source.place(dotted) if origin in (None, "recipe") else f"{dotted} ({origin})"


def first_problem(error: ValidationError) -> str:
    """The first thing wrong, with its key, for what did not come from a file of the user's."""
    item = error.errors()[0]
    place = ".".join(map(str, item["loc"]))
    return f"{place}: {_message(item)}" if place else _message(item)


def _message(item: Any) -> str:
    """What pydantic says, without its own words for what it looks at."""
    text = item["msg"].removeprefix("Value error, ")
    return PYDANTIC_WORDS.sub("", text)


def _is_union_tag(part: str) -> bool:
    tags = ("bool", "int", "float", "str", "none")
    return part in tags or part.startswith(("literal[", "function-", "list["))


def _valid_keys(part: type[BaseModel], parents: Sequence[str]) -> list[str]:
    names = iter(parents)
    for name in names:
        kind = part.model_fields[name].annotation if name in part.model_fields else None
        options = [kind, *getattr(kind, "__args__", ())]
        held = next((o for o in options if getattr(o, "__origin__", None) in (dict, list)), None)
        if held is not None:  # a mapping or a list of things: one more name
            next(names, None)
            options += held.__args__
        inner = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
        if not inner:
            return []
        part = inner[0]
    return list(part.model_fields)


def plain_copy(data: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings as new dicts."""
    return {
        key: plain_copy(value) if isinstance(value, Mapping) else value
        for key, value in data.items()
    }


def to_yaml(data: Mapping[str, Any]) -> str:
    """YAML text in the order of the mapping."""
    return yaml.dump(
        plain_copy(data), Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=100
    )
