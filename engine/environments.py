"""The worker environments of this machine: where they lie, and how one comes to be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import EnvironmentProblem, InputError, RunStopped
from engine.plan import LOCKS
from engine.store import folder_gib, home, make_folder
from hosts import provision
from hosts.local import LocalTransport
from hosts.transport import HostProblem, Transport
from models.settings import nearest

WORKS_IN = "torch"  # what training needs: the preflight finds disk for it on a host
Progress = Callable[[str, float, float], None]


@dataclass(frozen=True)
class EnvironmentState:
    """One line of `aiok env list`."""

    name: str
    packages: int
    folder: Path
    installed: bool
    size_gib: float


def names() -> list[str]:
    """The environments aiok knows, by their lock files."""
    return sorted(p.stem for p in LOCKS.glob("*.txt") if p.stem != "torch-large")


def lock_of(name: str) -> provision.Lock:
    """The lock file of an environment; InputError for an unknown name."""
    if name not in names():
        raise InputError(f"there is no environment {name}", todo=nearest(name, names()))
    return provision.Lock.read(LOCKS / f"{name}.txt")


def environment_folder(name: str) -> Path:
    """Where the environment of the current lock lies (or would lie) on this machine."""
    return Path(provision.environment_folder(home(), lock_of(name)))


def missing(transport: Transport) -> dict[str, float]:
    """The environments that are not whole, and the disk each will take (wheels too), in GiB."""
    found = {}
    for name in names():
        if not provision.is_installed(transport, environment_folder(name)):
            lock = lock_of(name)
            found[name] = lock.wheels_gib + lock.installed_gib
    return found


def missing_there(whole: Sequence[str]) -> dict[str, provision.Lock]:
    """The environments that are not among the whole folders of a host."""
    folders = {Path(path).name for path in whole}
    return {name: lock_of(name) for name in names()
            if environment_folder(name).name not in folders}  # fmt: skip


def size_to_install(name: str, transport: Transport) -> str:
    """What installing an environment will take, in words; "" when it is whole."""
    if provision.is_installed(transport, environment_folder(name)):
        return ""
    lock = lock_of(name)
    return f"{lock.wheels_gib:.1f} GiB of wheels, {lock.installed_gib:.1f} GiB installed"


def install_environment(
    name: str,
    transport: Transport,
    progress: Progress,
    stop_level: Callable[[], int] = lambda: 0,
    sources: Sequence[Path] = (),
    accept_large_torch: bool = False,
) -> bool:
    """Make an environment whole; False when it was already. EnvironmentProblem says why not."""
    lock, folder = lock_of(name), environment_folder(name)
    make_folder(home())

    def report(phase: str, done: float, total: float) -> None:
        if stop_level():
            raise RunStopped("stopped on request")
        progress(phase, done, total)

    try:
        if provision.is_installed(transport, folder):
            return False
        wheels = provision.collect_wheels(lock, home(), sources, accept_large_torch, report)
        provision.install(transport, lock, wheels, folder, provision.local_python(), report)
    except provision.ProvisionError as error:
        raise EnvironmentProblem(error.what, why=error.why, todo=error.todo) from None
    except HostProblem as error:
        raise EnvironmentProblem(
            f"{error.host}: {error.what}", why=error.why, todo=error.todo
        ) from None
    return True


def states(transport: Transport) -> list[EnvironmentState]:
    """All environments with their size on disk."""
    found = []
    for name in names():
        folder = environment_folder(name)
        whole = provision.is_installed(transport, folder)
        size_gib = folder_gib(folder) if whole else 0.0
        found.append(EnvironmentState(name, len(lock_of(name).packages), folder, whole, size_gib))
    return found


def remove_environment(name: str) -> bool:
    """Delete an environment and its older versions; False when there was none."""
    folder = environment_folder(name)
    found = list(folder.parent.glob(f"{name}-*")) if folder.parent.is_dir() else []
    for path in found:
        provision.remove(LocalTransport(), path, provision.local_python())
    return bool(found)


def listing() -> list[EnvironmentState]:
    """The environments of this machine."""
    return states(LocalTransport())


def size_to_install_here(name: str) -> str:
    """What installing an environment on this machine will take; "" when it is whole."""
    return size_to_install(name, LocalTransport())


def install_here(
    name: str, progress: Progress, sources: Sequence[Path], accept_large_torch: bool
) -> bool:
    """Install an environment on this machine; False when it was already."""
    return install_environment(
        name, LocalTransport(), progress, sources=sources, accept_large_torch=accept_large_torch
    )
