"""One file for sites without internet: this checkout and every wheel it needs."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from engine import environments
from engine.code import ROOT
from engine.errors import EnvironmentProblem, system_problem
from engine.store import check_writable, home, regular_file
from hosts import provision
from hosts.wheels import BUILT_FROM

LEFT_OUT = {".git", ".venv", ".venv.lock", ".test-envs", "bundle", "__pycache__", "build"}
FOLDER = "aiok"  # what the file unpacks to
Progress = Callable[[str, float, float], None]


def make(target: Path, names: Sequence[str], progress: Progress) -> Path:
    """Write the bundle, whole or not at all; returns its path.

    Unpacked, `aiok/scripts/aiok` installs the app from `aiok/bundle/app`, and environments find
    their wheels in `aiok/bundle/wheels`. EnvironmentProblem when wheels cannot be had here.
    """
    target = regular_file(target)
    check_writable(target)  # before wheels are fetched for minutes
    app = _wheels(provision.Lock.read(ROOT / "locks" / "app.txt"), progress)
    wheels = [wheel for name in names for wheel in _wheels(environments.lock_of(name), progress)]
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with tarfile.open(part, "w") as tar:
            _fill(tar, app, wheels, progress)
        part.replace(target)
    except OSError as error:
        raise system_problem(error, f"cannot write {target}") from None
    finally:
        part.unlink(missing_ok=True)
    return target


def _wheels(lock: provision.Lock, progress: Progress) -> list[Path]:
    def tell(phase: str, done: float, total: float) -> None:
        progress(f"{lock.name}: {phase}", done, total)

    try:
        return provision.collect_wheels(lock, home(), progress=tell)
    except provision.ProvisionError as error:
        raise EnvironmentProblem(error.what, why=error.why, todo=error.todo) from None


def _fill(
    tar: tarfile.TarFile, app: Sequence[Path], wheels: Sequence[Path], progress: Progress
) -> None:
    files = {path.relative_to(ROOT).as_posix(): path for path in _checkout(ROOT)}
    files |= {f"bundle/app/{wheel.name}": wheel for wheel in app}
    for wheel in wheels:
        for path in (wheel, wheel.parent / BUILT_FROM):
            if path.exists():
                files[f"bundle/wheels/{wheel.parent.name}/{path.name}"] = path
    total, done = sum(path.stat().st_size for path in files.values()), 0
    for name, path in files.items():
        progress("pack", done, total)
        tar.add(path, f"{FOLDER}/{name}", filter=_nobody)
        done += path.stat().st_size
    progress("pack", total, total)


def _checkout(folder: Path) -> Iterator[Path]:
    """The files of the checkout, without what is made in it."""
    for entry in sorted(folder.iterdir()):
        if entry.name in LEFT_OUT or entry.name.endswith((".egg-info", "_cache")):
            continue
        if entry.is_dir() and not entry.is_symlink():
            yield from _checkout(entry)
        elif entry.is_file():
            yield entry


def _nobody(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """Files of nobody in particular."""
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info
