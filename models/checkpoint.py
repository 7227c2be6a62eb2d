"""Checkpoints that survive a kill, a full disk and a torn write.

A checkpoint is a folder `step-N`: one safetensors file a rank that holds something no other has,
and manifest.json with their checksums, which rows of which tensor lie where, and the progress.
All ranks write under another name; when all files are on the disk, rank 0 writes the manifest and
renames the folder, so a folder with the right name is whole; the checksums are verified all the
same. Ranks of several hosts may each have a folder of their own at that path: then a host's folder
has the files of its ranks alone, and whoever loads it has to bring them together. The last two are
kept. Tensors are written and read in pieces: no rank holds a second copy.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models import tensor_file
from models.dist import Ranks
from models.placement import Placement, Run, overlap
from models.tensor_file import Entry, Reader
from models.worker import WorkFailed, write_failed

VERSION = 2
KEPT = 2
ALONE = Ranks(0, 1)
_MANIFEST = "manifest.json"
_PIECE_BYTES = 1 << 20  # of each rank; larger ones are not faster, and ranks share some

Tensors = Mapping[str, torch.Tensor]
Placed = Mapping[str, Placement]  # the tensors whose rows are spread over the ranks


def save(
    folder: Path, step: int, tensors: Tensors, progress: Mapping[str, Any], ranks: Ranks = ALONE,
    placed: Placed | None = None,
) -> Path:  # fmt: skip
    """Write the checkpoint of that step and drop all but the last two; returns its folder.

    Every rank calls it with its own tensors; `progress` is rank 0's. Raises WorkFailed, on every
    rank, when a disk is full or not writable; the checkpoints before it stay.
    """
    placed, first = placed or {}, ranks.rank == 0
    whole = folder / f"step-{step:012d}"
    scratch = folder / str(_together(ranks, folder, lambda: _begin(folder, ranks))[0])
    try:
        written = _together(ranks, folder, lambda: _write_own(scratch, tensors, ranks, placed))
        manifest = {
            "version": VERSION, "step": step, "progress": dict(progress),
            "files": {_file(rank): one for rank, one in enumerate(written) if one},
        }  # fmt: skip
        _together(ranks, folder, lambda: _finish(scratch, whole, manifest) if first else None)
        # What still has that name lies on another host than rank 0's.
        _together(ranks, folder, lambda: _finish_elsewhere(scratch, whole, manifest))
    except WorkFailed:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return whole


def _begin(folder: Path, ranks: Ranks) -> str | None:
    """Rank 0 makes the folder to write to; its name says nothing else."""
    if ranks.rank:
        return None
    scratch = folder / f".writing-{os.getpid()}-{time.time_ns()}"
    _make_scratch(scratch)
    return scratch.name


def _make_scratch(scratch: Path) -> None:
    """Make it, and remove what a killed writer left; ranks of a host may do it at once."""
    for path in scratch.parent.glob(".writing-*"):
        if path != scratch:
            shutil.rmtree(path, ignore_errors=True)
    scratch.mkdir(parents=True, exist_ok=True)


def _write_own(
    scratch: Path, tensors: Tensors, ranks: Ranks, placed: Placed
) -> dict[str, Any] | None:
    """This rank's file: all on rank 0, on others their part of the tensors that are spread.

    Returns its checksum and, by tensor, the runs of rows in it.
    """
    rows: dict[str, list[Run]] = {}
    entries: dict[str, Entry] = {}
    for name, tensor in tensors.items():
        if name not in placed:
            if ranks.rank == 0:
                entries[name] = tensor_file.whole(tensor)
            continue
        cut = placed[name].replicated_rows if ranks.rank else 0
        entries[name] = tensor_file.whole(tensor[cut:])
        rows[name] = [run._replace(at=run.at - cut)
                      for run in placed[name].runs(ranks.rank) if run.at >= cut]  # fmt: skip
    if not entries:
        return None
    if not scratch.is_dir():
        _make_scratch(scratch)
    path = scratch / _file(ranks.rank)
    sha256 = tensor_file.write(path, entries)
    flush(path)
    return {"sha256": sha256, "rows": rows}


def _finish_elsewhere(scratch: Path, whole: Path, manifest: dict[str, Any]) -> None:
    """Another host's part of the checkpoint gets its name by the first of the ranks there."""
    mine = scratch.with_name(f"{scratch.name}-whole")
    try:
        scratch.rename(mine)
    except FileNotFoundError:  # this is rank 0's host, or another rank here was quicker
        return
    _finish(mine, whole, manifest)


def _finish(scratch: Path, whole: Path, manifest: dict[str, Any]) -> None:
    """Give the finished checkpoint its name."""
    (scratch / _MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    flush(scratch / _MANIFEST)
    flush(scratch)
    if whole.exists():  # the same step again: it was damaged, or it would have been resumed from
        shutil.rmtree(whole)
    scratch.rename(whole)
    flush(whole.parent)
    for old in checkpoints(whole.parent)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def checkpoints(folder: Path) -> list[Path]:
    """The folders of all checkpoints, oldest first."""
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def newest(folder: Path, ranks: Ranks = ALONE) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint, and a line for each newer one that is not whole.

    Every rank calls it; the ranks share the work of verifying. Raises WorkFailed when they do not
    see the same checkpoints.
    """
    torn: list[str] = []
    for name in ranks.share([path.name for path in reversed(checkpoints(folder))]):
        found, problem, manifest = None, "", ""
        try:
            manifest = _sha256(folder / name / _MANIFEST)
            found = Checkpoint.open(folder / name)
            found.verify(ranks)
        except (OSError, ValueError, KeyError, TypeError) as error:
            problem = f"{name} is damaged and was passed over: {error}"
        answers = ranks.collect([manifest, problem])
        if len({seen for seen, _ in answers}) > 1:
            raise WorkFailed(
                "the ranks found different checkpoints", why=f"in {folder}",
                todo="the checkpoint folder must be the same for all ranks",
            )  # fmt: skip
        problems = [problem for _, problem in answers if problem]
        if not problems:
            return found, torn
        torn.append(problems[0])
    return None, torn


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk. It can be read by any number of ranks, whatever number wrote it."""

    path: Path
    progress: dict[str, Any]
    files: dict[str, dict[str, Any]]

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """Read the manifest; OSError, ValueError or KeyError when it is not one of ours."""
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        if manifest["version"] != VERSION:
            raise ValueError(f"it has version {manifest['version']}, expected {VERSION}")
        return cls(path, manifest["progress"], manifest["files"])

    def verify(self, ranks: Ranks = ALONE) -> None:
        """Compare this rank's share of the files with their checksums; ValueError names one."""
        for name in sorted(self.files)[ranks.rank :: ranks.size]:
            if _sha256(self.path / name) != self.files[name]["sha256"]:
                raise ValueError(f"{name} does not match its checksum")

    def names(self) -> list[str]:
        """The tensors in it."""
        with Reader(self.path / _file(0)) as first:
            return first.names()

    def read(self, name: str, into: torch.Tensor, runs: Sequence[Run] | None = None) -> None:
        """Fill a tensor from the file; `runs`: the rows it holds of the whole (none: all).

        Raises WorkFailed when the checkpoint holds no such rows: it is of another network.
        """
        try:
            if into.ndim == 0:
                with Reader(self.path / _file(0)) as first:
                    into.copy_(first.read(name))
                return
            wanted = runs or [Run(0, 0, len(into), 1)]
            read = sum(self._read_file(file, name, into, wanted) for file in sorted(self.files))
            if read != sum(run.rows for run in wanted):
                raise ValueError(f"{name} has other rows")
        except (ValueError, KeyError, RuntimeError) as error:
            raise WorkFailed(
                f"{self.path} is the checkpoint of another network", why=str(error),
                todo="resume with the settings and data it was made with, or start a new run",
            ) from error  # fmt: skip

    def _read_file(self, file: str, name: str, into: torch.Tensor, wanted: Sequence[Run]) -> int:
        """Copy what one file has of the wanted rows; how many it had."""
        found = 0
        with Reader(self.path / file) as reader:
            if name not in reader.names():
                return 0
            if reader.shape(name)[1:] != tuple(into.shape[1:]):
                raise ValueError(f"{name} has rows of {reader.shape(name)[1:]}")
            whole = [Run(0, 0, reader.shape(name)[0], 1)]
            step = max(1, _PIECE_BYTES // max(1, into[:1].nbytes))
            for run in (Run(*numbers) for numbers in self.files[file]["rows"].get(name, whole)):
                for start in range(0, run.rows, step):
                    piece = run.part(start, min(step, run.rows - start))
                    shared = [both for own in wanted if (both := overlap(piece, own))]
                    rows = reader.read(name, piece.at, piece.rows) if shared else into[:0]
                    for both in shared:
                        source = rows[both.at - piece.at :: both.step][: both.rows]
                        into[both.other_at :: both.other_step][: both.rows] = source
                        found += both.rows
        return found


def write_weights(
    folder: Path, weights: Tensors, ranks: Ranks = ALONE, placed: Placed | None = None
) -> str:
    """Write weights.safetensors of a finished training; the same hash as `weights_sha256`.

    Every rank calls it; rank 0 writes, and gets what others hold in pieces. WorkFailed like `save`.
    """
    placed, digest = placed or {}, hashlib.sha256()
    entries = {}
    for name in sorted(weights):
        entry = tensor_file.whole(weights[name])
        if name in placed:
            shape = (placed[name].rows, *entry.shape[1:])
            entry = Entry(entry.dtype, shape, in_order(weights[name], placed[name], ranks))
        entries[name] = entry._replace(pieces=_hashed(digest, name, entry))

    def write() -> None:
        try:
            if ranks.rank == 0:
                _replace(folder, "weights.safetensors", lambda to: tensor_file.write(to, entries))
        finally:
            for name in sorted(entries):  # others send, whether rank 0 can write it or not
                for _ in entries[name].pieces:
                    pass

    _together(ranks, folder, write)
    return str(ranks.share(digest.hexdigest()))


def write_model(folder: Path, model: dict[str, Any]) -> None:
    """Write model.json, the last file of a finished training."""
    try:
        text = json.dumps(model, indent=1)
        _replace(folder, "model.json", lambda path: path.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise write_failed(error, str(folder)) from error


def in_order(tensor: torch.Tensor, placement: Placement, ranks: Ranks) -> Iterator[torch.Tensor]:
    """The rows of a whole tensor in order, in pieces, on rank 0; the others only send theirs."""
    step = max(1, _PIECE_BYTES // max(1, tensor[:1].nbytes))
    for table, spread in enumerate(placement.sharded):
        own = placement.run(table, ranks.rank)
        if not spread:
            if ranks.rank == 0:
                yield tensor[own.at : own.at + own.rows]
            continue
        held = [placement.run(table, rank).rows for rank in range(ranks.size)]
        for start in range(0, held[0], step):
            counts = [max(0, min(step, count - start)) for count in held]
            sent = [[count] + [0] * (ranks.size - 1) for count in counts]
            first = own.at + start
            parts = ranks.swap(tensor[first : first + counts[ranks.rank]], sent)
            if ranks.rank == 0:
                rows = tensor.new_empty((sum(counts), *tensor.shape[1:]))
                for rank, part in enumerate(parts):
                    rows[rank :: ranks.size] = part
                yield rows


def weights_sha256(tensors: Tensors) -> str:
    """One hash of tensors in name order: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        for _ in _hashed(digest, name, tensor_file.whole(tensors[name])):
            pass
    return digest.hexdigest()


def _hashed(digest: Any, name: str, entry: Entry) -> Iterator[torch.Tensor]:
    """The pieces of a tensor, added to a hash as they pass."""
    digest.update(f"{name}:{entry.dtype}:{entry.shape};".encode())
    for piece in entry.pieces:
        digest.update(tensor_file.view(piece))
        yield piece


def flush(path: Path) -> None:
    """Have the kernel write a file or folder to the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(folder: Path, name: str, write: Callable[[Path], Any]) -> None:
    """Write a file whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f".{name}"
    write(scratch)
    flush(scratch)
    scratch.rename(folder / name)
    flush(folder)


def _together(ranks: Ranks, folder: Path, act: Callable[[], Any]) -> list[Any]:
    """What an act gave on each rank; when it failed on one, its WorkFailed on all."""
    value, failure = None, None
    try:
        value = act()
    except OSError as error:
        explained = write_failed(error, str(folder))
        failure = [explained.what, explained.why, explained.todo]
    answers = ranks.collect([value, failure])
    for _, failed in answers:
        if failed:
            raise WorkFailed(*failed)
    return [given for given, _ in answers]


def _file(rank: int) -> str:
    return f"rank-{rank:04d}.safetensors"


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
