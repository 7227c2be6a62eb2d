"""A user's own program as a model: its YAML file, the register of programs, the command of a trial.

Registered ones lie in $AIOK_HOME/programs, one file each, as they were when they were registered.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from engine.errors import InputError
from engine.hpo import experiment
from engine.hpo.schema import LinearConstraintPart, MetricPart, ParameterPart, Search
from engine.hpo.space import Scalar, Space
from engine.store import home, make_folder, safe_name, write_atomically
from engine.strict_yaml import Name, Part, Source, parse, read, refuse, sentences, to_yaml
from models import catalog
from models.api import Goal, Metric, ModelSpec, Worker
from models.settings import Kind, Setting, nearest

PROFILE = "program"  # the one profile of such a model
WORKER = Worker(module="models.program", environment="")  # any Python of the host runs it
PLACES = ("trial_dir", "params_file", "checkpoints", "data_path", "program_dir", "seed", "cores")
WORD = re.compile(r"\{\{|\}\}|\{(\w+)\}")
PROGRAM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
ARGUMENT = re.compile(r"[^\W\d][\w.-]*")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
DEFAULT_FILES = {"json": "result.json", "yaml": "result.yaml", "float": "result"}


# --- the file -----------------------------------------------------------------------------------


class ProgramMetric(MetricPart):
    """A metric: `source` wall_clock is measured, result is what the program says; `pattern` finds
    it in a result of the format regex (its first group, or all of it; the last match counts)."""

    source: Literal["result", "wall_clock"] = "result"
    pattern: str | None = None


class ResultPart(Part):
    """Where the metrics stand at the end: in `file` of the trial's folder, by default result.json,
    result.yaml or result; for last_line and regex what the program prints. `stream`: the last
    values of the streamed JSON lines."""

    format: Literal["json", "yaml", "float", "last_line", "regex", "stream"] = "json"
    file: Name | None = None


class IntermediatePart(Part):
    """Where the streamed JSON lines lie, if not in the file that AIOK_METRICS names."""

    file: Name


class Resources(Part):
    """What one trial takes. Memory and disk are limits: a trial above them is ended. The log keeps
    the first `log_mb` of what it prints, and its last lines."""

    cores: int = Field(default=1, ge=1, le=4096)
    memory_gb: float | None = Field(default=None, gt=0)
    disk_gb: float = Field(default=10.0, gt=0, le=100_000)
    log_mb: float = Field(default=16.0, gt=0, le=4096)
    gpus: Literal[0] = 0
    hosts: Literal[1] = 1


class Program(Part):
    """A program: the command and how it takes its parameters, what it says, what it may take."""

    name: Name
    title: str = ""
    summary: str = ""
    command: list[str] = Field(min_length=1)
    args_style: str | list[str] = "--{name}={value}"
    cwd: Name = "."
    env: dict[str, str] = Field(default_factory=dict)
    parameters: list[ParameterPart] = Field(min_length=1)
    linear_constraints: list[LinearConstraintPart] | None = None
    metrics: list[ProgramMetric] = Field(min_length=1)
    result: ResultPart = ResultPart()
    intermediate: IntermediatePart | None = None
    checkpoints: bool = False
    resources: Resources = Resources()
    timeout_s: float | None = Field(default=None, gt=0)
    grace_s: float = Field(default=10.0, ge=0, le=45)
    budget: int | None = Field(default=None, ge=1, le=1_000_000)

    def said_metrics(self) -> list[str]:
        """The metrics that the program itself has to say."""
        return [metric.name for metric in self.metrics if metric.source == "result"]

    def style(self) -> Sequence[str]:
        """What stands in the command for each parameter; () where none does."""
        if self.args_style in ("env", "json"):
            return ()
        return [self.args_style] if isinstance(self.args_style, str) else self.args_style

    def asked_for(self) -> str:
        """The first metric that is searched for."""
        return next((m.name for m in self.metrics if m.strategy == "optimize"), "")


@dataclass(frozen=True)
class Known:
    """A program and where its file lies; relative paths of it begin in that folder."""

    program: Program
    file: str

    @property
    def folder(self) -> Path:
        """The folder of its file."""
        return Path(self.file).parent


def read_file(path: Path) -> Known:
    """The program of a YAML file; InputError names every problem with its line."""
    source, file = read(path, "program"), path.expanduser().absolute()
    cwd = source.data.get("cwd", ".")
    if isinstance(cwd, str) and "{" not in cwd and not (file.parent / cwd).is_dir():
        gone = [f"{source.place('cwd')}: there is no folder {file.parent / cwd}"]
    else:
        gone = []
    return _known(source, str(file), gone)


def _known(source: Source, file: str, also: Sequence[str] = ()) -> Known:
    """The program of a text, or all that is wrong with it and `also`."""
    try:
        program = Program.model_validate(source.data)
    except ValidationError as error:
        raise refuse(source, [*sentences(Program, source, {}, error), *also]) from None
    found = [f"{source.place(key)}: {text}" for key, text in _problems(program)]
    if found or also:
        raise refuse(source, [*found, *also])
    return Known(program, file)


def _problems(program: Program) -> Iterator[tuple[str, str]]:
    """What the schema cannot say: (dotted key, what is wrong)."""
    if not PROGRAM_NAME.fullmatch(program.name):
        yield "name", "a name is made of letters, digits, dots, dashes and underscores"
    elif program.name in catalog.names():
        yield "name", f"{program.name} is a model that comes with aiok: choose another name"
    yield from _text_problems(program)
    yield from _style_problems(program)
    yield from _result_problems(program)
    settings = []
    for number, part in enumerate(program.parameters):
        try:
            settings.append(_setting(part))
        except ValueError as error:
            yield f"parameters.{number}", str(error)
    for number, metric in enumerate(program.metrics):
        if metric.objective is None and metric.source == "result":
            yield f"metrics.{number}", "objective is needed: maximize or minimize"
    if len(settings) == len(program.parameters):
        said = experiment.problems(_search(program), spec_of(program), {}, program.asked_for())
        yield from ((key.removeprefix("search."), text) for key, text in said)


def _text_problems(program: Program) -> Iterator[tuple[str, str]]:
    """Placeholders that nobody knows, and bytes that no command can hold."""
    texts = {f"command.{number}": word for number, word in enumerate(program.command)}
    texts |= {f"env.{name}": text for name, text in program.env.items()}
    texts |= {"cwd": program.cwd, "result.file": program.result.file or ""}
    if program.intermediate:
        texts["intermediate.file"] = program.intermediate.file
    for key, text in texts.items():
        if "\0" in text:
            yield key, "a zero byte cannot be passed on"
        for match in WORD.finditer(text):
            if match[1] is not None and match[1] not in PLACES:
                hint = nearest(match[1], PLACES)
                yield key, f"nothing is known as {match[0]}, {hint}; {{{{ stands for one brace"
    if not program.command[0]:
        yield "command.0", "the program has no name"
    for name in program.env:
        if not VARIABLE.fullmatch(name) or name.startswith("AIOK_"):
            yield f"env.{name}", "is no name for a variable of yours"


def _style_problems(program: Program) -> Iterator[tuple[str, str]]:
    style = program.style()
    if style and not any("{value}" in word for word in style):
        yield "args_style", "needs {value}, such as --{name}={value}; or env, or json"
    for word in style:
        for match in WORD.finditer(word):
            if match[1] not in (None, "name", "value"):
                yield "args_style", f"{match[0]} is neither {{name}} nor {{value}}"
    pattern = VARIABLE if program.args_style == "env" else ARGUMENT
    for number, part in enumerate(program.parameters):
        ours = program.args_style == "env" and part.name.startswith("AIOK_")
        if not pattern.fullmatch(part.name) or ours:
            yield f"parameters.{number}.name", f"{part.name!r} cannot be passed as a name"
        for value in part.categorical_values or ():
            if isinstance(value, str) and "\0" in value:
                yield f"parameters.{number}.categorical_values", "a zero byte cannot be passed on"


def _result_problems(program: Program) -> Iterator[tuple[str, str]]:
    result, names = program.result, program.said_metrics()
    if result.format == "float" and len(names) > 1:
        yield "result.format", f"one float cannot be {' and '.join(names)}: use json"
    if result.format == "stream" and result.file:
        yield "result.file", "streamed metrics lie in AIOK_METRICS, or in intermediate.file"
    stream = program.intermediate.file if program.intermediate else None
    for key, file in (("result.file", result.file), ("intermediate.file", stream)):
        if file and not _in_trial(file).startswith("{trial_dir}/"):
            yield key, "must lie in the trial's folder: trials that run together would share it"
    for number, metric in enumerate(program.metrics):
        key = f"metrics.{number}.pattern"
        wanted = result.format == "regex" and metric.source == "result"
        if wanted != (metric.pattern is not None):
            yield key, "is needed for format regex" if wanted else "belongs to result.format regex"
        if metric.pattern is not None:
            try:
                re.compile(metric.pattern)
            except re.error as error:
                yield key, f"is no regular expression: {error}"


def _in_trial(file: str) -> str:
    """A file of a trial with the placeholder of its folder; a relative one lies there too."""
    full = file if file.startswith(("{", "/")) else f"{{trial_dir}}/{file}"
    return os.path.normpath(full)


# --- what it is to the rest of aiok -------------------------------------------------------------


def spec_of(program: Program) -> ModelSpec:
    """The program as a model of the catalog."""
    return ModelSpec(
        name=program.name,
        title=program.title or program.name,
        summary=program.summary or "a program of yours",
        task="program",
        formats=("criteo", "table"),
        settings=tuple(_setting(part) for part in program.parameters),
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


def _setting(part: ParameterPart) -> Setting:
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
    center = (low * high) ** 0.5 if log else (low + high) / 2
    if part.step:
        center = low + part.step * ((center - low) // part.step)
    return Setting(
        name=part.name, kind=Kind.INT if part.type == "int" else Kind.FLOAT, help=text, low=low,
        high=high, log=log, tunable=True,
        default=part.default if part.default is not None
        else int(center) if part.type == "int" else center,
    )  # fmt: skip


def _search(program: Program) -> Search:
    return Search.model_validate(search_part(program))


def search_part(program: Program) -> dict[str, Any]:
    """What the program's file says for the part `search` of a recipe."""
    own = set(ProgramMetric.model_fields) - set(MetricPart.model_fields)
    spec = spec_of(program)
    metrics = [
        {**metric.model_dump(exclude=own, exclude_unset=True),
         "objective": str(spec.metric(metric.name).goal)}
        for metric in program.metrics
    ]  # fmt: skip
    found: dict[str, Any] = {
        "parameters": [part.model_dump(exclude_unset=True) for part in program.parameters],
        "metrics": metrics,
    }
    if program.linear_constraints:
        found["linear_constraints"] = [
            part.model_dump(exclude_unset=True) for part in program.linear_constraints
        ]
    if program.budget:
        found["trials"] = program.budget
    return found


# --- the register -------------------------------------------------------------------------------


def _folder() -> Path:
    return home() / "programs"


def names() -> list[str]:
    """The names of all registered programs, in order."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def register(path: Path) -> Known:
    """Make the program of a file a model. Again from the same file: as it is now."""
    known = read_file(path)
    name = known.program.name
    if name in names() and get(name).file != known.file:
        raise InputError(
            f"there is already a program named {name}, from {get(name).file}",
            todo=f"aiok unregister {name}, or choose another name",
        )
    target = make_folder(_folder()) / f"{safe_name(name)}.yaml"
    text = read(path, "program").data
    write_atomically(target, to_yaml({"file": known.file, "program": text}))
    return known


def get(name: str) -> Known:
    """A registered program; InputError when there is none or what is kept of it is damaged."""
    if name not in names():
        hint = nearest(name, names()) if names() else "aiok register FILE"
        raise InputError(f"there is no program named {name}", todo=hint)
    path = _folder() / f"{safe_name(name)}.yaml"
    source = read(path, "program")
    kept, file = source.data.get("program"), source.data.get("file")
    if not isinstance(kept, Mapping) or not isinstance(file, str):
        raise InputError(f"{path} is damaged", todo=f"aiok unregister {name}, and register it anew")
    return _known(parse(yaml.safe_dump(dict(kept), sort_keys=False), name, str(path)), file)


def planned(settings: Mapping[str, Any]) -> Known:
    """The program that the settings of a planned step hold."""
    return Known(Program.model_validate(settings["program"]), settings["file"])


def unregister(name: str) -> None:
    """Forget a program; its own files stay."""
    if name not in names():
        get(name)
    (_folder() / f"{safe_name(name)}.yaml").unlink()


def space_of(program: Program) -> Space:
    """The parameters of a program as a space to search."""
    study = experiment.study_of(_search(program), spec_of(program), {}, program.asked_for())
    return study.space


def active_defaults(program: Program) -> dict[str, Scalar]:
    """The default of every parameter that counts under the other defaults."""
    space = space_of(program)
    defaults = {p.name: p.default for p in space.parameters if p.default is not None}
    return space.active(defaults)


# --- a trial ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Places:
    """What a trial is given: its folders (absolute, on its host), data, cores and seed."""

    trial: str
    checkpoints: str = ""
    data: str = ""
    seed: int = 0
    cores: Sequence[int] = ()


def trial_spec(known: Known, values: Mapping[str, Any], places: Places) -> dict[str, Any]:
    """The spec.json of models.program for one trial; `values` are those of all parameters that
    count in it. InputError when the command wants data and there are none."""
    program = known.program
    words: dict[str, str] = {
        "trial_dir": places.trial, "params_file": f"{places.trial}/params.json",
        "checkpoints": places.checkpoints, "data_path": places.data,
        "program_dir": str(known.folder), "seed": str(places.seed),
        "cores": str(len(places.cores) or program.resources.cores),
    }  # fmt: skip
    if not places.data and any("{data_path}" in word for word in _texts(program)):
        raise InputError(
            f"the command of {program.name} names {{data_path}} and there are no data",
            todo="name them: dataset.path in the recipe, --data for aiok check",
        )
    result, stream = program.result, program.intermediate
    result_file = result.file or DEFAULT_FILES.get(result.format, "")
    metrics_file = fill(_in_trial(stream.file if stream else "metrics.jsonl"), words)
    cwd = fill(program.cwd, words)
    env = {
        "AIOK_METRICS": metrics_file, "AIOK_TRIAL_DIR": places.trial,
        "AIOK_PARAMS": words["params_file"], "AIOK_CHECKPOINTS": places.checkpoints,
        "AIOK_SEED": words["seed"], "AIOK_CORES": words["cores"],
        "OMP_NUM_THREADS": words["cores"],
        **{name: fill(text, words) for name, text in program.env.items()},
    }  # fmt: skip
    if program.args_style == "env":
        env |= {name: as_text(value) for name, value in values.items()}
    return {
        "argv": [*(fill(word, words) for word in program.command), *arguments(program, values)],
        "cwd": str(known.folder / cwd),
        "env": env,
        "params": dict(values),
        "params_file": words["params_file"],
        "output": places.trial,
        "checkpoints": places.checkpoints,
        "metrics_file": metrics_file,
        "result": {
            "format": result.format,
            "file": fill(_in_trial(result_file), words) if result_file else "",
            "patterns": {m.name: m.pattern for m in program.metrics if m.pattern is not None},
        },
        "metrics": program.said_metrics(),
        "clocked": [m.name for m in program.metrics if m.source == "wall_clock"],
        "memory_gib": program.resources.memory_gb,
        "disk_mib": max(1, round(program.resources.disk_gb * 1024)),
        "log_mib": max(1, round(program.resources.log_mb)),
        "timeout_s": program.timeout_s,
        "grace_s": program.grace_s,
    }


def worker_argv(python: str, spec_file: Path | str) -> list[str]:
    """The command of the worker that runs a trial; `python` is that of its host."""
    return [python, "-m", WORKER.module, str(spec_file)]


def worker_environment(code: str) -> dict[str, str]:
    """Its environment; `code` is the folder of the workers' code there."""
    return {"PYTHONPATH": code, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}


def _texts(program: Program) -> list[str]:
    return [*program.command, *program.env.values(), program.cwd]


def fill(text: str, words: Mapping[str, str]) -> str:
    """A text with its placeholders replaced; {{ and }} are braces."""
    return WORD.sub(lambda match: words[match[1]] if match[1] else match[0][0], text)


def as_text(value: Any) -> str:
    """A value as a program reads it: 0, 0.001, true, and a text as it is."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else repr(value)


def arguments(program: Program, values: Mapping[str, Any]) -> list[str]:
    """The arguments for the values, in the order of the file. A flag stands there by its name
    alone, or not at all; every other value does, 0 and an empty text too."""
    found: list[str] = []
    flags = {part.name for part in program.parameters if part.type == "flag"}
    for part in program.parameters:
        if part.name not in values:
            continue
        words = {"name": part.name, "value": as_text(values[part.name])}
        style: Sequence[str] = program.style()
        if part.name in flags and any("{name}" in word for word in style):
            if not values[part.name]:
                continue
            style = [word for word in map(_without_value, style) if word]
        found += [fill(word, words) for word in style]
    return found


def _without_value(word: str) -> str:
    """The part of a style that names a flag: `--{name}` of `--{name}={value}`, "" of `{value}`."""
    return word.partition("{value}")[0].rstrip("=: ")
