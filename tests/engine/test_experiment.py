"""The recipe's part `search` and SigOpt-style experiment files: meaning, all problems at once."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from engine import recipe, strict_yaml
from engine.errors import InputError
from engine.hpo import space as sp
from engine.hpo.experiment import searched_settings, study_of
from engine.hpo.schema import Search
from engine.hpo.space import Type, from_settings
from engine.hpo.study import Strategy, Study
from engine.questions import check_answers, to_data
from models import catalog
from models.settings import Kind, Setting, resolve

GOOD = "dataset: {generate: {rows: 5000}}\n"
DLRM = catalog.load("dlrm")
DEFAULTS, _ = resolve(DLRM.settings, DLRM.profiles["optimized"])
EXPERIMENT = """
project: ranking
experiment: nightly
observation_budget: 24
parameters:
  - {name: learning_rate, type: double, bounds: {min: 1.0e-4, max: 1.0e-1}, transformation: log}
  - {name: embedding_size, type: int, grid: [32, 8, 16]}
  - {name: batch_size, type: int, bounds: {min: 256, max: 4096}}
  - {name: top_widths, type: categorical, categorical_values: [64-32, 128-64]}
metrics:
  - {name: auc, strategy: optimize, objective: maximize, threshold: 0.72}
  - {name: training_time, strategy: optimize, objective: minimize, threshold: 1800}
"""


def load(text: str, *overrides: str) -> recipe.Recipe:
    return recipe.load(strict_yaml.parse(GOOD + text, "job", "job.yaml"), overrides, {})[0]


def refused(text: str) -> str:
    with pytest.raises(InputError) as caught:
        load(text)
    return str(caught.value)


def study(text: str) -> Study:
    search = load(text).search
    assert search is not None
    return study_of(search, DLRM, DEFAULTS, "auc", 7)


def test_no_search_unless_it_is_asked_for() -> None:
    assert load("").search is None
    assert load("search: {}").search == Search()
    assert load("", "search.trials=5").search == Search(trials=5)


def test_a_search_without_words_looks_in_the_tunable_settings_for_the_goal() -> None:
    found = study("search: {trials: 5}")
    assert [o.name for o in found.objectives] == ["auc"]
    assert found.objectives[0].maximize
    assert (found.budget.trials, found.seed) == (5, 7)
    tunable = {s.name for s in DLRM.settings if s.tunable}
    assert set(found.space.names()) == tunable - {"min_count"}  # that is read by the ETL
    default = found.space.default()
    assert default is not None
    assert default["learning_rate"] == DEFAULTS["learning_rate"] == 0.004


def test_an_experiment_file_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "nightly.yaml").write_text(EXPERIMENT)
    job = tmp_path / "job.yaml"
    job.write_text(GOOD + "search: {file: nightly.yaml, optimizer: random}\n")
    loaded, origins = recipe.load(strict_yaml.read(job), (), {})
    assert loaded.search is not None
    assert (loaded.search.file, loaded.search.optimizer, loaded.search.trials) == (
        None, "random", 24,
    )  # fmt: skip
    assert origins["search.parameters"] == f"{tmp_path / 'nightly.yaml'}, line 5"
    found = study_of(loaded.search, DLRM, DEFAULTS, "auc")
    rate, size, batch, top = found.space.parameters
    assert (rate.type, rate.low, rate.high, rate.log, rate.default) == (
        Type.DOUBLE, 1e-4, 1e-1, True, 0.004,
    )  # fmt: skip
    assert (size.choices, size.default) == ((8, 16, 32), 16)
    assert (batch.range, batch.default) == ((256, 4096), 1024)
    assert (top.choices, top.default) == (("64-32", "128-64"), "64-32")
    assert [(o.name, o.maximize, o.threshold) for o in found.optimized] == [
        ("auc", True, 0.72), ("training_time", False, 1800.0),
    ]  # fmt: skip
    # what a run keeps is read back as the same search, without the file
    again = recipe.load(strict_yaml.parse(yaml.safe_dump(loaded.model_dump()), "again"), (), {})[0]
    assert again.search == loaded.search


def test_the_recipe_overrules_the_budget_of_a_file_but_says_nothing_twice(tmp_path: Path) -> None:
    file = tmp_path / "nightly.yaml"
    file.write_text(EXPERIMENT)
    found = load(f"search: {{file: {file}, trials: 3}}").search
    assert found is not None and found.trials == 3
    said = refused(f"search: {{file: {file}, metrics: [{{name: auc}}]}}")
    assert f"search.metrics is said by {file} too" in said
    assert "there is no experiment file" in refused("search: {file: gone.yaml}")


def test_other_words_of_sigopt_files_are_understood(tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text(
        "name: nightly\nbudget: 9\ntype: grid\nparallel_bandwidth: 2\nmetadata: {by: me}\n"
        "parameters: [{name: embedding_size, type: int, grid: [8, 16]}]\nmetrics: [{name: auc}]\n"
        "linear_constraints: [{type: less_than, threshold: 10, "
        "terms: [{name: embedding_size, weight: 1}]}]\n"
    )
    found = load(f"search: {{file: {file}}}").search
    assert found is not None
    assert (found.optimizer, found.trials, found.parallel) == ("grid", 9, 2)
    points = list(study_of(found, DLRM, DEFAULTS, "auc").space.points())
    assert points == [{"embedding_size": 8}]


def test_problems_of_a_file_are_told_with_its_lines(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(EXPERIMENT.replace("transformation", "transform").replace("bounds", "bound"))
    said = refused(f"search: {{file: {file}}}")
    assert f"{file}: 3 problems" in said
    assert "parameters.0.transform (line 6): unknown key, did you mean transformation?" in said
    assert "parameters.0.bound (line 6): unknown key, did you mean bounds?" in said
    file.write_text(EXPERIMENT.replace("learning_rate", "learnin_rate").replace("auc", "AUC"))
    said = refused(f"search: {{file: {file}}}")
    assert f"search.parameters.0.name ({file}, line 6): dlrm has no setting learnin_rate" in said
    assert "did you mean learning_rate? valid: average, batch_size" in said
    assert f"search.metrics.0.name ({file}, line 11): dlrm has no metric AUC" in said
    assert "valid: auc, logloss, training_time" in said


def test_all_problems_of_a_search_are_told_at_once() -> None:
    said = refused(
        "search:\n"
        "  parameters:\n"
        "    - {name: batch_size, type: double, bounds: {min: 0, max: 100}}\n"
        "    - {name: min_count, type: int, bounds: {min: 1, max: 3}}\n"
        "    - {name: precision, type: categorical, categorical_values: [fp32, fp16]}\n"
        "    - {name: top_widths, type: int, bounds: {min: 1, max: 9}}\n"
        "    - {name: embedding_size, type: int, grid: [8, 8.5]}\n"
        "    - {name: decay, type: double, bounds: {min: 0.5, max: 0.1}}\n"
        "  metrics: [{name: logloss, objective: maximize}]\n"
    )
    assert "job.yaml: 8 problems" in said
    for line in (
        "search.parameters.0.type (line 4): batch_size is a whole number: type int",
        "search.parameters.0.bounds.min (line 4): batch_size is 0, the lowest allowed is 1",
        "search.parameters.1.name (line 5): min_count is read by the ETL, which a search does once",
        "search.parameters.2.categorical_values.1 (line 6): precision must be one of auto, fp32",
        "search.parameters.3.bounds (line 7): top_widths is no number",
        "search.parameters.4.grid.1 (line 8): embedding_size must be a whole number, not 8.5",
        "search.parameters.5 (line 9): decay: the lower bound 0.5 is above the upper 0.1",
        "search.metrics.0.objective (line 10): a better logloss is one to minimize",
    ):
        assert line in said


@pytest.mark.parametrize(("text", "said"), [
    ("{trails: 5}", "search.trails (line 2): unknown key, did you mean trials?"),
    ("{optimizer: optna}", "should be 'optuna', 'sigopt', 'random' or 'grid', not 'optna'"),
    ("{trials: 0}", "should be greater than or equal to 1, not 0"),
    ("{trials: null}", "the search would never end"),
    ("{parallel: 0}", "search.parallel (line 2): must be auto or 1..4096, not 0"),
    ("{parameters: []}", "at least 1 item"),
    ("{metrics: [{name: auc, strategy: constraint}]}", "a constraint needs a threshold"),
    ("{metrics: [{name: auc, strategy: store, threshold: 1}]}", "a stored metric has no threshold"),
    ("{metrics: [{name: auc, strategy: store}]}", "at least one metric must be optimized"),
    ("{metrics: [{name: auc}, {name: auc}]}", "a metric is named twice"),
    ("{optimizer: grid}", "a grid visits every point, but"),
    ("{start: [{learning_rat: 0.1}]}",
     "search.start.0 (line 2): there is no parameter learning_rat"),
    ("{start: [{learning_rate: 9}]}", "learning_rate is 9, outside of"),
    ("{trials: 1, start: [{learning_rate: 0.01}, {learning_rate: 0.02}, {learning_rate: 0.03}]}",
     "search.start (line 2): the default assignment and these are 4 trials, search.trials is 1:"),
    ("{parameters: [{name: decay, type: double}]}", "needs bounds {min, max} or a grid"),
    ("{parameters: [{name: decay, type: double, bounds: {min: 0, max: 1}, transformation: log}]}",
     "a log scale needs a lower bound above 0"),
    ("{parameters: [{name: decay, type: double, bounds: {min: .nan, max: 1}}]}", "finite number"),
    ("{parameters: [{name: decay, type: double, grid: [0, 1], condition: {warmup: [0]}}]}",
     "decay depends on warmup, which is not declared"),
    ("{linear_constraints: [{type: less_than, threshold: 1, terms: [{name: x, weight: 1}]}]}",
     "search.linear_constraints.0 (line 2): a constraint names x"),
    ("{parameters: [{name: decay, type: double, bounds: {min: 0, max: 0.5}}], linear_constraints:"
     " [{type: greater_than, threshold: 3, terms: [{name: decay, weight: 2}]}]}",
     "search.linear_constraints.0 (line 2): no values keep it: the sum is 1 at most, not 3"),
    ("{parameters: [{name: batch_size, type: int, grid: [64, 32]}], linear_constraints:"
     " [{type: less_than, threshold: 31, terms: [{name: batch_size, weight: 1}]}]}",
     "search.linear_constraints.0 (line 2): no values keep it: the sum is 32 at least, not 31"),
    ("{parameters: [{name: batch_size, type: int, grid: [64, 32]}], linear_constraints:"
     " [{type: less_than, threshold: 60, terms: [{name: batch_size, weight: 1}]},"
     " {type: greater_than, threshold: 40, terms: [{name: batch_size, weight: 1}]}]}",
     "search.linear_constraints (line 2): no values keep all of them"),
])  # fmt: skip
def test_what_a_search_cannot_be(text: str, said: str) -> None:
    assert said in refused(f"search: {text}\n")


def test_a_constraint_that_only_an_inactive_parameter_keeps_is_one() -> None:
    found = study(
        "search:\n"
        "  parameters:\n"
        "    - {name: table_optimizer, type: categorical, categorical_values:"
        " [sgd, rowwise_adagrad]}\n"
        "    - {name: table_start, type: double, bounds: {min: 0.5, max: 1},\n"
        "       condition: {table_optimizer: rowwise_adagrad}}\n"
        "  linear_constraints:\n"
        "    - {type: less_than, threshold: 0.25, terms: [{name: table_start, weight: 1}]}\n"
    )
    assert found.space.sample(random.Random(1)) == {"table_optimizer": "sgd"}


def test_parameters_may_depend_on_others_in_any_order() -> None:
    found = study(
        "search:\n"
        "  parameters:\n"
        "    - {name: table_start, type: double, bounds: {min: 0, max: 1},\n"
        "       conditions: {table_optimizer: rowwise_adagrad}}\n"
        "    - {name: table_optimizer, type: categorical, categorical_values:"
        " [sgd, rowwise_adagrad]}\n"
        "  start: [{table_optimizer: sgd}, {table_start: 0.5}]\n"
    )
    assert found.space.names() == ["table_optimizer", "table_start"]
    assert list(found.start) == [
        {"table_optimizer": "sgd"}, {"table_optimizer": "rowwise_adagrad", "table_start": 0.5}
    ]  # fmt: skip


def test_a_default_outside_of_the_space_is_moved_into_it() -> None:
    found = study(
        "search:\n"
        "  parameters:\n"
        "    - {name: learning_rate, type: double, bounds: {min: 0.01, max: 0.1}}\n"
        "    - {name: embedding_size, type: int, grid: [4, 20, 64]}\n"
        "    - {name: batch_size, type: int, bounds: {min: 100, max: 900}, step: 250}\n"
        "    - {name: top_widths, type: categorical, categorical_values: [32-16, 64]}\n"
    )
    assert found.space.default() == {
        "learning_rate": 0.01, "embedding_size": 20, "batch_size": 850, "top_widths": "32-16"
    }  # fmt: skip


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["double", "int"]),
       st.sampled_from([None, 3.0]))  # fmt: skip
def test_the_closest_value_is_allowed_and_none_is_nearer(
    value: float, kind: str, step: float | None
) -> None:
    one = sp.Parameter(name="x", type=Type(kind), low=-4, high=9, step=step)
    found = one.closest(value)
    assert one.check(found) == found
    for other in one.values() or [-4.0, 9.0]:
        assert abs(float(found) - value) <= abs(float(other) - value)


def test_a_threshold_of_the_only_metric_is_a_bound() -> None:
    found = study("search: {metrics: [{name: auc, threshold: 0.7}]}")
    assert found.optimized[0].strategy is Strategy.OPTIMIZE
    assert found.is_feasible({"auc": 0.7})
    assert not found.is_feasible({"auc": 0.69})


def test_a_grid_has_no_budget_unless_one_is_given() -> None:
    grid = "parameters: [{name: embedding_size, type: int, grid: [8, 16]}]"
    assert study(f"search: {{optimizer: grid, {grid}}}").budget.trials is None
    assert study(f"search: {{optimizer: grid, trials: 1, {grid}}}").budget.trials == 1


def test_what_a_search_begins_with_fits_its_trials() -> None:
    start = "start: [{learning_rate: 0.01}, {learning_rate: 0.01}, {learning_rate: 0.004}]"
    found = study(f"search: {{trials: 2, {start}}}")  # the first twice, then the default itself
    assert [one["learning_rate"] for one in found.first()] == [0.004, 0.01]
    assert "are 2 trials, search.trials is 1" in refused(f"search: {{trials: 1, {start}}}")
    for unlimited in ("trials: null, minutes: 5", "patience: 2", "minutes: 1"):
        assert study(f"search: {{{unlimited}, {start}}}").budget.trials is None
    many = ", ".join(f"{{learning_rate: 0.0{n:02}5}}" for n in range(1, 31))
    assert len(study(f"search: {{start: [{many}]}}").start) == 30  # the advisor says how many
    assert "are 31 trials, search.trials is 30" in refused(
        f"search: {{trials: 30, start: [{many}]}}"
    )


def test_the_wizard_asks_for_a_search() -> None:
    assert "search" not in to_data({})
    assert to_data({"search": "yes", "search.trials": "5"})["search"] == {"trials": 5}
    said = check_answers({"search": "yes", "search.trials": "0"})
    assert said == {"search.trials": "should be greater than or equal to 1, not 0"}


# --- spaces from settings -----------------------------------------------------------------------


def test_a_log_scale_is_searched_around_its_default_and_within_its_bounds() -> None:
    rate = Setting(name="rate", kind=Kind.FLOAT, default=0.1, help="", low=1e-6, high=0.5, log=True,
                   tunable=True)  # fmt: skip
    size = Setting(name="size", kind=Kind.INT, default=20, help="", low=4, high=1000, log=True,
                   tunable=True)  # fmt: skip
    one, two = from_settings([rate, size], {"rate": 0.1, "size": 20}).parameters
    assert one.range == (0.1 / sp.SPREAD, 0.5)
    assert two.range == (4, 20 * sp.SPREAD)


def test_a_setting_counts_only_where_what_it_needs_is_so() -> None:
    stock, _ = resolve(DLRM.settings, DLRM.profiles["stock"])  # SGD
    settings = searched_settings(DLRM)
    assert "table_start" in from_settings(settings, DEFAULTS).names()
    assert "table_start" not in from_settings(settings, stock).names()
    both = from_settings(settings, stock, ["table_start", "table_optimizer"])
    assert both.parameter("table_start").condition == {"table_optimizer": ("rowwise_adagrad",)}
    assert both.default() == {"table_optimizer": "sgd"}


@pytest.mark.parametrize("name", catalog.names())
def test_the_default_search_of_each_model_and_profile_holds_its_default(name: str) -> None:
    spec = catalog.load(name)
    for profile, values in spec.profiles.items():
        settings = resolve(spec.settings, values)[0]
        found = study_of(Search(), spec, settings, spec.metrics[0].name)
        assert found.space.default() is not None, profile


def test_a_search_range_must_lie_in_the_bounds() -> None:
    with pytest.raises(ValueError, match="the highest allowed is 1"):
        Setting(name="x", kind=Kind.FLOAT, default=0.5, help="", low=0.0, high=1.0, search=(0, 2))
