"""Reuse of finished steps, and every verb on a real run."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from engine import api
from engine import events as ev
from engine.state import RunStatus, StepStatus
from tests.e2e.conftest import Home, new_home

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def done(environments: None, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with one finished run, tiny-1, cut short by settings."""
    home = new_home(tmp_path_factory.mktemp("done") / "home")
    first = home.aiok("run", "tiny", "-s", "epochs=1")
    assert first.returncode == 0, first.stderr
    assert "test AUC 0." in first.stdout
    return home


@pytest.fixture(autouse=True)
def _use(done: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOK_HOME", str(done.path))


def statuses(run: str) -> dict[str, StepStatus]:
    return {step.id: step.status for step in api.state(run).steps.values()}


def test_a_second_run_reuses_what_is_finished_and_says_so(done: Home) -> None:
    again = done.aiok("run", "tiny", "-s", "epochs=1", "--json")
    assert again.returncode == 0, again.stderr
    events = [json.loads(line) for line in again.stdout.splitlines()]
    run = events[0]["run"]
    reused = {e["step"] for e in events if e["kind"] == "step_reused"}
    assert reused == {"data", "etl", "roofline", "train", "evaluate", "optimize"}
    assert api.state(run).result("evaluate") == api.state("tiny-1").result("evaluate")
    shown = done.aiok("show", run).stdout
    assert "reused" in shown
    assert "train: training " in shown and "of matmul peak" in shown
    known = json.loads(done.aiok("show", run, "--json").stdout)["roofline"]
    assert [one["what"] for one in known] == ["training", "inference"]
    assert all(one["matmul_percent"] > 0 and one["memory_percent"] > 0 for one in known)


def test_changing_a_setting_reruns_only_what_depends_on_it(done: Home) -> None:
    assert done.aiok("run", "tiny", "-s", "epochs=1", "-s", "seed=8").returncode == 0
    by_step = statuses(api.runs()[0].id)
    assert by_step["data"] is by_step["etl"] is StepStatus.REUSED
    assert by_step["train"] is by_step["evaluate"] is by_step["optimize"] is StepStatus.DONE
    plan = {s.id: s.reuse for s in api.plan("tiny", ["epochs=1", "min_count=3"]).steps}
    assert plan["data"]
    assert not plan["etl"]
    assert not plan["train"]
    plan = {s.id: s.reuse for s in api.plan("tiny", ["epochs=1", "goal.max_metric_drop=0.5"]).steps}
    assert plan["train"]
    assert not plan["optimize"]


def test_two_runs_at_once_make_the_same_output_once(done: Home) -> None:
    changed = ["epochs=1", "dataset.generate.seed=77"]
    runs = [api.start("tiny", changed) for _ in range(2)]
    for run in runs:
        assert api.wait_for_end(run, 80).status is RunStatus.DONE, api.state(run).problem
    finished = [
        event.identity
        for run in runs
        for event in api.events_since(run, 0)[0]
        if isinstance(event, ev.StepFinished) and event.identity
    ]
    assert len(finished) == len(set(finished)) == 5
    assert api.state(runs[0]).result("train") == api.state(runs[1]).result("train")


def test_show_tells_the_join_plan_and_logs_the_exact_command(done: Home) -> None:
    shown = done.aiok("show", "tiny-1").stdout
    assert "join plan" in shown
    assert all(f"C{n}" in shown for n in range(1, 27))
    logs = done.aiok("logs", "tiny-1", "train").stdout
    assert "-m models.train" in logs
    assert "spec.json" in logs
    state = json.loads(done.aiok("show", "tiny-1", "--json").stdout)
    assert state["status"] == "done"
    assert state["curves"]["valid auc"]


def test_predict_scores_raw_rows_in_order(done: Home, tmp_path: Path) -> None:
    raw = sorted((done.path / "cache").glob("data-*/part-*"))[0]
    lines = raw.read_text().splitlines()[:500]
    rows = tmp_path / "new.tsv"
    unseen = "\t".join([*lines[0].split("\t")[:-1], "ffffffff"])
    rows.write_text("\n".join([*lines, unseen]) + "\n")
    output = tmp_path / "scores.csv"
    made = done.aiok("predict", "tiny-1", "-i", str(rows), "-o", str(output), "--json")
    assert made.returncode == 0, made.stderr
    result = json.loads(made.stdout)
    with open(output, newline="") as file:
        scored = list(csv.reader(file))
    assert len(scored) == 1 + 501
    assert [int(line[0]) for line in scored[1:]] == list(range(1, 502)) or [
        int(line[0]) for line in scored[1:]
    ] == list(range(501))
    assert all(0 < float(line[1]) < 1 for line in scored[1:])
    assert result["rows"] == 501
    assert result["unseen"]["C26"] >= 1


def test_a_home_moved_as_a_whole_stays_whole(done: Home, tmp_path: Path) -> None:
    moved = Home(tmp_path / "another home")
    shutil.copytree(done.path, moved.path, symlinks=True)
    bundle = moved.path / "runs" / "tiny-1" / "artifacts" / "optimize"
    assert bundle.resolve().is_relative_to(moved.path.resolve())
    assert (bundle / "bundle.json").is_file()
    assert moved.aiok("report", "tiny-1").stdout.startswith(str(moved.path))


def test_predict_says_what_is_wrong(done: Home, tmp_path: Path) -> None:
    bad = tmp_path / "bad.tsv"
    bad.write_text("1\t2\n")
    output = tmp_path / "scores.csv"
    refused = done.aiok("predict", "tiny-1", "-i", str(bad), "-o", str(output))
    assert refused.returncode == 2
    assert f"{bad}, line 1" in refused.stderr
    assert not output.exists()
    missing = done.aiok("predict", "tiny-9", "-i", str(bad), "-o", str(output))
    assert missing.returncode == 2
    assert "there is no run tiny-9" in missing.stderr


def test_report_is_there_with_its_twin(done: Home) -> None:
    path = Path(done.aiok("report", "tiny-1").stdout.strip())
    html = path.read_text(encoding="utf-8")
    assert "<script" not in html
    twin = json.loads(done.aiok("report", "tiny-1", "--json").stdout)
    auc = api.state("tiny-1").result("evaluate")["auc"]
    assert f"{auc:.4f}" in html
    assert json.dumps(auc) in json.dumps(twin)


def test_data_verbs(done: Home, tmp_path: Path) -> None:
    made = done.aiok("data", "make", str(tmp_path / "clicks"), "--rows", "3000", "--seed", "5")
    assert made.returncode == 0, made.stderr
    again = done.aiok("data", "make", str(tmp_path / "clicks"), "--rows", "3000")
    assert again.returncode == 2
    assert "is not empty" in again.stderr
    checked = done.aiok("data", "check", str(tmp_path / "clicks"), "--json")
    assert checked.returncode == 0, checked.stderr
    assert json.loads(checked.stdout)["rows"] == 3000
    assert done.aiok("data", "add", "clicks", str(tmp_path / "clicks")).returncode == 0
    assert "clicks" in done.aiok("data", "list").stdout
    profile = done.aiok("data", "profile", "clicks", "--json")
    assert profile.returncode == 0, profile.stderr
    assert len(json.loads(profile.stdout)["columns"]) == 39
    recipe = tmp_path / "named.yaml"
    recipe.write_text("dataset: {name: clicks}\nmodel: {profile: tiny}\n")
    plan = json.loads(done.aiok("plan", str(recipe), "--json").stdout)
    origins = {value["key"]: value["origin"] for value in plan["values"]}
    assert origins["dataset.path"] == "data set clicks"
    assert done.aiok("data", "remove", "clicks").returncode == 0
    gone = done.aiok("plan", str(recipe))
    assert gone.returncode == 2
    assert "no data set named clicks" in gone.stderr


def test_new_asks_and_writes_a_recipe_that_runs(done: Home, tmp_path: Path) -> None:
    import subprocess
    import sys

    target = tmp_path / "mine.yaml"
    answers = "\n".join(["1", "5000", "", "", "tiny", *[""] * 40]) + "\n"
    asked = subprocess.run(
        [sys.executable, "-P", "-m", "aiok_tui", "new", "-o", str(target)],
        input=answers, env=done.env, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr
    data = yaml.safe_load(target.read_text())
    assert data["dataset"]["generate"]["rows"] == 5000
    assert data["model"]["profile"] == "tiny"
    assert done.aiok("plan", str(target)).returncode == 0


def test_small_verbs_answer(done: Home) -> None:
    for words in (
        ("runs",), ("runs", "--json"), ("models",), ("models", "dlrm"), ("models", "--json"),
        ("hosts", "probe"), ("hosts", "probe", "--json"), ("env", "list"), ("doctor",),
        ("--version",), ("plan", "quickstart"), ("new", "--schema"), ("clean", "--dry-run"),
    ):  # fmt: skip
        answer = done.aiok(*words)
        assert answer.returncode == 0, (words, answer.stderr)
        assert answer.stdout or words == ("clean", "--dry-run"), words
        assert "Traceback" not in answer.stderr


def test_clean_frees_what_no_run_needs_and_nothing_else(done: Home) -> None:
    kept = {step["identity"] for run in api.runs() for step in _plan(run.id)["steps"]}
    orphan = done.path / "cache" / "etl-orphan"
    orphan.mkdir()
    (orphan / "result.json").write_text("{}")
    assert done.aiok("clean").returncode == 0
    assert not orphan.exists()
    left = {path.name for path in (done.path / "cache").iterdir() if path.is_dir()}
    assert left <= kept
    assert api.state("tiny-1").status is RunStatus.DONE
    assert os.path.exists(api.run_path("tiny-1") / "artifacts" / "train" / "model.json")


def _plan(run: str) -> dict[str, list[dict[str, str]]]:
    loaded: dict[str, list[dict[str, str]]] = json.loads(
        (api.run_path(run) / "plan.json").read_text()
    )
    return loaded
