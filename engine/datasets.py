"""Registered data sets: a name for a path, its format and its columns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from engine.errors import InputError
from engine.facts import data_files
from engine.recipe import Dataset
from engine.store import home, make_folder, safe_name, write_atomically
from models.settings import nearest


@dataclass(frozen=True)
class Registered:
    """A registered data set."""

    name: str
    format: str
    path: str
    columns: dict[str, Any] | None
    exists: bool


def _folder() -> Path:
    return home() / "datasets"


def add(name: str, path: Path, format: str, columns: dict[str, Any] | None) -> Registered:
    """Register a path under a name; the files themselves stay where they are."""
    data_files(path)
    try:
        Dataset(format=format, path=str(path), columns=columns)  # type: ignore[arg-type]
    except ValueError as error:
        first = str(error).splitlines()
        raise InputError(f"{name}: {first[2].strip() if len(first) > 2 else first[0]}") from None
    target = make_folder(_folder()) / f"{safe_name(name)}.yaml"
    data = {"format": format, "path": str(path.expanduser().absolute()), "columns": columns}
    write_atomically(target, yaml.safe_dump(data, sort_keys=False))
    return get(name)


def get(name: str) -> Registered:
    """A registered data set by name; InputError when there is none or its file is damaged."""
    path = _folder() / f"{safe_name(name)}.yaml"
    if not path.is_file():
        known = [entry.name for entry in listing()]
        hint = nearest(name, known) if known else "aiok data add NAME PATH"
        raise InputError(f"there is no data set named {name}", todo=hint)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Registered(
            name, data["format"], data["path"], data.get("columns"), Path(data["path"]).exists()
        )
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged: {error}", todo=f"aiok data remove {name}") from None


def listing() -> list[Registered]:
    """All registered data sets in name order."""
    if not _folder().is_dir():
        return []
    return [get(path.stem) for path in sorted(_folder().glob("*.yaml"))]


def remove(name: str) -> None:
    """Forget a data set; its files stay."""
    path = _folder() / f"{safe_name(name)}.yaml"
    if not path.is_file():
        get(name)
    path.unlink()
