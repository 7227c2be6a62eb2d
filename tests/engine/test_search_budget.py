"""What the advisor says to the budget of a search, and what the search is estimated to take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from engine import api
from engine.hpo.results import planned_search
from engine.plan import Plan, PlannedValue
from engine.programs.registry import register

DATA = "dataset: {format: criteo, generate: {rows: %d}}\n"
SIZES = "parameters: [{name: embedding_size, type: int, grid: [2, 4, 8]}]"
BUDGET = ("search.trials", "search.minutes", "search.parallel")


@pytest.fixture(autouse=True)
def four_cores(aiok_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = replace(
        api.host_facts(), physical_cores=4, cores=[0, 1, 2, 3], memory_gib=16.0, disk_free_gib=900.0
    )
    monkeypatch.setattr(api, "host_facts", lambda: facts)


def planned(folder: Path, search: str, *overrides: str, rows: int = 300_000) -> Plan:
    path = folder / "recipe.yaml"
    path.write_text(f"{DATA % rows}search: {{{search}}}\n")
    return api.plan(str(path), overrides)


def budget(plan: Plan) -> list[PlannedValue]:
    by_key = {value.key: value for value in plan.values}
    return [by_key[key] for key in BUDGET]


def one_minute(folder: Path, rows: int = 300_000) -> float:
    """Minutes of one training on one rank, as the same advisor says."""
    path = folder / "one.yaml"
    path.write_text(DATA % rows)
    return api.plan(str(path), ["train.ranks=1"]).training.estimate.minutes


def test_an_open_budget_grows_with_the_parameters(tmp_path: Path) -> None:
    plan = planned(tmp_path, "")
    trials, minutes, parallel = budget(plan)
    found = planned_search(plan)
    assert found is not None
    count = len(found[1].space.parameters)
    assert (trials.value, trials.origin) == (10 + 5 * count, "advisor")
    assert trials.reason == f"10 to begin with, 5 for each of {count} parameters"
    assert (minutes.value, minutes.origin) == (None, "built-in")
    assert (parallel.value, parallel.reason) == (4, "one trial for each of 4 cores")
    assert found[0].trials == found[1].budget.trials == trials.value
    assert plan.training.settings["search"]["trials"] == trials.value
    assert f"{trials.value} trials by optuna, 4 at a time" in plan.training.title


def test_what_the_user_says_of_the_budget_stays(tmp_path: Path) -> None:
    for search, overrides in (
        ("trials: 7", ()), ("minutes: 5", ()), ("patience: 9", ()), ("", ("search.trials=7",)),
        ("optimizer: grid, " + SIZES, ()),
    ):  # fmt: skip
        trials, minutes, _ = budget(planned(tmp_path, search, *overrides))
        assert "advisor" not in (trials.origin, minutes.origin)
    for search in ("minutes: 5", "patience: 9"):  # what ends otherwise has no number of trials
        assert budget(planned(tmp_path, search))[0].value is None
    kept = planned(tmp_path, "trials: 7, parallel: 3", "goal.minutes=1")
    assert [(value.value, value.origin) for value in budget(kept)] == [
        (7, "recipe"), (None, "built-in"), (3, "recipe")
    ]  # fmt: skip


def test_few_assignments_are_all_tried_and_fill_no_more_slots(tmp_path: Path) -> None:
    plan = planned(tmp_path, SIZES)
    trials, _, parallel = budget(plan)
    assert (trials.value, trials.reason) == (3, "all 3 assignments that there are")
    assert (parallel.value, parallel.reason) == (3, "no more than 3 trials to run")
    assert budget(planned(tmp_path, "trials: 1"))[2].value == 1
    grid = planned(tmp_path, "optimizer: grid, " + SIZES)
    assert "3 trials by grid, 3 at a time" in grid.training.title
    more = planned(tmp_path, "optimizer: grid, trials: 100, " + SIZES)
    assert "3 trials by grid, 3 at a time" in more.training.title
    assert more.training.estimate == grid.training.estimate
    assert grid.training.estimate.cpu_s == plan.training.estimate.cpu_s
    assert grid.training.estimate.minutes == pytest.approx(one_minute(tmp_path), rel=0.01)


def test_an_open_budget_has_room_for_what_the_search_begins_with(tmp_path: Path) -> None:
    one = one_minute(tmp_path)
    start = ", ".join(f"{{learning_rate: 0.0{n:02}5}}" for n in range(1, 31))
    plan = planned(tmp_path, f"start: [{start}]", f"goal.minutes={one / 2}")
    trials, _, parallel = budget(plan)
    assert (trials.value, trials.origin) == (31, "advisor")  # with the default assignment
    assert trials.reason == "all that search.start begins with; else 4"
    assert parallel.value == 4
    assert budget(planned(tmp_path, f"start: [{start}]"))[0].value == 55  # there is room


def test_the_goals_minutes_bound_the_search(tmp_path: Path) -> None:
    one = one_minute(tmp_path)
    trials, minutes, _ = budget(planned(tmp_path, "", f"goal.minutes={3.5 * one}"))
    assert trials.value == 3 * 4
    assert trials.reason.startswith(f"what fits in {3.5 * one:g} minutes (goal.minutes): about ")
    assert trials.reason.endswith(" seconds each, 4 at a time; else 55")
    assert (minutes.value, minutes.origin) == (pytest.approx(3.5 * one), "advisor")
    assert minutes.reason == "goal.minutes is for the whole search"
    least = budget(planned(tmp_path, "", f"goal.minutes={one / 2}"))[0]
    assert least.value == 4  # side by side they take no longer than the default one alone


def test_without_a_goal_a_search_is_done_over_night(tmp_path: Path) -> None:
    rows = 200_000_000
    one = one_minute(tmp_path, rows)
    trials, minutes, parallel = budget(planned(tmp_path, "", rows=rows))
    assert trials.value == int(480 / one) * parallel.value < 55
    assert "what fits in 480 minutes (a night)" in trials.reason
    assert minutes.value is None


def test_trials_at_a_time_fit_into_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(api.host_facts(), memory_gib=1.2)
    monkeypatch.setattr(api, "host_facts", lambda: small)
    plan = planned(tmp_path, "trials: 9")
    parallel = budget(plan)[2]
    each = plan.training.estimate.memory_gib / parallel.value
    assert parallel.value == int(0.8 * 1.2 / each) < 4
    assert parallel.reason == f"each trial needs about {each:.1f} of 1.2 GiB"


def test_a_search_takes_what_its_trials_take(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(DATA % 300_000)
    one = api.plan(str(path), ["train.ranks=1"]).training.estimate
    whole = planned(tmp_path, "trials: 10, pruner: none").training.estimate
    assert whole.minutes == pytest.approx(3 * one.minutes, rel=0.01)  # 10 trials, 4 at a time
    assert whole.cpu_s == pytest.approx(10 * one.cpu_s, rel=0.01)
    assert whole.within == one.within
    pruned = planned(tmp_path, "trials: 10").training.estimate
    assert pruned.cpu_s == pytest.approx(0.8 * whole.cpu_s, rel=0.01)
    assert pruned.within["cpu_s"] == pytest.approx(1.25 * whole.within["cpu_s"], abs=0.01)
    assert pruned.within["memory_gib"] == whole.within["memory_gib"]
    timed = planned(tmp_path, "trials: null, minutes: 6").training.estimate
    assert timed.minutes == 6
    assert timed.cpu_s == pytest.approx(6 / one.minutes * 4 * one.cpu_s, rel=0.01)
    short = planned(tmp_path, "trials: 500, minutes: 0.5").training.estimate
    assert short.minutes == 0.5


def test_a_program_has_the_budget_of_its_file(tmp_path: Path) -> None:
    program = {
        "name": "mine", "command": ["true"], "metrics": [{"name": "auc", "objective": "maximize"}],
        "parameters": [{"name": "x", "type": "double", "bounds": {"min": 0, "max": 1}}],
        "resources": {"cores": 2},
    }  # fmt: skip
    path, job = tmp_path / "program.yaml", tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(program))
    register(path)
    job.write_text("model: {name: mine}\nsearch: {}\n")
    trials, _, parallel = budget(api.plan(str(job)))
    assert (trials.value, trials.origin) == (15, "advisor")
    assert trials.reason == "10 to begin with, 5 for the parameter"
    assert (parallel.value, parallel.reason) == (2, "each trial takes 2 of 4 cores")
    job.write_text("model: {name: mine}\n")
    trials, _, parallel = budget(api.plan(str(job)))
    assert (trials.value, trials.origin, parallel.value) == (1, "program mine", 1)
    path.write_text(yaml.safe_dump({**program, "name": "other", "budget": 33}))
    register(path)
    job.write_text("model: {name: other}\nsearch: {}\n")
    trials = budget(api.plan(str(job)))[0]
    assert (trials.value, trials.origin) == (33, "program other")
