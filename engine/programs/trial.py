"""One trial of a program: its command with the values, and the spec of the worker that runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import InputError
from engine.programs.model import WORKER
from engine.programs.schema import WORD, Known, Program, in_trial

DEFAULT_FILES = {"json": "result.json", "yaml": "result.yaml", "float": "result"}


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
    metrics_file = fill(in_trial(stream.file if stream else "metrics.jsonl"), words)
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
            "file": fill(in_trial(result_file), words) if result_file else "",
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
