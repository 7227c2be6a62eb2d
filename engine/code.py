"""The workers' code: which files an entry imports, and the copy every host runs from."""

from __future__ import annotations

import ast
import compileall
import hashlib
import os
import shutil
from functools import cache
from pathlib import Path

from engine.store import cannot_write, home

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "models"
AGENT = ROOT / "hosts" / "agent.py"


def module_file(name: str) -> Path | None:
    """The source file of a `models.*` module, None when there is none."""
    base = ROOT / Path(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@cache
def _imports(path: Path) -> frozenset[str]:
    """All `models.*` names a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(name for name in found if name.split(".")[0] == "models")


def files_of(module: str, extra: tuple[str, ...] = ()) -> list[Path]:
    """Every file of `models` that a worker's entry (and `extra` modules) reaches by imports."""
    todo, seen = [module, *extra], set()
    files: set[Path] = set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        path = module_file(name)
        if path is not None:
            files.add(path)
            todo += _imports(path)
    return sorted(files)


def digest_of(files: list[Path]) -> str:
    """A hash over names and contents."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(ROOT)}\0".encode())
        digest.update(path.read_bytes())
        digest.update(b"\0")
    return digest.hexdigest()


def all_files() -> list[Path]:
    """All files that are copied to a host."""
    found = [path for path in MODELS.rglob("*") if path.suffix in (".py", ".txt", ".json")]
    return sorted([*found, AGENT])


def present_code() -> str:
    """The name of the copy of the code as it stands now."""
    return digest_of(all_files())[:16]


def deploy() -> Path:
    """Copy the workers' code to $AIOK_HOME/code/HASH, once; returns that folder."""
    files = all_files()
    target = home() / "code" / present_code()
    if target.is_dir():
        return target
    building = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(building, ignore_errors=True)
    try:
        for path in files:
            relative = Path("agent.py") if path == AGENT else path.relative_to(ROOT)
            (building / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, building / relative)
        compileall.compile_dir(str(building), quiet=2)
        os.rename(building, target)
    except OSError as error:
        shutil.rmtree(building, ignore_errors=True)
        if not target.is_dir():  # else another process was quicker
            raise cannot_write(building, error) from None
    return target
