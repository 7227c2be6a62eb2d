"""What a run's search has found: for tables, CSV, recipes, other tools, and the report."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from optuna_dashboard import wsgi

from aiok_tui import trials as shown
from aiok_tui.cli import main
from aiok_tui.output import headline
from engine import api, recipe, strict_yaml
from engine.errors import InputError
from engine.hpo import results
from engine.hpo.space import Parameter, Space, Type
from engine.hpo.study import Objective, Study
from engine.hpo.trials import Trial, TrialState
from engine.report import search as search_report
from engine.state import StepState
from engine.steps.report import write_report
from engine.store import open_run_folder
from tests.engine import searched


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AIOK_HOME", str(tmp_path))
    folder = tmp_path / "runs"
    searched.record(folder / "one-1", searched.ONE)
    searched.record(folder / "two-1", searched.TWO)
    searched.record(folder / "none-1", searched.IMPOSSIBLE)
    searched.record(folder / "bound-1", searched.BOUNDED)
    searched.record(folder / "plain-1", None)
    return folder


def aiok(*words: str) -> int:
    """The command line in this process."""
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return int(ended.value.code or 0)


def test_every_trial_is_there_once(runs: Path) -> None:
    found = results.of_run("one-1")
    assert [trial.number for trial in found.trials] == list(range(30))
    states = [trial.state for trial in found.trials]
    assert states[3:6] == [TrialState.PRUNED, TrialState.FAILED, TrialState.RUNNING]
    assert states.count(TrialState.FINISHED) == 27
    assert found.found.chosen is not None
    best = max((t for t in found.trials if t.values), key=lambda t: t.values["auc"])
    assert found.found.front == (best,)
    assert found.study.budget.trials == 40


def test_the_recipe_of_the_best_trial_is_ready_to_run(runs: Path) -> None:
    found = results.of_run("one-1")
    text = results.recipe_of(found)
    best = found.found.front[0]
    assert text.startswith(f"# trial {best.number} of one-1: auc {best.values['auc']:.6g}, ")
    loaded, _ = recipe.load(strict_yaml.parse(text, "best"), environ={})
    assert loaded.search is None
    assert (loaded.train.ranks, loaded.train.checkpoint_s) == (1, 60.0)  # as the trial trained
    assert loaded.dataset.path == "/data/of/mine/clicks.tsv"
    for name, value in best.assignment.items():
        assert loaded.model.settings[name] == value
    assert loaded.model.settings["table_optimizer"] == "rowwise_adagrad"
    assert results.recipe_of(found, 7).startswith("# trial 7 of one-1")
    with pytest.raises(InputError, match="no trial 99"):
        results.recipe_of(found, 99)


def test_the_best_recipe_has_the_goal_of_a_trial(runs: Path) -> None:
    for run, target in (("one-1", None), ("two-1", 0.7)):  # two-1 looks for the shortest training
        found = results.of_run(run)
        goals = {"goal.target": 0.7, "goal.minutes": 30.0}  # of the whole search
        values = tuple(replace(v, value=goals.get(v.key, v.value)) for v in found.plan.values)
        text = results.recipe_of(replace(found, plan=replace(found.plan, values=values)))
        goal = recipe.load(strict_yaml.parse(text, "best"), environ={})[0].goal
        assert (goal.metric, goal.target, goal.minutes) == ("auc", target, None)


def test_nothing_feasible_has_no_best_but_a_way_out(runs: Path) -> None:
    found = results.of_run("none-1")
    with pytest.raises(InputError) as refused:
        results.recipe_of(found)
    assert "relax the threshold of auc from 0.99 to 0.7" in str(refused.value)
    assert all(row["best"] in ("infeasible", "") for row in results.rows(found))
    with pytest.raises(InputError, match="plain-1 has no search"):
        results.of_run("plain-1")


def test_the_result_of_a_search_says_when_none_keeps_the_thresholds() -> None:
    step = StepState("search", "search", "search")
    step.result = {"trials": {"finished": 2, "repeated": 5}, "trial": 1, "values": {"auc": 0.5}}
    assert headline(step) == "2 trials, the best is 1: auc 0.5"
    step.result["trials"] = {"finished": 1}
    step.result["nearest"] = {"trial": 0, "values": {"auc": 0.4, "seconds": 3}}
    assert headline(step) == (
        "1 trial, none keeps all thresholds, the nearest is 0: auc 0.4, seconds 3"
    )


def test_the_table_marks_the_front_and_shows_no_control_byte(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert aiok("trials", "two-1") == 0
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err
    assert "trials that no other one beats in auc and training_time" in shown.err
    assert "crash exit 1 [31m<script>" in shown.out
    front = [trial.number for trial in results.of_run("two-1").found.front]
    marked = [int(line.split()[0]) for line in shown.out.splitlines() if " * " in line]
    assert sorted(marked) == sorted(front)
    assert len(front) > 1
    assert re.search(r"what matters for auc: embedding_size \d+ %", shown.out)


def test_json_and_csv_hold_every_trial(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert aiok("trials", "one-1", "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["trial"] for line in lines] == list(range(30))
    assert lines[4]["failure"] == "crash"
    assert lines[0]["origin"] == "default"
    assert set(lines[0]["assignment"]) >= {"learning_rate", "batch_size"}
    assert aiok("trials", "one-1", "--csv") == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(table) == 30
    assert float(table[0]["auc"]) == lines[0]["auc"]
    assert "\x1b" not in table[4]["what"]


def loaded_study(file: Path, name: str) -> optuna.Study:
    """An exported study as Optuna reads it."""
    backend = optuna.storages.journal.JournalFileBackend(str(file))
    return optuna.load_study(study_name=name, storage=optuna.storages.JournalStorage(backend))


def test_best_and_export_write_files(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best, study = tmp_path / "best.yaml", tmp_path / "study.log"
    assert aiok("trials", "two-1", "--best", str(best), "--export", f"optuna={study}") == 0
    said = capsys.readouterr().err
    assert "--trial takes another" in said
    assert recipe.load(recipe.find(str(best)), environ={})[0].search is None
    loaded = loaded_study(study, "two-1")
    mine = {trial.number for trial in results.of_run("two-1").found.front}
    assert {trial.number for trial in loaded.best_trials} == mine
    text = best.read_bytes()
    assert aiok("trials", "two-1", "--best", str(best)) == 2
    assert f"{best} is there already" in capsys.readouterr().err
    assert best.read_bytes() == text
    assert aiok("trials", "two-1", "--trial", "3") == 2
    assert "aiok trials two-1 --trial 3 --best FILE" in capsys.readouterr().err
    assert aiok("trials", "two-1", "--json", "--csv") == 2
    assert aiok("trials", "two-1", "--export", f"optuna={study}") == 2
    assert aiok("trials", "two-1", "--export", "wandb=x") == 2
    assert aiok("trials", "two-1", "--export", "optuna=") == 2
    assert capsys.readouterr().err.count("expected optuna, or optuna=FILE") == 2


def asked(app: Callable[..., Iterable[bytes]], path: str) -> Any:
    """What a WSGI application answers to GET, as JSON."""
    path, _, query = path.partition("?")
    environ: dict[str, Any] = {"PATH_INFO": path, "QUERY_STRING": query}
    setup_testing_defaults(environ)
    said: list[str] = []
    body = b"".join(app(environ, lambda status, headers, failed=None: said.append(status)))
    assert said == ["200 OK"], body
    return json.loads(body)


def test_optuna_dashboard_opens_the_export(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert aiok("trials", "bound-1", "--export", "optuna") == 0
    assert "optuna-dashboard bound-1.optuna.log" in capsys.readouterr().err
    app = wsgi("bound-1.optuna.log")
    (study,) = asked(app, "/api/studies")["study_summaries"]
    assert (study["study_name"], study["directions"]) == ("bound-1", ["maximize"])
    detail = asked(app, f"/api/studies/{study['study_id']}?after=0")
    assert detail["objective_names"] == ["auc"]
    mine = results.of_run("bound-1")
    bad = {row["trial"] for row in results.rows(mine) if row["best"] == "infeasible"}
    assert 0 < len(bad) < len(mine.found.finished)
    assert [one["number"] for one in detail["trials"]] == list(range(30))
    for one, trial in zip(detail["trials"], mine.trials, strict=True):
        if trial.number in (3, 4, 5):
            assert one["state"] == {3: "Pruned", 4: "Fail", 5: "Waiting"}[trial.number]
            continue
        assert (one["state"], one["values"]) == ("Complete", [trial.values["auc"]])
        past = [0.68 - trial.values["auc"], trial.values["training_time"] - 8]
        assert one["constraints"] == pytest.approx(past)
        assert any(value > 0 for value in one["constraints"]) == (trial.number in bad)
        told = {param["name"]: param["param_external_value"] for param in one["params"]}
        assert told == {name: str(value) for name, value in trial.assignment.items()}
    # Optuna itself reads the same, and which threshold is which is said by the study
    loaded = loaded_study(Path("bound-1.optuna.log"), "bound-1")
    assert loaded.user_attrs["thresholds of"] == ["auc", "training_time"]
    assert loaded.best_trial.number == mine.found.front[0].number
    text = Path("bound-1.optuna.log").read_bytes()
    assert aiok("trials", "bound-1", "--export", "optuna") == 2
    assert "bound-1.optuna.log is there already" in capsys.readouterr().err
    assert Path("bound-1.optuna.log").read_bytes() == text


def test_metrics_and_parameters_named_like_columns_keep_their_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("host", "auc", "started", "depth", "time")
    space = Space(parameters=tuple(
        Parameter(name=name, type=Type.DOUBLE, low=0.0, high=9.0) for name in names
    ))  # fmt: skip
    objectives = tuple(Objective(name=name, maximize=True) for name in ("seconds", "auc", "loss"))
    trial = Trial(
        0, {"host": 1.0, "auc": 2.0, "started": 3.0, "depth": 4.0, "time": 9.0},
        state=TrialState.FINISHED, host="h7", seconds=60.0, started=5.5,
        values={"seconds": 6.0, "auc": 7.0, "loss": 8.0},
    )  # fmt: skip
    study = Study(space=space, objectives=objectives)
    found = results.judged("mine-1", searched.plan_of(None), study, {0: trial})
    (row,) = results.rows(found)
    wanted = {
        "seconds": 60.0, "host": "h7", "metric.seconds": 6.0, "metric.auc": 7.0, "loss": 8.0,
        "parameter.host": 1.0, "parameter.auc": 2.0, "parameter.started": 3.0, "depth": 4.0,
        "parameter.time": 9.0,
    }  # fmt: skip
    assert {key: row.get(key) for key in wanted} == wanted
    assert "auc" not in row and "started" not in row
    monkeypatch.setattr(api, "trials", lambda run: found)
    shown.show("mine-1", as_json=True, as_csv=False)
    line = json.loads(capsys.readouterr().out)
    assert {key: line.get(key) for key in wanted} == wanted
    assert (line["started"], line["values"]) == (5.5, trial.values)
    shown.show("mine-1", as_json=False, as_csv=True)
    (cells,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (cells["seconds"], cells["metric.seconds"], cells["parameter.host"]) == (
        "60.0", "6.0", "1.0"
    )  # fmt: skip
    head, line_of_0 = shown.table_text(found).splitlines()[:2]
    assert head.split()[:5] == ["trial", "state", "metric.seconds", "metric.auc", "loss"]
    assert line_of_0.split()[:6] == ["0", "finished", "6", "7", "8", "*"]
    twin = search_report.collect(found)
    assert twin["front"] == [{"trial": 0, "metric.seconds": 6.0, "metric.auc": 7.0, "loss": 8.0}]
    assert len(search_report.charts(twin)) >= 6  # each history, each front


@pytest.mark.parametrize("run", ["one-1", "two-1", "none-1"])
def test_the_report_shows_the_search(runs: Path, tmp_path: Path, run: str) -> None:
    folder = open_run_folder(run)
    plan = json.loads(folder.plan.read_text())
    write_report(folder, folder.state(), plan, tmp_path / "report")
    twin = json.loads((tmp_path / "report" / "report.json").read_text())["search"]
    page = (tmp_path / "report" / "report.html").read_text()
    found = results.of_run(run)
    assert len(twin["trials"]) == 30
    assert [row["trial"] for row in twin["front"]] == [t.number for t in found.found.front]
    assert twin["words"] == found.found.words
    best = [row[2] for row in twin["history"]["auc"] if row[2] is not None]
    assert best == sorted(best)
    assert bool(best) == (run != "none-1")
    assert (twin["hypervolume"] is not None) == (run == "two-1")
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)" in page
    section = page[page.index('id="search"') : page.index('id="time"')]
    assert ("Front: training_time over auc" in section) == (run == "two-1")
    assert "What matters for auc" in section
    assert section.count("<svg") == {"one-1": 2, "two-1": 5, "none-1": 2}[run]
    assert section.count("<tr") == 31


def test_a_report_of_few_trials_says_that_it_cannot_tell_what_matters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOK_HOME", str(tmp_path))
    folder = searched.record(tmp_path / "runs" / "few-1", searched.ONE, count=4)
    write_report(folder, folder.state(), json.loads(folder.plan.read_text()), tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "3 finished trials are too few to tell what matters: 10 are needed" in page


@pytest.mark.parametrize(("search", "target"), [(searched.ONE, 0.7), (searched.TWO, None)])
def test_the_goals_target_ends_a_search_for_the_goals_metric_alone(
    search: dict[str, Any], target: float | None
) -> None:
    plan = searched.plan_of(search)
    step = plan.steps[0]
    goal = {"metric": "auc", "target": 0.7, "minutes": None}
    asked = replace(plan, steps=(replace(step, settings={**step.settings, "goal": goal}),))
    planned = results.planned_search(asked)
    assert planned is not None
    assert planned[1].target == target
