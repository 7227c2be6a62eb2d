"""The wheels that lock files name, collected once on the user's side.

Wheels lie in HOME/wheels/<sha256>/<file>.whl. A folder there appears by rename, so it is whole.
pip does the fetching, so that its configured sources, proxies and certificates count; it builds
what comes as source only (the two Spark packages), so that hosts need no build tools.
"""

from __future__ import annotations

import fcntl
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hosts.compiled import compile_wheels
from hosts.folders import sha256_of
from hosts.lockfile import Lock, Package, ProvisionError, normalized

Progress = Callable[[str, float, float], None]
"""Called with (phase, done, total), twice a second at least; what it raises ends the work."""

BUILT_FROM = "built-from.txt"
BUNDLED = Path(__file__).resolve().parent.parent / "bundle" / "wheels"  # of `aiok bundle`
TICK_S = 0.5
_TEMPORARY = (".incoming-", ".broken-")


def find_wheels(lock: Lock, home: Path) -> dict[str, Path]:
    """The wheels of a lock that HOME, or the bundle this checkout came from, holds, by name."""
    found = {}
    stores = [home / "wheels", BUNDLED]
    built = {path.read_text(): path.parent
             for store in stores for path in store.glob(f"*/{BUILT_FROM}")}  # fmt: skip
    for package in lock.packages:
        folders = [store / digest for store in stores for digest in package.hashes]
        folders += [built[digest] for digest in package.hashes if digest in built]
        wheels = (wheel for folder in folders for wheel in folder.glob("*.whl"))
        if wheel := next(wheels, None):
            found[package.name] = wheel
    return found


def missing_wheels(lock: Lock, home: Path) -> list[Package]:
    """The packages of a lock whose wheels HOME does not hold yet."""
    found = find_wheels(lock, home)
    return [package for package in lock.packages if package.name not in found]


def collect_wheels(
    lock: Lock,
    home: Path,
    extra_sources: Sequence[Path] = (),
    accept_large_torch: bool = False,
    progress: Progress = lambda phase, done, total: None,
) -> list[Path]:
    """Fetch the wheels that HOME lacks; returns the wheels of the whole lock.

    Sources: pip's configured ones and the folders `extra_sources`. Stock torch is fetched only when
    there is no CPU build and `accept_large_torch`; once fetched, it counts as accepted.
    Raises ProvisionError. Two processes may collect at once: one waits for the other.
    """
    with _store_lock(home, progress):
        try:
            choice = _choose_and_fetch(lock, home, extra_sources, accept_large_torch, progress)
        except OSError as error:
            raise _os_problem(home / "wheels", error) from None
        wheels = list(find_wheels(choice, home).values())
        compile_wheels(wheels, progress, len(os.sched_getaffinity(0)))
    return wheels


class _NotFound(ProvisionError):
    """No source has a package."""

    package = ""


def _choose_and_fetch(
    lock: Lock, home: Path, sources: Sequence[Path], accept_large: bool, progress: Progress
) -> Lock:
    """Fetch the CPU builds, or the stock ones if accepted; returns the lock that was fetched."""
    large = lock.large()
    if missing_wheels(lock, home) and large is not None and not missing_wheels(large, home):
        return large
    try:
        _fetch(lock, home, sources, progress)
    except _NotFound as problem:
        if large is None or not problem.package.endswith("+cpu"):
            raise
        if not accept_large:
            raise _no_cpu_build(problem, lock, large) from None
        _fetch(large, home, sources, progress)
        return large
    return lock


def _no_cpu_build(problem: _NotFound, lock: Lock, large: Lock) -> ProvisionError:
    size = f" (about {large.wheels_gib:.1f} GiB)" if large.wheels_gib else ""
    return ProvisionError(
        f"no configured source has the CPU build {problem.package}",
        problem.why,
        "point pip at a source with CPU builds (pip config set global.extra-index-url URL, or "
        f"PIP_FIND_LINKS, or --wheels FOLDER), or accept the stock build{size}: "
        f"aiok env install {lock.name} --accept-large-torch",
    )


@contextmanager
def _store_lock(home: Path, progress: Progress) -> Iterator[None]:
    """Hold the one lock of HOME/wheels; what a killed collector left there is removed."""
    store = home / "wheels"
    try:
        store.mkdir(parents=True, exist_ok=True)
        file = (store / ".lock").open("w")
    except OSError as error:
        raise _os_problem(store, error) from None
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                progress("wait for another collector", 0, 0)
                select.select([], [], [], TICK_S)
        os.set_inheritable(file.fileno(), True)  # a pip that outlives this process keeps the lock
        for name in os.listdir(store):
            if name.startswith(_TEMPORARY):
                shutil.rmtree(store / name, ignore_errors=True)
        yield


def _fetch(lock: Lock, home: Path, sources: Sequence[Path], progress: Progress) -> None:
    """Fetch what is missing, the builds that may be nowhere first."""
    missing = missing_wheels(lock, home)
    rare = [package for package in missing if "+" in package.version]
    total = len(missing)
    _check_space(lock, home, len(missing) / len(lock.packages))
    for group in (rare, [package for package in missing if package not in rare]):
        if group:
            already = total - len(missing_wheels(lock, home))
            _fetch_group(group, home, sources, _counted(progress, already, total))
    if left := missing_wheels(lock, home):
        names = ", ".join(package.name for package in left)
        raise ProvisionError(f"{lock.name}: pip did not deliver {names}", todo="start it again")


def _counted(progress: Progress, already: int, total: int) -> Callable[[str, float], None]:
    return lambda phase, done: progress(phase, already + done, total)


def _check_space(lock: Lock, home: Path, share: float) -> None:
    free_gib = shutil.disk_usage(home).free / 2**30
    if lock.wheels_gib * share > free_gib:
        raise ProvisionError(
            f"not enough disk space for the wheels of {lock.name}",
            f"{home} has {free_gib:.1f} GiB free, {lock.wheels_gib * share:.1f} GiB are needed",
            "free some space (aiok clean), or set AIOK_HOME to a folder on a larger disk",
        )


def _fetch_group(
    group: list[Package], home: Path, sources: Sequence[Path], said: Callable[[str, float], None]
) -> None:
    """One pip call for some packages, then each wheel into the store."""
    with tempfile.TemporaryDirectory(prefix=".incoming-", dir=home / "wheels") as scratch:
        folder = Path(scratch)
        requirements = folder / "requirements.txt"
        requirements.write_text("".join(f"{package.requirement}\n" for package in group))
        output = _run_pip(_pip_argv(group, requirements, folder, sources), folder, said)
        if output is not None:
            raise _pip_problem(output, group, home)
        for wheel in sorted(folder.glob("out/*.whl")):
            _keep(wheel, group, home)


def _pip_argv(
    group: list[Package], requirements: Path, folder: Path, sources: Sequence[Path]
) -> list[str]:
    argv = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--require-hashes", "--no-input"]
    argv += ["--disable-pip-version-check", "--no-build-isolation", "--progress-bar", "raw"]
    argv += ["--only-binary", ":all:"]
    for package in group:
        if package.from_source:
            argv += ["--no-binary", package.name]
    for source in sources:
        if not source.is_dir():
            raise ProvisionError(f"there is no folder of wheels {source}", todo="check the path")
        argv += ["--find-links", str(source.resolve())]
    return [*argv, "--wheel-dir", str(folder / "out"), "--requirement", str(requirements)]


def pip_environment(folder: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment without what would make pip install elsewhere or hide wheels."""
    hidden = {"PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_CONSTRAINT"}
    hidden |= {"PIP_NO_BINARY", "PIP_ONLY_BINARY", "PIP_QUIET", "PIP_VERBOSE", "PIP_LOG"}
    kept = {name: value for name, value in environ.items() if name not in hidden}
    return {**kept, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1", "LC_ALL": "C.UTF-8"}


def _run_pip(argv: list[str], folder: Path, said: Callable[[str, float], None]) -> str | None:
    """Run pip to its end, telling how many packages it has begun. Its output when it failed."""
    process = subprocess.Popen(
        argv,
        env=pip_environment(folder, os.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        close_fds=False,
    )
    assert process.stdout is not None
    begun, part, phase, text, kept = 0, 0.0, "download", b"", []
    try:
        while True:
            if select.select([process.stdout], [], [], TICK_S)[0]:
                data = os.read(process.stdout.fileno(), 1 << 16)
                if not data:
                    break
                *lines, text = (text + data).split(b"\n")
                for line in (raw.decode(errors="replace").strip() for raw in lines):
                    if fraction := re.fullmatch(r"Progress (\d+) of (\d+)", line):
                        part = int(fraction[1]) / max(int(fraction[2]), 1)
                        continue
                    kept.append(line)
                    if line.startswith(("Collecting ", "Processing ")):
                        begun, part = begun + 1, 0.0
                    elif building := re.match(r"Building wheel for (\S+)", line):
                        phase, part = f"build {building[1]}", 0.0
            said(phase, max(begun - 1, 0) + part)
        return None if process.wait() == 0 else "\n".join(kept)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()


def _keep(wheel: Path, group: list[Package], home: Path) -> None:
    """Move one wheel into the store under its hash."""
    digest = sha256_of(wheel)
    name, version = wheel.name.split("-")[:2]
    package = next(p for p in group if p.name == normalized(name))
    if digest not in package.hashes:  # built here: pip has checked the source's hash
        if not package.from_source:
            raise ProvisionError(f"{wheel.name} does not have the hash in the lock", why=version)
        (source,) = package.hashes
        (wheel.parent / digest).mkdir()
        (wheel.parent / digest / BUILT_FROM).write_text(source)
    (wheel.parent / digest).mkdir(exist_ok=True)
    wheel.rename(wheel.parent / digest / wheel.name)
    target = home / "wheels" / digest
    if target.exists():  # a folder without its wheel does not count: make room for the whole one
        shutil.rmtree(target)
    (wheel.parent / digest).rename(target)


def _pip_problem(output: str, group: list[Package], home: Path) -> ProvisionError:
    """Say in a sentence what pip said in many."""
    print(output)
    reason, todo = _source_problem(output)
    if "No space left on device" in output:
        return _os_problem(home / "wheels", OSError(28, "No space left on device"))
    if "DO NOT MATCH THE HASHES" in output:
        bad = re.search(r"HASHES.*\n\s*(\S+) from (\S+?)(?:#\S*)? ", output)
        return ProvisionError(
            f"{bad[1] if bad else 'a package'} has another hash than the lock says",
            f"it came from {bad[2]}" if bad else "",
            "do not use that source: check pip's configured sources (pip config list)",
        )
    absent = re.search(r"No matching distribution found for (\S+)", output)
    if absent:
        problem = _NotFound(
            f"no configured source has {absent[1]}",
            reason,
            todo,
        )
        problem.package = absent[1]
        return problem
    errors = [line for line in output.splitlines() if line.startswith("ERROR")] or ["no message"]
    names = ", ".join(package.name for package in group[:3])
    return ProvisionError(
        f"pip could not fetch {names} ...", reason or errors[-1], "start it again"
    )


def _source_problem(output: str) -> tuple[str, str]:
    """What keeps pip from asking a source, if it says so, and what to do."""
    host = r"https?://(?:[^/@\s]*@)?([^/:\s]+)"
    kinds = {
        rf"Could not fetch URL {host}\S* There was a problem confirming the ssl certificate": (
            "the certificate of {} is not trusted",
            "name the authority that signed it: PIP_CERT=FILE.pem (and REQUESTS_CA_BUNDLE or "
            "CURL_CA_BUNDLE where those are set), or pip config set global.cert FILE.pem",
        ),
        rf"(?:401|403) (?:Client )?Error.*?{host}": (
            "{} refuses the login",
            "check the name and the password in the source's address (pip config list)",
        ),
        r"after connection broken by .*?\(?host='([^']+)'": (
            "{} cannot be reached",
            "check the network, the proxy (HTTPS_PROXY) and pip's configured sources (pip config "
            "list), or give a folder that has the wheel: --wheels FOLDER",
        ),
    }
    for pattern, (reason, todo) in kinds.items():
        if found := re.search(pattern, output):
            return reason.format(found[1]), todo
    return "", ("check the network and pip's configured sources (pip config list), or give a "
                "folder that has the wheel: --wheels FOLDER")  # fmt: skip


def _os_problem(folder: Path, error: OSError) -> ProvisionError:
    return ProvisionError(
        f"{folder} cannot be written",
        error.strerror or str(error),
        "free some space (aiok clean), or set AIOK_HOME to a folder that can be written",
    )
