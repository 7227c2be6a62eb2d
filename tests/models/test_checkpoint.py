"""Checkpoints: whole or not there, verified, two generations, clear when the disk is full."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from models import checkpoint
from models.worker import WorkFailed

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
    assert checkpoint.newest(tmp_path)[0].progress == {"step": 1}  # type: ignore[union-attr]


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
