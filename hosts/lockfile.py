"""Lock files: what an environment consists of, by exact version and hash."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path


class ProvisionError(Exception):
    """A host or this machine cannot be made ready: what is wrong, why, what to do."""

    def __init__(self, what: str, why: str = "", todo: str = "") -> None:
        super().__init__(what)
        self.what, self.why, self.todo = what, why, todo


@dataclass(frozen=True)
class Package:
    """One pinned package of a lock: its normalized name, version and allowed sha256 hashes."""

    name: str
    version: str
    hashes: frozenset[str]
    from_source: bool = False

    @property
    def requirement(self) -> str:
        """The line pip reads."""
        hashes = " ".join(f"--hash=sha256:{digest}" for digest in sorted(self.hashes))
        return f"{self.name}=={self.version} {hashes}"


@dataclass(frozen=True)
class Lock:
    """A lock file: exact versions with hashes. `digest` is of what it pins, not of its comments."""

    name: str
    packages: tuple[Package, ...]
    digest: str
    path: Path | None = None
    wheels_gib: float = field(default=0.0, compare=False)
    installed_gib: float = field(default=0.0, compare=False)

    @classmethod
    def read(cls, path: Path) -> Lock:
        """Parse a lock file; ProvisionError when it is missing or not a lock."""
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ProvisionError(
                f"the lock file {path} cannot be read", error.strerror or "", "mend the checkout"
            ) from None
        needs = re.search(r"^# needs: ([\d.]+) GiB wheels, ([\d.]+) GiB installed$", text, re.M)
        sizes = (float(needs[1]), float(needs[2])) if needs else (0.0, 0.0)
        return _make_lock(path.stem, _parse(path, text), path, *sizes)

    @classmethod
    def union(cls, name: str, *locks: Lock) -> Lock:
        """The packages of several locks; ProvisionError when they pin different versions."""
        packages: dict[str, Package] = {}
        for package in (package for lock in locks for package in lock.packages):
            known = packages.setdefault(package.name, package)
            if known.version != package.version:
                raise ProvisionError(
                    f"{name}: {package.name} is locked to {known.version} and {package.version}",
                    todo="run scripts/lock",
                )
        gib = sum(lock.wheels_gib for lock in locks), sum(lock.installed_gib for lock in locks)
        return _make_lock(name, list(packages.values()), None, *gib)

    def large(self) -> Lock | None:
        """The lock with stock builds instead of CPU ones, if there is one beside this."""
        if self.path is None:
            return None
        path = self.path.with_name(f"{self.path.stem}-large.txt")
        return Lock.read(path) if path.is_file() else None


def _make_lock(
    name: str, packages: list[Package], path: Path | None, wheels_gib: float, installed_gib: float
) -> Lock:
    packages = sorted(packages, key=lambda package: package.name)
    digest = hashlib.sha256("\n".join(p.requirement for p in packages).encode()).hexdigest()
    return Lock(name, tuple(packages), digest, path, wheels_gib, installed_gib)


def _parse(path: Path, text: str) -> list[Package]:
    packages, sources = [], set()
    for line in text.replace("\\\n", " ").splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] == "--no-binary":
            sources.add(normalized(words[1]))
            continue
        hashes = {word.removeprefix("--hash=sha256:") for word in words[1:]}
        name, _, version = words[0].partition("==")
        if not version or not hashes or not all(re.fullmatch("[0-9a-f]{64}", h) for h in hashes):
            raise ProvisionError(
                f"{path}: {words[0]} is not pinned by version and hash", todo="run scripts/lock"
            )
        name = normalized(name)
        packages.append(Package(name, version, frozenset(hashes), name in sources))
    if not packages:
        raise ProvisionError(f"{path}: the lock file is empty", todo="run scripts/lock")
    return packages


def normalized(name: str) -> str:
    """A package name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
