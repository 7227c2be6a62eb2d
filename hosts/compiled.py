"""The compiled modules of wheels, made once on the user's side, so that no host has to.

Beside a wheel lies an archive of its .pyc files, placed as they are in site-packages. They hold for
any CPython 3.11 and whatever the times of the sources are: PEP 552, unchecked hash-based files. A
wheel without one (its folder cannot be written, say) is compiled on each host.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from hosts.installer import UNCOMPILED

NAME = f"compiled-{int.from_bytes(importlib.util.MAGIC_NUMBER[:2], 'little')}.zip"
TICK_S = 0.5


def archive_of(wheel: Path) -> Path | None:
    """The archive beside a wheel; None when there is none."""
    path = wheel.with_name(NAME)
    return path if path.exists() else None


def compile_wheels(
    wheels: Sequence[Path], progress: Callable[[str, float, float], None], cores: int
) -> None:
    """Make the archives that are missing; `progress` is called twice a second at least.

    What does not parse stays uncompiled, as in the environments. Failing is no error: hosts then
    do it themselves.
    """
    lacking = [wheel for wheel in wheels if archive_of(wheel) is None]
    for done, wheel in enumerate(lacking):

        def tick(done: int = done) -> None:
            progress("compile", done, len(lacking))

        with contextlib.suppress(OSError, zipfile.BadZipFile, zlib.error):
            _compile(wheel, tick, cores)


def _compile(wheel: Path, tick: Callable[[], None], cores: int) -> None:
    tick()
    with tempfile.TemporaryDirectory(prefix=".incoming-", dir=wheel.parent.parent) as scratch:
        sources = Path(scratch) / "sources"
        sources.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            for name in filter(_is_module, archive.namelist()):
                archive.extract(name, sources)
        argv = [sys.executable, "-I", "-S", "-m", "compileall", "-q", "-j", str(max(cores, 1))]
        argv += ["--invalidation-mode", "unchecked-hash", "-s", str(sources), str(sources)]
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            while child.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(TICK_S)
                tick()
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        whole = Path(scratch) / NAME
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for path in sorted(sources.rglob("*.pyc")):
                entry = zipfile.ZipInfo(path.relative_to(sources).as_posix())
                entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                archive.writestr(entry, path.read_bytes(), compresslevel=1)
        os.replace(whole, wheel.with_name(NAME))


def _is_module(name: str) -> bool:
    """Whether a wheel's file is a module that environments compile."""
    *folders, file = name.split("/")
    placed_elsewhere = any(folder.endswith(".data") for folder in folders[:1])
    return file.endswith(".py") and not placed_elsewhere and not UNCOMPILED & set(folders)
