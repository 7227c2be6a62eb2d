"""Experiment files in the words of SigOpt's API: taken as they are, or refused in a sentence."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from engine import api, catalog, recipe, strict_yaml
from engine.errors import InputError
from engine.hpo.experiment import study_of
from engine.hpo.space import Type
from engine.hpo.study import Strategy, Study
from engine.programs.registry import get, register
from engine.programs.trial import Places, trial_spec
from models.settings import resolve

pytestmark = pytest.mark.usefixtures("aiok_home")

# As the service gave an experiment back: kinds, ids, nulls, values with an index.
FETCHED = """\
object: experiment
id: '419532'
client: '11626'
user: '14521'
created: 1669035724
updated: 1669036200
state: active
development: false
project: ranking
name: Clicks, second round
type: null
budget: null
observation_budget: 30
parallel_bandwidth: 2
num_solutions: 1
tasks: null
tags: [ctr, nightly]
metadata: {template: dlrm, note: null}
linear_constraints: null
progress: {object: progress, observation_count: 0, observation_budget_consumed: 0.0}
conditionals:
  - {object: conditional, name: table_optimizer, values: [sgd, rowwise_adagrad]}
parameters:
  - object: parameter
    name: learning_rate
    type: double
    bounds: {object: bounds, min: 0.001, max: 0.1}
    categorical_values: null
    conditions: {}
    default_value: 0.01
    grid: null
    precision: 4
    prior: {object: normal, name: normal, mean: 0.01, scale: 0.02}
    transformation: null
    tunable: true
  - object: parameter
    name: table_start
    type: double
    bounds: {object: bounds, min: 0.01, max: 1.0}
    conditions: {table_optimizer: [rowwise_adagrad]}
    default_value: null
    prior: null
    transformation: log
  - object: parameter
    name: top_widths
    type: categorical
    bounds: null
    categorical_values:
      - {object: categorical_value, name: 128-64, enum_index: 1}
      - {object: categorical_value, name: 64-32, enum_index: 2}
metrics:
  - {object: metric, name: auc, objective: maximize, strategy: optimize, threshold: null}
  - {object: metric, name: logloss, objective: minimize, strategy: constraint, threshold: 0.6}
  - {object: metric, name: training_time, objective: null, strategy: store, threshold: null}
"""
# As people wrote one by hand.
WRITTEN = """\
name: widths and sizes
metrics: [auc]
parameters:
  - {name: top_widths, type: categorical, grid: [64-32, 128-64]}
  - {name: batch_size, type: int, bounds: {min: 256, max: 4096}}
  - {name: learning_rate, type: double, grid: [0.1, 0.001, 0.01], transformation: log}
budget: 12
"""
DLRM = catalog.load("dlrm")


def load(folder: Path, experiment: str, model: str = "", more: str = "") -> recipe.Recipe:
    return loaded(folder, experiment, model, more)[0]


def loaded(
    folder: Path, experiment: str, model: str = "", more: str = ""
) -> tuple[recipe.Recipe, dict[str, str]]:
    (folder / "sigopt.yml").write_text(experiment)
    job = folder / "job.yaml"
    job.write_text(model or "dataset: {generate: {rows: 5000}}\n")
    with job.open("a") as file:
        file.write(f"search: {{file: sigopt.yml{more}}}\n")
    return recipe.load(strict_yaml.read(job), (), {})


def study(found: recipe.Recipe) -> Study:
    spec = catalog.load(found.model.name)
    defaults, _ = resolve(spec.settings, spec.profiles[found.model.profile])
    assert found.search is not None
    return study_of(found.search, spec, defaults, found.goal.metric, 7)


def refused(folder: Path, experiment: str, model: str = "") -> str:
    with pytest.raises(InputError) as caught:
        load(folder, experiment, model)
    return str(caught.value)


def test_an_experiment_as_the_service_gave_it_back(tmp_path: Path) -> None:
    job, origins = loaded(tmp_path, FETCHED)
    assert job.search is not None
    assert (job.search.trials, job.search.parallel, job.search.optimizer) == (30, 2, "optuna")
    found = study(job)
    assert found.space.names() == ["learning_rate", "top_widths", "table_optimizer", "table_start"]
    rate, widths, optimizer, start = found.space.parameters
    assert (rate.type, rate.range, rate.log, rate.default) == (
        Type.DOUBLE,
        (0.001, 0.1),
        False,
        0.01,
    )
    assert widths.choices == ("128-64", "64-32")
    assert (optimizer.type, optimizer.choices) == (Type.CATEGORICAL, ("sgd", "rowwise_adagrad"))
    assert (start.condition, start.log) == ({"table_optimizer": ("rowwise_adagrad",)}, True)
    drawn = [found.space.sample(random.Random(seed)) for seed in range(20)]
    assert {"table_start" in one for one in drawn} == {True, False}
    for one in drawn:
        assert ("table_start" in one) == (one["table_optimizer"] == "rowwise_adagrad")
    assert [(o.name, o.maximize, o.strategy, o.threshold) for o in found.objectives] == [
        ("auc", True, Strategy.OPTIMIZE, None),
        ("logloss", False, Strategy.CONSTRAINT, 0.6),
        ("training_time", False, Strategy.STORE, None),
    ]
    assert origins["search.parameters.3.name"] == f"{tmp_path / 'sigopt.yml'}, line 22"


def test_the_plan_names_what_has_no_effect(tmp_path: Path) -> None:
    load(tmp_path, FETCHED)
    values = {value.key: value for value in api.plan(str(tmp_path / "job.yaml")).values}
    said = values["search.file"].origin
    assert values["search.file"].value is None
    file, _, without = said.partition(" (without effect: ")
    assert file == str(tmp_path / "sigopt.yml")
    assert set(without.removesuffix(")").split(", ")) == {
        "id", "client", "user", "created", "updated", "state", "development", "tags", "metadata",
        "progress", "prior of learning_rate", "precision of learning_rate",
        "tunable of learning_rate",
    }  # fmt: skip
    load(tmp_path, WRITTEN)
    values = {value.key: value for value in api.plan(str(tmp_path / "job.yaml")).values}
    assert values["search.file"].origin.endswith(
        " (without effect: transformation of learning_rate)"
    )
    assert values["search.trials"].value == 12


def test_an_experiment_as_it_is_written_by_hand(tmp_path: Path) -> None:
    found = study(load(tmp_path, WRITTEN))
    widths, batch, rate = found.space.parameters
    assert (widths.type, widths.choices) == (Type.CATEGORICAL, ("64-32", "128-64"))
    assert batch.range == (256, 4096)
    assert (rate.choices, rate.log) == ((0.001, 0.01, 0.1), False)
    assert [(o.name, o.maximize) for o in found.optimized] == [("auc", True)]
    assert found.budget.trials == 12


def test_a_file_without_a_budget_leaves_it_to_the_advisor(tmp_path: Path) -> None:
    text = WRITTEN.replace("budget: 12", "budget: null")
    load(tmp_path, text)
    values = {value.key: value for value in api.plan(str(tmp_path / "job.yaml")).values}
    assert (values["search.trials"].value, values["search.trials"].origin) == (25, "advisor")
    timed = load(tmp_path, text, more=", minutes: 5").search
    assert timed is not None
    assert (timed.trials, timed.minutes) == (None, 5)


def test_a_conditional_reaches_a_program(tmp_path: Path) -> None:
    """As SigOpt's documents have it: the number of layers says which of their widths count."""
    program = tmp_path / "program.yaml"
    program.write_text(
        "name: mlp\ncommand: [python, mlp.py]\nmetrics: [{name: accuracy, objective: maximize}]\n"
        "parameters:\n"
        "  - {name: num_hidden_layers, type: categorical, categorical_values: ['1', '2', '3']}\n"
        "  - {name: log_learning_rate, type: double, bounds: {min: -10, max: 0}}\n"
        "  - {name: hidden_layer_size_2, type: int, bounds: {min: 1, max: 64}}\n"
    )
    register(program)
    experiment = (
        "name: mlp\nobservation_budget: 8\n"
        "conditionals: [{name: num_hidden_layers, values: ['1', '2']}]\n"
        "parameters:\n"
        "  - {name: log_learning_rate, type: double, bounds: {min: -10, max: 0}}\n"
        "  - name: hidden_layer_size_2\n    type: int\n    bounds: {min: 1, max: 20}\n"
        "    conditions: {num_hidden_layers: '2'}\n"
        "metrics: [accuracy]\n"
    )
    found = study(load(tmp_path, experiment, "model: {name: mlp}\n"))
    assert found.budget.trials == 8
    seen = set()
    for seed in range(20):
        assignment = found.space.sample(random.Random(seed))
        argv = trial_spec(get("mlp"), assignment, Places(trial="/t"))["argv"]
        layers = str(assignment["num_hidden_layers"])
        assert f"--num_hidden_layers={layers}" in argv
        assert any(word.startswith("--hidden_layer_size_2=") for word in argv) == (layers == "2")
        seen.add(layers)
    assert seen == {"1", "2"}
    text = experiment.replace("num_hidden_layers", "depth")
    said = refused(tmp_path, text, "model: {name: mlp}\n")
    assert (
        f"search.parameters.2.name ({tmp_path / 'sigopt.yml'}, line 3): mlp has no setting depth: "
        "the value that other parameters depend on would reach nothing; valid: "
    ) in said


@pytest.mark.parametrize(("old", "new", "said"), [
    ("budget: 12", "num_solutions: 3", "num_solutions (line 7): a search has one solution"),
    ("budget: 12", "tasks: [{name: cheap, cost: 0.1}, {name: full, cost: 1}]",
     "tasks (line 7): trials are trained in full, not on cheaper tasks: leave them out"),
    ("budget: 12", "conditionals: [{name: table_optimizer, values: [sgd, adam]}]",
     "line 7): table_optimizer must be one of "),
    ("budget: 12", "conditionals: [{name: table_optimizer, values: []}]",
     "conditionals.0.values (line 7): "),
    ("budget: 12", "bugdet: 12", "bugdet (line 7): unknown key, did you mean budget?"),
    ("max: 4096}", "max: 4096}, conditions: {table_optimizer: sgd}",
     "batch_size depends on table_optimizer, which is not declared"),
    ("grid: [64-32, 128-64]", "grid: [64-32], default: 64-32, default_value: 64-32",
     "default and default_value say the same thing"),
    ("grid: [64-32, 128-64]", "grid: [64-32, sixty]", "top_widths must be widths like"),
    ("metrics: [auc]", "metrics: [acu]", "dlrm has no metric acu, did you mean auc?"),
    ("metrics: [auc]", "metrics: [3]", "metrics.0 (line 2): "),
    ("metrics: [auc]", "metrics: null", "metrics (line 2): this key is needed"),
])  # fmt: skip
def test_what_a_file_cannot_say(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in WRITTEN
    assert said in refused(tmp_path, WRITTEN.replace(old, new))


def test_the_recipe_itself_knows_none_of_sigopts_words() -> None:
    for words in (
        "metrics: [auc]",
        "conditionals: [{name: table_optimizer, values: [sgd]}]",
        "parameters: [{name: decay, type: double, bounds: {min: 0, max: 1}, prior: {}}]",
        "parameters: [{name: top_widths, type: categorical, grid: [64-32]}]",
    ):
        with pytest.raises(InputError):
            text = f"dataset: {{generate: {{rows: 5000}}}}\nsearch: {{{words}}}\n"
            recipe.load(strict_yaml.parse(text, "job"), (), {})
