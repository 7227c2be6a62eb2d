"""What a run's search has found so far: trials, the best of them, and a recipe that repeats one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine import catalog
from engine.errors import InputError
from engine.hpo import optuna_study
from engine.hpo.experiment import study_of
from engine.hpo.front import Findings, findings
from engine.hpo.importance import Importance, importance
from engine.hpo.schema import Search
from engine.hpo.study import Study
from engine.hpo.trials import Trial, TrialState
from engine.plan import Plan, read_plan
from engine.recipe import put
from engine.report.plaintext import plain
from engine.store import open_run_folder
from engine.strict_yaml import to_yaml

SETTINGS = "model.settings."
# Columns of a row, and what `aiok trials --json` adds: never those of a metric or a parameter.
OWN = frozenset((
    "trial", "state", "best", "seconds", "host", "origin", "failure", "what", "as_trial",
    "assignment", "values", "cores", "tries", "started", "ended", "time", "why",
))  # fmt: skip
Cell = str | float | int | bool | None


@dataclass(frozen=True)
class Results:
    """A search of a run; `trials` in the order of their numbers, `found` what they came to."""

    run: str
    plan: Plan
    study: Study
    trials: tuple[Trial, ...]
    found: Findings

    @property
    def importance(self) -> list[Importance]:
        """What mattered, for each optimized metric."""
        return importance(self.study, self.trials)


def planned_search(plan: Plan) -> tuple[Search, Study] | None:
    """A plan's search as written, and the study that it means; None when it has no search.

    The goal's target ends a search for the goal's metric alone.
    """
    step = plan.of_kind("search")
    if step is None:
        return None
    own = step.settings
    part = Search.model_validate(own["search"])
    metric, seed = str(own["goal"]["metric"]), int(own["seed"])
    study = study_of(part, catalog.of_plan(plan), own["settings"], metric, seed)
    if [objective.name for objective in study.optimized] == [metric]:
        study = replace(study, target=own["goal"].get("target"))
    return part, study


def of_run(run: str) -> Results:
    """The search of a run; InputError when it has none."""
    folder = open_run_folder(run)
    plan = read_plan(folder.plan)
    planned = planned_search(plan)
    if planned is None:
        raise InputError(
            f"{run} has no search", todo="give its recipe a part `search: {trials: 20}`"
        )
    return judged(run, plan, planned[1], folder.state().trials)


def judged(run: str, plan: Plan, study: Study, trials: Mapping[int, Trial]) -> Results:
    """Results of trials as a run's state holds them."""
    ordered = tuple(trials[number] for number in sorted(trials))
    return Results(run, plan, study, ordered, findings(study, ordered))


def rows(results: Results) -> list[dict[str, Cell]]:
    """One flat row a trial, the same keys in each: for tables and CSV, texts made plain.

    `best` is "front" for a trial that no other one beats (the best one, with one metric) and
    "infeasible" for one that misses a threshold.
    """
    metrics, parameters = columns(results.study)
    front = {trial.number for trial in results.found.front}
    feasible = {trial.number for trial in results.found.feasible}
    finished = {trial.number for trial in results.found.finished}
    made = []
    for trial in results.trials:
        bad = trial.number in finished and trial.number not in feasible
        row: dict[str, Cell] = {"trial": trial.number, "state": str(trial.state)}
        row["best"] = "front" if trial.number in front else "infeasible" if bad else ""
        row |= {column: trial.values.get(name) for name, column in metrics.items()}
        row |= {column: _plain(trial.assignment.get(name)) for name, column in parameters.items()}
        row |= {"seconds": round(trial.seconds, 3), "host": plain(trial.host),
                "origin": trial.origin, "failure": str(trial.failure or ""),
                "what": plain(trial.what)}  # fmt: skip
        made.append(row)
    return made


def columns(study: Study) -> tuple[dict[str, str], dict[str, str]]:
    """The column of each metric and of each parameter by its name: the name itself, with `metric.`
    or `parameter.` before it where that is another column's."""
    metrics = [objective.name for objective in study.objectives]
    parameters = study.space.names()

    def apart(kind: str, names: Sequence[str], taken: Set[str]) -> dict[str, str]:
        return {name: f"{kind}.{name}" if name in taken else name for name in names}

    return (
        apart("metric", metrics, OWN | set(parameters)),
        apart("parameter", parameters, OWN | set(metrics)),
    )


def _plain(value: Cell) -> Cell:
    return plain(value) if isinstance(value, str) else value


def recipe_of(results: Results, number: int | None = None) -> str:
    """A recipe, as YAML, that trains with the assignment of a trial: the one named, by default the
    best one (with several metrics the best in the first of them).

    It trains as the trial did, to find what it names: to the goal of a trial, a model on one rank,
    not on those that the plan has for a training of its own, whose sums are rounded otherwise.
    InputError when there is no such trial, or none that keeps all thresholds.
    """
    trial = _chosen(results, number)
    data: dict[str, Any] = {}
    for value in results.plan.values:
        if not value.key.startswith("search."):
            put(data, value.key, value.value)
    if "dataset" in data:  # a program may go without
        data["dataset"]["path"] = _absolute(results.plan, data["dataset"]["path"])
    if "train" in data:  # nor has it ranks
        data["train"]["ranks"] = 1
    search = Search.model_validate(results.plan.training.settings["search"])
    data["goal"] = search.goal_of_trial(data["goal"])
    data["search"] = None
    data["model"]["settings"].update(trial.assignment)
    scored = ", ".join(f"{plain(name)} {value:.6g}" for name, value in trial.values.items())
    said = f"trial {trial.number} of {plain(results.run)}: {scored or trial.state}"
    return f"# {said}\n{to_yaml(data)}"


def _chosen(results: Results, number: int | None) -> Trial:
    if number is not None:
        named = next((trial for trial in results.trials if trial.number == number), None)
        if named is None:
            raise InputError(f"{results.run} has no trial {number}")
        return named
    if results.found.chosen is None or not results.found.front:
        raise InputError(
            f"{results.run} has no best trial", why=results.found.words,
            todo="name a trial with --trial" if results.found.finished else "",
        )  # fmt: skip
    return results.found.chosen


def _absolute(plan: Plan, path: str | None) -> str | None:
    """The data's place, also for a recipe in another folder than the one it came from."""
    if path is None or Path(path).is_absolute() or not plan.data:
        return path
    first = Path(str(plan.data[0]["path"]))
    return str(first if first.name == Path(path).name else first.parent)


def export(results: Results, wanted: str) -> Path:
    """Write the search for other tools: `wanted` is optuna=FILE, or optuna for a file of the run's
    name in the current folder. Returns the file, which must be a new one."""
    kind, equals, file = wanted.partition("=")
    if kind != "optuna" or bool(equals) != bool(file):
        raise InputError(f"--export {wanted}: expected optuna, or optuna=FILE")
    path = Path(file).expanduser() if file else Path(f"{results.run}.optuna.log")
    optuna_study.export(path, results.run, results.study, results.trials)
    return path


def counts(trials: Sequence[Trial]) -> dict[str, int]:
    """How many trials stand where; states without one are left out. Those that only took the values
    of an equal one are `repeated`."""
    states = [trial.state for trial in trials if trial.as_trial is None]
    found = {str(state): states.count(state) for state in TrialState if state in states}
    repeated = len(trials) - len(states)
    return {**found, "repeated": repeated} if repeated else found
