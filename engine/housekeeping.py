"""Free disk: what no run needs any more."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.code import present_code
from engine.errors import InputError
from engine.store import (
    RunFolder,
    cache_folder,
    home,
    is_locked,
    open_run_folder,
    process_identity,
    remove_tree,
    run_folders,
)


@dataclass(frozen=True)
class Cleaned:
    """One thing that went (or would go)."""

    what: str
    path: Path
    gib: float


def clean(runs: Sequence[str] = (), everything: bool = False, dry: bool = False) -> list[Cleaned]:
    """Delete named runs (`everything`: all that are not at work), then what nothing refers to."""
    doomed = [open_run_folder(run) for run in runs]
    if everything:
        doomed = [RunFolder(p) for p in run_folders() if not is_locked(p / "lock")]
    for folder in doomed:
        if is_locked(folder.lock):
            raise InputError(f"{folder.id} is running", todo=f"aiok stop {folder.id} first")
    found = [Cleaned("run", folder.path, _gib(folder.path)) for folder in doomed]
    gone = {folder.path for folder in doomed}
    kept = [RunFolder(p) for p in run_folders() if p not in gone]
    found += _unused_cache(kept) + _unused_code(kept) + _leftovers()
    if not dry:
        for item in found:
            target = item.path.resolve() if item.what == "run" and item.path.is_symlink() else None
            remove_tree(item.path) if item.path.is_dir() else item.path.unlink(missing_ok=True)
            if target:
                remove_tree(target)
    return found


def _gib(path: Path) -> float:
    if path.is_file():
        return path.stat().st_size / 2**30
    total = 0
    for entry in path.rglob("*"):
        with contextlib.suppress(OSError):
            total += 0 if entry.is_symlink() or entry.is_dir() else entry.stat().st_size
    return total / 2**30


def _plans(kept: Sequence[RunFolder]) -> list[tuple[set[str], str]]:
    """The identities and the code that each readable plan names; a damaged one names nothing."""
    found = []
    for folder in kept:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            plan = json.loads(folder.plan.read_text(encoding="utf-8"))
            found.append(({str(step["identity"]) for step in plan["steps"]}, str(plan["code"])))
    return found


def _unused_cache(kept: Sequence[RunFolder]) -> list[Cleaned]:
    """Outputs that no plan of a kept run names, and half-built ones nobody is building."""
    used = {identity for identities, _ in _plans(kept) for identity in identities}
    found = []
    for path in sorted(cache_folder().glob("[!.]*")) if cache_folder().is_dir() else []:
        if path.name not in used and path.is_dir():
            found.append(Cleaned("cache", path, _gib(path)))
    for path in sorted(cache_folder().glob(".*.building")):
        identity = path.name.split(".")[1]
        if not is_locked(cache_folder() / f".{identity}.lock"):
            found.append(Cleaned("half-built", path, _gib(path)))
    return found


def _unused_code(kept: Sequence[RunFolder]) -> list[Cleaned]:
    """Code that no plan names; the present code stays, a data job or a new run may be using it."""
    used = {code for _, code in _plans(kept)} | {present_code()}
    folder = home() / "code"
    return [
        Cleaned("code", path, _gib(path))
        for path in (sorted(folder.iterdir()) if folder.is_dir() else [])
        if path.name not in used and not path.name.startswith(f".{present_code()}.")
    ]


def _leftovers() -> list[Cleaned]:
    """Scratch of jobs whose agent is gone."""
    from engine.work import jobs_folder, run_of_job

    found = []
    for path in sorted(jobs_folder().glob("*")) if jobs_folder().is_dir() else []:
        run = run_of_job(path.name)
        if not (run and is_locked(home() / "runs" / run / "lock")) and not _is_supervised(path):
            found.append(Cleaned("job", path, _gib(path)))
    for path in sorted((home() / "work").glob("*-*")):
        pid = path.name.split("-")[1]  # WORKER-PID[-NUMBER]
        if pid.isdecimal() and not process_identity(int(pid)):
            found.append(Cleaned("job", path, _gib(path)))
    return found


def _is_supervised(job: Path) -> bool:
    """Whether the supervisor of a job folder lives."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        pid, started = json.loads((job / "supervisor.pid").read_text(encoding="utf-8"))
        return bool(process_identity(int(pid)).get("start") == started)
    return False
