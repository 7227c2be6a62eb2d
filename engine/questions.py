"""The wizard's questions: one list for the terminal app and for `aiok new`."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import catalog, clusters, datasets
from engine.errors import EnvironmentProblem, InputError
from engine.facts import any_files, data_files
from engine.recipe import load, put
from engine.store import safe_name
from engine.strict_yaml import Source, to_yaml
from hosts.inventory import LOCAL
from models.api import ModelSpec

STEPS = ("dataset", "model", "cluster", "goal")


@dataclass(frozen=True)
class Question:
    """One thing to ask. `key` is the dotted recipe key, or one of the wizard's own (`name`,
    `source`, `search`)."""

    key: str
    step: str
    label: str
    help: str
    kind: str  # choice, text, path, int, float
    choices: tuple[tuple[str, str], ...] = ()
    default: str = ""


def questions(answers: Mapping[str, str]) -> list[Question]:
    """The questions to show, given the answers so far."""
    return [*_dataset(answers), *_model(answers), *_cluster(answers), *_goal(answers)]


def _dataset(answers: Mapping[str, str]) -> list[Question]:
    registered = [entry for entry in datasets.listing() if not entry.trouble]
    is_program = _is_program(answers)
    made = "none: the program reads its own" if is_program else "make data with a known signal"
    sources = [("generate", made), ("path", "my own files")]
    if registered:
        sources.append(("name", "a registered data set"))
    found = [
        Question("source", "dataset", "Data", "where the rows come from", "choice",
                 tuple(sources), "generate"),
    ]  # fmt: skip
    source = answers.get("source", "generate")
    if source == "generate" and is_program:
        return found
    if source == "generate":
        found += [
            Question("dataset.generate.rows", "dataset", "Rows", "how many rows to make", "int",
                     (), "300000"),
            Question("dataset.generate.seed", "dataset", "Seed", "the same seed, the same rows",
                     "int", (), "1"),
        ]  # fmt: skip
    elif source == "name":
        names = tuple((r.name, f"{r.name} ({r.format}, {r.path})") for r in registered)
        first = names[0][0] if names else ""
        found.append(
            Question("dataset.name", "dataset", "Data set", "as registered by `aiok data add`",
                     "choice", names, first)
        )  # fmt: skip
    else:
        found += _own_files(answers)
    return found


def _own_files(answers: Mapping[str, str]) -> list[Question]:
    formats = (("criteo", "Criteo click log (no header, 40 columns)"),
               ("table", "table with column names (CSV, TSV, parquet)"))  # fmt: skip
    found = [Question("dataset.path", "dataset", "Path", "a file, or a folder of files", "path")]
    if _is_program(answers):
        return found
    found.append(
        Question("dataset.format", "dataset", "Format", "how the rows are written", "choice",
                 formats, "criteo")
    )  # fmt: skip
    if answers.get("dataset.format") == "table":
        found += [
            Question("dataset.columns.label", "dataset", "Label column", "holds 0 and 1", "text"),
            Question("dataset.columns.numeric", "dataset", "Numeric columns",
                     "names, separated by commas", "text"),
            Question("dataset.columns.categorical", "dataset", "Categorical columns",
                     "names, separated by commas", "text"),
            Question("dataset.columns.time", "dataset", "Time column",
                     "empty: the rows are in time order", "text"),
        ]  # fmt: skip
    return found


def _models() -> tuple[dict[str, ModelSpec], str]:
    """The built-in models and the programs of the user's by name; what is wrong with one of these.

    A damaged program takes away no more than its choice.
    """
    found, trouble = {}, ""
    for name in catalog.names():
        try:
            found[name] = catalog.load(name)
        except InputError as problem:
            trouble = f"{problem.what}. {problem.todo}".strip(". ")
    return found, trouble


def _model_spec(answers: Mapping[str, str]) -> ModelSpec:
    """The model that was chosen, as long as there is one that can be read; else the first."""
    name = answers.get("model.name", "")
    with contextlib.suppress(InputError):  # what is wrong is told by the question itself
        if name in catalog.names():
            return catalog.load(name)
    return catalog.load(catalog.names()[0])


def _is_program(answers: Mapping[str, str]) -> bool:
    """Whether the model is a program of the user's: it reads, splits and trains by itself."""
    return catalog.is_program(_model_spec(answers).name)


def _model(answers: Mapping[str, str]) -> list[Question]:
    known, trouble = _models()
    models = tuple((name, f"{spec.title}: {spec.summary}") for name, spec in known.items())
    words = f"what learns{'; ' if trouble else ''}{trouble}"
    found = [
        Question("model.name", "model", "Model", words, "choice", models, models[0][0]),
    ]  # fmt: skip
    spec = _model_spec(answers)
    if not catalog.is_program(spec.name):
        found.append(_profile(spec))
    profile = spec.profiles.get(answers.get("model.profile", next(iter(spec.profiles))), {})
    shown = [s for s in spec.settings if s.tunable or s.name == "epochs"]
    return found + [
        Question(
            f"model.settings.{s.name}", "model", s.name.replace("_", " "),
            f"{s.help} ({s.bounds()}{' ' + s.unit if s.unit else ''})".strip(),
            "int" if s.kind == "int" else "float" if s.kind == "float" else "text", (),
            str(profile.get(s.name, s.default)),
        )
        for s in shown
    ]  # fmt: skip


def _profile(spec: ModelSpec) -> Question:
    words = {"optimized": "ours: fast, same accuracy", "stock": "the public baseline, as published",
             "tiny": "trains in seconds, for a first look"}  # fmt: skip
    profiles = tuple((p, f"{p} ({words[p]})" if p in words else p) for p in spec.profiles)
    return Question("model.profile", "model", "Profile", "a set of settings", "choice", profiles,
                    profiles[0][0])  # fmt: skip


def _cluster(answers: Mapping[str, str]) -> list[Question]:
    choices, trouble = _places()
    words = f"where the work runs{'; ' if trouble else ''}{trouble}"
    found = [Question("cluster", "cluster", "Cluster", words, "choice", choices, LOCAL)]
    if _is_program(answers):
        return found
    return [
        *found,
        Question("train.ranks", "cluster", "Training processes",
                 "auto, or a number (ranks under mpirun)", "text", (), "auto"),
        Question("etl.engine", "cluster", "ETL engine", "what prepares the data", "choice",
                 (("auto", "auto"), ("sail", "Sail (embedded, no Java)"),
                  ("spark", "Apache Spark (needs Java)")), "auto"),
    ]  # fmt: skip


def _places() -> tuple[tuple[tuple[str, str], ...], str]:
    """This machine, the clusters, and the hosts outside of them; what is wrong with the inventory.

    A damaged inventory takes away no more than the choice.
    """
    here = (LOCAL, "this machine")
    try:
        known = clusters.inventory()
    except EnvironmentProblem as problem:
        return (here,), f"{problem.what}. {problem.todo}".strip(". ")
    groups = tuple(
        (name, f"{name}: {', '.join(cluster.hosts)}") for name, cluster in known.clusters.items()
    )
    lone = tuple(
        (name, f"{name}: {host.address}") for name, host in known.hosts.items()
        if known.cluster_of(name) is None
    )  # fmt: skip
    return (here, *groups, *lone), ""


def _goal(answers: Mapping[str, str]) -> list[Question]:
    name = Question("name", "goal", "Name", "of the recipe and its runs", "text", (), "my-job")
    if _is_program(answers):  # its file says what it is judged by
        return [*_search(answers), name]
    metrics = tuple((m.name, m.help) for m in _model_spec(answers).metrics)
    return [
        Question("goal.metric", "goal", "Metric", "what the model is judged by", "choice", metrics,
                 metrics[0][0]),
        Question("goal.target", "goal", "Target", "end when reached; empty: no target", "float"),
        Question("goal.minutes", "goal", "Minutes",
                 "end the training, or the whole search, after; empty: no limit", "float"),
        *_search(answers),
        Question("split.by", "goal", "Split", "which rows are held out", "choice",
                 (("time", "the last rows"), ("random", "random rows")), "time"),
        Question("split.test", "goal", "Test part", "of all rows", "float", (), "0.1"),
        name,
    ]  # fmt: skip


def _search(answers: Mapping[str, str]) -> list[Question]:
    """Whether to search, and if so, how long."""
    found = [
        Question("search", "goal", "Search", "look for better settings", "choice",
                 (("no", "no: one training, with these settings"),
                  ("yes", "yes: many trainings, with settings of their own")), "no"),
    ]  # fmt: skip
    if answers.get("search") == "yes":
        found += [
            Question("search.trials", "goal", "Trainings", "how many; empty: as many as the "
                     "settings need and the time allows", "int"),
            Question("search.minutes", "goal", "Search minutes",
                     "end the whole search after; empty: no limit", "float"),
        ]  # fmt: skip
    return found


def to_data(answers: Mapping[str, str]) -> dict[str, Any]:
    """Answers as nested recipe data; what equals a default is left out, so it stays advised."""
    data: dict[str, Any] = {}
    for question in questions(answers):
        text = answers.get(question.key, question.default).strip()
        needed = question.key in ("cluster", "dataset.generate.rows", "model.name",
                                  "model.profile", "dataset.format")  # fmt: skip
        if question.key in ("source", "name") or not text:
            continue
        if question.key == "search":
            if text == "yes":
                put(data, "search", {})
            continue
        if text == question.default and not needed:
            continue
        put(data, question.key, _typed(question, text))
    if answers.get("source") == "name" and "name" in data.get("dataset", {}):
        data["dataset"].pop("format", None)
    return data


def _typed(question: Question, text: str) -> Any:
    if question.key in ("dataset.columns.numeric", "dataset.columns.categorical"):
        return [part.strip() for part in text.split(",") if part.strip()]
    if question.kind == "int" or (question.key == "train.ranks" and text.isdigit()):
        return int(text) if text.lstrip("-").isdigit() else text
    if question.kind == "float":
        try:
            return float(text)
        except ValueError:
            return text
    return text


def check_answers(answers: Mapping[str, str]) -> dict[str, str]:
    """What is wrong, by question; empty when the recipe can be planned."""
    problems: dict[str, str] = {}
    for question in questions(answers):
        text = answers.get(question.key, question.default).strip()
        if question.kind == "choice" and text not in [value for value, _ in question.choices]:
            problems[question.key] = f"{text!r} is not one of the choices"
        elif not text and question.default:
            problems[question.key] = f"an answer is needed, such as {question.default}"
    if answers.get("source") == "path":
        text = answers.get("dataset.path", "").strip()
        try:
            if not text:
                raise InputError("a path is needed")
            is_program = _is_program(answers)
            any_files(Path(text)) if is_program else data_files(Path(text))
        except InputError as error:
            problems["dataset.path"] = f"{error.what}. {error.todo}".strip(". ")
    try:
        safe_name(answers.get("name", "my-job").strip())
    except InputError as error:
        problems["name"] = f"{error.what}: {error.todo}"
    if problems:
        return problems
    try:
        load(Source("wizard", "wizard", to_data(answers)), environ={})
    except InputError as error:
        keys = [q.key for q in questions(answers)]
        for line in error.what.splitlines()[1:]:
            problems.update(_place(line.strip().removeprefix("- "), keys))
    return problems


def _place(sentence: str, keys: list[str]) -> dict[str, str]:
    """The question a problem of the recipe belongs to."""
    dotted, _, text = sentence.partition(":")
    if dotted == "model.settings":
        for key in keys:
            if key.startswith("model.settings.") and key.rpartition(".")[2] in text:
                return {key: text.strip()}
    for key in keys:
        if key == dotted or key.startswith(f"{dotted}."):
            return {key: text.strip()}
    return {keys[0]: sentence}


def recipe_text(answers: Mapping[str, str]) -> str:
    """The recipe as YAML."""
    return to_yaml(to_data(answers))
