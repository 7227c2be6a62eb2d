"""The training worker as a process: determinism, kill -9, stop, resume, goals, problems."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import checkpoint
from models.api import Goal, Metric
from models.dlrm.task import load_network, load_scorer
from models.loop import Plan
from models.metrics import auc
from tests.models.training_data import (
    messages,
    result,
    run_here,
    start,
    train_spec,
    write_data,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,050 training rows with a planted signal."""
    folder = tmp_path_factory.mktemp("data")
    return write_data(folder, {"train": 2050, "valid": 700, "test": 900})


def train(work: Path, data: Path, **changes: Any) -> dict[str, Any]:
    work.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        assert run_here(train_spec(work, data, **changes), work, patch) == 0
    return result(work)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training in a folder."""
    work = tmp_path_factory.mktemp("trained")
    train(work, data, settings={"epochs": 6})
    return work


def test_it_learns_and_says_so(trained: Path) -> None:
    values = result(trained)
    assert values["best"]["valid"]["auc"] > 0.65
    assert set(values) == {
        "best", "steps", "rows", "seconds", "cpu_seconds", "rows_per_second", "eval_seconds",
        "parameters", "stop_reason", "weights_sha256", "peak_rss_gib", "precision", "placement",
        "flops_per_row", "bytes_per_row", "mean_step",
    }  # fmt: skip
    curve = [m for m in messages(trained, "scalar") if m["split"] == "valid" and m["name"] == "auc"]
    assert max(point["value"] for point in curve) == values["best"]["valid"]["auc"]
    assert [point["step"] for point in curve][:3] == [10, 21, 31]
    assert messages(trained, "progress")[-1]["phase"].startswith("epoch ")
    (work,) = messages(trained, "workload")
    assert work["flops_per_row"] == values["flops_per_row"] > 0
    speeds = [m["value"] for m in messages(trained, "scalar") if m["name"] == "rows_per_second"]
    assert min(speeds) > 0
    assert not [m for m in messages(trained, "scalar") if m["split"] == "test"]


def test_the_copy_of_each_best_weights_is_announced(trained: Path) -> None:
    """A rank that copies large ones is silent for long, and must not be taken for hung."""
    curve = [m for m in messages(trained, "scalar") if m["split"] == "valid" and m["name"] == "auc"]
    best = [m["step"] for n, m in enumerate(curve)
            if all(m["value"] > before["value"] for before in curve[:n])]  # fmt: skip
    announced = {m["step"] for m in messages(trained, "beat") if m["quiet_s"] >= 1.0}
    assert len(best) > 1
    assert set(best) <= announced


def test_the_model_on_disk_is_the_best_one(trained: Path, data: Path) -> None:
    network, model = load_network(trained / "output")
    assert model["weights_sha256"] == result(trained)["weights_sha256"]
    assert checkpoint.weights_sha256(network.state_dict()) == model["weights_sha256"]
    assert model["table_sizes"] == [50, 7, 1, 300]


def test_evaluation_scores_the_test_rows_once(
    trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "truth").mkdir()
    truth = {"bayes_auc": 0.8, "ceiling_auc": 0.75, "rows": 900}
    (tmp_path / "truth" / "truth.json").write_text(json.dumps(truth))
    spec = {"model": "dlrm", "data": str(data), "weights": str(trained / "output"), "split": "test",
            "output": str(tmp_path), "threads": 1, "batch_size": 77,
            "truth": str(tmp_path / "truth")}  # fmt: skip
    assert run_here(spec, tmp_path, monkeypatch, "models.evaluate") == 0
    values = result(tmp_path)
    scores = np.load(tmp_path / "scores.npy")
    labels = load_scorer(trained / "output", data).rows("test").read(0, 900)[2]
    assert values["rows"] == len(scores) == 900
    assert values["auc"] == auc(labels, scores) > 0.6
    assert (values["bayes_auc"], values["ceiling_auc"]) == (0.8, 0.75)


def test_equal_seed_equal_weights_and_another_seed_others(data: Path, tmp_path: Path) -> None:
    hashes = [train(tmp_path / str(i), data, seed=seed)["weights_sha256"]
              for i, seed in enumerate((7, 7, 8))]  # fmt: skip
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("settings", [{}, {"fused_tables": False, "table_optimizer": "sgd"}])
def test_killed_at_any_moment_it_ends_with_equal_weights(
    data: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    settings = {"epochs": 4, "patience": 100, "decay": 0.3, "warmup": 0.5, **settings}
    whole = train(tmp_path / "whole", data, settings=settings)
    work = tmp_path / "killed"
    work.mkdir()
    spec = train_spec(work, data, settings=settings, checkpoint_s=0.0)
    for _ in range(2):
        process = start(spec, work)
        before = len(messages(work, "saved"))
        deadline = time.monotonic() + 60
        while process.poll() is None and len(messages(work, "saved")) < before + 5:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.kill()
        process.wait()
    assert not messages(work, "result")
    spec["checkpoint_s"] = 60
    assert start(spec, work).wait(80) == 0
    assert [m for m in messages(work, "note") if m["text"].startswith("resumed from step")]
    assert result(work)["weights_sha256"] == whole["weights_sha256"]
    assert result(work)["best"] == whole["best"]
    assert result(work)["rows"] == whole["rows"]


def test_stopped_by_sigterm_it_saves_and_resumes(data: Path, tmp_path: Path) -> None:
    spec = train_spec(tmp_path, data, settings={"epochs": 1000, "patience": 1000})
    process = start(spec, tmp_path)
    while not messages(tmp_path, "scalar"):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 4
    assert messages(tmp_path, "saved")
    assert not messages(tmp_path, "done")
    spec["settings"]["epochs"] = 1  # long past: nothing is left to do but to write the model
    spec["goal"]["minutes"] = 1e-6
    assert start(spec, tmp_path).wait(60) == 0
    assert result(tmp_path)["steps"] >= messages(tmp_path, "saved")[0]["step"]


@pytest.mark.parametrize(
    ("goal", "settings", "reason"),
    [({"target": 0.51}, {}, "reached 0.51"),
     ({"minutes": 1e-6}, {}, "minutes are over"),
     ({}, {"patience": 1, "epochs": 60, "learning_rate": 0.05}, "no better auc in 1 validations"),
     ({"metric": "logloss", "target": 5.0}, {}, "valid logloss"),
     ({}, {}, "all epochs done")],
)  # fmt: skip
def test_it_ends_for_the_reason_it_says(
    data: Path, tmp_path: Path, goal: dict[str, Any], settings: dict[str, Any], reason: str
) -> None:
    values = train(tmp_path, data, goal=goal, settings=settings)
    assert reason in values["stop_reason"]
    assert values["best"]["valid"]["logloss"] > 0


def test_a_loss_that_is_no_number_is_a_clear_problem(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = train_spec(tmp_path, data, settings={
        "dense_optimizer": "sgd", "learning_rate": 100.0, "table_optimizer": "sgd",
        "table_learning_rate": 100.0, "epochs": 50, "patience": 1000})  # fmt: skip
    assert run_here(spec, tmp_path, monkeypatch) == 1
    problem = messages(tmp_path, "problem")[-1]
    assert "at step" in problem["what"]
    assert "100" in problem["why"]
    assert "learning_rate" in problem["todo"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"settings": {"embeding_size": 4}}, "did you mean embedding_size"),
     ({"settings": {"batch_size": 0}}, "the lowest allowed is 1"),
     ({"model": "dlrn"}, "unknown model"),
     ({"data": "/nowhere"}, "/nowhere"),
     ({"ranks": 2}, "1 ranks, its spec says 2")],
)  # fmt: skip
def test_bad_input_is_named(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], says: str
) -> None:
    spec = {**train_spec(tmp_path, data), **changes}
    assert run_here(spec, tmp_path, monkeypatch) == 2
    problem = messages(tmp_path, "problem")[-1]
    assert says in problem["what"] + problem["todo"]
    assert problem["bad_input"]
    assert not list((tmp_path / "output").iterdir())


def test_rates_rise_then_fall_to_nothing() -> None:
    plan = Plan(epochs=2, batch_size=1, evals_per_epoch=3, patience=1, warmup=0.2, decay=0.5,
                learning_rate=1.0, seed=1, metric=Metric(name="auc", goal=Goal.MAXIMIZE, help=""),
                target=None, minutes=None, checkpoint_s=1)  # fmt: skip
    factors = [plan.factor(step, 10) for step in range(20)]
    assert factors[:3] == [0.5, 1.0, 1.0]
    np.testing.assert_allclose(factors[10:], [1 - k / 10 for k in range(10)])
    assert plan.eval_steps(10) == {3, 7, 10}
    assert plan.eval_steps(1) == {1}
