"""Environments on a host: the same lock, the same steps, for this machine and for remote ones.

An environment is HOME/envs/<name>-<12 digits of the lock's digest> on the host. `install` copies
there what the host lacks of the wheels (by hash), then lets `installer.py` build it offline.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import zipfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from hosts import installer
from hosts.compiled import archive_of
from hosts.folders import sha256_of
from hosts.lockfile import Lock, Package, ProvisionError
from hosts.transport import Channel, HostProblem, NoAnswer, Transport
from hosts.wheels import Progress, collect_wheels, find_wheels, missing_wheels

__all__ = [
    "Lock",
    "Package",
    "Progress",
    "ProvisionError",
    "collect_wheels",
    "environment_folder",
    "find_wheels",
    "install",
    "is_installed",
    "local_python",
    "missing_wheels",
    "remove",
]

PYC_SHARE = 1.3  # compiled files and folders, beside what the wheels unpack to


def environment_folder(home: str | Path, lock: Lock) -> Path:
    """Where an environment lies under a host's home of aiok."""
    return Path(home) / "envs" / f"{lock.name}-{lock.digest[:12]}"


def local_python() -> str:
    """The Python behind this process, outside of any virtual environment."""
    return str(getattr(sys, "_base_executable", sys.executable))


def is_installed(transport: Transport, folder: str | PurePath) -> bool:
    """Whether a host has the whole environment (its marker is written last). One command."""
    return transport.run(["test", "-f", f"{folder}/{installer.MARKER}"]).code == 0


def install(
    transport: Transport,
    lock: Lock,
    wheels: Sequence[Path],
    folder: str | PurePath,
    python: str,
    progress: Progress = lambda phase, done, total: None,
    cores: int = 2,
) -> bool:
    """Build an environment on a host from collected wheels; False when it was there already.

    `folder` is `environment_folder` of the host's home, `python` a CPython 3.11 on the host.
    `progress` hears ("copy", bytes, bytes), then the phases check, unpack and compile; what it
    raises undoes the work. Raises ProvisionError and HostProblem. Two installers of one
    environment: the second waits for the first. What a killed one leaves never counts.
    """
    if is_installed(transport, folder):
        return False
    place = PurePosixPath(folder).parent
    archives = [path for wheel in wheels if (path := archive_of(wheel)) is not None]
    targets, compiled = (
        {str(place.parent / "wheels" / path.parent.name / path.name): path for path in paths}
        for paths in (wheels, archives)
    )
    tools = _tools(place)
    files = {**targets, **compiled, tools["uv"]: uv_binary()}
    script = _put_installer(transport, place)
    _copy(transport, python, script, files, place, progress)
    order = {
        "name": lock.name,
        "digest": lock.digest,
        "folder": str(folder),
        **tools,
        "cores": max(cores, 1),
        "need": int(PYC_SHARE * sum(map(unpacked_bytes, wheels))),
        "wheels": [{"path": to, "sha256": wheel.parent.name} for to, wheel in targets.items()],
        "compiled": [{"path": to, "sha256": sha256_of(path)} for to, path in compiled.items()],
        "packages": {package.name: package.version for package in lock.packages},
    }
    for line in _talk(transport, python, script, "install", order):
        if line.get("done") is True:
            return bool(line["built"])
        progress(str(line["phase"]), float(line["done"]), float(line["total"]))
    raise ProvisionError(
        f"the installation of {lock.name} on {transport.host} ended too early",
        "its process was killed, or the connection was lost",
        "start it again",
    )


def remove(transport: Transport, folder: str | PurePath, python: str) -> None:
    """Take an environment off a host, and what is kept unpacked for the next one, so that the
    space is free. Other environments are not touched. Raises ProvisionError and HostProblem."""
    place = PurePosixPath(folder).parent
    if place.name != "envs":
        raise ProvisionError(f"{folder} is not a folder of environments")
    script = _put_installer(transport, place)
    for _ in _talk(transport, python, script, "remove", {"folder": str(folder), **_tools(place)}):
        pass


def _tools(place: PurePosixPath) -> dict[str, str]:
    """Where a host has the installer program and the unpacked wheels that it links from."""
    return {
        "uv": f"{place}/.uv-{version('uv')}", "unpacked": str(place.parent / "wheels" / "unpacked")
    }  # fmt: skip


def uv_binary() -> Path:
    """The installer program that came with this environment."""
    from uv import find_uv_bin

    return Path(os.fsdecode(find_uv_bin()))


def unpacked_bytes(wheel: Path) -> int:
    """What a wheel takes when installed; ProvisionError when it is no wheel."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            return sum(entry.file_size for entry in archive.infolist())
    except (OSError, zipfile.BadZipFile) as error:
        raise ProvisionError(
            f"{wheel} cannot be read", str(error), "remove it: it is fetched anew"
        ) from None


def _put_installer(transport: Transport, place: PurePosixPath) -> str:
    source = Path(installer.__file__)
    target = f"{place}/.installer.py"
    transport.put(source, target)
    return target


def _copy(
    transport: Transport,
    python: str,
    script: str,
    files: dict[str, Path],
    place: PurePosixPath,
    progress: Progress,
) -> None:
    """Copy to the host what it lacks; nothing on the machine that collected the wheels."""
    sizes = {target: source.stat().st_size for target, source in files.items()}
    order = {"files": sizes, "place": str(place)}
    answer = next(iter(list(_talk(transport, python, script, "missing", order))), None)
    if answer is None:
        raise _no_python(transport, python)
    total, done = sum(sizes[target] for target in answer["missing"]), 0
    if total > answer["free"]:
        raise ProvisionError(
            f"not enough disk space on {transport.host} to copy the wheels",
            f"{answer['free'] / 2**30:.1f} GiB are free, {total / 2**30:.1f} GiB are needed",
            "free some space, or use a folder on a larger disk",
        )
    for target in answer["missing"]:
        progress("copy", done, total)
        transport.put(files[target], target)
        done += sizes[target]


def _talk(
    transport: Transport, python: str, script: str, verb: str, order: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Run the installer on the host and hand on what it says; its problem is raised here."""
    try:
        channel: Channel = transport.start([python, "-I", "-S", script, verb])
    except NoAnswer:
        raise
    except HostProblem:
        raise _no_python(transport, python) from None
    try:
        with contextlib.suppress(HostProblem):  # one that is gone already has said why, or nothing
            channel.write(json.dumps(order).encode() + b"\n")
        for raw in channel.lines():
            line = json.loads(raw)
            if problem := line.get("problem"):
                raise ProvisionError(
                    f"{transport.host}: {problem['what']}", problem["why"], problem["todo"]
                )
            yield line
    except json.JSONDecodeError:
        raise HostProblem(transport.host, "the installer said something unreadable") from None
    finally:
        channel.close()


def _no_python(transport: Transport, python: str) -> ProvisionError:
    return ProvisionError(
        f"{transport.host}: {python} does not run there",
        "the environments need CPython 3.11 on every host",
        "install it (Debian 12: apt-get install python3), or name one in the inventory",
    )
