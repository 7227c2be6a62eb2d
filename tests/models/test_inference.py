"""Export and predict: the bundle scores raw rows as the trained network scored prepared ones."""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from models import worker
from models.dlrm.network import Dlrm, initialize
from models.dlrm.serving import eager, load_network
from models.dlrm.settings import SETTINGS
from models.inference import bundle, export, predict
from models.inference.curves import percentile
from models.inference.scoring import one_by_one, stream
from models.metrics import auc
from models.recdp.blocks import Manifest
from models.recdp.dictionary import dictionary_path, write_dictionary
from models.settings import resolve
from models.worker import InputProblem, StopFlag, Stopped, WorkFailed
from tests.models.inference_data import (
    CATEGORICAL,
    IDS,
    ROWS,
    SMALL,
    eager_probabilities,
    export_spec,
    line_of,
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


@pytest.fixture(scope="module")
def exported(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    work = tmp_path_factory.mktemp("export")
    spec = export_spec(data, trained(work / "weights", True), work / "bundle")
    return work / "bundle", export.work(spec, silent(work), StopFlag())


def test_export_writes_a_whole_bundle_and_says_what_it_measured(
    exported: tuple[Path, dict[str, Any]], data: Path
) -> None:
    folder, values = exported
    content = bundle.read(folder)
    assert values["form"] == content["form"]
    assert content["precision"] == "fp32"
    assert {
        "model.xml",
        "model.bin",
        "model.json",
        "weights.safetensors",
        "manifest.json",
        "dictionaries/C1.parquet",
        "dictionaries/C26.parquet",
    } <= set(content["files"])
    assert values["bytes"] == sum(entry["bytes"] for entry in content["files"].values())
    ways = {way["name"]: way for way in content["measured"]["ways"]}
    tried = {"torch, batch by batch", "torch", "openvino", "openvino_head", "torch_lean"}
    assert tried <= set(ways)
    assert all(len(way["repeats"]) == 5 for way in ways.values())
    assert max(way["max_logit_difference"] for way in ways.values()) < 1e-5
    assert values["batch_size"] == 1024 and abs(values["auc_drop"]) < 1e-5
    assert values["precision"] == "fp32"
    assert values["flops_per_row"] > 0 and values["bytes_per_row"] > 0
    baseline = max(values["rows_per_second_eager"], values["rows_per_second_eager_streams"])
    assert values["speedup"] == values["rows_per_second"] / baseline >= 1
    blocks = Manifest.load(data).split("valid")
    numeric, ids, label = (np.array(part) for part in blocks.read(0, ROWS))
    network, _ = load_network(folder)
    assert values["auc_eager"] == pytest.approx(auc(label, eager(network)(numeric, ids)), abs=1e-9)
    assert Manifest.load(folder).rows() == {"train": 0, "valid": 0, "test": 0}


def test_curves_have_every_batch_size(exported: tuple[Path, dict[str, Any]]) -> None:
    curves = exported[1]["curves"]
    assert curves == bundle.read(exported[0])["measured"]["curves"]
    for name in ("eager", "kept"):
        assert [point["batch_size"] for point in curves[name]] == [1, 16, 128, 1024, 8192]
        for point in curves[name]:
            assert 0 < point["p50_ms"] <= point["p99_ms"] and point["rows_per_second"] > 0
            assert 10 <= point["calls"] <= 400
    assert percentile([5.0, 1.0, 3.0, 2.0, 4.0], 0.5) == 3.0
    assert percentile([float(i) for i in range(1, 101)], 0.99) == 99.0
    assert percentile([7.0], 0.99) == 7.0


def test_predict_equals_the_network_on_prepared_rows(
    exported: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, _ = exported
    rows = raw_rows(2500, seed=11)
    inputs = tmp_path / "in"
    inputs.mkdir()
    (inputs / "a.tsv").write_text("".join(map(line_of, rows[:1100])))
    with gzip.open(inputs / "b.tsv.gz", "wt") as file:
        file.writelines(map(line_of, rows[1100:2499]))
    (inputs / "c.tsv").write_text(line_of(rows[2499]).rstrip("\n"))  # no end of line
    values, scores = run_predict(folder, [inputs], tmp_path)
    wanted = eager_probabilities(folder, rows)
    assert scores[:, 0].tolist() == list(range(1, 2501))
    assert np.abs(scores[:, 1] - wanted).max() < 1e-6
    assert values["rows"] == 2500
    labels = np.array([label for label, _, _ in rows])
    assert values["auc"] == pytest.approx(auc(labels, wanted), abs=1e-5)
    for i, column in enumerate(CATEGORICAL):
        keys = [row[2][i] for row in rows]
        assert values["missing"][column] == sum(key is None for key in keys)
        assert values["unseen"][column] == sum(key is not None and key >= IDS for key in keys)


def test_scores_do_not_depend_on_threads_batch_size_or_form(
    exported: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(exported[0], folder)
    rows = raw_rows(700, seed=12)
    (tmp_path / "in.tsv").write_text("".join(map(line_of, rows)))
    wanted = eager_probabilities(folder, rows)
    content = json.loads((folder / "bundle.json").read_text())
    for form, threads, size in (("torch", 1, 64), ("openvino", 2, 100), ("openvino", 1, 1024)):
        (folder / "bundle.json").write_text(json.dumps({**content, "form": form}))
        _, scores = run_predict(folder, [tmp_path / "in.tsv"], tmp_path, threads=threads,
                                batch_size=size)  # fmt: skip
        assert np.abs(scores[:, 1] - wanted).max() < 1e-6


def test_rows_without_labels_are_scored_too(
    exported: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    rows = raw_rows(300, seed=13)
    (tmp_path / "new.txt").write_text("".join(line_of(row, labelled=False) for row in rows))
    values, scores = run_predict(exported[0], [tmp_path / "new.txt"], tmp_path)
    assert values["auc"] is None and values["rows"] == 300
    assert np.abs(scores[:, 1] - eager_probabilities(exported[0], rows)).max() < 1e-6


BAD = {
    "38 columns": (lambda text: text.rsplit("\t", 2)[0] + "\n", "38 columns"),
    "label 2": (lambda text: "2" + text[1:], "column label: found '2'; expected 0 or 1"),
    "no hex": (
        lambda text: text.rsplit("\t", 1)[0] + "\tdeadbeeg\n", "column C26: found 'deadbeeg'"
    ),
    "control": (lambda text: text.rsplit("\t", 1)[0] + "\t\x1b[31mabc\n", r"found '\x1b[31mabc'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_line_is_named_and_nothing_is_written(
    exported: tuple[Path, dict[str, Any]], tmp_path: Path, case: str
) -> None:
    spoil, words = BAD[case]
    lines = [line_of(row) for row in raw_rows(60, seed=14)]
    lines[41] = spoil(lines[41])
    (tmp_path / "bad.tsv").write_text("".join(lines))
    with pytest.raises(InputProblem) as caught:
        run_predict(exported[0], [tmp_path / "bad.tsv"], tmp_path)
    assert "bad.tsv, line 42" in caught.value.what and words in caught.value.what
    assert not (tmp_path / "scores.csv").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_gz_file_cut_short_and_a_missing_file_are_refused(
    exported: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    packed = gzip.compress("".join(map(line_of, raw_rows(200, seed=15))).encode())
    (tmp_path / "cut.tsv.gz").write_bytes(packed[:-200])
    with pytest.raises(InputProblem, match=r"cut\.tsv\.gz: found a gz file that is cut short"):
        run_predict(exported[0], [tmp_path / "cut.tsv.gz"], tmp_path)
    with pytest.raises(InputProblem, match="no such file"):
        run_predict(exported[0], [tmp_path / "none.tsv"], tmp_path)
    assert not (tmp_path / "scores.csv").exists()


@pytest.mark.parametrize(
    ("file", "words"),
    [("model.bin", "was changed or is damaged"), ("dictionaries/C7.parquet", "is missing"),
     ("bundle.json", "is no bundle")],
)  # fmt: skip
def test_a_damaged_bundle_is_refused(
    exported: tuple[Path, dict[str, Any]], tmp_path: Path, file: str, words: str
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(exported[0], folder)
    if words == "was changed or is damaged":
        whole = bytearray((folder / file).read_bytes())
        whole[100] ^= 1
        (folder / file).write_bytes(whole)
    else:
        (folder / file).unlink()
    with pytest.raises(InputProblem, match=words):
        bundle.read(folder)


def test_a_stop_request_leaves_no_file(
    exported: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "in.tsv").write_text("".join(map(line_of, raw_rows(50, seed=16))))
    stop = StopFlag()
    stop.requested = True
    spec = {"bundle": str(exported[0]), "output": str(tmp_path / "out.csv"), "threads": 1,
            "batch_size": 16, "dataset": {"format": "criteo", "paths": [str(tmp_path / "in.tsv")],
                                          "columns": None}}  # fmt: skip
    with pytest.raises(Stopped):
        predict.work(spec, silent(tmp_path), stop)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.tsv", "messages"]


def test_an_unwritable_place_is_said_so(
    exported: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "in.tsv").write_text("".join(map(line_of, raw_rows(5, seed=17))))
    spec = {"bundle": str(exported[0]), "output": str(tmp_path / "no" / "out.csv"), "threads": 1,
            "batch_size": 16, "dataset": {"format": "criteo", "paths": [str(tmp_path / "in.tsv")],
                                          "columns": None}}  # fmt: skip
    with pytest.raises(WorkFailed, match=r"cannot write .*out\.csv: No such file or directory"):
        predict.work(spec, silent(tmp_path), StopFlag())


def test_a_model_of_other_data_is_refused(data: Path, tmp_path: Path) -> None:
    weights = trained(tmp_path / "weights", True)
    other = tmp_path / "data"
    shutil.copytree(data, other)
    text = json.loads((other / "manifest.json").read_text())
    text["table_sizes"][3] += 1
    (other / "manifest.json").write_text(json.dumps(text))
    with pytest.raises(InputProblem, match="differ in table_sizes"):
        export.work(export_spec(other, weights, tmp_path / "out"), silent(tmp_path), StopFlag())


def test_the_first_calls_of_many_threads_do_not_wait_for_each_other(
    exported: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """In new processes: only the first calls of a process can meet, and not in each of them."""
    (tmp_path / "in.tsv").write_text("".join(map(line_of, raw_rows(64, seed=18))))
    (tmp_path / "spec.json").write_text(json.dumps({
        "bundle": str(exported[0]), "output": str(tmp_path / "out.csv"), "threads": 8,
        "batch_size": 4, "dataset": {"format": "criteo", "paths": [str(tmp_path / "in.tsv")]},
    }))  # fmt: skip
    root = str(Path(predict.__file__).parents[2])
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "models.inference.predict", str(tmp_path / "spec.json")],
            env={**os.environ, "PYTHONPATH": root}, capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]


def test_streams_keep_the_order_of_batches() -> None:
    def score(numeric: Any, _: Any) -> Any:
        return numeric[:, 0] * 2

    batches = [(np.full((3, 1), i, np.float32), np.zeros((3, 1), np.int32)) for i in range(50)]
    wanted = [2.0 * i for i in range(50)]
    before = torch.get_num_threads()
    for way in (stream, one_by_one):
        assert [float(part[0]) for part in way(score, iter(batches), 3)] == wanted
        assert torch.get_num_threads() == before


def test_the_worker_ends_with_the_right_code(
    exported: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOK_MESSAGES", str(tmp_path / "messages"))
    (tmp_path / "spec.json").write_text(json.dumps({
        "bundle": str(tmp_path), "threads": 1, "batch_size": 8, "output": str(tmp_path / "o.csv"),
        "dataset": {"format": "criteo", "paths": []}}))  # fmt: skip
    assert worker.run(predict.work, ["predict", str(tmp_path / "spec.json")]) == worker.BAD_INPUT
    assert "is no bundle" in (tmp_path / "messages" / "rank-0000.jsonl").read_text()


TABLE = {"label": "bought", "numeric": ["age", "price"], "categorical": ["city/area", "device"],
         "time": None}  # fmt: skip
TRANSFORM = {
    "numeric": "by column",
    "categorical": "text",
    "columns": {
        "age": {"kind": "log1p"},
        "price": {"kind": "standard", "mean": -1.5, "deviation": 4.0},
    },
}
CITIES, DEVICES = ["Köln, West", "b", "007"], ["phone", "tablet"]


@pytest.fixture(scope="module")
def table_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a network on two numbers and two categories, form torch."""
    work = tmp_path_factory.mktemp("table")
    data, weights = work / "data", work / "weights"
    (data / "dictionaries").mkdir(parents=True)
    weights.mkdir()
    for column, values in (("city/area", CITIES), ("device", DEVICES)):
        write_dictionary(dictionary_path(data, column), pa.array(values),
                         pa.array([5] * len(values)))  # fmt: skip
    manifest = Manifest(folder=data, label="bought", numeric=("age", "price"),
                        categorical=("city/area", "device"), table_sizes=(4, 3), splits={},
                        transform=TRANSFORM)  # fmt: skip
    settings, _ = resolve(SETTINGS, {**SMALL, "fused_tables": True})
    network = Dlrm(2, [4, 3], settings)
    initialize(network, [4, 3], 5, 1.0)
    save_file(network.state_dict(), weights / "weights.safetensors")
    (weights / "model.json").write_text(json.dumps({
        "settings": settings, "numeric": manifest.numeric, "table_sizes": [4, 3]}))  # fmt: skip
    bundle_folder = work / "bundle"
    bundle_folder.mkdir()
    bundle.gather(bundle_folder, weights, manifest)
    bundle.seal(bundle_folder, {
        "model": "dlrm", "form": "torch", "format": "table", "columns": TABLE,
        "numeric": manifest.numeric, "categorical": manifest.categorical, "transform": TRANSFORM,
    })  # fmt: skip
    return bundle_folder


@pytest.mark.parametrize("kind", ["rows.csv", "rows.tsv.gz", "rows.parquet"])
@pytest.mark.parametrize("labelled", [True, False])
def test_tables_are_scored_with_their_own_transform(
    table_bundle: Path, tmp_path: Path, kind: str, labelled: bool
) -> None:
    rng = np.random.default_rng(4)
    cities = [*CITIES, "unheard of", None]
    rows = [{"device": DEVICES[rng.integers(2)], "extra": "x", "bought": int(rng.integers(2)),
             "city/area": cities[rng.integers(5)], "price": float(rng.integers(-9, 9)),
             "age": None if rng.random() < 0.2 else int(rng.integers(0, 90))}
            for _ in range(400)]  # fmt: skip
    write_table(tmp_path / kind, rows, labelled)
    dataset = {"format": "table", "paths": [str(tmp_path / kind)], "columns": TABLE}
    values, scores = run_predict(table_bundle, [], tmp_path, dataset=dataset)
    numeric = np.array([[np.log1p(row["age"] or 0), (row["price"] + 1.5) / 4.0] for row in rows],
                       np.float32)  # fmt: skip
    ids = np.array([[CITIES.index(row["city/area"]) + 1 if row["city/area"] in CITIES else 0,
                     DEVICES.index(row["device"]) + 1] for row in rows], np.int32)  # fmt: skip
    network, _ = load_network(table_bundle)
    logits = eager(network)(numeric, ids).astype(np.float64)
    assert np.abs(scores[:, 1] - 1 / (1 + np.exp(-logits))).max() < 1e-6
    unseen = sum(row["city/area"] == "unheard of" for row in rows)
    assert values["unseen"] == {"city/area": unseen, "device": 0}
    assert values["missing"]["city/area"] == sum(row["city/area"] is None for row in rows)
    labels = np.array([row["bought"] for row in rows])
    assert values["auc"] == (pytest.approx(auc(labels, logits), abs=1e-5) if labelled else None)


def write_table(path: Path, rows: list[dict[str, Any]], labelled: bool) -> None:
    names = [name for name in rows[0] if labelled or name != "bought"]
    if path.suffix == ".parquet":
        pq.write_table(pa.table({name: [row[name] for row in rows] for name in names}), path,
                       row_group_size=150)  # fmt: skip
        return
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, delimiter="," if ".csv" in path.name else "\t",
                                extrasaction="ignore", lineterminator="\n")  # fmt: skip
        writer.writeheader()
        writer.writerows(rows)


def test_a_table_without_a_column_names_the_nearest(table_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("age,prices,city/area,device\n1,2,b,phone\n")
    dataset = {"format": "table", "paths": [str(tmp_path / "rows.csv")], "columns": TABLE}
    with pytest.raises(InputProblem, match="no column price") as caught:
        run_predict(table_bundle, [], tmp_path, dataset=dataset)
    assert "did you mean prices?" in caught.value.why
    (tmp_path / "rows.csv").write_text("age,price,city/area,device\n1,2,b,phone\n1,dear,b,phone\n")
    with pytest.raises(InputProblem, match=r"rows\.csv, line 3, column price: found 'dear'"):
        run_predict(table_bundle, [], tmp_path, dataset=dataset)
