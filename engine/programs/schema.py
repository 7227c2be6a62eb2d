"""What stands in the YAML file of a user's own program."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from engine.hpo.schema import LinearConstraintPart, MetricPart, ParameterPart
from engine.strict_yaml import Name, Part

PLACES = ("trial_dir", "params_file", "checkpoints", "data_path", "program_dir", "seed", "cores")
WORD = re.compile(r"\{\{|\}\}|\{(\w+)\}")  # a placeholder, or a brace that stands for itself


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


def in_trial(file: str) -> str:
    """A file of a trial with the placeholder of its folder; a relative one lies there too."""
    full = file if file.startswith(("{", "/")) else f"{{trial_dir}}/{file}"
    return os.path.normpath(full)
