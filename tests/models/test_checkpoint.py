"""Checkpoints: whole or not there, verified, two generations, clear when the disk is full."""

from __future__ import annotations

import errno
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as rules
from hypothesis import strategies as st
from safetensors.torch import load_file

from models import checkpoint
from models.dist import Ranks
from models.placement import Placement, place
from models.worker import WorkFailed
from tests.models.thread_ranks import on_ranks

TENSORS = {"weights/a": torch.arange(6.0).view(2, 3), "optimizer/step": torch.tensor(3.0)}


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    progress = {"step": 7, "seconds": 0.1 + 0.2, "best": None}
    path = checkpoint.save(tmp_path / "new", 7, TENSORS, progress)
    found, torn = checkpoint.newest(tmp_path / "new")
    assert path.name == "step-000000000007"
    assert found is not None
    assert found.progress == progress
    assert not torn
    assert sorted(found.names()) == sorted(TENSORS)
    for name, value in TENSORS.items():
        tensor = torch.zeros_like(value)
        found.read(name, tensor)
        assert torch.equal(tensor, value)


def test_the_last_two_are_kept_and_scratch_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".writing-1").mkdir()  # a writer was killed here
    for step in (1, 2, 3, 3):
        checkpoint.save(tmp_path, step, TENSORS, {"step": step})
    assert [p.name[-2:] for p in sorted(tmp_path.iterdir())] == ["02", "03"]


@pytest.mark.parametrize("damage", ["cut", "flip", "no manifest", "no state", "half manifest"])
def test_a_torn_checkpoint_is_passed_over(tmp_path: Path, damage: str) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, step, TENSORS, {"step": step})
    newest = checkpoint.checkpoints(tmp_path)[-1]
    state, manifest = newest / "rank-0000.safetensors", newest / "manifest.json"
    data = bytearray(state.read_bytes())
    if damage == "cut":
        state.write_bytes(data[:-4])
    elif damage == "flip":
        data[-1] ^= 1
        state.write_bytes(data)
    elif damage == "half manifest":
        manifest.write_text(manifest.read_text()[:20])
    else:
        (manifest if damage == "no manifest" else state).unlink()
    found, torn = checkpoint.newest(tmp_path)
    assert found is not None
    assert found.progress == {"step": 1}
    assert len(torn) == 1
    assert "step-000000000002" in torn[0]


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path / "missing") == (None, [])


def test_a_full_disk_keeps_the_last_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path, 1, TENSORS, {"step": 1})

    def full(_path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "flush", full)
        with pytest.raises(WorkFailed, match="the disk is full") as caught:
            checkpoint.save(tmp_path, 2, TENSORS, {"step": 2})
    assert "free space" in caught.value.todo
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000000001"]
    assert checkpoint.newest(tmp_path)[0].progress == {"step": 1}


def test_really_full_device_is_told_from_other_failures() -> None:
    with pytest.raises(WorkFailed, match="cannot write"):
        checkpoint.save(Path("/proc/nowhere"), 1, TENSORS, {})


def test_weights_hash_depends_on_names_types_shapes_and_values() -> None:
    a = torch.arange(4.0)
    hashes = {
        checkpoint.weights_sha256(tensors)
        for tensors in ({"x": a}, {"y": a}, {"x": a.view(2, 2)}, {"x": a + 1}, {"x": a.double()})
    }
    assert len(hashes) == 5
    assert checkpoint.weights_sha256({"b": a, "a": a}) == checkpoint.weights_sha256(
        {"a": a, "b": a}
    )


tables = st.lists(st.integers(1, 60), min_size=1, max_size=4)


@rules(deadline=None, max_examples=60)
@given(tables, st.integers(1, 4), st.integers(1, 4), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_any_number_of_ranks_reads_what_any_number_wrote(
    sizes: list[int], writers: int, readers: int, spread: float, spread_again: float
) -> None:
    whole = torch.arange(3.0 * sum(sizes)).view(-1, 3)

    def placed(ranks: int, part: float) -> Placement:
        least = sum(-(-size // ranks) for size in sizes)
        names = {str(k): size for k, size in enumerate(sizes)}
        return place(names, 1, ranks, least + part * (sum(sizes) - least))

    def part_of(placement: Placement, rank: int) -> torch.Tensor:
        tensor = torch.zeros(placement.local_rows, 3)
        for run in placement.runs(rank):
            tensor[run.at : run.at + run.rows] = whole[run.first :: run.step][: run.rows]
        return tensor

    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "_PIECE_BYTES", 5 * 12)  # 5 rows: several pieces a table
        folder, before = Path(name), placed(writers, spread)

        def write(ranks: Ranks) -> str:
            tensors = {"rows": part_of(before, ranks.rank), "dense": torch.ones(2)}
            layouts = {"rows": before}
            checkpoint.save(folder, 4, tensors, {"step": 4}, ranks, layouts)
            return checkpoint.write_weights(folder, tensors, ranks, layouts)

        hashes = on_ranks(writers, write)
        assert set(hashes) == {checkpoint.weights_sha256({"rows": whole, "dense": torch.ones(2)})}
        assert torch.equal(load_file(folder / "weights.safetensors")["rows"], whole)
        after = placed(readers, spread_again)

        def read(ranks: Ranks) -> None:
            found, torn = checkpoint.newest(folder, ranks)
            assert found is not None
            assert not torn
            expected = part_of(after, ranks.rank)
            tensor = torch.zeros_like(expected)
            found.read("rows", tensor, after.runs(ranks.rank))
            assert torch.equal(tensor, expected)

        on_ranks(readers, read)


@pytest.mark.parametrize("shape", [(3, 2), (2, 4)])
def test_a_checkpoint_of_another_network_is_no_checkpoint_of_this(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    checkpoint.save(tmp_path, 1, TENSORS, {})
    found, _ = checkpoint.newest(tmp_path)
    assert found is not None
    for name in ("weights/a", "weights/b"):
        with pytest.raises(WorkFailed, match="another network"):
            found.read(name, torch.zeros(shape))


def test_a_file_of_one_rank_that_is_damaged_is_seen_by_all(tmp_path: Path) -> None:
    placement = place({"a": 6}, 1, 3, 2)
    tensors = {"rows": torch.zeros(2, 1)}
    for step in (1, 2):
        on_ranks(3, lambda ranks, step=step: checkpoint.save(
            tmp_path, step, tensors, {"step": step}, ranks, {"rows": placement}))  # fmt: skip
    (checkpoint.checkpoints(tmp_path)[-1] / "rank-0002.safetensors").unlink()
    for size in (1, 2, 3):
        for found, torn in on_ranks(size, lambda ranks: checkpoint.newest(tmp_path, ranks)):
            assert found is not None
            assert found.progress == {"step": 1}
            assert "rank-0002.safetensors" in torn[0]


def test_ranks_with_folders_of_their_own_are_told(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "0", 1, TENSORS, {"step": 1})
    with pytest.raises(WorkFailed, match="different checkpoints"):
        on_ranks(2, lambda ranks: checkpoint.newest(tmp_path / str(ranks.rank), ranks))


def test_ranks_of_several_hosts_write_parts_that_are_a_whole_together(tmp_path: Path) -> None:
    whole = torch.arange(3.0 * 50).view(-1, 3)
    placement = place({"a": 40, "b": 10}, 1, 4, 20)
    assert any(placement.sharded)

    def host(rank: int) -> Path:
        return tmp_path / f"host-{rank // 2}"

    def write(ranks: Ranks) -> None:
        own = torch.zeros(placement.local_rows, 3)
        for run in placement.runs(ranks.rank):
            own[run.at : run.at + run.rows] = whole[run.first :: run.step][: run.rows]
        for step in (1, 2, 3):
            checkpoint.save(
                host(ranks.rank), step, {"t": own, "x": torch.ones(2)}, {"step": step}, ranks,
                {"t": placement},
            )  # fmt: skip

    on_ranks(4, write)
    steps = ["step-000000000002", "step-000000000003"]
    for number in (0, 2):
        assert [path.name for path in sorted(host(number).iterdir())] == steps
    together = tmp_path / "together" / steps[1]
    for number in (0, 2):
        shutil.copytree(host(number) / steps[1], together, dirs_exist_ok=True)
    found, torn = checkpoint.newest(together.parent)
    assert found is not None and not torn
    read = torch.zeros_like(whole)
    found.read("t", read)
    assert torch.equal(read, whole)
