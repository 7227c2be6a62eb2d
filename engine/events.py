"""What happened in a run, as typed events and as JSON lines.

Every event has `t`, seconds since the epoch, set by the one writer (the run process).
What the events mean is said in state.py alone.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

from engine import strict_json
from engine.hpo.trials import Failure


@dataclass(frozen=True, kw_only=True)
class Event:
    """Base of all events. `durable` ones are fsynced before the run goes on."""

    kind: ClassVar[str]
    durable: ClassVar[bool] = False
    t: float


@dataclass(frozen=True, kw_only=True)
class RunCreated(Event):
    """The run folder is whole: recipe and plan are written. `steps` = [{id, kind, title, host}]."""

    kind: ClassVar[str] = "run_created"
    durable: ClassVar[bool] = True
    run: str
    recipe: str
    steps: list[dict[str, str]]
    command: str = ""

    def __post_init__(self) -> None:
        """ValueError for a step without its three names."""
        for step in self.steps:
            if not isinstance(step, dict) or not {"id", "kind", "title"} <= step.keys():
                raise ValueError("a step needs id, kind and title")


@dataclass(frozen=True, kw_only=True)
class StepEstimated(Event):
    """What a step was expected to take when the run was planned; see engine.plan.Estimate."""

    kind: ClassVar[str] = "step_estimated"
    step: str
    minutes: float
    memory_gib: float
    disk_gib: float
    network_gib: float
    cpu_s: float = 0.0
    within: dict[str, Any] = field(default_factory=dict)
    basis: dict[str, Any] = field(default_factory=dict)
    runs: int = 0


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    """A run process took the run; `attempt` counts from 1, later ones are resumes or restarts."""

    kind: ClassVar[str] = "run_started"
    durable: ClassVar[bool] = True
    pid: int
    attempt: int
    host: str = "localhost"
    without: list[str] = field(default_factory=list)  # hosts that this attempt leaves out


@dataclass(frozen=True, kw_only=True)
class StopRequested(Event):
    """Somebody asked the run to end; it saves a checkpoint first."""

    kind: ClassVar[str] = "stop_requested"
    durable: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class StepStarted(Event):
    """Work on a step began. `identity` names its output in the cache."""

    kind: ClassVar[str] = "step_started"
    durable: ClassVar[bool] = True
    step: str
    identity: str
    host: str = "localhost"
    log: str = ""
    command: str = ""


@dataclass(frozen=True, kw_only=True)
class StepReused(Event):
    """The finished output of an earlier run serves; nothing was run."""

    kind: ClassVar[str] = "step_reused"
    durable: ClassVar[bool] = True
    step: str
    identity: str
    result: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StepFinished(Event):
    """The step's output is whole and in its place. `actual` holds what it took, by the names of
    StepEstimated."""

    kind: ClassVar[str] = "step_finished"
    durable: ClassVar[bool] = True
    step: str
    identity: str
    seconds: float
    result: dict[str, Any] = field(default_factory=dict)
    actual: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class StepFailed(Event):
    """The step ended without an output."""

    kind: ClassVar[str] = "step_failed"
    durable: ClassVar[bool] = True
    step: str
    what: str
    why: str = ""
    todo: str = ""
    log: str = ""
    exit_code: int = 1


@dataclass(frozen=True, kw_only=True)
class StepStopped(Event):
    """The step was ended by a stop request or by the loss of a host (`what`); resume goes on."""

    kind: ClassVar[str] = "step_stopped"
    durable: ClassVar[bool] = True
    step: str
    what: str = ""
    why: str = ""
    todo: str = ""
    log: str = ""


@dataclass(frozen=True, kw_only=True)
class StepProgressed(Event):
    """How far a step is, at most twice a second. `total` 0 means unknown."""

    kind: ClassVar[str] = "step_progressed"
    step: str
    phase: str
    done: float
    total: float
    unit: str


@dataclass(frozen=True, kw_only=True)
class Measured(Event):
    """One point of a curve: `name` on `split` after `rows` rows and `step_count` steps."""

    kind: ClassVar[str] = "measured"
    step: str
    name: str
    value: float
    split: str
    rows: int
    step_count: int
    epoch: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RanksPaced(Event):
    """Seconds of a step of each rank lately: its own work, and waiting for the others."""

    kind: ClassVar[str] = "ranks_paced"
    step: str
    hosts: list[str]
    own_s: list[float]
    wait_s: list[float]

    def __post_init__(self) -> None:
        """ValueError for lists of different lengths, or of anything but numbers."""
        if not len(self.hosts) == len(self.own_s) == len(self.wait_s):
            raise ValueError("a host, an own time and a waiting time for each rank")
        if not all(isinstance(value, int | float) for value in (*self.own_s, *self.wait_s)):
            raise ValueError("times are numbers")


@dataclass(frozen=True, kw_only=True)
class RankSlow(Event):
    """The own work of a rank takes `ratio` times that of the others; 0: it keeps up again."""

    kind: ClassVar[str] = "rank_slow"
    durable: ClassVar[bool] = True
    step: str
    rank: int
    host: str
    ratio: float


@dataclass(frozen=True, kw_only=True)
class WorkloadCounted(Event):
    """The least that a row of the step's work costs; `precision` is that of its matmuls."""

    kind: ClassVar[str] = "workload_counted"
    step: str
    flops_per_row: float
    bytes_per_row: float
    precision: str


@dataclass(frozen=True, kw_only=True)
class Noted(Event):
    """A decision or a warning to read. `level` is info or warning."""

    kind: ClassVar[str] = "noted"
    step: str
    text: str
    level: str = "info"


@dataclass(frozen=True, kw_only=True)
class CheckpointSaved(Event):
    """A checkpoint is whole on disk."""

    kind: ClassVar[str] = "checkpoint_saved"
    durable: ClassVar[bool] = True
    step: str
    step_count: int


@dataclass(frozen=True, kw_only=True)
class HostSilent(Event):
    """A host said nothing for `seconds`; 0: it is heard again."""

    kind: ClassVar[str] = "host_silent"
    host: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class WorkLost(Event):
    """A host or a rank was lost (`what`) and the fault policy lets the run go on.

    `hosts` are those that do not answer; `restart` of at most `restarts` follows; what was done
    since the last checkpoint (`steps_lost`, `rows_lost`) has to be done again.
    """

    kind: ClassVar[str] = "work_lost"
    durable: ClassVar[bool] = True
    step: str
    what: str
    policy: str
    restart: int
    restarts: int
    hosts: list[str] = field(default_factory=list)
    why: str = ""
    log: str = ""
    steps_lost: int = 0
    rows_lost: int = 0


@dataclass(frozen=True, kw_only=True)
class HostsAwaited(Event):
    """The run waits for these hosts; `why`: what keeps each from working, one line a host."""

    kind: ClassVar[str] = "hosts_awaited"
    durable: ClassVar[bool] = True
    step: str
    hosts: list[str]
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class WorkRestarted(Event):
    """The step goes on from its last checkpoint as another attempt, without these hosts."""

    kind: ClassVar[str] = "work_restarted"
    durable: ClassVar[bool] = True
    step: str
    attempt: int
    without: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class TrialQueued(Event):
    """A search has chosen an assignment. Not durable: what follows from it is, in the same file."""

    kind: ClassVar[str] = "trial_queued"
    step: str
    trial: int
    assignment: dict[str, Any]
    origin: str = "search"

    def __post_init__(self) -> None:
        """ValueError for a number below 0, or a value that no setting can have."""
        if self.trial < 0:
            raise ValueError("trials are numbered from 0")
        if not all(isinstance(v, bool | int | float | str) for v in self.assignment.values()):
            raise ValueError("a value is a number, a word or a flag")


@dataclass(frozen=True, kw_only=True)
class TrialStarted(Event):
    """A trial is leased to a place. `token` rises with each lease of the run: of this trial, only
    words that bear it count from now on."""

    kind: ClassVar[str] = "trial_started"
    durable: ClassVar[bool] = True
    step: str
    trial: int
    token: int
    host: str
    cores: list[int]
    log: str = ""

    def __post_init__(self) -> None:
        """ValueError for cores that are no numbers."""
        if not all(isinstance(core, int) for core in self.cores):
            raise ValueError("cores are numbers")


@dataclass(frozen=True, kw_only=True)
class TrialMeasured(Event):
    """A metric of a running trial after `step_count` steps of its training, in a unit that is the
    same in all trials of the search (rows, for a model)."""

    kind: ClassVar[str] = "trial_measured"
    step: str
    trial: int
    token: int
    name: str
    value: float
    step_count: int


NOT_ANOTHER = -1


@dataclass(frozen=True, kw_only=True)
class TrialEnded(Event):
    """What became of a lease: `state` is finished, pruned, failed or interrupted. An interrupted
    trial is run again; with a `failure` that used up one of its retries. `as_trial`: the finished
    trial whose values it takes, for it has the same assignment; NOT_ANOTHER: they are its own."""

    kind: ClassVar[str] = "trial_ended"
    durable: ClassVar[bool] = True
    step: str
    trial: int
    token: int
    state: str
    values: dict[str, Any] = field(default_factory=dict)
    failure: str = ""
    what: str = ""
    seconds: float = 0.0
    as_trial: int = NOT_ANOTHER

    def __post_init__(self) -> None:
        """ValueError for an end that a trial cannot have."""
        if self.state not in ("finished", "pruned", "failed", "interrupted"):
            raise ValueError(f"{self.state!r} is no end of a trial")
        if self.failure and self.failure not in list(Failure):
            raise ValueError(f"{self.failure!r} is no failure of a trial")
        if not all(isinstance(value, int | float) for value in self.values.values()):
            raise ValueError("a metric is a number")


@dataclass(frozen=True, kw_only=True)
class RunEnded(Event):
    """The run process is done with the run. `status` is done, failed or stopped."""

    kind: ClassVar[str] = "run_ended"
    durable: ClassVar[bool] = True
    status: str
    exit_code: int

    def __post_init__(self) -> None:
        """ValueError for a status or an exit code a run cannot end with."""
        if not 0 <= self.exit_code <= 255:
            raise ValueError(f"{self.exit_code} is no exit code")
        if self.status not in ("done", "failed", "stopped"):
            raise ValueError(f"{self.status!r} is no end of a run")


KINDS: dict[str, type[Event]] = {
    cls.kind: cls
    for cls in (
        RunCreated, StepEstimated, RunStarted, StopRequested, StepStarted, StepReused,
        StepFinished, StepFailed, StepStopped, StepProgressed, Measured, RanksPaced, RankSlow,
        WorkloadCounted, Noted, CheckpointSaved, HostSilent, WorkLost, HostsAwaited, WorkRestarted,
        TrialQueued, TrialStarted, TrialMeasured, TrialEnded, RunEnded,
    )
}  # fmt: skip


def encode(event: Event) -> bytes:
    """One JSON line."""
    return (strict_json.dumps({"kind": event.kind, **asdict(event)}) + "\n").encode()


# What JSON must hold for a field; a damaged journal must not reach those who read events.
_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "dict[str, Any]": (dict,),
    "list[dict[str, str]]": (list,),
    "list[str]": (list,),
    "list[float]": (list,),
    "list[int]": (list,),
}


def decode(line: bytes) -> Event | None:
    """The event of a line; None for a kind this version does not know. ValueError: no event."""
    data = json.loads(line)
    if not isinstance(data, dict):
        raise ValueError("an event is a JSON object")
    cls = KINDS.get(str(data.pop("kind", "")))
    if cls is None:
        return None
    known = {f.name: _JSON_TYPES[str(f.type)] for f in fields(cls)}
    found = {key: value for key, value in data.items() if key in known}
    for key, value in found.items():
        if not isinstance(value, known[key]):
            raise ValueError(f"{key} of {cls.kind} is a {type(value).__name__}")
    return cls(**found)
