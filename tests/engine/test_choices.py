"""What the advisor chooses, with which words, and that it never overrules a person."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist, stdev

import pytest

from engine import api, estimates
from engine.advisor.data_reasons import TYPICAL_AUC, auc_noise
from engine.advisor.estimate import training_s
from engine.advisor.job import Job
from engine.learned import Learned, Record
from engine.plan import Plan, PlannedValue
from engine.recipe import Recipe
from models.dlrm.spec import SPEC
from models.settings import resolve

RECIPE = """
dataset: {format: criteo, generate: {rows: %d}}
goal: {prefer: %s}
"""


def planned(folder: Path, *overrides: str, rows: int = 300_000, prefer: str = "balanced") -> Plan:
    path = folder / "recipe.yaml"
    path.write_text(RECIPE % (rows, prefer))
    return api.plan(str(path), overrides)


def value(plan: Plan, key: str) -> PlannedValue:
    return next(value for value in plan.values if value.key == key)


def setting(plan: Plan, name: str) -> PlannedValue:
    return value(plan, f"model.settings.{name}")


def test_every_layer_is_named_where_a_value_comes_from(
    aiok_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOK_TRAIN__CHECKPOINT_S", "5")
    plan = planned(tmp_path, "embedding_size=8", prefer="speed")
    origins = {
        "seed": "built-in", "train.ranks": "advisor", "goal.prefer": "recipe",
        "train.checkpoint_s": "AIOK_TRAIN__CHECKPOINT_S", "model.settings.embedding_size": "--set",
        "model.settings.batch_size": "profile optimized", "model.settings.epochs": "built-in",
        "model.settings.evals_per_epoch": "advisor",
    }  # fmt: skip
    assert {key: value(plan, key).origin for key in origins} == origins
    assert all(value.reason for value in plan.values if value.origin == "advisor")


def test_for_speed_alone_one_validation_is_enough(aiok_home: Path, tmp_path: Path) -> None:
    chosen = setting(planned(tmp_path, prefer="speed"), "evals_per_epoch")
    assert (chosen.value, chosen.origin) == (1, "advisor")
    assert chosen.reason == "goal.prefer is speed: 3 validations of 30,000 rows less"
    for words in (["goal.target=0.7"], ["epochs=2"], ["evals_per_epoch=4"]):
        kept = setting(planned(tmp_path, *words, prefer="speed"), "evals_per_epoch")
        assert (kept.value, kept.origin != "advisor") == (4, True)
    assert setting(planned(tmp_path), "evals_per_epoch").value == 4


@pytest.mark.parametrize(
    ("isa", "said"), [(["avx2"], "fp32 here"), (["avx2", "amx_bf16"], "bf16 here")]
)
def test_precision_is_explained_by_the_processor(
    aiok_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isa: list[str], said: str
) -> None:
    facts = replace(api.host_facts(), isa=isa)
    monkeypatch.setattr(api, "host_facts", lambda: facts)
    chosen = setting(planned(tmp_path), "precision")
    assert chosen.value == "auto" and chosen.reason.startswith(said)
    assert setting(planned(tmp_path, "precision=fp32"), "precision").reason == ""


def test_a_batch_that_small_data_halve_is_told(aiok_home: Path, tmp_path: Path) -> None:
    small = setting(planned(tmp_path, "batch_size=1024", rows=10_000), "batch_size")
    assert (small.value, small.origin) == (1024, "--set")
    assert small.reason == "becomes 256, so that 8,000 training rows make at least 32 steps"
    assert setting(planned(tmp_path, "batch_size=1024"), "batch_size").reason == ""


@pytest.mark.parametrize(
    ("prefer", "rows", "batch"),
    [
        ("balanced", 300_000, 512), ("accuracy", 300_000, 256), ("speed", 300_000, 1024),
        ("balanced", 1_000_000, 1024), ("accuracy", 1_000_000, 512), ("balanced", 20_000, 512),
    ],
)  # fmt: skip
def test_few_rows_with_many_rare_ids_get_smaller_batches(
    aiok_home: Path, tmp_path: Path, prefer: str, rows: int, batch: int
) -> None:
    chosen = setting(planned(tmp_path, prefer=prefer, rows=rows), "batch_size")
    assert chosen.value == batch
    assert (chosen.origin == "advisor") == (batch != 1024)
    if batch != 1024:
        assert chosen.reason.startswith("50 % of the ids are seen once: ")
        assert f"{rows * 8 // 10 // batch:,} steps an epoch" in chosen.reason
    kept = setting(planned(tmp_path, "batch_size=2048", prefer=prefer, rows=rows), "batch_size")
    assert (kept.value, kept.origin) == (2048, "--set")
    stock = planned(tmp_path, "model.profile=stock", prefer=prefer, rows=rows)
    assert setting(stock, "batch_size").origin == "profile stock"


def test_rates_stay_with_a_batch_of_the_users_own(aiok_home: Path, tmp_path: Path) -> None:
    plan = planned(tmp_path, "batch_size=4096")
    rate = setting(plan, "learning_rate")
    assert rate.value == setting(planned(tmp_path), "learning_rate").value
    assert "rates scaled with the batch reached less" in rate.reason
    stock = [planned(tmp_path, "model.profile=stock", *more) for more in ([], ["batch_size=1024"])]
    same, other = (setting(plan, "table_learning_rate") for plan in stock)
    assert same.value == other.value == 0.1
    assert same.reason == "no change: sgd, with the batch that stock has it for"
    assert "for batches of 128; with 1,024 sgd usually wants 8 times as much" in other.reason


def test_a_smaller_batch_of_the_advisors_adds_no_rank(
    aiok_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = replace(api.host_facts(), physical_cores=4, cores=[0, 1, 2, 3])
    monkeypatch.setattr(api, "host_facts", lambda: facts)
    work_s = {}
    for batch in (512, 1024):
        settings, _ = resolve(SPEC.settings, SPEC.profiles["optimized"], {"batch_size": batch})
        job = Job(name="j", recipe=Recipe.model_validate(
            {"dataset": {"format": "criteo", "generate": {"rows": 82_000}}}), origins={},
            facts=facts, files=(), missing_gib={})  # fmt: skip
        work_s[batch] = training_s(job, SPEC, settings)
    assert work_s[1024] < 1.0 < work_s[512]  # the case that decides
    plan = planned(tmp_path, rows=82_000)
    assert setting(plan, "batch_size").value == 512
    assert value(plan, "train.ranks").value == 1


def test_a_short_training_takes_one_rank(
    aiok_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = replace(api.host_facts(), physical_cores=4, cores=[0, 1, 2, 3])
    monkeypatch.setattr(api, "host_facts", lambda: facts)
    few, many = (value(planned(tmp_path, rows=rows), "train.ranks") for rows in (20_000, 500_000))
    assert (few.value, many.value) == (1, 4)
    assert few.reason == "about 0.2 CPU-seconds of training: one rank ends sooner than two"
    # the work counts, not the rows: a network of 25 times the size
    wide = planned(tmp_path, "top_widths=1024-512", "bottom_widths=512", rows=20_000)
    assert value(wide, "train.ranks").value == 4


DECIDED = (
    "model.profile", "etl.engine", "train.ranks", "goal.metric", "model.settings.precision",
    "model.settings.batch_size", "model.settings.learning_rate",
    "model.settings.table_learning_rate", "model.settings.embedding_size",
)  # fmt: skip


@pytest.mark.parametrize("profile", ["optimized", "stock", "tiny", "terabyte"])
@pytest.mark.parametrize("rows", [20_000, 1_000_000])
def test_each_decision_has_a_reason_whether_it_changes_a_value_or_not(
    aiok_home: Path, tmp_path: Path, profile: str, rows: int
) -> None:
    plan = planned(tmp_path, f"model.profile={profile}", rows=rows)
    for key in DECIDED:
        told = value(plan, key)
        assert told.reason, key
        stays = told.reason.startswith("no change: ")
        assert not (stays and told.origin == "advisor"), key
    assert value(plan, "model.profile").reason.count(" about ") == 2


def test_the_profile_is_told_with_its_price(aiok_home: Path, tmp_path: Path) -> None:
    told = value(planned(tmp_path), "model.profile")
    assert (told.value, told.origin) == ("optimized", "built-in")
    assert told.reason == (
        "no change: reaches the metric of stock in a small part of its time (bench dlrm); "
        "CPU-seconds an epoch on these rows: optimized about 3.6, stock about 44.9"
    )


def test_vectors_are_as_narrow_as_the_memory_wants(
    aiok_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = replace(api.host_facts(), physical_cores=4, cores=[0, 1, 2, 3])
    rows = 10_000_000_000  # about 7.6 million ids
    found = {}
    for memory in (64.0, 1.5, 0.9, 0.1):
        small = replace(facts, memory_gib=memory)
        monkeypatch.setattr(api, "host_facts", lambda small=small: small)
        plan = planned(tmp_path, rows=rows)
        width, ranks = setting(plan, "embedding_size"), value(plan, "train.ranks")
        found[memory] = width.value, ranks.value
        assert (width.origin == "advisor") == (width.value != 16)
    assert found == {64.0: (16, 4), 1.5: (8, 1), 0.9: (4, 1), 0.1: (4, 1)}
    given = setting(planned(tmp_path, "embedding_size=32", rows=rows), "embedding_size")
    assert (given.value, given.origin) == (32, "--set")
    assert "no change" not in given.reason and "ids make tables of" in given.reason


def test_skew_and_balance_of_the_labels_are_told_where_they_bear(
    aiok_home: Path, tmp_path: Path
) -> None:
    rows = [f"{i % 4 == 0:d}\t{i / 7}\t{'a' if i % 5 else f'b{i % 40}'}\tz"
            for i in range(20_000)]  # fmt: skip
    (tmp_path / "t.tsv").write_text("\n".join(["y\tn\tcity\tsame", *rows]) + "\n")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "dataset: {format: table, path: t.tsv, columns:"
        " {label: y, numeric: [n], categorical: [city, same]}}\n"
    )
    plan = api.plan(str(recipe))
    batch = setting(plan, "batch_size").reason
    assert batch.startswith("no change: 0 % of the ids are seen once; ")
    assert "the most frequent id of same is in 100 % of its rows, of which no effect" in batch
    assert value(plan, "dataset.columns.categorical").reason == (
        "same: nearly every row has the same value, better left out"
    )
    metric = value(plan, "goal.metric").reason
    assert metric.startswith("no change: 25 % of the labels are positive, which AUC does not ")
    assert metric.endswith("2,000 validation rows tell it to 0.014 (standard error)")
    loss = value(api.plan(str(recipe), ["goal.metric=logloss"]), "goal.metric").reason
    assert loss.endswith("who always says so scores 0.5623")
    (tmp_path / "t.tsv").write_text("y\tn\tcity\tsame\n" + "0\t1\ta\tz\n" * 5000)
    same = value(api.plan(str(recipe)), "goal.metric").reason
    assert same.startswith("all ") and same.endswith("are the same: nothing to learn or to score")


def test_the_noise_of_an_auc_is_what_drawn_scores_have() -> None:
    draw = random.Random(1)
    shift = NormalDist().inv_cdf(TYPICAL_AUC) * math.sqrt(2)
    found = []
    for _ in range(200):
        scores = sorted([(draw.gauss(shift, 1), 1) for _ in range(60)]
                        + [(draw.gauss(0, 1), 0) for _ in range(140)])  # fmt: skip
        ranks = sum(rank for rank, (_, label) in enumerate(scores, 1) if label)
        found.append((ranks - 60 * 61 / 2) / (60 * 140))
    assert stdev(found) == pytest.approx(auc_noise(60, 140), rel=0.15)


def test_a_table_is_described_and_a_key_column_pointed_out(aiok_home: Path, tmp_path: Path) -> None:
    rows = [f"{i % 4 == 0:d}\t{i / 7}\tu{i}\tc{i % 50}" for i in range(20_000)]
    (tmp_path / "t.tsv").write_text("\n".join(["y\tn\tuser\tcity", *rows]) + "\n")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "dataset: {format: table, path: t.tsv, columns:"
        " {label: y, numeric: [n], categorical: [user, city]}}\n"
    )
    plan = api.plan(str(recipe))
    said = value(plan, "dataset.path").reason
    assert said.startswith("about 20,000 rows, by a sample of ") and said.endswith("25 % positive")
    (told,) = [v.reason for v in plan.values if v.key == "dataset.columns.categorical"]
    assert told == "user: nearly every row has another value, better left out"


def test_the_plan_is_estimated_with_what_this_host_has_taken(
    aiok_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built_in = {step.id: step.estimate for step in planned(tmp_path).steps}
    assert built_in["train"].within["cpu_s"] > 2 and built_in["train"].runs == 0
    records = []
    for rows in (50_000, 100_000, 200_000, 400_000):
        plan = planned(tmp_path, rows=rows)
        for step in plan.steps:
            if basis := step.estimate.basis:
                terms = basis["terms"]
                actual = {key: 2 * sum(parts.values()) for key, parts in terms.items()}
                records.append(Record(group=basis["group"], terms=terms, actual=actual))
    earlier = estimates.Earlier(records={"all": tuple(records)})
    monkeypatch.setattr(estimates, "earlier", lambda: earlier)
    learned = {step.id: step.estimate for step in planned(tmp_path).steps}
    assert Learned(tuple(records)).records == earlier.learned().records
    for kind in ("data", "etl", "train", "evaluate", "optimize"):
        for key in ("cpu_s", "minutes", "memory_gib"):
            was, now = getattr(built_in[kind], key), getattr(learned[kind], key)
            assert now == pytest.approx(2 * was, rel=0.15), (kind, key)
        assert learned[kind].runs == 4
        assert learned[kind].within["cpu_s"] < built_in[kind].within["cpu_s"] / 1.5
