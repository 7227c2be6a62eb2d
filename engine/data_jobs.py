"""Work on data outside a run: make, profile, check, predict. Each is one worker on this machine."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engine import datasets
from engine.clusters import local_site
from engine.code import deploy
from engine.environments import environment_folder, install_environment
from engine.errors import InputError
from engine.facts import data_facts, data_files
from engine.plan import read_plan
from engine.recipe import Columns
from engine.store import (
    check_writable,
    home,
    make_folder,
    open_run_folder,
    process_identity,
    regular_file,
    remove_tree,
)
from engine.strict_yaml import first_problem
from engine.work import Launch, Listener, run_worker, write_spec
from hosts.transport import clean
from models import catalog, messages
from models.settings import nearest


class JobListener(Listener):
    """Hears how far the work is, the installation of its environment included."""

    def message(self, message: messages.Message, rank: int) -> None:
        if isinstance(message, messages.Progress):
            self.progress(clean(message.phase), message.done, message.total)
        elif isinstance(message, messages.Note):
            self.note(clean(message.text))

    def progress(self, phase: str, done: float, total: float) -> None:
        """`done` of `total` of a phase; total 0 means unknown."""

    def note(self, text: str) -> None:
        """A decision or a warning."""


def parse_columns(text: str | None) -> dict[str, Any] | None:
    """label=NAME,numeric=A+B,categorical=C+D,time=T as a mapping; None stays None."""
    if text is None:
        return None
    found: dict[str, Any] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        key = key.strip()
        if not equals or key not in Columns.model_fields:
            raise InputError(
                f"--columns: {part!r} is not KEY=NAMES",
                todo=nearest(key, list(Columns.model_fields)),
            )
        many = key in ("numeric", "categorical")
        found[key] = [v.strip() for v in value.split("+") if v.strip()] if many else value.strip()
    try:
        Columns.model_validate(found)
    except ValidationError as error:
        raise InputError(f"--columns: {first_problem(error)}") from None
    return found


def _dataset(path: str, format: str, columns: str | None) -> dict[str, Any]:
    """A path or a registered name as the `dataset` of a worker's spec."""
    if "/" not in path and not Path(path).exists() and datasets.is_registered(path):
        known = datasets.get(path)
        parsed, format, path = known.columns, known.format, known.path
    else:
        parsed = parse_columns(columns)
    if format not in ("criteo", "table"):
        raise InputError(f"there is no format {format}", todo=nearest(format, ["criteo", "table"]))
    if format == "table" and parsed is None:
        raise InputError("a table needs --columns label=NAME,numeric=A+B,categorical=C+D")
    files = data_files(Path(path))
    data_facts(files)
    return {"format": format, "paths": [str(p) for p in files], "columns": parsed}


def _run(
    worker: str, model: str, spec: Mapping[str, Any], listener: JobListener, environment: str = ""
) -> dict[str, Any]:
    """Run one worker of a model here, its environment (or another one) installed first."""
    entry = catalog.load(model).workers[worker]
    environment = environment or entry.environment
    site = local_site()
    install_environment(environment, site.transport, listener.progress)
    code = deploy()
    job = f"{worker}-{os.getpid()}-{time.time_ns()}"
    scratch = home() / "work" / job
    cores = str(_cores())
    prefix = environment_folder(environment)
    try:
        spec_file = write_spec(make_folder(scratch) / "spec.json", spec)
        return run_worker(
            [site],
            Launch(
                job=job,
                code=code.name,
                argv=[f"{prefix}/bin/python", "-m", entry.module, str(spec_file)],
                env={
                    "PYTHONPATH": str(code),
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "OMP_NUM_THREADS": cores,
                },
            ),
            listener,
        )
    finally:
        remove_tree(scratch)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def make(model: str, rows: int, seed: int, output: Path, listener: JobListener) -> dict[str, Any]:
    """Make data in a model's public format in a new folder; it appears whole or not at all."""
    if model not in catalog.names():
        raise InputError(f"there is no model {model}", todo=nearest(model, catalog.names()))
    output = output.expanduser().absolute()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output} exists and is not empty", todo="name a new folder")
    make_folder(output.parent)
    building = output.with_name(f".{output.name}.{os.getpid()}")
    for left in output.parent.iterdir():  # of a `make` that was killed
        pid = left.name.removeprefix(f".{output.name}.")
        if pid != left.name and pid.isdecimal() and not process_identity(int(pid)):
            remove_tree(left)
    remove_tree(building)
    building.mkdir()
    spec = {
        "rows": rows, "seed": seed, "split": {"by": "time", "valid": 0.1, "test": 0.1},
        "output": str(building), "cores": _cores(), "settings": {},
    }  # fmt: skip
    try:
        result = _run("generate", model, spec, listener)
        if output.exists():
            output.rmdir()
        building.rename(output)
    finally:
        remove_tree(building)
    return result


def profile(path: str, format: str, columns: str | None, listener: JobListener) -> dict[str, Any]:
    """Count and describe every column."""
    scratch = make_folder(home() / "work" / f"profile-{os.getpid()}")
    try:
        dataset = _dataset(path, format, columns)
        spec = {"dataset": dataset, "output": str(scratch), "cores": _cores()}
        return _run("profile", catalog.names()[0], spec, listener)
    finally:
        remove_tree(scratch)


def check(path: str, format: str, columns: str | None, listener: JobListener) -> dict[str, Any]:
    """Read all rows strictly; InputError lists the first problems."""
    spec = {"dataset": _dataset(path, format, columns), "cores": _cores(), "limit": 10}
    return _run("check", catalog.names()[0], spec, listener)


def predict(
    run: str, rows: Path, output: Path, batch_size: int, listener: JobListener
) -> dict[str, Any]:
    """Score raw rows with the bundle of a run; the CSV appears whole or not at all."""
    folder = open_run_folder(run)
    plan = read_plan(folder.plan)
    if plan.of_kind("optimize") is None:
        raise InputError(
            f"{run} has no exported model: its model is a program of yours",
            todo=f"what its best trial made lies in {folder.artifacts(plan.training.id)}",
        )
    bundle = folder.artifacts("optimize")
    if not bundle.is_dir() and not bundle.is_symlink():
        raise InputError(
            f"{run} has no exported model", todo=f"its step optimize must be done: aiok show {run}"
        )
    if not plan.step("optimize").reuse:
        raise InputError(
            f"the exported model of {run} is damaged", todo=f"aiok resume {run} makes it again"
        )
    dataset = json.loads(json.dumps(plan.step("etl").settings["dataset"]))
    files = data_files(rows)
    data_facts(files)
    output = regular_file(output)
    if output in [path.resolve() for path in files]:
        raise InputError(f"{output} is the input", todo="name another file for the scores")
    make_folder(output.parent)
    check_writable(output)
    spec = {
        "bundle": str(bundle.resolve()),
        "dataset": {**dataset, "paths": [str(p) for p in files]},
        "output": str(output),
        "threads": _cores(),
        "batch_size": batch_size,
    }
    environment = plan.step("optimize").environment  # where the form that was kept can run
    return _run("predict", plan.model, spec, listener, environment)
