"""`aiok check`: one trial of a user's program as a search would run it, and what it said."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.clusters import local_site
from engine.code import deploy
from engine.errors import AiokError, InputError
from engine.programs import registry
from engine.programs.file import read_file
from engine.programs.model import active_defaults
from engine.programs.schema import Known
from engine.programs.trial import Places, trial_spec, worker_argv
from engine.store import home, make_folder, remove_tree
from engine.work import Launch, Listener, clean, run_worker, worker_environment, write_spec
from models.messages import Failure, Message, Note, Problem, Scalar

MOST_OUTPUT = 1 << 20


@dataclass(frozen=True)
class CheckTrial:
    """The trial to run: the spec of its worker, and the values of the parameters."""

    known: Known
    values: Mapping[str, Any]
    spec: Mapping[str, Any]
    job: str
    folder: Path


@dataclass(frozen=True, kw_only=True)
class CheckOutcome:
    """What became of it. `metrics` is empty where `failure` has a class; `streamed` holds how many
    points came of each metric, `output` the end of what it printed."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float
    failure: str = ""
    what: str = ""
    why: str = ""
    todo: str = ""
    streamed: Mapping[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    output: str = ""


class _Heard(Listener):
    """Keeps what the worker says."""

    def __init__(self) -> None:
        self.problem: Problem | None = None
        self.streamed: dict[str, int] = {}
        self.notes: list[str] = []
        self.text = ""

    def message(self, message: Message, rank: int) -> None:
        if isinstance(message, Problem):
            self.problem = message
        elif isinstance(message, Scalar):
            self.streamed[message.name] = self.streamed.get(message.name, 0) + 1
        elif isinstance(message, Note):
            self.notes.append(clean(message.text))

    def output(self, text: str) -> None:
        self.text = (self.text + text)[-MOST_OUTPUT:]


def prepare(program: str, data: Path | None, seconds: float) -> CheckTrial:
    """The trial of a registered program, or of a file (with a `/` or ending in .yaml); its
    parameters have their defaults. InputError: there is no such program, or no such data."""
    if data is not None and not data.expanduser().exists():
        raise InputError(f"--data {data}: there is no such file or folder")
    is_file = "/" in program or program.endswith((".yaml", ".yml"))
    known = read_file(Path(program)) if is_file else registry.get(program)
    job = f"check-{os.getpid()}-{time.time_ns()}"
    folder = home() / "work" / job
    values = active_defaults(known.program)
    places = Places(
        trial=str(folder / "trial"),
        checkpoints=str(folder / "checkpoints") if known.program.checkpoints else "",
        data=str(data.expanduser().absolute()) if data else "",
    )
    spec = trial_spec(known, values, places)
    limit = min(seconds, spec["timeout_s"] or seconds)
    return CheckTrial(known, values, {**spec, "timeout_s": limit}, job, folder)


def run(trial: CheckTrial) -> CheckOutcome:
    """Run it under the agent of this machine; nothing of it is left behind."""
    heard, begun = _Heard(), time.monotonic()
    metrics: Mapping[str, float] = {}
    failed: AiokError | None = None
    code = deploy()
    try:
        spec_file = write_spec(make_folder(trial.folder) / "spec.json", trial.spec)
        launch = Launch(
            job=trial.job, code=code.name, argv=worker_argv(sys.executable, spec_file),
            env=worker_environment(code),
        )  # fmt: skip
        metrics = run_worker([local_site()], launch, heard)["metrics"]
    except AiokError as error:
        failed = error
    finally:
        remove_tree(trial.folder)
    seconds = round(time.monotonic() - begun, 2)
    said = CheckOutcome(
        metrics=metrics, seconds=seconds, streamed=heard.streamed, notes=heard.notes,
        output=heard.text,
    )  # fmt: skip
    if failed is None:
        return said
    failure = heard.problem.failure if heard.problem else ""
    return replace(
        said, failure=failure or Failure.CRASH, what=failed.what, why=failed.why, todo=failed.todo
    )
