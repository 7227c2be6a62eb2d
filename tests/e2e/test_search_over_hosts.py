"""Searches on real SSH hosts: a program of the user's goes there whole; a crash loses no trial.

The hosts get no environment, so each run makes them ready by itself.
"""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest
import yaml

from bench import fake_program, search_faults
from engine import api
from engine import events as ev
from engine.hpo.trials import TrialState
from engine.state import RunStatus
from hosts.testbed import Testbed
from tests.e2e.conftest import Home, wait_until_nothing_is_left
from tests.testbed import Testbeds

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

UP_LIMIT_S = 240.0  # for a run that makes the hosts ready first

MAIN = """
import argparse, json, os
from weights import weight
parser = argparse.ArgumentParser()
parser.add_argument("--x", type=int)
parser.add_argument("--data")
given = parser.parse_args()
open("scribble", "a").write("x")
total = sum(int(line) for line in open(given.data)) + int(open("table/offset.txt").read())
with open(os.path.join(os.environ["AIOK_TRIAL_DIR"], "result.json"), "w") as file:
    json.dump({"score": weight(given.x) * total}, file)
"""


def write_program(folder: Path, *command: str) -> None:
    """A program with a helper module and a data file in its folder."""
    (folder / "table").mkdir(parents=True, exist_ok=True)
    (folder / "main.py").write_text(MAIN)
    (folder / "weights.py").write_text("def weight(x):\n    return 10 - (x - 4) ** 2\n")
    (folder / "table" / "offset.txt").write_text("5")
    program = {
        "name": "scored", "command": ["python3", "main.py", *command],
        "parameters": [{"name": "x", "type": "int", "bounds": {"min": 1, "max": 6}}],
        "metrics": [{"name": "score", "objective": "maximize"}],
    }  # fmt: skip
    (folder / "program.yaml").write_text(yaml.safe_dump(program))


@pytest.fixture
def lab(testbeds: Testbeds, bare_home: Home) -> Testbed:
    """Three hosts as the cluster lab of the test's home."""
    testbed = testbeds(3, "searches")
    for host in testbed.hosts():
        testbed.boot(host.name)
    testbed.inventory(bare_home.path / "inventory.yaml", cluster="lab")
    return testbed


def below(testbed: Testbed, host: str, folder: str) -> list[str]:
    """What lies in a folder of aiok's tree on a host."""
    place = f"/home/{testbed.layout.user}/.local/share/aiok/{folder}"
    return sorted(testbed.run_as_root(host, ["ls", "-A", place]).stdout.split())


def test_a_program_with_files_and_data_is_searched_on_hosts(lab: Testbed, bare_home: Home) -> None:
    home = bare_home
    write_program(home.path / "mine", "--data", "{data_path}")
    (home.path / "rows.csv").write_text("1\n2\n")
    recipe = {
        "model": {"name": "scored"}, "cluster": "lab", "dataset": {"path": "rows.csv"},
        "search": {"optimizer": "grid", "retries": 0}, "faults": {"grace_s": 60},
    }  # fmt: skip
    (home.path / "scores.yaml").write_text(yaml.safe_dump(recipe))
    assert home.aiok("register", "mine/program.yaml").returncode == 0
    done = home.aiok("run", "scores.yaml", timeout_s=UP_LIMIT_S)
    assert done.returncode == 0, done.stderr
    state = home.state("scores-1")
    found = {int(t.assignment["x"]): t.values["score"] for t in state.trials.values()}
    assert found == {x: (10 - (x - 4) ** 2) * 8 for x in range(1, 7)}
    assert {trial.host for trial in state.trials.values()} == {"h1", "h2", "h3"}
    best = home.path / "runs" / "scores-1" / "artifacts" / "search" / "result.json"
    assert json.loads(best.read_text())["metrics"] == {"score": 80}
    assert not (home.path / "mine" / "scribble").exists()
    for host in ("h1", "h2", "h3"):
        assert below(lab, host, "work") == below(lab, host, "jobs") == []
        data, program = below(lab, host, "cache")
        assert data == "data" and program.startswith("program-")
        assert below(lab, host, f"cache/{program}") == [
            "main.py", "program.yaml", "table", "weights.py"
        ]  # fmt: skip
        home_there = f"/home/{lab.layout.user}/.local/share/aiok"
        ledger = lab.run_as_root(host, ["cat", f"{home_there}/ledger.jsonl"]).stdout
        named = {json.loads(line)["path"] for line in ledger.splitlines()}
        unnamed = [name for name in below(lab, host, "") if f"{home_there}/{name}" not in named]
        assert unnamed == ["ledger.jsonl"]


def test_a_place_that_a_host_does_not_have_is_refused(lab: Testbed, bare_home: Home) -> None:
    home = bare_home
    rows = home.path / "rows.csv"
    rows.write_text("1\n")
    write_program(home.path / "mine", f"--data={rows}")
    recipe = {"model": {"name": "scored"}, "cluster": "lab", "search": {"optimizer": "grid"}}
    (home.path / "scores.yaml").write_text(yaml.safe_dump(recipe))
    assert home.aiok("register", "mine/program.yaml").returncode == 0
    done = home.aiok("run", "scores.yaml", timeout_s=UP_LIMIT_S)
    assert done.returncode == 3
    for host in ("h1", "h2", "h3"):
        assert f"{host}: there is no {rows}, which {home.path}/mine/program.yaml" in done.stderr
    (home.path / "mine" / "gone").symlink_to("/nowhere")
    refused = home.aiok("plan", "scores.yaml")
    assert refused.returncode == 2
    assert f"{home.path}/mine/gone is a link to nothing: remove it" in refused.stderr


def test_a_host_crashes_among_kills_and_no_trial_is_lost_or_doubled(
    lab: Testbed, bare_home: Home
) -> None:
    # Trials of ten seconds, so that many are still to come when the crash has been noticed.
    run = search_faults.start_on_hosts(bare_home.path, "lab", 96, 32, pause_s=1.0)
    struck: list[float] = []

    def crash() -> None:
        struck.append(time.time())
        search_faults.crash_at_work(lab, "h2", run)

    done = search_faults.disturb(
        run, 50, 4, random.Random(20261126), 250, [(16, crash)],
        lambda: search_faults.absent_from(lab), pause_s=0.5,
    )  # fmt: skip
    assert search_faults.verdict(run, 96, fake_program.auc) == []
    assert (done.count, done.roles["runner"], done.resumes) == (50, 4, 4)
    state = api.state(run)
    assert state.status is RunStatus.DONE
    assert {trial.state for trial in state.trials.values()} == {TrialState.FINISHED}
    assert {"h1", "h3"} <= {trial.host for trial in state.trials.values()}
    ends = [e for e in api.events_since(run, 0)[0] if isinstance(e, ev.TrialEnded)]
    lost = [end for end in ends if end.t > struck[0] and end.what.startswith("h2")]
    assert lost and {end.state for end in lost} == {TrialState.INTERRUPTED}
    assert {end.failure for end in lost} == {""}
    wait_until_nothing_is_left(run)
