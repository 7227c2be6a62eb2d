"""A user's own program from its file to the best trial of a search, by the command line alone."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import yaml

from engine.hpo.trials import TrialState
from engine.state import RunStatus
from tests.e2e.conftest import Home, wait_until_nothing_is_left

GOOD = ["good", "zero", "best"]
WAYS = {
    "exit 1": "crash", "hang": "timeout", "no metric": "no_metric", "nan": "nan",
    "children": "crash", "disk": "crash", "ignore TERM": "timeout", "megabytes": "crash",
    "control \x1b[2J": "no_metric", "no folder": "no_metric",
}  # fmt: skip
SCRIPT = """
import json, os, shutil, signal, subprocess, sys, time
folder, way = os.environ["AIOK_TRIAL_DIR"], json.load(open(os.environ["AIOK_PARAMS"]))["way"]
assert sys.argv[1:] == ["--way", way]
auc = {"good": 0.5, "zero": 0, "best": 0.9}.get(way)
if way == "exit 1": sys.exit(1)
if way == "hang": time.sleep(1000)
if way == "nan": auc = float("nan")
if way == "children": subprocess.Popen(["setsid", "env", "-i", "sleep", "1000"])
if way == "disk":
    for n in range(100): open(f"{folder}/{n}", "wb").write(bytes(1 << 20))
if way == "ignore TERM":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True: time.sleep(0.1)
if way == "megabytes":
    for n in range(300): print("x" * 100_000)
    sys.exit("too much was said")
with open(f"{folder}/result.json", "w") as file:
    json.dump({} if way == "no metric" else {way: 1} if "control" in way else {"auc": auc}, file)
if way == "no folder": shutil.rmtree(folder)
"""


def write_program(folder: Path) -> None:
    (folder / "main.py").write_text(SCRIPT, encoding="utf-8")
    parameter = {
        "name": "way", "type": "categorical", "categorical_values": [*GOOD, *WAYS],
    }  # fmt: skip
    program = {
        "name": "ways", "command": ["python3", "main.py"], "args_style": ["--{name}", "{value}"],
        "parameters": [parameter], "metrics": [{"name": "auc", "objective": "maximize"}],
        "timeout_s": 5, "grace_s": 0.5, "resources": {"disk_gb": 0.02, "log_mb": 1},
    }  # fmt: skip
    (folder / "ways.yaml").write_text(yaml.safe_dump(program), encoding="utf-8")
    search = {"optimizer": "grid", "retries": 0, "pruner": "none"}
    # on a busy machine a host that is silent for a while is not lost
    recipe = {"model": {"name": "ways"}, "search": search, "faults": {"grace_s": 60}}
    (folder / "mine.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")


def test_a_search_goes_on_whatever_a_program_does(bare_home: Home) -> None:
    write_program(bare_home.path)
    assert bare_home.aiok("register", "ways.yaml").returncode == 0
    done = bare_home.aiok("run", "mine.yaml")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    state = bare_home.state("mine-1")
    assert state.status is RunStatus.DONE
    trials = {str(trial.assignment["way"]): trial for trial in state.trials.values()}
    assert sorted(trials) == sorted([*GOOD, *WAYS])
    assert {way: str(trials[way].failure) for way in WAYS} == WAYS
    assert all(trials[way].what for way in WAYS)
    assert {way: trials[way].values for way in GOOD} == {
        "good": {"auc": 0.5}, "zero": {"auc": 0.0}, "best": {"auc": 0.9},
    }  # fmt: skip
    states = Counter(trial.state for trial in trials.values())
    assert states == {TrialState.FINISHED: 3, TrialState.FAILED: 10}
    best = bare_home.path / "runs" / "mine-1" / "artifacts" / "search"
    assert json.loads((best / "result.json").read_text())["metrics"] == {"auc": 0.9}
    assert json.loads((best / "trial" / "result.json").read_text()) == {"auc": 0.9}
    resumed = bare_home.aiok("resume", "mine-1")
    assert resumed.returncode == 2 and "is finished" in resumed.stderr  # its output is whole
    wait_until_nothing_is_left("mine-1")
    assert not list((bare_home.path / "jobs").iterdir())
    assert not (bare_home.path / "runs" / "mine-1" / "work").exists() or not list(
        (bare_home.path / "runs" / "mine-1" / "work").iterdir()
    )
    again = bare_home.aiok("trials", "mine-1", "--best", "best.yaml")
    assert again.returncode == 0, again.stderr
    planned = bare_home.aiok("plan", "best.yaml")
    assert planned.returncode == 0, planned.stderr
    assert "search ways: 1 trial by optuna" in planned.stdout
    assert "model.settings.way         best" in planned.stdout
    predicted = bare_home.aiok("predict", "mine-1", "-i", "main.py", "-o", "x.csv")
    assert predicted.returncode == 2
    assert "its model is a program of yours" in predicted.stderr


def test_the_verbs_of_programs(bare_home: Home) -> None:
    write_program(bare_home.path)
    registered = bare_home.aiok("register", "ways.yaml")
    assert registered.stdout == "ways: 1 parameter (way), metrics auc\n"
    assert "\nways: a program of yours" in bare_home.aiok("models").stdout
    shown = bare_home.aiok("models", "ways")
    assert "way      good" in shown.stdout
    checked = bare_home.aiok("check", "ways")
    assert checked.returncode == 0, checked.stderr
    assert "$ python3 main.py --way good\n" in checked.stdout
    assert "auc      0.5" in checked.stdout
    (bare_home.path / "main.py").write_text("print('nothing')")
    checked = bare_home.aiok("check", "ways.yaml", "--json")
    assert checked.returncode == 1
    command, outcome = map(json.loads, checked.stdout.splitlines())
    assert command["argv"] == ["python3", "main.py", "--way", "good"]
    assert (outcome["failure"], outcome["what"]) == ("no_metric", "it wrote no result.json")
    assert bare_home.aiok("unregister", "ways").returncode == 0
    again = bare_home.aiok("unregister", "ways")
    assert (again.returncode, again.stdout) == (2, "")
    assert "there is no program named ways" in again.stderr
    refused = bare_home.aiok("plan", "mine.yaml")
    assert refused.returncode == 2
    assert "there is no model ways" in refused.stderr
