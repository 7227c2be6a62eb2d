"""A program's file: what is refused and how, what it becomes, and the exact command of a trial."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine import api, catalog, recipe
from engine.errors import InputError
from engine.hpo import experiment
from engine.programs import registry
from engine.programs.file import read_file
from engine.programs.model import setting_of, space_of
from engine.programs.registry import register
from engine.programs.trial import Places, arguments, trial_spec
from models.settings import resolve

pytestmark = pytest.mark.usefixtures("aiok_home")

DATA: dict[str, Any] = {
    "name": "churn-gbt",
    "command": ["python", "train.py", "--data", "{data_path}", "{{x}}"],
    "parameters": [
        {"name": "depth", "type": "int", "bounds": {"min": 0, "max": 12}, "default": 0},
        {"name": "rate", "type": "double", "bounds": {"min": 1.0e-4, "max": 1.0e-2},
         "transformation": "log"},
        {"name": "size", "type": "int", "grid": [64, 16, 32]},
        {"name": "kind", "type": "categorical", "categorical_values": ["", "b", 0, False]},
        {"name": "use_bias", "type": "flag"},
        {"name": "deep", "type": "double", "bounds": {"min": 0, "max": 1},
         "condition": {"use_bias": True}},
    ],
    "metrics": [{"name": "auc", "objective": "maximize"},
                {"name": "seconds", "source": "wall_clock", "strategy": "store"}],
    "budget": 40,
}  # fmt: skip


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "program.yaml"
    data = {key: value for key, value in {**DATA, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return path


def refused(folder: Path, **changes: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_file(write(folder, **changes))
    assert caught.value.exit_code == 2
    return str(caught.value)


def load(text: str, *overrides: str) -> tuple[recipe.Recipe, dict[str, str]]:
    from engine.strict_yaml import parse

    return recipe.load(parse(text, "mine"), overrides, {})


def test_a_recipe_of_an_unregistered_program_has_one_problem(tmp_path: Path) -> None:
    register(write(tmp_path))
    text = "model: {name: churn-gbt}\n"
    assert load(text)[0].model.name == "churn-gbt"
    registry.unregister("churn-gbt")
    with pytest.raises(InputError) as caught:
        load(text)
    problems = str(caught.value).splitlines()
    assert problems[0].endswith(": 1 problem")
    assert "there is no model churn-gbt" in problems[1]


def test_the_command_of_a_trial(tmp_path: Path) -> None:
    known = read_file(write(tmp_path))
    values = {"depth": 0, "rate": 0.001, "size": 16, "kind": "", "use_bias": True, "deep": 0.0}
    spec = trial_spec(known, values, Places(trial="/t", data="/d a", cores=(3, 5), seed=9))
    assert spec["argv"] == [
        "python", "train.py", "--data", "/d a", "{x}", "--depth=0", "--rate=0.001", "--size=16",
        "--kind=", "--use_bias", "--deep=0.0",
    ]  # fmt: skip
    assert spec["cwd"] == str(tmp_path)
    assert (spec["env"]["AIOK_CORES"], spec["env"]["AIOK_SEED"]) == ("2", "9")
    assert spec["result"] == {"format": "json", "file": "/t/result.json", "patterns": {}}
    assert (spec["metrics"], spec["clocked"]) == (["auc"], ["seconds"])
    with pytest.raises(InputError, match=r"names \{data_path\} and there are no data"):
        trial_spec(known, values, Places(trial="/t"))


@pytest.mark.parametrize(
    ("style", "wanted"),
    [
        ("--{name}={value}", ["--depth=0", "--kind=False {x}", "--use_bias"]),
        (["--{name}", "{value}"], ["--depth", "0", "--kind", "False {x}", "--use_bias"]),
        ("{value}", ["0", "False {x}", "true"]),
        ("-D{name}:{value}", ["-Ddepth:0", "-Dkind:False {x}", "-Duse_bias"]),
        ("env", []),
        ("json", []),
    ],
)
def test_styles_of_arguments(tmp_path: Path, style: Any, wanted: list[str]) -> None:
    program = read_file(write(tmp_path, args_style=style)).program
    assert arguments(program, {"use_bias": True, "kind": "False {x}", "depth": 0}) == wanted


def test_a_flag_that_is_off_is_not_there(tmp_path: Path) -> None:
    program = read_file(write(tmp_path)).program
    assert arguments(program, {"use_bias": False, "kind": False}) == ["--kind=false"]


def test_every_problem_is_told_with_its_line(tmp_path: Path) -> None:
    text = refused(
        tmp_path, name="dlrm", args_style="--{nme}", command=["python", "{trail_dir}"],
        metrics=[{"name": "auc"}], result={"file": "/x", "format": "regex"}, cwd="nowhere",
        env={"AIOK_X": "1"},
        parameters=[{"name": "a b", "type": "int", "bounds": {"min": 3, "max": 1}}],
    )  # fmt: skip
    assert text.splitlines()[0].endswith("program.yaml: 11 problems")
    for place in (
        "name (line 1): dlrm is a model that comes with aiok",
        "command.1 (line 4): nothing is known as {trail_dir}, did you mean trial_dir?",
        "args_style (line 14): needs {value}", "args_style (line 14): {nme} is neither",
        "parameters.0.name (line 6): 'a b' cannot be passed",
        "parameters.0 (line 6): the lower bound 3 is above the upper 1",
        "metrics.0 (line 12): objective is needed", "metrics.0.pattern (line 12): is needed",
        "result.file (line 16): must lie in the trial's folder",
        "env.AIOK_X (line 20): is no name", "cwd (line 18): there is no folder",
    ):  # fmt: skip
        assert place in text, text


@pytest.mark.parametrize(
    ("low", "high", "more", "middle"),
    [
        (1e-200, 1e-150, {"transformation": "log"}, 1e-175),  # their product is 0
        (1e200, 1e250, {"transformation": "log"}, 1e225),  # it is infinite
        (1e-300, 1e300, {"transformation": "log"}, 1.0),
        (3.0, 3.0, {"transformation": "log"}, 3.0),
        (1.0e308, 1.7e308, {}, 1.35e308),  # their sum is infinite
        (-1.7e308, 1.7e308, {}, "x: from -1.7e+308 to 1.7e+308 is too far to be searched"),
        (0.0, 1.0e308, {"step": 1e-10}, "x: step 1e-10 is too small for the bounds"),
    ],
)
def test_the_ends_of_the_numbers_are_bounds_or_told(
    tmp_path: Path, low: float, high: float, more: dict[str, Any], middle: float | str
) -> None:
    part = {"name": "x", "type": "double", "bounds": {"min": low, "max": high}, **more}
    if isinstance(middle, str):
        assert middle in refused(tmp_path, parameters=[part])
        return
    program = read_file(write(tmp_path, parameters=[part])).program
    assert setting_of(program.parameters[0]).default == pytest.approx(middle)
    assert low <= float(space_of(program).sample(random.Random(1))["x"]) <= high


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"comand": ["x"]}, "comand (line 50): unknown key, did you mean command?"),
        ({"command": None}, "command: this key is needed"),
        ({"command": "python train.py"}, "command (line 2): should be a valid list"),
        ({"command": [""]}, "command.0 (line 3): the program has no name"),
        ({"resources": {"gpus": 1}}, "resources.gpus (line 51): should be 0, not 1"),
        ({"timeout_s": 0}, "timeout_s (line 50): should be greater than 0, not 0"),
        ({"metrics": [{"name": "a", "objective": "up"}]}, "'maximize' or 'minimize'"),
        ({"metrics": [{"name": "a", "objective": "maximize"}] * 2}, "a metric is named twice"),
        ({"metrics": [{"name": "a", "objective": "maximize", "strategy": "store"}]},
         "at least one metric must be optimized"),
        ({"metrics": [{"name": "a", "objective": "maximize", "pattern": "("}],
          "result": {"format": "regex"}}, "is no regular expression"),
        ({"result": {"format": "float"},
          "metrics": [{"name": "a", "objective": "maximize"},
                      {"name": "b", "objective": "minimize"}]}, "one float cannot be a and b"),
        ({"result": {"file": "../result.json"}}, "must lie in the trial's folder"),
        ({"parameters": [{"name": "x", "type": "flag", "grid": [1]}]}, "a flag is on or off"),
        ({"parameters": [{"name": "x", "type": "double", "bounds": {"min": 0, "max": 1}}] * 2},
         "x is declared twice"),
        ({"parameters": [{"name": "x", "type": "int", "bounds": {"min": 0, "max": 1},
                          "default": 7}]}, "x is 7, the highest allowed is 1"),
        ({"parameters": [{"name": "x", "type": "flag", "condition": {"y": True}}]},
         "depends on y, which is not declared"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    assert what in refused(tmp_path, **changes)


def test_a_registered_program_is_a_model(tmp_path: Path) -> None:
    assert registry.names() == []
    register(write(tmp_path))
    assert catalog.names()[-1] == "churn-gbt"
    spec = catalog.load("churn-gbt")
    assert {s.name: s.default for s in spec.settings} == {
        "depth": 0, "rate": pytest.approx(0.001), "size": 32, "kind": "", "use_bias": False,
        "deep": 0.5,
    }  # fmt: skip
    assert [metric.name for metric in spec.metrics] == ["auc", "seconds"]
    register(write(tmp_path, budget=3))  # its file has changed
    assert registry.get("churn-gbt").program.budget == 3
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match="already a program named churn-gbt"):
        register(write(tmp_path / "other"))
    registry.unregister("churn-gbt")
    with pytest.raises(InputError, match="no program named churn-gbt"):
        registry.unregister("churn-gbt")
    assert (tmp_path / "program.yaml").exists()


def test_what_is_kept_of_a_program_does_not_need_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    register(write(folder))
    (folder / "program.yaml").unlink()
    folder.rmdir()
    assert catalog.load("churn-gbt").name == "churn-gbt"


def test_a_recipe_takes_from_the_program_what_it_does_not_say(tmp_path: Path) -> None:
    register(write(tmp_path))
    wanted, origins = load("model: {name: churn-gbt}\nsearch: {}\n")
    assert wanted.search is not None
    assert (wanted.search.trials, wanted.goal.metric) == (40, "auc")
    assert origins["goal.metric"] == origins["search.parameters"] == "program churn-gbt"
    spec = catalog.load("churn-gbt")
    defaults, _ = resolve(spec.settings, {})
    study = experiment.study_of(wanted.search, spec, defaults, wanted.goal.metric)
    assert study.space.default() == {
        "depth": 0, "rate": pytest.approx(0.001), "size": 32, "kind": "", "use_bias": False,
    }  # fmt: skip
    assert study.space.parameter("kind").choices == ("", "b", 0, False)
    assert study.space.parameter("size").choices == (16, 32, 64)
    wanted, _ = load("model: {name: churn-gbt}\n")
    assert wanted.search is not None
    assert wanted.search.trials == 1
    wanted, _ = load(
        "model: {name: churn-gbt, settings: {depth: 3}}\nsearch: {}", "search.trials=2"
    )
    assert wanted.search is not None
    assert wanted.search.trials == 2
    defaults, _ = resolve(spec.settings, wanted.model.settings)
    study = experiment.study_of(wanted.search, spec, defaults, wanted.goal.metric)
    assert (study.space.default() or {})["depth"] == 3  # the recipe overrules the file's default


def test_what_has_no_effect_on_a_program_is_refused(tmp_path: Path) -> None:
    register(write(tmp_path))
    with pytest.raises(InputError) as caught:
        load("model: {name: churn-gbt}\ntrain: {ranks: 2}\nsplit: {test: 0.5}\n",
             "etl.engine=spark")  # fmt: skip
    for place in ("train.ranks (line 2)", "split.test (line 3)", "etl.engine (--set)"):
        assert f"{place}: this has no effect on churn-gbt: a program does" in str(caught.value)


def test_a_plan_tells_that_the_folder_of_a_program_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    register(write(folder))
    job = tmp_path / "job.yaml"
    job.write_text("model: {name: churn-gbt}\n")
    api.plan(str(job))
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=f"there is no folder {folder}") as caught:
        api.plan(str(job))
    assert "aiok register FILE" in caught.value.todo


def test_only_a_program_may_go_without_data(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="dataset: this key is needed"):
        load("model: {name: dlrm}\n")
    register(write(tmp_path))
    with pytest.raises(InputError, match="depth is 99"):
        load("model: {name: churn-gbt, settings: {depth: 99}}\n")
