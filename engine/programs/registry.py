"""The registered programs: one file each in $AIOK_HOME/programs, as they were when registered."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import InputError
from engine.programs.file import known_of, read_file
from engine.programs.schema import Known, Program
from engine.store import home, make_folder, safe_name, write_atomically
from engine.strict_yaml import parse, read, to_yaml
from models.settings import nearest


def _folder() -> Path:
    return home() / "programs"


def names() -> list[str]:
    """The names of all registered programs, in order."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def register(path: Path) -> Known:
    """Make the program of a file a model. Again from the same file: as it is now."""
    known = read_file(path)
    name = known.program.name
    if name in names() and get(name).file != known.file:
        raise InputError(
            f"there is already a program named {name}, from {get(name).file}",
            todo=f"aiok unregister {name}, or choose another name",
        )
    target = make_folder(_folder()) / f"{safe_name(name)}.yaml"
    text = read(path, "program").data
    write_atomically(target, to_yaml({"file": known.file, "program": text}))
    return known


def get(name: str) -> Known:
    """A registered program; InputError when there is none or what is kept of it is damaged."""
    if name not in names():
        hint = nearest(name, names()) if names() else "aiok register FILE"
        raise InputError(f"there is no program named {name}", todo=hint)
    path = _folder() / f"{safe_name(name)}.yaml"
    source = read(path, "program")
    kept, file = source.data.get("program"), source.data.get("file")
    if not isinstance(kept, Mapping) or not isinstance(file, str):
        raise InputError(f"{path} is damaged", todo=f"aiok unregister {name}, and register it anew")
    return known_of(parse(to_yaml(kept), name, str(path)), file)


def planned(settings: Mapping[str, Any]) -> Known:
    """The program that the settings of a planned step hold."""
    return Known(Program.model_validate(settings["program"]), settings["file"])


def unregister(name: str) -> None:
    """Forget a program; its own files stay."""
    if name not in names():
        get(name)
    (_folder() / f"{safe_name(name)}.yaml").unlink()
