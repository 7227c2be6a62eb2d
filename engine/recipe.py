"""What the user wants: the recipe, its schema, its layers and all of its problems at once.

Precedence: built-in < advisor < recipe < AIOK_* < --set. An environment variable AIOK_TRAIN__RANKS
sets train.ranks; only names with a double underscore, and AIOK_SEED and AIOK_CLUSTER, are read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from engine import catalog
from engine.errors import InputError
from engine.hpo import experiment, experiment_file
from engine.hpo.schema import Search
from engine.programs import registry
from engine.programs.model import PROFILE, search_part
from engine.strict_yaml import (
    Count,
    Name,
    Part,
    Source,
    from_yaml,
    place_of,
    plain_copy,
    read,
    refuse,
    sentences,
)
from hosts.inventory import LOCAL
from models.settings import nearest, resolve

SHIPPED = Path(__file__).with_name("recipes")
NOT_OF_PROGRAMS = ("split", "etl", "train")  # parts: a program does its own ETL, split and training


class Columns(Part):
    """Which columns of a table are what."""

    label: Name
    numeric: list[Name] = Field(default_factory=list)
    categorical: list[Name] = Field(default_factory=list)
    time: Name | None = None

    def names(self) -> list[str]:
        """All columns, each once."""
        named = [self.label, *self.numeric, *self.categorical, self.time]
        return list(dict.fromkeys(name for name in named if name is not None))

    @model_validator(mode="after")
    def _distinct(self) -> Columns:
        names = [self.label, *self.numeric, *self.categorical]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"columns named more than once: {', '.join(doubled)}")
        if not self.numeric and not self.categorical:
            raise ValueError("at least one numeric or categorical column is needed")
        return self


class Generate(Part):
    """Made-up data in the true public format, with a signal to learn."""

    rows: int = Field(default=300_000, ge=1_000, le=10**11)
    seed: int = Field(default=1, ge=0, le=2**31 - 1)


class Dataset(Part):
    """Exactly one of `path`, `name` (a registered data set) and `generate`."""

    format: Literal["criteo", "table"] = "criteo"
    path: Name | None = None
    name: Name | None = None
    columns: Columns | None = None
    generate: Generate | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Dataset:
        given = [key for key in ("path", "name", "generate") if getattr(self, key) is not None]
        if len(given) != 1:
            said = " and ".join(given) if given else "none of them"
            raise ValueError(f"needs exactly one of path, name and generate; the recipe has {said}")
        if self.format == "table" and self.generate is not None:
            raise ValueError("generate makes data in the criteo format; a table needs a path")
        if self.format == "table" and self.columns is None and self.name is None:
            raise ValueError("format table needs columns: {label, numeric, categorical}")
        if self.format == "criteo" and self.columns is not None:
            raise ValueError("columns belong to format table; criteo has fixed columns")
        return self


class Model(Part):
    """A model of the catalog, a profile of it, and settings that overrule the profile."""

    name: str = "dlrm"
    profile: str = "optimized"
    settings: dict[str, Any] = Field(default_factory=dict)


class Split(Part):
    """Parts of all rows; by time = the last rows are test, those before them valid."""

    by: Literal["time", "random"] = "time"
    valid: float = Field(default=0.1, gt=0, lt=1)
    test: float = Field(default=0.1, gt=0, lt=1)

    @model_validator(mode="after")
    def _rest(self) -> Split:
        if self.valid + self.test > 0.9:
            raise ValueError("valid and test together leave less than 0.1 for training")
        return self


class Etl(Part):
    """Which engine prepares the data: sail (embedded) or spark (Apache Spark at `address`; without
    one over the hosts of the cluster, on this machine where there is none)."""

    engine: Literal["auto", "sail", "spark"] = "auto"
    address: str | None = None


class Train(Part):
    """How the training is spread and saved, and the environment of all that computes with torch."""

    ranks: Count = "auto"
    environment: Literal["torch", "ipex"] = "torch"
    checkpoint_s: float = Field(default=60.0, ge=0.5, le=86_400)


class Goal(Part):
    """When the training is good enough, or long enough."""

    metric: str = "auc"
    target: float | None = None
    minutes: float | None = Field(default=None, gt=0)
    prefer: Literal["speed", "balanced", "accuracy"] = "balanced"
    max_metric_drop: float = Field(default=0.001, ge=0, le=1)


class Faults(Part):
    """What happens when a host or a rank is lost during the training.

    `stop` ends the run, resumable. `wait` waits until the host is back and goes on from the last
    checkpoint; `shrink` goes on with the hosts that are left, the global batch unchanged. With
    both a rank that is lost while its host answers, or on this machine, starts again where it was.
    After `restarts` restarts a run ends like with `stop`. A host that is silent for `grace_s` is
    lost; a rank that makes no progress for `hang_s`, and for ten of its usual steps, hangs.
    """

    policy: Literal["stop", "wait", "shrink"] = "stop"
    grace_s: float = Field(default=15.0, ge=1, le=3600)
    hang_s: float = Field(default=10.0, ge=1, le=86_400)
    restarts: int = Field(default=3, ge=0, le=1000)


class Recipe(Part):
    """One job, from data to report."""

    dataset: Dataset = Field(default_factory=Dataset.model_construct)  # a program may need none
    model: Model = Model()
    cluster: str = LOCAL
    split: Split = Split()
    etl: Etl = Etl()
    train: Train = Train()
    goal: Goal = Goal()
    search: Search | None = None
    faults: Faults = Faults()
    seed: int = Field(default=7, ge=0, le=2**31 - 1)


@dataclass(frozen=True)
class Value:
    """One value of a finished recipe: where it comes from, and why where something chose it."""

    key: str
    value: Any
    origin: str
    reason: str = ""


def shipped() -> list[str]:
    """The names of the recipes that come with aiok."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def find(argument: str) -> Source:
    """An argument with a `/` or ending in `.yaml` is a file, otherwise a recipe by name."""
    if "/" in argument or argument.endswith((".yaml", ".yml")):
        return read(Path(argument))
    path = SHIPPED / f"{argument}.yaml"
    if argument not in shipped():
        raise InputError(
            f"there is no recipe {argument}",
            todo=f"{nearest(argument, shipped())}; a file is named with its path or .yaml",
        )
    return read(path)


def from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Dotted keys from AIOK_* variables."""
    found = {}
    for name, value in environ.items():
        if name.startswith("AIOK_") and ("__" in name or name in ("AIOK_SEED", "AIOK_CLUSTER")):
            found[name[5:].lower().replace("__", ".")] = value
    return found


def from_overrides(overrides: Sequence[str]) -> dict[str, str]:
    """Dotted keys from `--set key=value`; a bare setting name means model.settings.NAME."""
    found = {}
    for item in overrides:
        key, equals, value = item.partition("=")
        key = key.strip()
        if not equals or not key:
            raise InputError(f"--set {item}: expected KEY=VALUE, such as train.ranks=2")
        if "." not in key and key not in Recipe.model_fields:
            key = f"model.settings.{key}"
        found[key] = value
    return found


def _plain(text: str) -> Any:
    """A value given as text, read as YAML reads a scalar or a flow list."""
    try:
        return from_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a date that does not exist
        return text


def put(data: dict[str, Any], dotted: str, value: Any) -> None:
    """Set a dotted key in nested mappings."""
    *parents, last = dotted.split(".")
    for parent in parents:
        inner = data.get(parent)
        if not isinstance(inner, dict):
            inner = {}
            data[parent] = inner
        data = inner
    data[last] = value


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings to dotted keys; an empty mapping stays a value."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def load(
    source: Source, overrides: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> tuple[Recipe, dict[str, str]]:
    """Merge the layers, check all of it; returns the recipe and the origin of each dotted key."""
    data = plain_copy(source.data)
    origins = dict.fromkeys(flatten(data), "recipe")
    for key, text in from_environment(os.environ if environ is None else environ).items():
        put(data, key, _plain(text))
        origins[key] = "AIOK_" + key.upper().replace(".", "__")
    for key, text in from_overrides(overrides).items():
        put(data, key, _plain(text))
        origins[key] = "--set"
    if isinstance(data.get("search"), dict):
        folder = Path(source.file).parent if origins.get("search.file") == "recipe" else Path()
        data["search"], places = experiment_file.inline(data["search"], folder)
        origins.pop("search.file", None)
        origins |= places
    origins |= _said_by_program(data)
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        problems = sentences(Recipe, source, origins, error)
        problems += _data_problems(data) + _model_problems(source, origins, data.get("model"))
        raise refuse(source, problems) from None
    problems = _data_problems(data) + _model_problems(source, origins, data.get("model"))
    if recipe.model.name in catalog.names():
        problems += _goal_problems(recipe) + _idle_problems(recipe, source, origins)
        problems += [] if problems else _search_problems(recipe, source, origins)
    if problems:
        raise refuse(source, problems)
    return recipe, origins


def _said_by_program(data: dict[str, Any]) -> dict[str, str]:
    """What the file of a user's program says where the recipe says nothing: its one profile, its
    metric, its search; without a search one trial with the defaults. Origins of what was added."""
    name = _model_name(data)
    if not catalog.is_program(name):
        return {}
    program = registry.get(name).program
    search = {} if data.get("search") is None else data["search"]
    if not isinstance(search, Mapping):
        return {}
    said: dict[str, Any] = {"model.profile": PROFILE, "goal.metric": program.asked_for()}
    said |= {f"search.{key}": value for key, value in search_part(program).items()}
    if data.get("search") is None:
        said["search.trials"] = 1
    data["search"] = dict(search)
    added = {key: value for key, value in said.items() if not _holds(data, key)}
    for key, value in added.items():
        put(data, key, value)
    return dict.fromkeys(added, f"program {name}")


def _model_name(data: Mapping[str, Any]) -> str:
    model = data.get("model")
    name = model.get("name") if isinstance(model, Mapping) else None
    return name if isinstance(name, str) else str(Model.model_fields["name"].default)


def _holds(data: Mapping[str, Any], dotted: str) -> bool:
    """Whether a key has a value, or stands where none can be put."""
    part, _, key = dotted.partition(".")
    inner = data.get(part, {})
    return not isinstance(inner, Mapping) or inner.get(key) is not None


def _data_problems(data: Mapping[str, Any]) -> list[str]:
    """Only a program of the user's may go without data: it reads its own. What a model that nobody
    knows needs is not known."""
    name = _model_name(data)
    if "dataset" in data or catalog.is_program(name) or name not in catalog.names():
        return []
    return ["dataset: this key is needed"]


def _model_problems(source: Source, origins: Mapping[str, str], model: Any) -> list[str]:
    """What the catalog and the model's settings say against the model part."""

    def at(key: str) -> str:
        return place_of(source, origins, f"model.{key}")

    if not isinstance(model, Mapping):
        return []
    name = model.get("name", Model.model_fields["name"].default)
    if name not in catalog.names():
        return [f"{at('name')}: there is no model {name}, {nearest(name, catalog.names())}"]
    spec = catalog.load(name)
    problems = []
    profile = model.get("profile", Model.model_fields["profile"].default)
    if profile not in list(spec.profiles):
        hint = nearest(profile, list(spec.profiles))
        problems.append(f"{at('profile')}: {name} has no profile {profile}, {hint}")
    settings = model.get("settings") or {}
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            said = resolve(spec.settings, {key: value})[1]
            problems += [f"{at(f'settings.{key}')}: {text}" for text in said]
    return problems


def _goal_problems(recipe: Recipe) -> list[str]:
    spec = catalog.load(recipe.model.name)
    names = [metric.name for metric in spec.metrics]
    problems = []
    if recipe.goal.metric not in names:
        problems.append(
            f"goal.metric: {spec.name} has no metric {recipe.goal.metric}, "
            + nearest(recipe.goal.metric, names)
        )
    if recipe.dataset.format not in spec.formats:
        problems.append(
            f"dataset.format: {spec.name} reads {', '.join(spec.formats)}, "
            f"not {recipe.dataset.format}"
        )
    return problems


def _idle_problems(recipe: Recipe, source: Source, origins: Mapping[str, str]) -> list[str]:
    """What the user says of steps that a program of theirs does not have."""
    if not catalog.is_program(recipe.model.name):
        return []
    said = (key for key, origin in origins.items() if origin in ("recipe", "--set"))
    return [
        f"{place_of(source, origins, key)}: this has no effect on {recipe.model.name}: a program"
        " does its own ETL, split and training; remove it"
        for key in said if key.partition(".")[0] in NOT_OF_PROGRAMS
    ]  # fmt: skip


def _search_problems(recipe: Recipe, source: Source, origins: Mapping[str, str]) -> list[str]:
    if recipe.search is None:
        return []
    spec = catalog.load(recipe.model.name)
    defaults, _ = resolve(spec.settings, spec.profiles[recipe.model.profile], recipe.model.settings)
    found = experiment.problems(recipe.search, spec, defaults, recipe.goal.metric)
    return [f"{place_of(source, origins, key)}: {text}" for key, text in found]


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe, for editors."""
    return Recipe.model_json_schema()
