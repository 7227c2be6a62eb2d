"""The plan follows the recipe's choice of environment, and says what it costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine import api, clusters
from engine.advisor.costs import DISK_GIB
from engine.advisor.layout import ClusterHost
from engine.environments import lock_of, size_to_install
from hosts import provision
from hosts.installer import MARKER
from hosts.local import LocalTransport
from models import catalog

IPEX = ["train.environment=ipex"]


def test_all_that_computes_with_torch_runs_where_the_recipe_says(aiok_home: Path) -> None:
    for overrides, chosen in (([], "torch"), (IPEX, "ipex")):
        plan = api.plan("tiny", overrides)
        assert plan.environments == ("etl", chosen)
        used = {step.id: step.environment for step in plan.steps if step.environment}
        assert used == {"data": "etl", "etl": "etl", "roofline": chosen, "train": chosen,
                        "evaluate": chosen, "optimize": chosen}  # fmt: skip


def test_another_environment_is_another_training_of_the_same_data(aiok_home: Path) -> None:
    stock, ipex = api.plan("tiny"), api.plan("tiny", IPEX)
    assert stock.step("etl").identity == ipex.step("etl").identity
    assert stock.step("train").identity != ipex.step("train").identity


def test_the_size_of_ipex_is_planned_and_told(aiok_home: Path) -> None:
    lock = lock_of("ipex")
    assert lock.wheels_gib > 3
    assert lock.installed_gib > 6
    both = lock.wheels_gib + lock.installed_gib
    plan = api.plan("tiny", IPEX)
    assert plan.step("provision").estimate.disk_gib > both
    (value,) = [value for value in plan.values if value.key == "train.environment"]
    assert (value.value, value.origin) == ("ipex", "--set")
    assert f"{both:.1f} GiB are to be installed" in value.reason
    said = size_to_install("ipex", LocalTransport())
    assert said == f"{lock.wheels_gib:.1f} GiB of wheels, {lock.installed_gib:.1f} GiB installed"


def test_an_installed_ipex_costs_nothing_more(aiok_home: Path) -> None:
    folder = provision.environment_folder(aiok_home, lock_of("ipex"))
    folder.mkdir(parents=True)
    (folder / MARKER).touch()
    plan = api.plan("tiny", IPEX)
    assert plan.step("provision").estimate.disk_gib < lock_of("ipex").installed_gib
    (value,) = [value for value in plan.values if value.key == "train.environment"]
    assert value.reason == "Intel Extension for PyTorch; installed"
    assert size_to_install("ipex", LocalTransport()) == ""


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"isa": ["fma"]}, "Intel Extension for PyTorch needs a CPU with AVX2"),
        ({"disk_free_gib": 9.0}, "the disk has 9.00 GiB free"),
    ],
)
def test_a_host_that_cannot_have_ipex_is_told_before_it_runs(
    aiok_home: Path, monkeypatch: pytest.MonkeyPatch, facts: dict[str, object], said: str
) -> None:
    bare = replace(api.host_facts(), isa=["avx2"], disk_free_gib=50.0)
    monkeypatch.setattr(api, "host_facts", lambda: bare)
    assert api.plan("tiny", IPEX).problems == ()
    monkeypatch.setattr(api, "host_facts", lambda: replace(bare, **facts))
    (problem,) = api.plan("tiny", IPEX).problems
    assert problem.startswith(said)
    assert api.plan("tiny").problems == ()


def test_what_travels_to_and_between_hosts_is_estimated(
    aiok_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = api.host_facts()
    lacks = {"h1": {"torch": 0.5, "ipex": 4.0}, "h2": {}, "h3": {}}
    lab = [
        ClusterHost(name=name, slots=1, facts=facts, missing_gib=missing)
        for name, missing in lacks.items()
    ]

    def network(count: int) -> dict[str, float]:
        monkeypatch.setattr(api, "cluster_hosts", lambda _: tuple(lab[:count]))
        words = ["dataset.generate.rows=1000000", "train.checkpoint_s=600"]
        words += ["cluster=lab", f"train.ranks={count}"] if count else []
        plan = api.plan("tiny", words)
        return {step.id: step.estimate.network_gib for step in plan.steps}

    assert set(network(0).values()) == {0.0}
    one, two, three = (network(count)["train"] for count in (1, 2, 3))
    assert network(3)["provision"] == 0.5  # nobody needs ipex there
    assert DISK_GIB["etl"] <= one < two < three
    # each further host gets the data, and the words of one more rank go once around the ring
    told = 8 * 1e6 * catalog.load("dlrm").traffic["tiny"] / 2**30  # 8 epochs
    assert two - one == pytest.approx(DISK_GIB["etl"] + told, rel=1e-3)
    assert three - two == pytest.approx(two - one, rel=1e-3)
    monkeypatch.setattr(clusters, "shared_folder", lambda _: "/shared")
    assert network(3)["train"] == pytest.approx(three - 2 * DISK_GIB["etl"], abs=1e-3)


def test_a_search_over_hosts_sends_the_data_and_gets_each_trials_output(
    aiok_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = api.host_facts()
    lab = tuple(ClusterHost(name=name, slots=1, facts=facts) for name in ("h1", "h2"))

    def network(trials: int, *words: str) -> float:
        plan = api.plan(
            "search", ["dataset.generate.rows=10000000", f"search.trials={trials}",
                       "search.pruner=none", *words]
        )  # fmt: skip
        return plan.training.estimate.network_gib

    assert network(8) == 0.0
    monkeypatch.setattr(api, "cluster_hosts", lambda _: lab)
    eight, twelve = network(8, "cluster=lab"), network(12, "cluster=lab")
    data = 10 * DISK_GIB["etl"] * 2
    assert eight > data
    assert twelve - data == pytest.approx(1.5 * (eight - data), rel=1e-2)
