"""What the advisor says to the budget of a search, and what the search is estimated to take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from aiok_tui import measured
from engine import api, estimates
from engine.advisor.layout import ClusterHost
from engine.advisor.trial_slots import hosts_for_trials
from engine.hpo.results import planned_search
from engine.learned import Record
from engine.plan import Plan, PlannedValue
from engine.programs.registry import register

DATA = "dataset: {format: criteo, generate: {rows: %d}}\n"
SIZES = "parameters: [{name: embedding_size, type: int, grid: [2, 4, 8]}]"
PROGRAM = {
    "command": ["true"], "metrics": [{"name": "auc", "objective": "maximize"}],
    "parameters": [{"name": "x", "type": "double", "bounds": {"min": 0, "max": 1}}],
    "resources": {"cores": 2},
}  # fmt: skip
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
    """Minutes of one training on one rank as a search has them, as the same advisor says."""
    path = folder / "one.yaml"
    path.write_text(DATA % rows)
    return api.plan(str(path), ["train.ranks=1", "evals_per_epoch=12"]).training.estimate.minutes


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
        (7, "recipe"), (1.0, "advisor"), (3, "recipe")
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
    path = tmp_path / "one.yaml"
    path.write_text(DATA % 300_000)
    one = api.plan(str(path), ["train.ranks=1"]).training.estimate
    assert grid.training.estimate.minutes == pytest.approx(one.minutes, rel=0.01)


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
    often = planned(tmp_path, "trials: 10, pruner: none", "evals_per_epoch=12").training.estimate
    pruned = planned(tmp_path, "trials: 10").training.estimate
    # ASHA lets a third go on from report 3 of 12, once there are 4 others
    assert pruned.cpu_s == pytest.approx((1 - 9 / 12 * 2 / 3 * 6 / 10) * often.cpu_s, rel=0.01)
    assert pruned.within["cpu_s"] == pytest.approx(1.25 * whole.within["cpu_s"], abs=0.01)
    assert pruned.within["memory_gib"] == whole.within["memory_gib"]
    timed = planned(tmp_path, "trials: null, minutes: 6, pruner: none").training.estimate
    assert timed.minutes == 6
    assert timed.cpu_s == pytest.approx(6 / one.minutes * 4 * one.cpu_s, rel=0.01)
    short = planned(tmp_path, "trials: 500, minutes: 0.5").training.estimate
    assert short.minutes == 0.5


def values_of(plan: Plan) -> dict[str, PlannedValue]:
    return {value.key.removeprefix("model.settings."): value for value in plan.values}


def test_the_space_is_told_with_its_bounds(tmp_path: Path) -> None:
    derived = values_of(planned(tmp_path, ""))["search.parameters"]
    assert (derived.value, derived.origin) == (None, "built-in")
    assert derived.reason.startswith("the 9 settings of the model that a training can try: ")
    assert "learning_rate 0.0005..0.032 log, " in derived.reason
    assert "weight_decay 0..0.1, " in derived.reason
    own = values_of(planned(tmp_path, SIZES))["search.parameters"]
    assert (own.origin, own.reason) == ("recipe", "embedding_size {2, 4, 8}")


@pytest.mark.parametrize(
    ("search", "key", "said"),
    [
        ("trials: 7", "minutes", "7 trials or goal.target 0.7"),
        ("minutes: 5", "trials", "5 minutes or goal.target 0.7"),
        ("patience: 9", "trials", "9 trials without a better one or goal.target 0.7"),
        ("optimizer: grid, " + SIZES, "trials", "the last point of the grid or goal.target 0.7"),
    ],
)
def test_what_ends_a_search_is_told_where_a_limit_is_open(
    tmp_path: Path, search: str, key: str, said: str
) -> None:
    told = values_of(planned(tmp_path, search, "goal.target=0.7"))[f"search.{key}"]
    assert (told.value, told.reason) == (None, f"no limit: what ends it is {said}")


def test_each_trial_has_one_rank(tmp_path: Path) -> None:
    ranks = values_of(planned(tmp_path, "", rows=5_000_000))["train.ranks"]
    assert (ranks.value, ranks.origin) == (1, "advisor")
    assert ranks.reason.startswith("of each trial: ")
    given = values_of(planned(tmp_path, "", "train.ranks=2"))["train.ranks"]
    assert given.value == 2 and given.reason.startswith("no effect on a search: ")


def test_trials_report_often_enough_to_be_pruned(tmp_path: Path) -> None:
    often = values_of(planned(tmp_path, "trials: 48"))
    assert (often["evals_per_epoch"].value, often["patience"].value) == (12, 12)
    assert often["evals_per_epoch"].origin == often["patience"].origin == "advisor"
    assert often["evals_per_epoch"].reason == (
        "12 reports of a trial instead of 4: asha saves about 46 % of the steps instead of 15 %, "
        "at 33 % more for validations"
    )
    assert often["search.pruner"].reason.startswith("saves about 46 % of the steps with 12 ")
    four = values_of(planned(tmp_path, "trials: 48", "epochs=4"))
    assert four["evals_per_epoch"].value == 4  # 16 reports already
    many = "metrics: [{name: auc}, {name: logloss}]"
    for search, overrides in (
        ("pruner: none", ()), ("trials: 4", ()), (many, ()), ("trials: 48", ("patience=4",)),
        ("trials: 48", ("evals_per_epoch=5",)), ("trials: 48", ("split.valid=0.5",)),
    ):  # fmt: skip
        kept = values_of(planned(tmp_path, search, *overrides))["evals_per_epoch"]
        assert kept.origin != "advisor", (search, overrides)
    told = values_of(planned(tmp_path, many))["search.pruner"].reason
    assert told == "ends none: several metrics to optimize give trials no order"


def a_lab(monkeypatch: pytest.MonkeyPatch, **hosts: tuple[int, float]) -> None:
    """A cluster of hosts with so many slots and GiB."""
    facts = api.host_facts()
    lab = tuple(
        ClusterHost(name=name, slots=slots, facts=replace(facts, memory_gib=memory))
        for name, (slots, memory) in hosts.items()
    )
    monkeypatch.setattr(api, "cluster_hosts", lambda _: lab)


def test_trials_fit_into_each_host_of_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_lab(monkeypatch, h1=(4, 16.0), h2=(4, 1.2), h3=(4, 0.3))
    plan = planned(tmp_path, "trials: 99", "cluster=lab")
    parallel = budget(plan)[2]
    each = plan.training.estimate.memory_gib / parallel.value
    least = int(0.8 * 1.2 / each)
    assert parallel.value == 4 + least and 0 < least < 4
    assert parallel.reason.endswith(f": 4 on h1, {least} on h2, 0 on h3")
    hosts = hosts_for_trials(api.cluster_hosts("lab"), plan.training)
    assert [(host.name, host.slots) for host in hosts] == [("h1", 4), ("h2", least)]
    assert plan.problems == ()
    a_lab(monkeypatch, h1=(4, 0.2), h2=(4, 0.1))
    plan = planned(tmp_path, "trials: 99", "cluster=lab")
    assert budget(plan)[2].value == 1
    (problem,) = plan.problems
    assert "no host of lab has so much (h1 has 0.2, h2 has 0.1); " in problem


def test_a_trial_lies_on_one_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = tmp_path / "job.yaml"
    path = tmp_path / "program.yaml"
    path.write_text(yaml.safe_dump({**PROGRAM, "name": "wide"}))
    register(path)
    job.write_text("model: {name: wide}\nsearch: {}\ncluster: lab\n")
    for cores, count, names in (
        ((1, 1), 1, ["h1", "h2"]), ((3, 1), 1, ["h1"]), ((1, 3), 1, ["h2"]),
        ((4, 5), 4, ["h1", "h2"]),
    ):  # fmt: skip
        a_lab(monkeypatch, h1=(cores[0], 16.0), h2=(cores[1], 16.0))
        plan = api.plan(str(job))
        assert budget(plan)[2].value == count, cores
        hosts = hosts_for_trials(api.cluster_hosts("lab"), plan.training)
        assert [host.name for host in hosts] == names
    a_lab(monkeypatch, h1=(1, 16.0), h2=(1, 16.0))
    slow = budget(api.plan(str(job)))[2]
    assert slow.reason == (
        "no host has 2 cores and about 0.5 GiB for each trial: one at a time, slower"
    )


def test_the_time_of_a_program_is_not_known_before_a_trial_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, job = tmp_path / "program.yaml", tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump({**PROGRAM, "name": "slow"}))
    register(path)
    job.write_text("model: {name: slow}\nsearch: {trials: 8}\n")
    plan = api.plan(str(job))
    name = values_of(plan)["model.name"]
    assert name.reason.startswith("how long a trial takes is not known yet")
    assert plan.training.estimate.within["minutes"] == 60.0
    assert measured.plan_rows(plan)[1][3] == "-"  # nor is its CPU time
    assert "built-in prices" in measured.plan_words(plan)[0]
    assert values_of(plan)["search.parameters"].reason == "x 0..1"
    timeout = values_of(plan)["search.timeout_minutes"].reason
    assert "a trial that hangs is waited for until someone stops the run" in timeout
    timed = values_of(api.plan(str(job), ["search.minutes=5"]))["search.timeout_minutes"].reason
    assert "is waited for until the search's minutes are over" in timed

    group = plan.training.estimate.basis["group"]
    hours = (350.0, 360.0, 370.0, 380.0)
    records = [Record(group=group, terms={}, actual={"minutes": m, "memory_gib": 3.0})
               for m in hours]  # fmt: skip
    earlier = estimates.Earlier(records={"all": tuple(records)})
    monkeypatch.setattr(estimates, "earlier", lambda: earlier)
    plan = api.plan(str(job))
    learned = plan.training.estimate
    assert "learned from 4 earlier trials on this host" in measured.plan_words(plan)[0]
    assert budget(plan)[2].value == 2  # two cores each
    assert learned.minutes == pytest.approx(4 * 365.0)  # 8 trials, 2 at a time
    assert learned.memory_gib == pytest.approx(6.0)
    assert 1.2 < learned.within["minutes"] < 3.0 and learned.runs == 4
    assert values_of(plan)["model.name"].reason == (
        "a trial takes 365.0 minutes: the median of 4 earlier trials on these hosts"
    )
    job.write_text("model: {name: slow}\nsearch: {}\ngoal: {minutes: 800}\n")
    trials = budget(api.plan(str(job)))[0]
    assert trials.value == 4 and "what fits in 800 minutes (goal.minutes)" in trials.reason


def test_the_environment_of_an_optimizer_is_made_ready(tmp_path: Path) -> None:
    """SigOpt works in one of its own, here, wherever the trials run."""
    path, job = tmp_path / "program.yaml", tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump({**PROGRAM, "name": "mine"}))
    register(path)
    job.write_text("model: {name: mine}\nsearch: {trials: 8}\n")
    assert api.plan(str(job)).environments == ()
    plan = api.plan(str(job), ["search.optimizer=sigopt"])
    assert plan.environments == ("sigopt",)
    provision = plan.step("provision")
    assert provision.title == "environments sigopt"
    assert provision.estimate.minutes > 0 and provision.estimate.disk_gib > 0.1
    model = planned(tmp_path, "trials: 2, optimizer: sigopt")
    assert model.environments == ("etl", "torch", "sigopt")


def test_a_program_has_the_budget_of_its_file(tmp_path: Path) -> None:
    program = {**PROGRAM, "name": "mine"}
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
