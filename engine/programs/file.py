"""The file of a program, read strictly: every problem at once, each with its line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from engine.hpo import experiment
from engine.programs.files import missing_folder
from engine.programs.model import search_of, setting_of, spec_of
from engine.programs.schema import PLACES, WORD, Known, Program, in_trial
from engine.strict_yaml import Source, read, refuse, sentences
from models import catalog
from models.settings import nearest

PROGRAM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
ARGUMENT = re.compile(r"[^\W\d][\w.-]*")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def read_file(path: Path) -> Known:
    """The program of a YAML file; InputError names every problem with its line."""
    source, file = read(path, "program"), path.expanduser().absolute()
    cwd = source.data.get("cwd", ".")
    place = missing_folder(file.parent, cwd) if isinstance(cwd, str) else None
    gone = [f"{source.place('cwd')}: there is no folder {place}"] if place else []
    return known_of(source, str(file), gone)


def known_of(source: Source, file: str, also: Sequence[str] = ()) -> Known:
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
            settings.append(setting_of(part))
        except ValueError as error:
            yield f"parameters.{number}", str(error)
    for number, metric in enumerate(program.metrics):
        if metric.objective is None and metric.source == "result":
            yield f"metrics.{number}", "objective is needed: maximize or minimize"
    if len(settings) == len(program.parameters):
        said = experiment.problems(search_of(program), spec_of(program), {}, program.asked_for())
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
        if file and not in_trial(file).startswith("{trial_dir}/"):
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
