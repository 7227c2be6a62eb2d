"""Tables spread over ranks: the same training, in less memory, and checkpoints for any ranks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from models import checkpoint
from models.dlrm.sharded import place_tables
from models.placement import GIB
from models.worker import InputProblem
from tests.models.test_dist import MPI, MPIRUN, needs_mpi
from tests.models.training_data import (
    ROOT,
    TINY,
    messages,
    result,
    run_here,
    start,
    train_spec,
    write_data,
)

SIZES = (50, 7, 1, 300, 2)
BASE: dict[str, Any] = {"epochs": 2, "patience": 100, "first_order_rate": 0.08, "fused_head": True}
SGD: dict[str, Any] = {"table_optimizer": "sgd", "table_learning_rate": 0.5, "fused_head": False}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,501 training rows: the last global batch of 100 has one row, so some ranks have none."""
    return write_data(
        tmp_path_factory.mktemp("data"), {"train": 1501, "valid": 401, "test": 0}, SIZES
    )


def spec_of(work: Path, data: Path, ranks: int, rows: int | None, **changes: Any) -> dict[str, Any]:
    """A spec for so many ranks, each with memory for `rows` rows (None: for all)."""
    settings = {**BASE, **changes.pop("settings", {}), "table_memory_gib": 0.0}
    if rows is not None:
        row_bytes = place_tables({"one": 1}, {**TINY, **settings}, 1).row_bytes
        settings["table_memory_gib"] = (rows + 0.5) * row_bytes / GIB
    return train_spec(work, data, ranks=ranks, settings=settings, **changes)


def launch(spec: dict[str, Any], work: Path, **environment: str) -> subprocess.Popen[bytes]:
    """Start one training."""
    (work / "meeting").unlink(missing_ok=True)
    argv = [str(MPIRUN), "-n", str(spec["ranks"])] if spec["ranks"] > 1 else None
    spec = {**spec, "rendezvous": f"file://{work}/meeting"}
    return start(spec, work, launch=argv, **MPI, **environment)


def trained(work: Path, data: Path, ranks: int, rows: int | None, **changes: Any) -> Path:
    """The folder of a finished training."""
    work.mkdir(exist_ok=True)
    code = launch(spec_of(work, data, ranks, rows, **changes), work).wait(80)
    assert code == 0, (work / "log").read_text()[-3000:] + str(messages(work, "problem"))
    return work


def weights_of(work: Path) -> dict[str, Any]:
    weights: dict[str, Any] = load_file(work / "output" / "weights.safetensors")
    return weights


def assert_close(work: Path, other: Path) -> None:
    """The two trainings ended with weights equal in fp32."""
    ours, theirs = weights_of(work), weights_of(other)
    for name, weights in theirs.items():
        np.testing.assert_allclose(ours[name], weights, atol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def sharded(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training of 2 ranks whose largest table is spread."""
    return trained(tmp_path_factory.mktemp("sharded"), data, 2, 250)


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same by one rank."""
    return trained(tmp_path_factory.mktemp("alone"), data, 1, None)


@needs_mpi
def test_sharded_tables_train_like_those_of_one_rank(sharded: Path, alone: Path) -> None:
    assert_close(sharded, alone)
    one, two = result(alone), result(sharded)
    assert two["parameters"] == one["parameters"]
    for metric, value in one["best"]["valid"].items():
        assert two["best"]["valid"][metric] == pytest.approx(value, abs=1e-4)
    assert set(one["placement"]["tables"].values()) == {"replicated"}
    places = two["placement"]["tables"]
    assert places == {**one["placement"]["tables"], "C4": "sharded"}
    notes = [note["text"] for note in messages(sharded, "note")]
    assert [text for text in notes if "1 of 5 tables are sharded over 2 ranks (C4)" in text]
    written = {name: torch.from_numpy(values) for name, values in weights_of(sharded).items()}
    model = json.loads((sharded / "output" / "model.json").read_text())
    assert checkpoint.weights_sha256(written) == model["weights_sha256"] == two["weights_sha256"]


@needs_mpi
def test_they_end_with_the_very_weights_of_replicated_ones(
    tmp_path: Path, data: Path, sharded: Path
) -> None:
    replicated = trained(tmp_path, data, 2, None)
    assert result(replicated)["weights_sha256"] == result(sharded)["weights_sha256"]


@needs_mpi
def test_all_tables_with_rows_to_spread_on_three_ranks_with_plain_sgd(
    tmp_path: Path, data: Path
) -> None:
    one = trained(tmp_path / "one", data, 1, None, settings=SGD)
    three = trained(tmp_path / "three", data, 3, 122, settings=SGD)
    places = result(three)["placement"]["tables"]
    assert [name for name, place in places.items() if place == "replicated"] == ["C3"]  # one row
    assert_close(three, one)


# Read by Python as it starts: the rank is killed as it flushes its part of the fifth checkpoint.
KILL = """
import os, signal, sys
seen = []
def kill(event, args):
    to_flush = event == "open" and args[1] is None  # by os.open
    if to_flush and "/.writing-" in str(args[0]) and "/rank-" in str(args[0]):
        seen.append(args[0])
        if len(seen) == 5:
            os.kill(os.getpid(), signal.SIGKILL)
if os.environ.get("PMI_RANK") == os.environ["KILLED_RANK"]:
    sys.addaudithook(kill)
"""


@pytest.fixture(scope="module")
def killed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of 2 ranks that were killed while they saved, first one, then the other."""
    work = tmp_path_factory.mktemp("killed")
    (work / "sitecustomize.py").write_text(KILL)
    spec = spec_of(work, data, 2, 250, checkpoint_s=0.0)
    for rank in (1, 0):  # the second job goes on from what the first has left
        saved = len(messages(work, "saved"))
        job = launch(spec, work, PYTHONPATH=f"{work}:{ROOT}", KILLED_RANK=str(rank))
        assert job.wait(60) != 0
        assert len(messages(work, "saved")) == saved + 4  # the fifth was cut short
    assert not messages(work, "result")
    return Path(spec["checkpoints"])


@needs_mpi
@pytest.mark.parametrize(("ranks", "rows"), [(1, None), (2, 250), (3, 124)])
def test_killed_while_saving_it_resumes_on_any_number_of_ranks(
    tmp_path: Path, data: Path, sharded: Path, killed: Path, ranks: int, rows: int | None
) -> None:
    assert {path.name for path in checkpoint.checkpoints(killed)[-1].iterdir()} == {
        "manifest.json", "rank-0000.safetensors", "rank-0001.safetensors",
    }  # fmt: skip
    shutil.copytree(killed, tmp_path / "checkpoints")
    trained(tmp_path, data, ranks, rows)
    assert [m for m in messages(tmp_path, "note") if m["text"].startswith("resumed from step")]
    assert_close(tmp_path, sharded)
    ours, whole = result(tmp_path), result(sharded)
    assert ours["best"]["step"] == whole["best"]["step"]
    assert ours["rows"] == whole["rows"]
    if ranks == 2:
        assert ours["weights_sha256"] == whole["weights_sha256"]


@needs_mpi
def test_a_rank_holds_its_part_only(tmp_path: Path) -> None:
    """400 MB of rows on one rank and on two, from the first step on and from a checkpoint."""
    sizes = (400_000, 7, 10, 600_000)
    data = write_data(tmp_path / "data", {"train": 200, "valid": 50, "test": 0}, sizes)
    settings = {"embedding_size": 48, "epochs": 1}
    one = trained(tmp_path / "one", data, 1, None, settings=settings)
    two = trained(tmp_path / "two", data, 2, 600_000, settings=settings)
    placement = result(two)["placement"]
    assert set(placement["tables"].values()) == {"replicated", "sharded"}
    saved = placement["gib_replicated"] - placement["gib_per_rank"]
    assert saved > 0.18
    peaks = [result(one)["peak_rss_gib"], result(two)["peak_rss_gib"]]
    trained(two, data, 2, 600_000, settings=settings)  # nothing to do but to load and to write
    peaks.append(result(two)["peak_rss_gib"])
    # of all ranks together; half of what is saved: the libraries take a little more with two
    assert max(peaks[1:]) / 2 < peaks[0] - 0.5 * saved


def test_tables_that_cannot_fit_are_bad_input(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_here(spec_of(tmp_path, data, 1, 200), tmp_path, monkeypatch) == 2
    problem = messages(tmp_path, "problem")[-1]
    assert "do not fit" in problem["what"]
    assert "train on 2 ranks" in problem["todo"]


def test_separate_tables_cannot_be_sharded() -> None:
    settings = {**TINY, **BASE, "fused_tables": False, "table_memory_gib": 1e-6}
    with pytest.raises(InputProblem, match="separate tables"):
        place_tables({"a": 3, "b": 20}, settings, 2)


TOGETHER = """
import errno, sys
from pathlib import Path
import torch
from models import checkpoint, dist
from models.dlrm.network import Dlrm, initialize
from models.dlrm.sharded import ShardedTables
from models.loop_tables import combine
from models.placement import place
from models.worker import WorkFailed

SIZES = (9, 1, 40_000, 70_001)
SETTINGS = {"embedding_size": 3, "bottom_widths": (4,), "top_widths": (4,), "fused_tables": True,
            "first_order_rate": 0.1}


def batch(rank):
    generator = torch.Generator().manual_seed(rank)
    count = 0 if rank == 1 else 50  # one rank has no rows
    ids = [torch.randint(size, (count,), generator=generator) for size in SIZES]
    ids[3] %= 7  # rows that several ranks touch
    return torch.stack(ids, 1).int(), torch.rand(count * len(SIZES), 4, generator=generator)


def check_lookup_and_gradients(ranks):
    whole = Dlrm(2, SIZES, SETTINGS)
    initialize(whole, SIZES, 5, 0.0)
    placement = place({str(k): size for k, size in enumerate(SIZES)}, 4, ranks.size, 40_000 * 4)
    assert placement.sharded == (False, False, True, True), placement.sharded
    own = Dlrm(2, SIZES, SETTINGS, ShardedTables(placement, 4, ranks))
    initialize(own, SIZES, 5, 0.0)
    for part, run in zip(own.tables.parts(SIZES), placement.runs(ranks.rank)):
        expected = whole.tables.weight[run.first :: run.step][: run.rows]
        assert torch.equal(part, expected)
    ids, gradients = batch(ranks.rank)
    with torch.inference_mode():
        assert torch.equal(own.tables(ids), whole.tables(ids))
    vectors, fetched = own.tables.fetch(own.tables.storage_ids(ids))
    assert torch.equal(vectors, whole.tables(ids))
    (rows, sums), (own_rows, own_sums) = own.tables.shards.give(fetched, gradients)

    def local(storage, rank):
        runs = [(run.first + i * run.step, run.at + i) for run in placement.runs(rank)
                for i in range(run.rows)]
        places = dict(runs)
        return [places.get(row) for row in storage.tolist()]

    # as ranks with replicated tables do: each adds up its own rows, then they add these
    everyone = [combine(whole.tables.storage_ids(ids), values)
                for ids, values in map(batch, range(ranks.size))]
    unique, expected = combine(*map(torch.cat, zip(*everyone)))
    kept = [(place, value) for place, value in zip(local(unique, ranks.rank), expected)
            if place is not None and place >= placement.replicated_rows]
    assert own_rows.tolist() == [place for place, _ in kept]
    assert torch.equal(own_sums, torch.stack([value for _, value in kept]))
    unique, expected = combine(whole.tables.storage_ids(ids), gradients)
    kept = [(place, value) for place, value in zip(local(unique, ranks.rank), expected)
            if place is not None and place < placement.replicated_rows]
    assert rows.tolist() == [place for place, _ in kept]
    assert not kept or torch.equal(sums, torch.stack([value for _, value in kept]))


def check_a_rank_that_cannot_write(ranks, folder):
    placement = place({"a": 10}, 4, ranks.size, 24)
    tensors = {"rows": torch.full((placement.local_rows, 1), 1.0 + ranks.rank)}
    checkpoint.save(folder, 1, tensors, {"step": 1}, ranks, {"rows": placement})
    write = checkpoint.tensor_file.write

    def full(path, entries):
        raise OSError(errno.ENOSPC, "No space left on device")

    if ranks.rank == 1:
        checkpoint.tensor_file.write = full
    for act in (
        lambda: checkpoint.save(folder, 2, tensors, {"step": 2}, ranks, {"rows": placement}),
        lambda: checkpoint.write_weights(folder / "model", tensors, ranks, {"rows": placement}),
    ):
        try:
            act()
            raise AssertionError("it was written")
        except WorkFailed as error:
            assert error.what.startswith("the disk is full"), error.what
        checkpoint.tensor_file.write = full if ranks.rank == 0 else write
    assert [path.name for path in folder.iterdir() if path.name != "model"] == ["step-000000000001"]
    found, torn = checkpoint.newest(folder, ranks)
    assert found.progress == {"step": 1} and not torn
    again = torch.zeros(10, 1)
    found.read("rows", again)
    assert again.flatten().tolist() == [1.0 + row % ranks.size for row in range(10)]


with dist.joined(3, sys.argv[1]) as ranks:
    for way in (None, False):
        ranks._one_host = way
        check_lookup_and_gradients(ranks)
        assert (ranks._shared is not None) is (way is None), way
        ranks._shared = None
        assert ranks.collect([ranks.rank, "x" * ranks.rank]) == [[0, ""], [1, "x"], [2, "xx"]]
    check_a_rank_that_cannot_write(ranks, Path(sys.argv[2]))
    print("equal")
"""


@needs_mpi
def test_lookups_gradients_and_failures_of_three_ranks(tmp_path: Path) -> None:
    argv = [str(MPIRUN), "-n", "3", sys.executable, "-c", TOGETHER, f"file://{tmp_path}/meet",
            str(tmp_path / "checkpoints")]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, timeout=80, check=False,
                          env={**os.environ, **MPI})  # fmt: skip
    assert done.stdout.count("equal") == 3, done.stdout + done.stderr
