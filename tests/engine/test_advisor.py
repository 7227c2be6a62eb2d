"""The plan follows the recipe's choice of environment, and says what it costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine import api
from engine.environments import lock_of, size_to_install
from hosts import provision
from hosts.installer import MARKER
from hosts.local import LocalTransport

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
