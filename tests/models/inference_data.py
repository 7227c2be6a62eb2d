"""Raw and prepared rows, small networks and specs for the tests of export and predict."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.torch import save_file

from models.dlrm.network import Dlrm, initialize
from models.dlrm.serving import eager, load_network
from models.dlrm.settings import SETTINGS
from models.inference import predict
from models.messages import Messenger
from models.recdp.blocks import Manifest, write_block
from models.settings import resolve
from models.worker import StopFlag

NUMERIC = tuple(f"I{i}" for i in range(1, 14))
CATEGORICAL = tuple(f"C{i}" for i in range(1, 27))
IDS = 40  # values of each column that have an id
ROWS = 3000
SMALL = {"embedding_size": 4, "bottom_widths": "16-8", "top_widths": "16"}
Raw = list[tuple[int, list[int | None], list[int | None]]]


def raw_rows(count: int, seed: int) -> Raw:
    """label, ints and keys; a tenth of the cells is missing, keys from IDS on have no id."""
    rng = np.random.default_rng(seed)
    rows: Raw = []
    for _ in range(count):
        ints = [None if rng.random() < 0.1 else int(rng.integers(-3, 70_000)) for _ in NUMERIC]
        keys = [None if rng.random() < 0.1 else int(rng.integers(0, IDS + 8)) for _ in CATEGORICAL]
        rows.append((int(rng.random() < 0.3), ints, keys))
    return rows


def key_text(column: int, key: int) -> str:
    return f"{(key * 2654435761 + column * 97) % 2**32:08x}"


def line_of(row: tuple[int, list[int | None], list[int | None]], labelled: bool = True) -> str:
    label, ints, keys = row
    cells = [str(label)] if labelled else []
    cells += ["" if value is None else str(value) for value in ints]
    cells += ["" if key is None else key_text(i, key) for i, key in enumerate(keys)]
    return "\t".join(cells) + "\n"


def prepared(rows: Raw) -> tuple[Any, Any, Any]:
    """The rows as the ETL would write them, cell by cell."""
    numeric = [[np.float32(np.log1p(max(value or 0, 0))) for value in ints] for _, ints, _ in rows]
    ids = [[0 if key is None or key >= IDS else key + 1 for key in keys] for _, _, keys in rows]
    return (np.array(numeric, np.float32), np.array(ids, np.int32),
            np.array([label for label, _, _ in rows], np.uint8))  # fmt: skip


def write_data(folder: Path) -> Path:
    """Prepared rows of every split and their dictionaries, as the ETL leaves them."""
    splits = {name: (write_block(folder, name, *prepared(raw_rows(count, seed))),)
              for seed, (name, count) in enumerate(
                  {"train": 200, "valid": ROWS, "test": 500}.items())}  # fmt: skip
    (folder / "dictionaries").mkdir()
    for i, column in enumerate(CATEGORICAL):
        pq.write_table(pa.table({
            "value": [key_text(i, key) for key in range(IDS)],
            "id": pa.array(range(1, IDS + 1), pa.int32()),
            "count": pa.array([9] * IDS, pa.int64()),
        }), folder / "dictionaries" / f"{column}.parquet")  # fmt: skip
    Manifest(folder=folder, label="label", numeric=NUMERIC, categorical=CATEGORICAL,
             table_sizes=(IDS + 1,) * 26, splits=splits,
             transform={"numeric": "log1p(max(x,0))"}).save()  # fmt: skip
    return folder


def trained(folder: Path, fused: bool, widths: dict[str, Any] = SMALL) -> Path:
    """A network with known random weights, as the training worker leaves one."""
    folder.mkdir()
    settings, problems = resolve(SETTINGS, {**widths, "fused_tables": fused})
    assert not problems
    sizes = [IDS + 1] * 26
    network = Dlrm(len(NUMERIC), sizes, settings)
    initialize(network, sizes, 3, 0.5)
    save_file(network.state_dict(), folder / "weights.safetensors")
    (folder / "model.json").write_text(json.dumps({
        "version": 1, "model": "dlrm", "settings": settings, "numeric": NUMERIC,
        "categorical": CATEGORICAL, "table_sizes": sizes}))  # fmt: skip
    return folder


def export_spec(data: Path, weights: Path, output: Path, **changes: Any) -> dict[str, Any]:
    output.mkdir(exist_ok=True)
    return {"model": "dlrm", "data": str(data), "weights": str(weights), "output": str(output),
            "dataset": {"format": "criteo", "paths": [], "columns": None}, "threads": 2,
            "max_metric_drop": 0.001, "metric": "auc", **changes}  # fmt: skip


def silent(tmp_path: Path) -> Messenger:
    return Messenger(tmp_path / "messages")


def run_predict(folder: Path, paths: list[Path], tmp_path: Path, **changes: Any) -> tuple[Any, Any]:
    """The result values and the CSV's (row, probability)."""
    output = tmp_path / "scores.csv"
    spec = {"bundle": str(folder), "output": str(output), "threads": 2, "batch_size": 256,
            "dataset": {"format": "criteo", "paths": [str(p) for p in paths], "columns": None},
            **changes}  # fmt: skip
    values = predict.work(spec, silent(tmp_path), StopFlag())
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    with output.open(newline="") as file:
        lines = list(csv.reader(file))
    assert lines[0] == ["row", "probability"]
    return values, np.array(lines[1:], dtype=np.float64)


def eager_probabilities(folder: Path, rows: Raw) -> Any:
    network, _ = load_network(folder)
    numeric, ids, _ = prepared(rows)
    return 1 / (1 + np.exp(-eager(network)(numeric, ids).astype(np.float64)))
