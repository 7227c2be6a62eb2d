"""The forms for inference: their logits, their precision, and which of them may be kept."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.dlrm.serving import eager, forms, load_network
from models.inference import bundle, export, int8
from models.inference.scoring import FP32, INT8, Score, stream
from models.inference.trial import Trial
from models.metrics import auc
from models.recdp.blocks import Manifest, write_block
from models.worker import StopFlag
from tests.models.inference_data import (
    CATEGORICAL,
    NUMERIC,
    ROWS,
    SMALL,
    export_spec,
    line_of,
    prepared,
    raw_rows,
    run_predict,
    silent,
    trained,
    write_data,
)

pytestmark = pytest.mark.environment("torch")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("fused", [True, False])
def test_every_form_gives_the_logits_of_the_network(
    data: Path, tmp_path: Path, fused: bool
) -> None:
    network, model = load_network(trained(tmp_path / "weights", fused))
    numeric, ids, _ = (np.array(part) for part in Manifest.load(data).split("valid").read(0, 777))
    with torch.inference_mode():
        wanted = network(torch.from_numpy(numeric), torch.from_numpy(ids)).numpy()
    found: dict[str, Score] = {"torch": eager(network)}
    for form in forms(network, model):
        form.write(tmp_path, numeric, ids)
        if all((tmp_path / name).exists() for name in form.files):
            found[form.name] = form.load(tmp_path, 2)
    graphs = ["openvino", "openvino_bf16", "openvino_head", "openvino_head_bf16"]
    assert list(found) == ["torch", *graphs, "torch_lean"]  # too small for the others
    for name, score in found.items():
        for count in (777, 1, 64):  # any batch size
            difference = np.abs(score(numeric[:count], ids[:count]) - wanted[:count]).max()
            assert difference < 1e-5, (name, count)


def test_a_form_that_loses_too_much_or_is_another_function_is_not_kept(tmp_path: Path) -> None:
    def trial(name: str, speed: float, drop: float = 0.0, difference: float = 0.0) -> Trial:
        return Trial(
            name, FP32, lambda numeric, _: numeric, stream, drop=drop,
            largest_difference=difference, speeds=[speed], cpu_ms=[1.0],
        )  # fmt: skip

    tried = [trial("good", 150), trial("lossy", 400, drop=0.002),
             trial("wrong", 900, difference=0.5), trial("slow", 90)]  # fmt: skip
    kept = export._choose(trial("torch", 100), tried, 0.001, silent(tmp_path))
    assert kept.name == "good"
    near = replace(trial("near", 300, drop=0.0005, difference=0.5), approximate=True)
    assert export._choose(trial("torch", 100), [*tried, near], 0.001, silent(tmp_path)) is near
    assert export._choose(trial("torch", 999), tried, 0.001, silent(tmp_path)).name == "torch"
    text = (tmp_path / "messages" / "rank-0000.jsonl").read_text()
    assert (
        "lossy (fp32): 4.00x the eager network, not kept: it loses 0.00200, more than 0.001" in text
    )


WIDE = {**SMALL, "bottom_widths": "64-64", "top_widths": "128-64"}  # layers that gain from int8


@pytest.fixture(scope="module")
def ordered(tmp_path_factory: pytest.TempPathFactory, data: Path) -> tuple[Path, Path]:
    """A wide network, and data whose validation labels are what it thinks: its AUC is 1."""
    work = tmp_path_factory.mktemp("ordered")
    weights, folder = trained(work / "weights", True, WIDE), work / "data"
    shutil.copytree(data, folder)
    network, _ = load_network(weights)
    numeric, ids, _ = (np.array(part) for part in Manifest.load(data).split("valid").read(0, ROWS))
    logits = eager(network)(numeric, ids)
    label = (logits > np.median(logits)).astype(np.uint8)
    manifest = Manifest.load(folder)
    block = write_block(folder, "ordered", numeric, ids, label)
    replace(manifest, splits={**manifest.splits, "valid": (block,)}).save()
    return folder, weights


def test_int8_differs_by_little_and_not_with_the_batch(
    ordered: tuple[Path, Path], tmp_path: Path
) -> None:
    network, model = load_network(ordered[1])
    numeric, ids, label = (
        np.array(part) for part in Manifest.load(ordered[0]).split("valid").read(0, ROWS)
    )
    wanted = eager(network)(numeric, ids)
    form = next(form for form in forms(network, model) if form.precision == INT8)
    form.write(tmp_path, numeric[:500], ids[:500])
    score = form.load(tmp_path, 1)
    found = score(numeric, ids)
    assert 0 < np.abs(found - wanted).mean() < 0.1 * wanted.std()
    assert auc(label, found) > 0.995
    parts = [score(numeric[i : i + 7], ids[i : i + 7]) for i in range(0, 70, 7)]
    assert np.abs(np.concatenate(parts) - found[:70]).max() < 1e-6


def test_an_int8_layer_is_its_own_arithmetic() -> None:
    """Against the same steps in plain floating point."""
    generator = torch.Generator().manual_seed(1)
    layers = [torch.nn.Linear(70, 64), torch.nn.Linear(64, 80)]
    for layer in layers:
        layer.weight.data = torch.randn(layer.weight.shape, generator=generator) / 8
    values = torch.randn(33, 70, generator=generator)
    ranges = [int8.Range(0.05, 60), int8.Range(0.02, 0)]
    with torch.inference_mode():
        found = int8.Int8Layers(list(zip(layers, ranges, strict=True)))(values)
        for layer, own in zip(layers, ranges, strict=True):
            steps = torch.floor(values / own.scale + own.zero + 0.5)
            steps = steps.clamp(0, 127) if values.shape[1] == 70 else steps.clamp(0, 255)
            scales = layer.weight.abs().amax(1, keepdim=True) / 127
            weight = (layer.weight / scales).round() * scales
            values = torch.relu((steps - own.zero) * own.scale @ weight.T + layer.bias)
    # a sum that falls on the edge of two steps may be rounded to the other one
    assert np.quantile((found - values).abs().numpy(), 0.99) < 1e-4
    assert (found - values).abs().max() < 0.02


def test_a_form_that_really_loses_is_refused_with_its_drop(
    ordered: tuple[Path, Path], tmp_path: Path
) -> None:
    spec = export_spec(*ordered, tmp_path / "bundle", max_metric_drop=1e-9)
    values = export.work(spec, silent(tmp_path), StopFlag())
    assert values["precision"] == "fp32" and values["form"] != "torch_int8"
    way = {way["name"]: way for way in bundle.read(tmp_path / "bundle")["measured"]["ways"]}
    lossy = way["torch_int8"]
    assert lossy["precision"] == "int8" and 1e-9 < lossy["metric_drop"] < 0.005
    assert lossy["auc"] == pytest.approx(1 - lossy["metric_drop"])
    verdict = f"not kept: it loses {lossy['metric_drop']:.5f}, more than 1e-09"
    assert lossy["verdict"] == verdict
    eager = max(way[name]["rows_per_second"] for name in ("torch, batch by batch", "torch"))
    ratio = lossy["rows_per_second"] / eager
    text = (tmp_path / "messages" / "rank-0000.jsonl").read_text()
    assert f"torch_int8 (int8): {ratio:.2f}x the eager network, {verdict}" in text
    assert not (tmp_path / "bundle" / "int8.json").exists()


def test_a_form_without_a_metric_is_not_kept(tmp_path: Path) -> None:
    def trial(name: str, speed: float, drop: float) -> Trial:
        return Trial(name, INT8, lambda numeric, _: numeric, stream, drop=drop, speeds=[speed])

    kept = export._choose(trial("torch", 1, 0), [trial("odd", 9, float("nan"))], 0.1,
                          silent(tmp_path))  # fmt: skip
    assert kept.name == "torch"


@pytest.mark.parametrize(
    "name", ["torch_lean", "torch_int8", "torch_rank_95", "openvino_head", "openvino_bf16"]
)
def test_predict_takes_the_form_and_precision_of_the_bundle(
    ordered: tuple[Path, Path], tmp_path: Path, name: str
) -> None:
    """bf16 on a CPU without it is computed in fp32 by OpenVINO."""
    network, model = load_network(ordered[1])
    rows = raw_rows(400, seed=21)
    (tmp_path / "in.tsv").write_text("".join(map(line_of, rows)))
    numeric, ids, _ = prepared(rows)
    folder = tmp_path / "bundle"
    folder.mkdir()
    form = next(form for form in forms(network, model) if form.name == name)
    form.write(folder, numeric, ids)
    manifest = Manifest.load(ordered[0])
    bundle.gather(folder, ordered[1], manifest)
    bundle.seal(folder, {
        "model": "dlrm", "form": name, "precision": form.precision, "format": "criteo",
        "columns": None, "numeric": NUMERIC, "categorical": CATEGORICAL,
        "transform": manifest.transform,
    })  # fmt: skip
    _, scores = run_predict(folder, [tmp_path / "in.tsv"], tmp_path)
    wanted = 1 / (1 + np.exp(-form.load(folder, 1)(numeric, ids).astype(np.float64)))
    assert np.abs(scores[:, 1] - wanted).max() < 1e-6
    exact = 1 / (1 + np.exp(-eager(network)(numeric, ids).astype(np.float64)))
    difference = np.abs(scores[:, 1] - exact).mean()
    limit = 0.05 if form.approximate else {FP32: 1e-6, "bf16": 0.01, INT8: 0.02}[form.precision]
    assert difference < limit
    assert (form.precision != INT8 and not form.approximate) or difference > 1e-4


def test_forms_are_offered_by_the_flags_of_the_cpu(ordered: tuple[Path, Path]) -> None:
    offered = forms(*load_network(ordered[1]))

    def names(*flags: str) -> set[str]:
        return {form.name for form in offered if form.may_gain(set(flags))}

    plain = {"openvino", "openvino_head", "torch_lean", "torch_int8",
             "torch_rank_95", "torch_rank_98", "torch_rank_995"}  # fmt: skip
    assert names("avx2") == plain
    assert names("avx2", "amx_bf16") == names("avx512_bf16") == {
        *plain, "openvino_bf16", "openvino_head_bf16"}  # fmt: skip
