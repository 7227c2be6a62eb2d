"""Each rank tells its own work and its waiting apart; a slow rank is found by that."""

from __future__ import annotations

import heapq
from pathlib import Path

import pytest

from engine.pace import RankPaces
from tests.models.test_dist import MPI, MPIRUN, needs_mpi
from tests.models.training_data import messages, result, start, train_spec, write_data

ROWS, BATCH = 1500, 100


@needs_mpi
@pytest.mark.slow
def test_the_rank_that_holds_up_the_other_is_found(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", {"train": ROWS, "valid": 100, "test": 0})
    spec = train_spec(
        tmp_path, data, ranks=2, rendezvous=f"file://{tmp_path}/rendezvous",
        settings={"epochs": 60, "evals_per_epoch": 1, "patience": 1000, "batch_size": BATCH},
    )  # fmt: skip
    launch = [str(MPIRUN), "-n", "2"]
    process = start(spec, tmp_path, "tests.models.slow_rank", launch=launch, **MPI)
    assert process.wait(85) == 0, (tmp_path / "log").read_text()
    told = [messages(tmp_path, "pace", rank) for rank in range(2)]
    steps = 60 * ROWS // BATCH
    for rank, lines in enumerate(told):
        assert sum(line["steps"] for line in lines) == steps, rank
        assert lines[-1]["step"] == steps
    own = [sum(line["own_s"] * line["steps"] for line in lines) / steps for lines in told]
    wait = [sum(line["wait_s"] * line["steps"] for line in lines) / steps for lines in told]
    assert own[1] > own[0] + 0.01 and wait[0] > wait[1] + 0.008  # seconds a step
    assert result(tmp_path)["mean_step"]["own_s"] == pytest.approx(own[0], rel=0.01)
    assert result(tmp_path)["mean_step"]["heard_bytes"] > 4 * 100  # the dense gradient at least
    paces, found = RankPaces(), {}
    for line in heapq.merge(*told, key=lambda line: line["t"]):
        paces.take(line["rank"], line["steps"], line["own_s"], line["wait_s"])
        found |= paces.changes()
    assert set(found) == {1} and found[1] > 1.3
