"""A bundle: the folder that holds all that scoring raw data needs.

`bundle.json` is written last and lists every other file with its size and sha256.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from models import catalog
from models.recdp.blocks import MANIFEST, Manifest, replace_file
from models.recdp.dictionary import dictionary_path
from models.worker import InputProblem

VERSION = 1
NAME = "bundle.json"
_TORCH_FORM = ("model.json", "weights.safetensors")
_LIBRARIES = ("torch", "openvino", "numpy", "pyarrow")


def serving_module(model: str) -> str:
    """The module with a model's forms for inference; InputProblem when the catalog lacks it."""
    if model not in catalog.names():
        raise InputProblem(f"unknown model {model}", todo=f"valid: {', '.join(catalog.names())}")
    return f"models.{model}.serving"


def gather(output: Path, weights: Path, manifest: Manifest) -> None:
    """Copy the torch form, the dictionaries and the manifest without blocks into `output`."""
    for name in _TORCH_FORM:
        _copy(weights / name, output / name)
    for column in manifest.categorical:
        target = dictionary_path(output, column)
        target.parent.mkdir(exist_ok=True)
        _copy(dictionary_path(manifest.folder, column), target)
    replace(manifest, folder=output, splits={}).save()


def _copy(source: Path, target: Path) -> None:
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise InputProblem(
            f"cannot copy {source}: {error.strerror}",
            "a bundle must hold everything that scoring needs",
            "check that the file exists and that the disk has room",
        ) from None


def seal(output: Path, content: Mapping[str, Any]) -> int:
    """Write bundle.json with the digest of every file in `output`; returns the bytes of all."""
    files: dict[str, dict[str, Any]] = {
        path.relative_to(output).as_posix(): {
            "bytes": path.stat().st_size, "sha256": _digest(path)
        }
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.name != NAME and not path.name.startswith(".")
    }  # fmt: skip
    for name in files:
        _flush(output / name)
    whole = {
        "version": VERSION,
        **content,
        "versions": {library: version(library) for library in _LIBRARIES},
        "files": files,
    }
    replace_file(output / NAME, json.dumps(whole, indent=1).encode() + b"\n")
    return sum(int(entry["bytes"]) for entry in files.values())


def read(folder: Path) -> dict[str, Any]:
    """bundle.json of a whole and undamaged bundle; InputProblem names what is wrong with it."""
    path = folder / NAME
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found, files = content["version"], dict(content["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputProblem(
            f"{folder} is no bundle: {error}", todo="give the folder that the optimize step wrote"
        ) from None
    if found != VERSION:
        raise InputProblem(
            f"{path} has version {found}, this aiok reads version {VERSION}",
            todo="export the model again",
        )
    for name, entry in files.items():
        _check(folder / name, entry)
    missing = {MANIFEST, *_TORCH_FORM} - set(files)
    if missing:
        raise InputProblem(f"{path} lists no {sorted(missing)[0]}", todo="export the model again")
    return content


def _check(path: Path, entry: Mapping[str, Any]) -> None:
    if not path.is_file():
        problem = "is missing"
    elif path.stat().st_size != entry["bytes"] or _digest(path) != entry["sha256"]:
        problem = "was changed or is damaged"
    else:
        return
    raise InputProblem(f"{path} {problem}", "the bundle is not whole", "export the model again")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
