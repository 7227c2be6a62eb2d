"""Recipes: layers, origins, and every problem at once with its place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from engine import recipe, strict_yaml
from engine.errors import InputError

GOOD = "dataset: {generate: {rows: 5000}}\n"


def load(text: str, *overrides: str, **environ: str) -> tuple[recipe.Recipe, dict[str, str]]:
    return recipe.load(strict_yaml.parse(text, "job", "job.yaml"), overrides, environ)


def refused(text: str, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        load(text, *overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize("name", recipe.shipped())
def test_shipped_recipes_are_valid(name: str) -> None:
    recipe.load(recipe.find(name), environ={})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("search: {trials: true}", "search.trials (line 2): should be a number, not True"),
        ("search: {parallel: false}", "search.parallel (line 2): should be a number, not False"),
        ("train: {ranks: yes}", "train.ranks (line 2): should be a number, not True"),
        ("search: {metrics: []}", "search.metrics (line 2): should have at least 1 item, not []"),
        ("search: {file: ''}", "search.file (line 2): should have at least 1 character, not ''"),
    ],
)
def test_what_is_told_of_a_bad_value(text: str, said: str) -> None:
    assert refused(GOOD + text).endswith(said)
    kept = load(f"{GOOD}model: {{settings: {{fused_head: true}}}}")[0].model.settings
    assert kept == {"fused_head": True}  # where a truth value may stand, it does


def test_a_value_that_is_nested_too_deeply_is_a_text() -> None:
    assert "goal.minutes (--set): " in refused(GOOD, "goal.minutes=" + "[" * 5000)


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e-3", 1e-3), ("1.0e9", 1e9), ("2.5E+2", 250.0), (".5e1", 5.0), ("-1e3", -1000.0)],
)
def test_numbers_are_read_as_people_write_them(text: str, number: float) -> None:
    """YAML 1.1 takes each of these for a text; a text that looks like one is written quoted."""
    said = strict_yaml.from_yaml(f"[{text}, '{text}', 0x1e3, 1e, e3, 1.e]")
    assert said[:2] == [number, text] and isinstance(said[0], float)
    assert said[2] == 0x1E3 and said[3:5] == ["1e", "e3"]
    assert strict_yaml.from_yaml(strict_yaml.to_yaml({"a": said})) == {"a": said}
    read, _ = load(f"{GOOD}search: {{start: [{{learning_rate: 1e-3}}]}}", "learning_rate=2e-3")
    assert read.search and read.search.start == [{"learning_rate": 1e-3}]
    assert read.model.settings["learning_rate"] == 2e-3


def test_all_problems_are_told_at_once_with_line_and_nearest_key() -> None:
    said = refused(
        "dataset: {generate: {rows: 10}}\n"
        "splitt: {by: time}\n"
        "model: {name: dlrm, profil: x, settings: {batch_sise: 3, embedding_size: 0}}\n"
        "train: {ranks: many}\n"
    )
    assert "job.yaml: 6 problems" in said
    assert "dataset.generate.rows (line 1): should be greater than or equal to 1000, not 10" in said
    assert "splitt (line 2): unknown key, did you mean split?" in said
    assert "model.profil (line 3): unknown key, did you mean profile?" in said
    assert "train.ranks (line 4): should be" in said
    assert "unknown setting batch_sise: did you mean batch_size?" in said
    assert "embedding_size is 0, the lowest allowed is 2" in said


def test_precedence_is_recipe_then_environment_then_set() -> None:
    text = GOOD + "seed: 1\ntrain: {ranks: 1, checkpoint_s: 9}\n"
    found, origins = load(text, "train.ranks=3", AIOK_TRAIN__RANKS="2", AIOK_SEED="5")
    assert (found.train.ranks, found.seed, found.train.checkpoint_s) == (3, 5, 9)
    assert origins["train.ranks"] == "--set"
    assert origins["seed"] == "AIOK_SEED"
    assert origins["train.checkpoint_s"] == "recipe"
    assert load(text, AIOK_TRAIN__RANKS="2")[0].train.ranks == 2


def test_variables_that_are_no_keys_are_left_alone() -> None:
    assert load(GOOD, AIOK_HOME="/x", AIOK_TEST_DATA="/y")[0].seed == 7


def test_a_bare_setting_in_set_means_the_models() -> None:
    assert load(GOOD, "batch_size=64")[0].model.settings == {"batch_size": 64}
    assert "batch_size is 0" in refused(GOOD, "batch_size=0")
    assert "expected KEY=VALUE" in refused(GOOD, "batch_size")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("- a\n- b\n", "mapping of keys, not a list"),
        ("dataset: [\n", "line 2, column 1"),
        ("dataset: {path: a}\ndataset: {path: b}\n", "dataset stands there twice"),
        ("dataset: !!python/object/apply:os.system ['true']\n", "line 1"),
        ("model: {name: dlrm}\n", "dataset: this key is needed"),
        ("dataset: {path: a, generate: {}}\n", "exactly one of path, name and generate"),
        ("dataset: {path: a, format: table}\n", "format table needs columns"),
        ("dataset: {path: a, format: table, columns: {label: y, numeric: [y]}}", "more than once"),
        (GOOD + "split: {valid: 0.5, test: 0.5}\n", "less than 0.1 for training"),
        (GOOD + "model: {name: dlrn}\n", "there is no model dlrn, did you mean dlrm?"),
        (GOOD + "model: {profile: optimised}\n", "did you mean optimized?"),
        (GOOD + "goal: {metric: acu}\n", "dlrm has no metric acu, did you mean auc?"),
        (GOOD + "seed: .nan\n", "seed (line 2)"),
        (GOOD + "seed: 2020-13-45\n", "month must be in 1..12"),
        (GOOD + "model: {profile: {a: b}}\n", "model.profile (line 2): dlrm has no profile {'a'"),
        (GOOD + "model: {profile: [1]}\n", "dlrm has no profile [1]"),
        (GOOD + "model: {name: {a: b}}\n", "there is no model {'a': 'b'}"),
        (GOOD + "model: {settings: {1: 2}}\n", "model.settings.1 (line 2): unknown setting 1"),
        (GOOD + "model: {settings: {learning_rate: %s}}\n" % ("1" * 400), "a finite number, not 1"),
        (GOOD + "model: {settings: {epochs: %s}}\n" % ("1" * 400), "...,"),
        (GOOD + "model: {settings: {epochs: 0x%s}}\n" % ("f" * 5000), "thousands of digits"),
        (GOOD + "train: {ranks: 0x%s}\n" % ("f" * 5000), "train.ranks (line 2): must be auto"),
        (GOOD + "goal: {target: .nan}\n", "goal.target (line 2): should be a finite number"),
        (GOOD + "goal: {minutes: .inf}\n", "goal.minutes (line 2): should be a finite number"),
        (GOOD + "goal: {minutes: %s}\n" % ("1" * 400), "goal.minutes (line 2)"),
        ("dataset: {path: ''}\n", "dataset.path (line 1): should have at least 1"),
        ("dataset: {generate: {}, format: table}\n", "a table needs a path"),
        (
            "dataset: {path: a, format: table, columns: {label: '', numeric: [b]}}",
            "dataset.columns.label (line 1): should have at least 1",
        ),
        ("a: " + "[" * 3000, "nested too deeply"),
        ("a: &x {b: *x}\n", "within itself"),
    ],
    ids=lambda text: text[:40],
)
def test_bad_recipes_say_what_and_where(text: str, said: str) -> None:
    assert said in refused(text)


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("AIOK_A__B", "a (AIOK_A__B): unknown key"),
        (
            "AIOK_MODEL__SETTINGS__EPOCHS",
            "model.settings.epochs (AIOK_MODEL__SETTINGS__EPOCHS): ep",
        ),
        ("AIOK_MODEL__PROFILE", "model.profile (AIOK_MODEL__PROFILE): dlrm has no profile"),
        ("AIOK_TRAIN__CHECKPOINT_S", "train.checkpoint_s (AIOK_TRAIN__CHECKPOINT_S): should be"),
    ],
)
def test_a_problem_names_the_variable_that_made_it(variable: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        load(GOOD, **{variable: "0"})
    assert said in str(caught.value)


def test_set_is_named_too() -> None:
    assert "model.settings.epochs (--set): epochs is 0" in refused(GOOD, "epochs=0")
    assert "x (--set): unknown key" in refused(GOOD, "x.y.z=0")
    said = refused(GOOD + "train: {ranks: 2}\n", "train.ranks=0", "search.parallel=5000")
    assert "train.ranks (--set): must be auto or 1..4096, not 0" in said
    assert "search.parallel (--set): must be auto or 1..4096, not 5000" in said


def test_a_date_that_does_not_exist_is_a_bad_value() -> None:
    with pytest.raises(InputError, match="seed"):
        recipe.load(strict_yaml.parse(GOOD, "x"), ["seed=2020-13-45"], {})


def test_a_path_or_a_suffix_is_a_file_and_the_rest_a_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(GOOD)
    assert recipe.find(str(file)).name == "mine"
    with pytest.raises(InputError, match="there is no recipe file"):
        recipe.find("other.yaml")
    with pytest.raises(InputError, match="did you mean quickstart") as caught:
        recipe.find("quickstar")
        raise AssertionError
    assert "quickstar" in caught.value.what


def test_binary_and_unreadable_files_are_told(tmp_path: Path) -> None:
    binary = tmp_path / "x.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8"):
        strict_yaml.read(binary)
    with pytest.raises(InputError, match="cannot read"):
        strict_yaml.read(tmp_path)
    os.mkfifo(tmp_path / "pipe.yaml")  # nobody writes into it: reading would never end
    with pytest.raises(InputError, match="it is not a file"):
        strict_yaml.read(tmp_path / "pipe.yaml")


@given(st.text(max_size=200))
def test_any_text_is_a_recipe_or_an_input_error(text: str) -> None:
    try:
        load(text)
    except InputError as error:
        assert error.what


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(list(recipe.Recipe.model_fields)), JSON))
def test_any_values_are_a_recipe_or_an_input_error(data: dict[str, object]) -> None:
    try:
        load(yaml.safe_dump(data))
    except InputError as error:
        assert error.what


def test_yaml_written_is_yaml_read() -> None:
    source = recipe.find("quickstart")
    found, _ = recipe.load(source, environ={})
    again, _ = load(strict_yaml.to_yaml(found.model_dump()))
    assert again == found


def test_the_environment_of_torch_workers_can_be_chosen() -> None:
    assert load(GOOD)[0].train.environment == "torch"
    assert load(GOOD, "train.environment=ipex")[0].train.environment == "ipex"
    assert "should be 'torch' or 'ipex', not 'cuda'" in refused(GOOD, "train.environment=cuda")
