"""The app's only way to the engine.

`Feed` is the one reader of the run store: one thread keeps the latest values, the app's one timer
takes them. `Calls` does what the user asked for (plan, start, stop, ...), one after the other, so
that nothing slow ever stands in the way of a key. Neither touches a widget.
"""

from __future__ import annotations

import copy
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from aiok_tui.widgets.logfile import LogFile

if TYPE_CHECKING:
    from engine.api import HostReport, Outcome, Plan, Question, RunSummary
    from engine.clusters import Inventory, Password
    from engine.host_jobs import HostKey, Progress
    from engine.hpo.results import Results
    from engine.monitor import Reading
    from engine.state import RunState

    Told = Callable[[HostReport], None]

RUNS_EVERY_S = 2.0
RUN_EVERY_S = 0.25
LOGS_EVERY_S = 1.0
TICK_S = 0.1


class Following(Protocol):
    """What engine.api.Follower offers."""

    state: RunState
    samples: dict[str, list[dict[str, Any]]]

    def poll(self) -> bool:
        """Read what is new; True when anything changed."""
        ...


class Watching(Protocol):
    """What engine.monitor.Monitor offers."""

    def follow(self) -> None: ...
    def readings(self) -> list[Reading]: ...
    def close(self) -> None: ...


class Engine(Protocol):
    """The calls of engine.api that the app makes; tests put a fake in its place."""

    def wizard_steps(self) -> tuple[str, ...]: ...
    def questions(self, answers: Mapping[str, str], /) -> list[Question]: ...
    def check_answers(self, answers: Mapping[str, str], /) -> dict[str, str]: ...
    def recipe_text(self, answers: Mapping[str, str], /) -> str: ...
    def save_recipe(self, answers: Mapping[str, str], path: Path | None = None, /) -> Path: ...
    def command_line(self, answers: Mapping[str, str], /) -> str: ...
    def load_draft(self) -> dict[str, str]: ...
    def save_draft(self, answers: Mapping[str, str], /) -> None: ...
    def runs(self) -> list[RunSummary]: ...
    def plan(self, recipe: str, /) -> Plan: ...
    def start(self, recipe: str, /) -> str: ...
    def Follower(self, run: str, /) -> Following: ...
    def log_files(self, run: str, /) -> list[tuple[str, Path]]: ...
    def stop(self, run: str, kill: bool = False, /) -> bool: ...
    def resume(self, run: str, /) -> str: ...
    def report(self, run: str, /) -> Path: ...
    def trials(self, run: str, /) -> Results: ...
    def inventory(self) -> Inventory: ...
    def Monitor(self) -> Watching: ...
    def host_questions(self) -> list[Question]: ...
    def host_problems(self, answers: Mapping[str, str], /) -> dict[str, str]: ...
    def host_line(self, answers: Mapping[str, str], /) -> str: ...
    def meet_host(self, answers: Mapping[str, str], password: Password, /) -> HostKey: ...
    def add_host(self, answers: Mapping[str, str], key: HostKey, /) -> str: ...
    def check_hosts(
        self, names: Sequence[str], password: Password, /, *, told: Told
    ) -> list[HostReport]: ...
    def rank_layout(
        self, reports: Sequence[HostReport], ranks: str, /
    ) -> list[tuple[str, int, int]]: ...
    def hosts_up(
        self, name: str, environments: Sequence[str], progress: Progress, password: Password, /
    ) -> list[Outcome]: ...
    def hosts_down(self, name: str, password: Password, /) -> list[Outcome]: ...
    def remove_host(self, name: str, /) -> None: ...


def load_engine() -> Engine:
    """engine.api; loaded after the first frame, for it takes as long as the app itself."""
    from engine import api

    return api


@dataclass(frozen=True)
class RunView:
    """One run at one moment. `version` counts the changes."""

    run: str
    state: RunState
    samples: Mapping[str, Sequence[Mapping[str, Any]]]  # of each host
    logs: Sequence[tuple[str, Path]] = ()
    version: int = 0


@dataclass
class Latest:
    """What the reader last saw."""

    runs: Sequence[RunSummary] | None = None
    view: RunView | None = None
    problems: dict[str, str] = field(default_factory=dict)  # what was read -> what went wrong
    version: int = 0


def snapshot(state: RunState) -> RunState:
    """A copy that stays as it is while the reader folds on."""
    copied = copy.copy(state)
    copied.steps = {key: copy.copy(step) for key, step in state.steps.items()}
    for step in copied.steps.values():
        step.notes = list(step.notes)
    copied.curves = {key: list(points) for key, points in state.curves.items()}
    copied.silent_hosts = dict(state.silent_hosts)
    copied.losses, copied.stops = list(state.losses), list(state.stops)
    return copied


class Feed:
    """Reads what is wanted, as often as it may. `want_*` belong to the drawing thread."""

    def __init__(self, load: Callable[[], Engine] = load_engine) -> None:
        self._load = load
        self._engine: Engine | None = None
        self._follower: tuple[str, Following] | None = None
        self._due: dict[str, float] = {}
        self._wake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None
        self.latest = Latest()
        self.wants_runs = False
        self.wants_run: str | None = None
        self.wants_log: LogFile | None = None

    @property
    def engine(self) -> Engine:
        """The engine, loaded at the first use."""
        if self._engine is None:
            self._engine = self._load()
        return self._engine

    def start(self) -> None:
        """Start the reader thread."""
        self._thread = threading.Thread(target=self._read, name="feed", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ask the reader to end; a read that hangs does not hold up the app."""
        self._closed = True
        self._wake.set()

    def want_runs(self, on: bool) -> None:
        """Whether the list of runs is shown."""
        self.wants_runs = on
        self._soon("runs")

    def want_run(self, run: str | None) -> None:
        """Which run is shown, if any."""
        if run != self.wants_run:
            self.wants_run = run
            self._soon("run")

    def want_log(self, log_file: LogFile | None) -> None:
        """Which log is in sight, if any."""
        self.wants_log = log_file
        self._wake.set()

    def soon(self) -> None:
        """Read again at once: the user has just asked for a change."""
        self._soon("runs")
        self._soon("run")

    def _soon(self, what: str) -> None:
        self._due.pop(what, None)
        self._wake.set()

    # --- the reader thread ---

    def _read(self) -> None:
        while not self._closed:
            more = self.step(time.monotonic())
            if not more:
                self._wake.wait(TICK_S)
            self._wake.clear()

    def step(self, now: float) -> bool:
        """Read everything that is wanted and due; True when a log has more to read at once."""
        if self.wants_runs:
            self._at("runs", now, RUNS_EVERY_S, self._read_runs)
        if self.wants_run is not None:
            self._at("run", now, RUN_EVERY_S, self._read_run)
        log_file = self.wants_log
        return log_file.refresh() if log_file is not None else False

    def _at(self, what: str, now: float, every_s: float, read: Callable[[float], None]) -> None:
        """Read when it is due; a slow read is repeated less often, a failed one is told."""
        if now < self._due.get(what, 0.0):
            return
        begun = time.monotonic()
        try:
            read(now)
        except Exception as error:  # noqa: BLE001 - told in the error panel, the app goes on
            self._tell(what, str(error) or type(error).__name__)
            every_s = max(every_s, 2.0)
        else:
            self._tell(what, "")
        self._due[what] = now + max(every_s, 10 * (time.monotonic() - begun))

    def _tell(self, what: str, problem: str) -> None:
        if self.latest.problems.get(what, "") != problem:
            problems = {k: v for k, v in self.latest.problems.items() if k != what}
            if problem:
                problems[what] = problem
            self.latest.problems = problems
            self.latest.version += 1

    def _read_runs(self, _now: float) -> None:
        found = self.engine.runs()
        if found != self.latest.runs:
            self.latest.runs = found
            self.latest.version += 1

    def _read_run(self, now: float) -> None:
        run = self.wants_run
        if run is None:
            return
        fresh = self._follower is None or self._follower[0] != run
        if fresh or self._follower is None:
            self._follower = (run, self.engine.Follower(run))
            self._due.pop("logs", None)
        follower = self._follower[1]
        old = self.latest.view
        logs = old.logs if old is not None and old.run == run else ()
        if now >= self._due.get("logs", 0.0):
            self._due["logs"] = now + LOGS_EVERY_S
            logs = tuple(self.engine.log_files(run))
        changed = follower.poll()
        if changed or fresh or old is None or logs != old.logs:
            version = self.latest.version = self.latest.version + 1
            samples = {host: tuple(kept) for host, kept in follower.samples.items()}
            self.latest.view = RunView(run, snapshot(follower.state), samples, logs, version)


@dataclass(frozen=True)
class Call:
    """Something to do, and what to do with its result or its error, in the app's thread."""

    group: str
    work: Callable[[], Any]
    done: Callable[[Any], None]
    failed: Callable[[Exception], None]


def _carry_out(call: Call, answer: Callable[[Callable[[], None]], None]) -> None:
    """Do a call's work here; what came of it is for the app's thread."""
    try:
        result = call.work()
    except Exception as error:  # noqa: BLE001 - handed to the caller, who shows it
        problem = error
        answer(lambda: call.failed(problem))
    else:
        answer(lambda: call.done(result))


class Calls:
    """Does calls in order, in a thread of its own; of one group only the newest waiting one."""

    def __init__(self, answer: Callable[[Callable[[], None]], None]) -> None:
        """`answer` hands a function over to the app's thread; it must be thread-safe."""
        self._answer = answer
        self._queue: queue.Queue[tuple[int, Call]] = queue.Queue()
        self._newest: dict[str, int] = {}
        self._number = 0
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread; before that, calls wait."""
        self._thread = threading.Thread(target=self._run, name="calls", daemon=True)
        self._thread.start()

    def put(self, call: Call) -> None:
        """Queue a call."""
        self._number += 1
        if call.group:
            self._newest[call.group] = self._number
        self._queue.put((self._number, call))

    def _run(self) -> None:
        while True:
            self.step(self._queue.get())

    def drain(self) -> None:
        """Do all that waits, here and now."""
        while not self._queue.empty():
            self.step(self._queue.get())

    def step(self, item: tuple[int, Call]) -> None:
        """Do one call, unless a newer one of its group waits."""
        number, call = item
        if call.group and self._newest[call.group] != number:
            return
        _carry_out(call, self._answer)


class Jobs:
    """Long work, each in a thread of its own: nothing waits for it, and it waits for nothing.

    `answer` is that of Calls. Without `threads` (tests) the work is done here and now.
    """

    def __init__(self, answer: Callable[[Callable[[], None]], None], threads: bool = True) -> None:
        self._answer, self.threads = answer, threads

    def start(self, call: Call) -> None:
        """Begin; `call.group` says in a word what is done."""
        if self.threads:
            threading.Thread(
                target=_carry_out, args=(call, self._answer), name=call.group, daemon=True
            ).start()
        else:
            _carry_out(call, self._answer)
