"""Whole folders to a host and back: only what is missing travels, the folder appears at once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from hosts.site import Site
from hosts.transport import HostProblem

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all); what it raises ends the work."""

LIST = """
import hashlib, json, os, sys
root, found = sys.argv[1], {}
for folder, _, names in os.walk(root):
    for name in names:
        path = os.path.join(folder, name)
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found[os.path.relpath(path, root)] = [os.path.getsize(path), digest]
print(json.dumps(found))
"""
LIST_LIMIT_S = 3600.0  # a terabyte is hashed in less


def is_there(site: Site, folder: PurePosixPath) -> bool:
    """Whether a host has a folder."""
    return site.transport.run(["test", "-d", str(folder)]).code == 0


def send_folder(
    site: Site, source: Path, target: PurePosixPath, progress: Progress = lambda done, total: None
) -> int:
    """Copy a folder to a host unless it is there; returns the bytes that travelled.

    What an interrupted copy left is used. HostProblem when the host cannot take it.
    """
    if is_there(site, target):
        return 0
    files = {str(path.relative_to(source)): path for path in _files(source)}
    total = sum(path.stat().st_size for path in files.values())
    part = target.with_name(f".{target.name}.part")
    there = _listing(site, part)
    done = sent = 0
    for name, path in files.items():
        size = path.stat().st_size
        if there.get(name) != (size, sha256_of(path)):
            progress(done, total)
            site.transport.put(path, str(part / name))
            sent += size
        done += size
    progress(total, total)
    for name in set(there) - set(files):
        site.transport.run(["rm", "-f", str(part / name)])
    moved = site.transport.run(["mv", "-T", str(part), str(target)])
    if moved.code and not is_there(site, target):
        raise HostProblem(site.name, f"{target} cannot be written", moved.stderr.strip())
    return sent


def send_file(
    site: Site, source: Path, folder: PurePosixPath, progress: Progress = lambda done, total: None
) -> PurePosixPath:
    """Copy a file to FOLDER/DIGEST/NAME unless it is there; returns that path."""
    target = folder / sha256_of(source)[:20] / source.name
    size = source.stat().st_size
    if site.transport.run(["test", "-e", str(target)]).code:
        progress(0, size)
        site.transport.put(source, str(target))
    progress(size, size)
    return target


def fetch_folder(
    site: Site, source: PurePosixPath, target: Path, progress: Progress = lambda done, total: None
) -> int:
    """Copy what a host's folder holds into a folder here; returns the bytes that travelled.

    Files that are here with the same content stay as they are.
    """
    there = _listing(site, source)
    total, done, fetched = sum(size for size, _ in there.values()), 0, 0
    for name, (size, digest) in there.items():
        path = target / name
        if target.resolve() not in path.resolve().parents:  # what a host says is data
            raise HostProblem(site.name, f"it names a file outside of {source}: {name!r}")
        if not (path.is_file() and path.stat().st_size == size and sha256_of(path) == digest):
            progress(done, total)
            site.transport.get(str(source / name), path)
            fetched += size
        done += size
    progress(total, total)
    return fetched


def fetch_whole(sites: Sequence[Site], source: PurePosixPath, target: Path) -> None:
    """Copy a folder of which each host may have a part to a place here, where it appears whole or
    not at all. HostProblem when a host cannot be asked."""
    scratch = target.with_name(f".{target.name}.{os.getpid()}.part")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir(parents=True)
        for site in sites:
            fetch_folder(site, source, scratch)
        if target.exists():
            shutil.rmtree(target)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def digest_of(folder: Path) -> str:
    """sha256 over the names, contents and executable bits of all files below a folder here."""
    digest = hashlib.sha256()
    for path in _files(folder):
        line = [str(path.relative_to(folder)), os.access(path, os.X_OK), sha256_of(path)]
        digest.update(json.dumps(line).encode())
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    """Of the content of a file here, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _listing(site: Site, folder: PurePosixPath) -> dict[str, tuple[int, str]]:
    """Size and sha256 of every file below a folder of a host; {} when it is not there."""
    done = site.transport.run(
        [site.python, "-I", "-S", "-c", LIST, str(folder)], timeout_s=LIST_LIMIT_S
    )
    try:
        return {str(k): (int(v[0]), str(v[1])) for k, v in json.loads(done.stdout).items()}
    except (ValueError, TypeError, AttributeError):
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise HostProblem(site.name, f"{folder} cannot be read: {last}") from None
