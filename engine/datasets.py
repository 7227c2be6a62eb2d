"""Registered data sets: a name for a path, its format and its columns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from engine.errors import InputError
from engine.facts import check_header, data_files
from engine.recipe import Dataset
from engine.store import RUN_NAME, home, make_folder, safe_name, write_atomically
from engine.strict_yaml import first_problem
from models.settings import nearest


@dataclass(frozen=True)
class Registered:
    """A registered data set."""

    name: str
    format: str
    path: str
    columns: dict[str, Any] | None
    exists: bool
    damage: str = ""

    @property
    def trouble(self) -> str:
        """Why it cannot be used, "" when it can."""
        return self.damage or ("" if self.exists else "MISSING")


def _folder() -> Path:
    return home() / "datasets"


def add(name: str, path: Path, format: str, columns: dict[str, Any] | None) -> Registered:
    """Register a path under a name; the files themselves stay where they are."""
    files = data_files(path)
    try:
        dataset = Dataset(format=format, path=str(path), columns=columns)  # type: ignore[arg-type]
    except ValidationError as error:
        raise InputError(f"{name}: {first_problem(error)}") from None
    if dataset.columns is not None:
        check_header(files, dataset.columns.names())
    if is_registered(name):
        raise InputError(
            f"there is already a data set named {name}", todo=f"aiok data remove {name} first"
        )
    target = make_folder(_folder()) / f"{safe_name(name)}.yaml"
    data = {"format": format, "path": str(path.expanduser().absolute()), "columns": columns}
    write_atomically(target, yaml.safe_dump(data, sort_keys=False))
    return get(name)


def get(name: str) -> Registered:
    """A registered data set by name; InputError when there is none or its file is damaged."""
    path = _folder() / f"{safe_name(name)}.yaml"
    if not path.is_file():
        known = sorted(entry.stem for entry in _folder().glob("*.yaml"))
        hint = nearest(name, known) if known else "aiok data add NAME PATH"
        raise InputError(f"there is no data set named {name}", todo=hint)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        Dataset(format=data["format"], path=data["path"], columns=data.get("columns"))
        return Registered(
            name, data["format"], data["path"], data.get("columns"), Path(data["path"]).exists()
        )
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
        said = " ".join(str(error).split())[:200]
        if isinstance(error, ValidationError):
            said = first_problem(error)
        raise InputError(f"{path} is damaged: {said}", todo=f"aiok data remove {name}") from None


def listing() -> list[Registered]:
    """All registered data sets in name order; a damaged one is listed, never hides the others."""
    found = []
    for path in sorted(_folder().glob("*.yaml")):
        try:
            found.append(get(path.stem))
        except InputError:
            found.append(Registered(path.stem, "", str(path), None, False, "DAMAGED"))
    return found


def is_registered(name: str) -> bool:
    """Whether a data set has this name."""
    return bool(RUN_NAME.fullmatch(name)) and (_folder() / f"{name}.yaml").is_file()


def remove(name: str) -> None:
    """Forget a data set; its files stay."""
    path = _folder() / f"{safe_name(name)}.yaml"
    if not path.is_file():
        get(name)
    path.unlink()
