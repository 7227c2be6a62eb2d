"""Ranks started by Intel MPI agree with one rank: gradients, weights, scores; lost ranks end it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from models import dist
from models.dist_memory import PeerLost, SharedMemory
from models.worker import InputProblem
from tests.models.training_data import messages, result, start, train_spec, write_data

PREFIX = Path(sys.executable).parent.parent
MPIRUN = PREFIX / "bin" / "mpirun"
MPI = {
    "PATH": f"{PREFIX / 'bin'}:{os.environ.get('PATH', '')}", "I_MPI_ROOT": str(PREFIX),
    "I_MPI_HYDRA_BOOTSTRAP": "fork", "I_MPI_PIN": "0",
}  # fmt: skip
needs_mpi = pytest.mark.skipif(not MPIRUN.exists(), reason="this environment has no Intel MPI")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,501 training rows: the last global batch of 100 has one row, so some ranks have none."""
    return write_data(tmp_path_factory.mktemp("data"), {"train": 1501, "valid": 401, "test": 0})


def train(work: Path, data: Path, ranks: int, **settings: object) -> dict[str, np.ndarray]:
    work.mkdir()
    spec = train_spec(work, data, ranks=ranks, rendezvous=f"file://{work}/rendezvous",
                      settings={"epochs": 1, **settings})  # fmt: skip
    launch = [str(MPIRUN), "-n", str(ranks)] if ranks > 1 else None
    assert start(spec, work, launch=launch, **MPI).wait(80) == 0, (work / "log").read_text()
    for rank in range(ranks):
        assert messages(work, "done", rank)
    weights: dict[str, np.ndarray] = load_file(work / "output" / "weights.safetensors")
    return weights


@needs_mpi
@pytest.mark.parametrize(
    ("ranks", "settings"),
    [(2, {}), (4, {}), (2, {"fused_tables": False, "table_optimizer": "sgd",
                            "table_learning_rate": 0.1, "dense_optimizer": "sgd"})],
)  # fmt: skip
def test_ranks_end_with_the_weights_of_one_rank(
    tmp_path: Path, data: Path, ranks: int, settings: dict[str, object]
) -> None:
    alone = train(tmp_path / "alone", data, 1, **settings)
    together = train(tmp_path / "together", data, ranks, **settings)
    for name, weights in alone.items():
        np.testing.assert_allclose(together[name], weights, atol=1e-5, err_msg=name)
    one, many = result(tmp_path / "alone"), result(tmp_path / "together")
    assert abs(one["best"]["valid"]["auc"] - many["best"]["valid"]["auc"]) < 0.002
    assert one["rows"] == many["rows"] == 1501


GATHERING = """
import sys, torch
from models import dist
with dist.joined(3, sys.argv[1]) as ranks:
    for way in (None, False):
        ranks._one_host = way
        kept = []
        for m in (1, 5, 4000, 3, 70_000):
            own = torch.arange(float(m)) + 1000 * ranks.rank
            kept.append((m, ranks.gather_equal(own)))
            own.zero_()  # what was sent is out of the sender's hands
            for size, everyone in kept[-2:]:  # also the messages of the call before
                for rank, mail in enumerate(everyone):
                    assert mail.tolist() == [1000.0 * rank + i for i in range(size)], (way, m)
        assert (ranks._shared is not None) is (way is None), way
        ranks._shared = None
    print("equal")
"""


@needs_mpi
def test_messages_arrive_the_same_by_memory_and_by_network(tmp_path: Path) -> None:
    argv = [str(MPIRUN), "-n", "3", sys.executable, "-c", GATHERING, f"file://{tmp_path}/meet"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False,
                          env={**os.environ, **MPI})  # fmt: skip
    assert done.stdout.count("equal") == 3, done.stdout + done.stderr


def test_memory_of_another_host_or_a_dead_process_is_not_taken() -> None:
    mine = SharedMemory.create(2, 4)
    SharedMemory.attach(1, 2, 4, mine.address)
    with pytest.raises(OSError, match="another file"):
        SharedMemory.attach(1, 2, 4, {**mine.address, "boot": "another"})
    with pytest.raises(OSError, match="No such file"):
        SharedMemory.attach(1, 2, 4, {**mine.address, "path": "/proc/0/fd/1"})


def test_a_rank_that_does_not_come_is_told() -> None:
    mine = SharedMemory.create(2, 4)
    SharedMemory.attach(1, 2, 4, mine.address)
    mine.meet()
    with pytest.raises(PeerLost, match="did not come for"):
        mine.exchange(torch.zeros(4), 0.01)


@needs_mpi
def test_one_rank_stopped_means_all_stop_and_the_job_resumes(tmp_path: Path, data: Path) -> None:
    spec = train_spec(tmp_path, data, ranks=2, rendezvous=f"file://{tmp_path}/first",
                      settings={"epochs": 500, "patience": 1000})  # fmt: skip
    job = start(spec, tmp_path, launch=[str(MPIRUN), "-n", "2"], **MPI)
    wait_for(lambda: len(messages(tmp_path, "scalar")) > 3)
    os.kill(rank_pid(tmp_path / "spec.json", 1), signal.SIGTERM)
    job.wait(60)
    saved = messages(tmp_path, "saved")[-1]["step"]
    assert not messages(tmp_path, "problem")
    assert not messages(tmp_path, "result")
    spec.update(rendezvous=f"file://{tmp_path}/second", goal={"metric": "auc", "minutes": 0.0001})
    assert start(spec, tmp_path, launch=[str(MPIRUN), "-n", "2"], **MPI).wait(60) == 0
    assert f"resumed from step {saved}" in [m["text"] for m in messages(tmp_path, "note")]
    assert "minutes are over" in result(tmp_path)["stop_reason"]


@needs_mpi
def test_a_killed_rank_ends_the_job_with_a_clear_problem(tmp_path: Path, data: Path) -> None:
    spec = train_spec(tmp_path, data, ranks=2, rendezvous=f"file://{tmp_path}/first",
                      settings={"epochs": 500, "patience": 1000})  # fmt: skip
    # Without mpirun, which would end the other rank before it can speak.
    ranks = [start(spec, tmp_path, RANK=str(rank), WORLD_SIZE="2") for rank in range(2)]
    wait_for(lambda: len(messages(tmp_path, "scalar")) > 3)
    ranks[1].kill()
    assert ranks[0].wait(60) == 1
    ranks[1].wait(10)
    assert "lost contact" in messages(tmp_path, "problem")[-1]["what"]


MEET = """
import sys
import torch
from models import dist
from models.worker import ContactLost

try:
    with dist.joined(2, sys.argv[1]) as ranks:
        value = torch.tensor([float(sys.argv[2])])
        ranks.sum(value)
        print(value.item(), flush=True)
        sys.stdin.read()
except ContactLost as error:
    print(error.what, error.why, flush=True)
"""


def test_ranks_of_two_jobs_at_one_port_are_never_mixed() -> None:
    """They start in the same second, and only one of them can have the port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = {
        (job, rank): subprocess.Popen(
            [sys.executable, "-c", MEET, f"tcp://127.0.0.1:{port}", str(number)],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", dist.JOB_VARIABLE: job},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for rank in (0, 1) for job, number in (("a.train.1", 1), ("b.train.1", 10))
    }  # fmt: skip
    said = {key: rank.stdout.readline().strip() for key, rank in ranks.items() if rank.stdout}
    for rank in ranks.values():  # those that met have kept the port until the others came
        rank.communicate(timeout=60)
    winner, loser = ("a.train.1", "b.train.1") if said["a.train.1", 0][0].isdigit() else (
        "b.train.1", "a.train.1")  # fmt: skip
    both = {"a.train.1": "2.0", "b.train.1": "20.0"}[winner]
    assert [said[winner, 0], said[winner, 1]] == [both, both]
    assert "lost contact" in said[loser, 0]
    assert str(port) in said[loser, 0]
    assert "was taken by another job" in said[loser, 1]
    assert f"that one is {winner!r}, this one {loser!r}" in said[loser, 1]


def test_a_wrong_number_of_ranks_is_bad_input() -> None:
    with pytest.raises(InputProblem, match="1 ranks, its spec says 3"), dist.joined(3, None):
        pass


def test_a_rendezvous_must_be_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputProblem, match="rendezvous"), dist.joined(2, "/tmp/x"):
        pass


def test_one_rank_needs_no_communication() -> None:
    with dist.joined(1, None) as ranks:
        tensor = torch.ones(2)
        ranks.sum(tensor)
        assert tensor.tolist() == ranks.gather_rows(tensor).tolist() == [1.0, 1.0]
        assert ranks.share({"a": [1]}) == {"a": [1]}


def test_the_interface_towards_this_machine_is_the_loopback() -> None:
    assert dist.interface_towards("127.0.0.1") == "lo"


def rank_pid(spec: Path, rank: int) -> int:
    """The process of one rank of the job with this spec."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            argv = (entry / "cmdline").read_bytes().split(b"\0")
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if argv[1:4] == [b"-m", b"models.train", str(spec).encode()] and (
            f"PMI_RANK={rank}".encode() in environment
        ):
            return int(entry.name)
    raise AssertionError(f"rank {rank} is not running")


def wait_for(condition: object, seconds: float = 60) -> None:
    """Poll until something has happened; fails when it does not."""
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)
