"""Checkpoints that survive a kill, a full disk and a torn write.

A checkpoint is a folder `step-N`: state.safetensors and manifest.json with its checksum and the
progress. It is written under another name, flushed to the disk and then renamed, so a folder with
the right name is whole; the checksum is verified all the same. The last two are kept.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from models.worker import WorkFailed

VERSION = 1
KEPT = 2
_STATE, _MANIFEST = "state.safetensors", "manifest.json"


def save(
    folder: Path, step: int, tensors: Mapping[str, torch.Tensor], progress: Mapping[str, Any]
) -> Path:
    """Write the checkpoint of that step and drop all but the last two; returns its folder.

    Raises WorkFailed when the disk is full or not writable; the checkpoints before it stay.
    """
    whole = folder / f"step-{step:012d}"
    scratch = folder / f".writing-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        scratch.mkdir()
        save_file({name: t.contiguous() for name, t in tensors.items()}, scratch / _STATE)
        manifest = {"version": VERSION, "step": step, "progress": dict(progress),
                    "sha256": {_STATE: _sha256(scratch / _STATE)}}  # fmt: skip
        (scratch / _MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        for name in (_STATE, _MANIFEST):
            flush(scratch / name)
        flush(scratch)
        if whole.exists():  # the same step again: after a resume, or at the end
            shutil.rmtree(whole)
        scratch.rename(whole)
        flush(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise _explained(error, folder) from error
    for old in checkpoints(folder)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return whole


def checkpoints(folder: Path) -> list[Path]:
    """The folders of all checkpoints, oldest first."""
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def load_newest(
    folder: Path,
) -> tuple[dict[str, torch.Tensor], dict[str, Any], list[str]]:
    """Tensors and progress of the newest whole checkpoint, and a line for each one that is not.

    Both are empty when there is no whole checkpoint.
    """
    torn: list[str] = []
    for path in reversed(checkpoints(folder)):
        try:
            return *load(path), torn
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            torn.append(f"{path.name} is damaged and was passed over: {error}")
    return {}, {}, torn


def load(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and progress of one checkpoint; ValueError when its checksum does not match."""
    manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
    if manifest["version"] != VERSION:
        raise ValueError(f"it has version {manifest['version']}, expected {VERSION}")
    if _sha256(path / _STATE) != manifest["sha256"][_STATE]:
        raise ValueError(f"{_STATE} does not match its checksum")
    return load_file(path / _STATE), manifest["progress"]


def weights_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """One hash of tensors in name order: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(memoryview(tensor.numpy().reshape(-1)).cast("B"))
    return digest.hexdigest()


def write_model(folder: Path, weights: Mapping[str, torch.Tensor], model: dict[str, Any]) -> None:
    """Write weights.safetensors and model.json of a finished training, model.json last."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("weights.safetensors", "model.json"):
            scratch = folder / f".{name}"
            if name == "model.json":
                scratch.write_text(json.dumps(model, indent=1), encoding="utf-8")
            else:
                save_file({key: t.contiguous() for key, t in weights.items()}, scratch)
            flush(scratch)
            scratch.rename(folder / name)
        flush(folder)
    except (OSError, SafetensorError) as error:
        raise _explained(error, folder) from error


def flush(path: Path) -> None:
    """Have the kernel write a file or folder to the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep(folder: Path) -> None:
    """Remove what a killed writer left half done; one training writes here at a time."""
    for path in folder.glob(".writing-*"):
        shutil.rmtree(path, ignore_errors=True)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _explained(error: Exception, folder: Path) -> WorkFailed:
    # safetensors gives the system's error as text
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    full = full or "os error 28" in str(error)
    what = "the disk is full" if full else "cannot write"
    return WorkFailed(
        f"{what}: {folder}",
        why=f"{error}; checkpoints written before are whole and kept",
        todo="free space there and resume" if full else "make the folder writable and resume",
    )
