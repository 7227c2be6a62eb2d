"""The places of aiok on this machine, and the files of a run folder.

A run folder: recipe.yaml plan.json events.jsonl lock telemetry/ logs/STEP/ artifacts/STEP.
The run process alone writes recipe, plan, events and lock; a reader needs no lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import time
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import EnvironmentProblem, InputError, system_problem
from engine.events import Event, decode, encode
from engine.state import RunState, RunStatus, fold

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


def home() -> Path:
    """$AIOK_HOME, by default ~/.local/share/aiok."""
    return Path(os.environ.get("AIOK_HOME") or "~/.local/share/aiok").expanduser().absolute()


def home_id() -> str:
    """A name for this home, made at the first call: on one host jobs of two homes may meet whose
    runs have the same name. EnvironmentProblem when it cannot be kept."""
    path = home() / "id"
    if not path.exists():
        scratch = make_folder(home()) / f".id.{os.getpid()}.{secrets.token_hex(4)}"
        write_atomically(scratch, secrets.token_hex(4))
        with contextlib.suppress(FileExistsError):  # another process was first
            os.link(scratch, path)
        scratch.unlink()
    found = path.read_text(encoding="ascii", errors="replace").strip()
    if not re.fullmatch(r"[0-9a-f]{8}", found):
        raise EnvironmentProblem(f"{path} is damaged", todo="remove it while no run is at work")
    return found


def runs_folder() -> Path:
    """Where all run folders lie."""
    return home() / "runs"


def cache_folder() -> Path:
    """Where finished step outputs lie, one folder an identity."""
    return home() / "cache"


def make_folder(path: Path) -> Path:
    """Create a folder with its parents; EnvironmentProblem says why that failed."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        ours = path.is_relative_to(home())
        raise EnvironmentProblem(
            f"cannot write to {path}: {error.strerror}",
            why="aiok keeps runs, caches and environments there" if ours else "",
            todo="make the folder writable, or "
            + ("set AIOK_HOME to one that is" if ours else "name another one"),
        ) from None
    return path


def folder_gib(folder: Path) -> float:
    """Size of all files below a folder; what is gone meanwhile counts as nothing."""
    total = 0
    for root, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(root, name)).st_size
    return total / 2**30


def refuse_existing(path: Path) -> None:
    """InputError when something is at a path that a user wants a new file at."""
    if path.exists():
        raise InputError(f"{path} is there already", todo="name a new file")


def write_atomically(path: Path, text: str) -> None:
    """Replace a file as a whole: a reader sees the old text or the new, never a part.

    A link stays and its file is replaced. InputError where no regular file can stand,
    EnvironmentProblem when it cannot be written; neither leaves anything behind.
    """
    target = regular_file(path)
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with open(scratch, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, target)
    except OSError as error:
        raise cannot_write(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink()


def regular_file(path: Path) -> Path:
    """The file to write for a path, links followed; InputError where another thing stands."""
    target = Path(os.path.realpath(path.expanduser()))
    if target.is_dir():
        raise InputError(f"{path} is a folder", todo="name a file in it")
    if target.exists() and not target.is_file():
        raise InputError(f"{path} is a device or a pipe, not a file", todo="name a file")
    return target


def check_writable(path: Path) -> None:
    """EnvironmentProblem when no file can be made beside this one."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.touch()
    except OSError as error:
        raise cannot_write(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink()


def cannot_write(path: Path, error: OSError) -> EnvironmentProblem:
    """What the system refused, with the file and what to do."""
    return system_problem(error, f"cannot write {path}")


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run."""

    path: Path

    @property
    def id(self) -> str:
        """The name of the run."""
        return self.path.name

    @property
    def tag(self) -> str:
        """What the names of its jobs begin with; no run of another home has the same."""
        return f"{home_id()}.{self.id}"

    @property
    def recipe(self) -> Path:
        """The full recipe, as the advisor left it."""
        return self.path / "recipe.yaml"

    @property
    def plan(self) -> Path:
        """The plan, as JSON."""
        return self.path / "plan.json"

    @property
    def events(self) -> Path:
        """The append-only journal."""
        return self.path / "events.jsonl"

    @property
    def lock(self) -> Path:
        """Held (flock) by the run process; names its pid."""
        return self.path / "lock"

    @property
    def report(self) -> Path:
        """The HTML report (its JSON twin lies beside it)."""
        return self.path / "artifacts" / "report" / "report.html"

    def telemetry(self, host: str) -> Path:
        """Samples of a host, JSON lines."""
        return self.path / "telemetry" / f"{safe_name(host)}.jsonl"

    def logs(self, step: str) -> Path:
        """The folder of a step's log files."""
        return self.path / "logs" / safe_name(step)

    def artifacts(self, step: str) -> Path:
        """A link to the step's output in the cache, or a folder of the run's own."""
        return self.path / "artifacts" / safe_name(step)

    def state(self) -> RunState:
        """The folded events, with LOST where the run process is gone without a word."""
        state = RunState()
        self.read_on(state, 0)
        state.id = state.id or self.id
        return state

    def read_on(self, state: RunState, offset: int) -> tuple[list[Event], int]:
        """Fold the events after an offset into a state: these events, and the new offset. LOST
        where the run process is gone without a word."""
        events, offset = read_events(self.events, offset)
        fold(events, state)
        if state.status.is_live and not is_locked(self.lock):
            late, offset = read_events(self.events, offset)  # ended between the two looks?
            fold(late, state)
            events += late
            if state.status.is_live:
                state.status = RunStatus.LOST
        return events, offset


def safe_name(name: str) -> str:
    """`name` if it can be a file name; InputError otherwise (ids are never paths)."""
    if not RUN_NAME.fullmatch(name):
        raise InputError(f"{name!r} is not a valid name", todo="use letters, digits, . _ and -")
    return name


def run_name(title: str) -> str:
    """A name for the runs of a recipe: its file's name, without what a run's id cannot hold."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-._")[:60] or "recipe"


def create_run_folder(name: str) -> RunFolder:
    """A new, empty run folder NAME-1, NAME-2, ...; two creators never get the same one."""
    base = make_folder(runs_folder())
    name = safe_name(name)
    safe_name(f"{name}-999999999")  # the id that comes of it must be a name too
    taken = [int(p.name[len(name) + 1 :]) for p in base.glob(f"{name}-*")
             if re.fullmatch(r"[0-9]{1,9}", p.name[len(name) + 1 :])]  # fmt: skip
    number = max(taken, default=0) + 1
    while True:
        with contextlib.suppress(FileExistsError):
            (base / f"{name}-{number}").mkdir()
            return RunFolder(base / f"{name}-{number}")
        number += 1


def open_run_folder(run: str) -> RunFolder:
    """The folder of an existing run, by its id; InputError when there is none."""
    path = runs_folder() / safe_name(run)
    if not path.is_dir():
        from models.settings import nearest

        names = [p.name for p in run_folders()]
        raise InputError(
            f"there is no run {run}", todo=nearest(run, names) if names else "aiok run quickstart"
        )
    return RunFolder(path)


def run_folders() -> list[Path]:
    """All run folders, newest first."""
    if not runs_folder().is_dir():
        return []
    found = []
    for path in runs_folder().iterdir():
        with contextlib.suppress(OSError):
            if path.is_dir() and RUN_NAME.fullmatch(path.name):
                found.append((path.stat().st_ctime if not (path / "plan.json").exists()
                              else (path / "plan.json").stat().st_mtime, path))  # fmt: skip
    return [path for _, path in sorted(found, key=lambda pair: pair[0], reverse=True)]


class EventLog:
    """Appends events to a journal. One writer a file; safe to call from several threads."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - lives as long as the run
        _mend_torn_tail(path, self._file.fileno())

    def append(self, event: Event) -> None:
        """Write one event as one line; a durable one is on disk when this returns."""
        self._file.write(encode(event))
        if event.durable:
            os.fsync(self._file.fileno())

    def extend(self, events: Sequence[Event]) -> None:
        """Write many events of the past; all are on disk when this returns."""
        self._file.write(b"".join(encode(event) for event in events))
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _mend_torn_tail(path: Path, descriptor: int) -> None:
    """A kill can leave half a line; end it so that the next event starts a line of its own."""
    size = path.stat().st_size
    if size:
        with open(path, "rb") as file:
            file.seek(size - 1)
            if file.read(1) != b"\n":
                os.write(descriptor, b"\n")


def read_lines(path: Path, offset: int, limit: int = 1 << 22) -> tuple[list[bytes], int]:
    """Whole lines from a byte offset, and the offset after them. A torn tail is left alone."""
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            data = file.read(limit)
    except (FileNotFoundError, IsADirectoryError):
        return [], offset
    end = data.rfind(b"\n") + 1
    return data[:end].splitlines(), offset + end


def read_events(path: Path, offset: int) -> tuple[list[Event], int]:
    """The events after a byte offset, and the new offset; lines that are no events are skipped."""
    events: list[Event] = []
    while True:
        lines, after = read_lines(path, offset)
        for line in lines:
            with contextlib.suppress(ValueError, TypeError):
                event = decode(line)
                if event is not None:
                    events.append(event)
        if after == offset:
            return events, offset
        offset = after


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[bool]:
    """Hold a lock file (flock) and write pid, start time and boot id into it.

    Yields False, without waiting, when another process holds it. The kernel lets go of the lock
    when its holder dies, in whatever way.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if not _take(descriptor):
            yield False
            return
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(process_identity(os.getpid())).encode())
        yield True
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> bool:
    """Take the lock; a look by `is_locked` holds it for a moment, so one failure says nothing."""
    for _ in range(20):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.01)
    return False


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


def process_identity(pid: int) -> dict[str, Any]:
    """What tells a process from a later one with the same pid; {} when it does not exist."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return {}
    return {"pid": pid, "start": int(stat.rpartition(")")[2].split()[19]), "boot": boot}


def lock_holder(path: Path) -> int | None:
    """The pid of the process that holds the lock, checked against pid reuse and reboot."""
    if not is_locked(path):
        return None
    for _ in range(50):  # the holder writes its name right after taking the lock
        with contextlib.suppress(OSError, ValueError):
            said = json.loads(path.read_text())
            if said and process_identity(int(said["pid"])) == said:
                return int(said["pid"])
        time.sleep(0.02)
    return None


def empty_folder(path: Path) -> None:
    """Delete all that lies in a folder."""
    for inner in path.iterdir():
        if inner.is_dir() and not inner.is_symlink():
            shutil.rmtree(inner)
        else:
            inner.unlink()


def remove_tree(path: Path) -> None:
    """Delete a folder or a link to one; a missing one is fine."""
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)
