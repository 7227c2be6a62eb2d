"""The file that is copied to hosts: it builds one environment from wheels that are there already.

    installer.py missing           which of the wheels named on stdin this host lacks
    installer.py install           build the environment described on stdin
    installer.py remove            remove the environment described on stdin

The first line of stdin is one JSON object; progress and the end are JSON lines on stdout. When
stdin ends before the work does, the caller is gone: the work is undone.
Standard library only; runs with the Python the environment is for, and says so when it is not
CPython 3.11 (so it must parse from Python 3.8 on).

An environment is built as .building-* and renamed when whole; the marker is its last file.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from typing import Any

MARKER = "installed.json"
TICK_S = 0.5
CHUNK_FILES = 250
UNCOMPILED = {"tests", "test", "testing"}  # folders of libraries that nobody imports
GIB = float(2**30)


class Problem(Exception):
    """Why the host cannot have the environment: what, why, what to do."""


class Gone(Exception):
    """The caller went away: undo the work."""


CALLER_GONE = threading.Event()


def watch_caller() -> None:
    """Notice the end of stdin, in a thread."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        CALLER_GONE.set()

    threading.Thread(target=wait, daemon=True).start()


def say(**line: Any) -> None:
    """One JSON line to the caller; called twice a second at least. Raises Gone."""
    try:
        os.write(1, (json.dumps(line) + "\n").encode())
    except OSError:
        raise Gone from None
    if CALLER_GONE.is_set():
        raise Gone


def missing(order: dict[str, Any]) -> None:
    """Tell which files are not there in full size; `order["files"]` maps path to bytes."""
    lacking = []
    for path, size in order["files"].items():
        if not os.path.isfile(path) or os.path.getsize(path) != size:
            lacking.append(path)
    with contextlib.suppress(OSError):
        os.makedirs(order["place"], exist_ok=True)
    say(missing=lacking, free=shutil.disk_usage(existing(order["place"])).free)


def existing(path: str) -> str:
    """The nearest folder above that is there."""
    while not os.path.isdir(path):
        path = os.path.dirname(path) or "/"
    return path


def run(argv: list[str], phase: str, env: dict[str, str], lock: int) -> str:
    """Run a command to its end, with signs of life; returns its output if it failed."""
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(
            argv,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=(lock,),  # who outlives this process keeps the lock
        )
        with ended([child]):
            while child.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(TICK_S)
                say(phase=phase, done=0, total=0)
        output.seek(0)
        text = output.read().decode(errors="replace").strip()
    return "" if child.returncode == 0 else text or "exit code %d" % child.returncode


@contextlib.contextmanager
def ended(children: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Leave no child behind, in whatever way the work ends."""
    try:
        yield
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()


@contextlib.contextmanager
def locked(folder: str) -> Iterator[int]:
    """Hold the lock of one environment; wait for another installer that has it."""
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    path = os.path.join(os.path.dirname(folder), ".lock-" + os.path.basename(folder))
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                say(phase="wait for another installation", done=0, total=0)
                time.sleep(TICK_S)
        yield descriptor
    finally:
        os.close(descriptor)


def clear(folder: str) -> None:
    """Remove what earlier, killed installations of this environment left."""
    place, name = os.path.split(folder)
    for entry in os.listdir(place):
        if entry.startswith((".building-" + name, ".removing-" + name)):
            shutil.rmtree(os.path.join(place, entry), ignore_errors=True)


def check_host(order: dict[str, Any]) -> None:
    """Raise Problem unless this is the right Python with enough room."""
    found = "%s %s" % (platform.python_implementation(), platform.python_version())
    if not found.startswith("CPython 3.11."):
        raise Problem(
            "%s is %s; the environments need CPython 3.11" % (sys.executable, found),
            "",
            "install it (Debian 12: apt-get install python3), or name one in the inventory",
        )
    place = os.path.dirname(order["folder"])
    free = shutil.disk_usage(existing(place)).free
    if free < order["need"]:
        raise Problem(
            "not enough disk space to install %s" % order["name"],
            "%s has %.1f GiB free, %.1f GiB are needed" % (place, free / GIB, order["need"] / GIB),
            "free some space (aiok clean), or use a folder on a larger disk",
        )


def check_files(files: list[dict[str, str]]) -> None:
    """Compare each file with its hash; a damaged one is removed so that it is fetched anew."""
    for number, wanted in enumerate(files):
        say(phase="check", done=number, total=len(files))
        digest = hashlib.sha256()
        with open(wanted["path"], "rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
        if digest.hexdigest() != wanted["sha256"]:
            os.unlink(wanted["path"])
            raise Problem(
                "%s is damaged" % wanted["path"],
                "its hash is not the one it was stored under; it is removed now",
                "start again: it is fetched anew",
            )


def unpack(order: dict[str, Any], building: str, lock: int) -> None:
    """Make the environment and install all wheels into it, offline."""
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": building,
        "TMPDIR": building,
        "LC_ALL": "C.UTF-8",
        "UV_OFFLINE": "1",
        "UV_NO_CONFIG": "1",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_CACHE_DIR": order["unpacked"],  # once for all environments that have the wheel
        "UV_LINK_MODE": "hardlink",  # they are on one disk: nothing is copied
    }
    os.chmod(order["uv"], 0o755)
    python = getattr(sys, "_base_executable", None) or sys.executable
    venv = [order["uv"], "venv", "--quiet", "--relocatable", "--python", python]
    target = os.path.join(building, "env")
    wheels = [wheel["path"] for wheel in order["wheels"]]
    install = [order["uv"], "pip", "install", "--quiet", "--no-index", "--no-deps"]
    install += ["--python", os.path.join(target, "bin", "python"), *wheels]
    for argv in ([*venv, target], install):
        text = run(argv, "unpack", env, lock)
        if "No space left" in text:
            raise OSError(28, "No space left on device")
        if text:
            raise Problem("%s cannot be installed" % order["name"], text.splitlines()[-1], "")


def place_compiled(archives: list[dict[str, str]], target: str) -> None:
    """Unpack the .pyc files that came with the wheels."""
    library = os.path.join(target, "lib", "python%d.%d" % sys.version_info[:2], "site-packages")
    for number, archive in enumerate(archives):
        say(phase="unpack", done=number, total=len(archives))
        with zipfile.ZipFile(archive["path"]) as file:
            file.extractall(library)


def compile_all(order: dict[str, Any], target: str, lock: int) -> None:
    """Compile what came without a .pyc file, so that no import compiles again."""
    sources = []
    for folder, folders, files in os.walk(os.path.join(target, "lib")):
        folders[:] = [name for name in folders if name not in UNCOMPILED]
        there = os.path.join(folder, "__pycache__")
        compiled = set(os.listdir(there)) if os.path.isdir(there) else set()
        tag = sys.implementation.cache_tag
        sources += [
            os.path.join(folder, name) for name in files
            if name.endswith(".py") and "%s.%s.pyc" % (name[:-3], tag) not in compiled
        ]  # fmt: skip
    chunks = [sources[at : at + CHUNK_FILES] for at in range(0, len(sources), CHUNK_FILES)]
    total = len(chunks)
    running: list[subprocess.Popen[bytes]] = []
    with ended(running):
        while chunks or running:
            while chunks and len(running) < order["cores"]:
                running.append(start_compiler(chunks.pop(), len(chunks), target, lock))
            with contextlib.suppress(subprocess.TimeoutExpired):
                running[0].wait(TICK_S)
            running[:] = [child for child in running if child.poll() is None]
            say(phase="compile", done=total - len(chunks) - len(running), total=total)


def start_compiler(
    files: list[str], number: int, target: str, lock: int
) -> subprocess.Popen[bytes]:
    """Compile some files in a process of its own; what does not parse stays uncompiled."""
    names = os.path.join(os.path.dirname(target), "compile-%d.txt" % number)
    with open(names, "w") as file:
        file.write("\n".join(files))
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-m", "compileall", "-q", "-i", names],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(lock,),
    )


def install(order: dict[str, Any]) -> None:
    """Build the environment unless it is there; say so at the end."""
    folder, began = order["folder"], time.time()
    watch_caller()
    with locked(folder) as lock:
        clear(folder)
        if os.path.isfile(os.path.join(folder, MARKER)):
            say(done=True, built=False)
            return
        check_host(order)
        check_files(order["wheels"] + order["compiled"])
        place, name = os.path.split(folder)
        building = tempfile.mkdtemp(prefix=".building-%s-" % name, dir=place)
        try:
            target = os.path.join(building, "env")
            unpack(order, building, lock)
            place_compiled(order["compiled"], target)
            compile_all(order, target, lock)
            marker = {
                "name": order["name"],
                "lock": order["digest"],
                "python": platform.python_version(),
                "packages": order["packages"],
                "seconds": round(time.time() - began, 1),
            }
            with open(os.path.join(target, MARKER), "w") as file:
                json.dump(marker, file, indent=1)
            if os.path.exists(folder):
                shutil.rmtree(folder)
            os.rename(target, folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    say(done=True, built=True)


def remove(order: dict[str, Any]) -> None:
    """Take an environment away; it stops to count at once."""
    folder = order["folder"]
    with locked(folder) as lock:
        clear(folder)
        place, name = os.path.split(folder)
        gone = os.path.join(place, ".removing-%s-%d" % (name, os.getpid()))
        if os.path.isdir(folder):
            os.rename(folder, gone)
            shutil.rmtree(gone, ignore_errors=True)
        if os.path.exists(order["uv"]):  # it waits for installations that use what it removes
            env = {"UV_CACHE_DIR": order["unpacked"], "HOME": place, "UV_NO_CONFIG": "1"}
            run([order["uv"], "cache", "clean", "--quiet"], "remove", env, lock)
        say(done=True)


def main() -> int:
    """Do one order; every end but a kill is a line on stdout."""
    verbs = {"missing": missing, "install": install, "remove": remove}
    line = b""
    while not line.endswith(b"\n"):  # unbuffered: a watching thread reads what follows
        byte = os.read(0, 1)
        if not byte:
            return 3
        line += byte
    order = json.loads(line.decode())
    try:
        verbs[sys.argv[1]](order)
    except Gone:
        return 3
    except Problem as problem:
        what, why, todo = problem.args
        say(problem={"what": what, "why": why, "todo": todo})
        return 1
    except OSError as error:
        place = error.filename or os.path.dirname(order.get("folder", ""))
        say(
            problem={
                "what": "%s cannot be written or read" % place,
                "why": error.strerror or str(error),
                "todo": "free some space (aiok clean), or use a folder that can be written",
            }
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
