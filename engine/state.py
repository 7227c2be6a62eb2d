"""The only place that says what the events mean: fold(events) -> RunState."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import singledispatch
from typing import Any

from engine import events as ev
from engine.hpo.trials import Failure, Report, Trial, TrialState


class StepStatus(StrEnum):
    """Where a step stands."""

    WAITING = "waiting"
    RUNNING = "running"
    REUSED = "reused"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def is_whole(self) -> bool:
        """The step's output exists."""
        return self in (StepStatus.DONE, StepStatus.REUSED)


class RunStatus(StrEnum):
    """Where a run stands. LOST is never folded: the store says it when the process is gone."""

    CREATED = "created"
    RUNNING = "running"
    WAITING = "waiting"
    STOPPING = "stopping"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"
    LOST = "lost"

    @property
    def is_live(self) -> bool:
        """A run process should be at work."""
        return self in (RunStatus.RUNNING, RunStatus.WAITING, RunStatus.STOPPING)

    @property
    def is_resumable(self) -> bool:
        """`aiok resume` makes sense."""
        return self in (RunStatus.CREATED, RunStatus.FAILED, RunStatus.STOPPED, RunStatus.LOST)


@dataclass(frozen=True)
class Point:
    """One point of a curve."""

    t: float
    rows: int
    step: int
    epoch: float
    value: float


@dataclass(frozen=True)
class RankPace:
    """One rank of a training: seconds of a step lately. `slow` 0: it keeps up, else how many times
    as long as the others its own work takes."""

    host: str
    own_s: float
    wait_s: float
    slow: float = 0.0


@dataclass
class StepState:
    """One step of a run as the events tell it."""

    id: str
    kind: str
    title: str
    host: str = "localhost"
    status: StepStatus = StepStatus.WAITING
    identity: str = ""
    started: float | None = None
    ended: float | None = None
    seconds: float | None = None
    starts: int = 0
    estimate: dict[str, float] = field(default_factory=dict)  # by the names of plan.Estimate
    within: dict[str, float] = field(default_factory=dict)  # factor of the 90 % interval of each
    basis: dict[str, Any] = field(default_factory=dict)  # what the estimate was made of
    actual: dict[str, float] = field(default_factory=dict)
    phase: str = ""
    phase_started: float | None = None
    phase_from: float = 0.0
    done: float = 0.0
    total: float = 0.0
    unit: str = ""
    log: str = ""
    command: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    workload: dict[str, Any] = field(default_factory=dict)  # what a row costs, while it runs
    paces: list[RankPace] = field(default_factory=list)  # by rank
    slow: dict[int, float] = field(default_factory=dict)  # rank -> ratio, of the slow ones
    notes: list[tuple[str, str]] = field(default_factory=list)  # (level, text)
    problem: ev.StepFailed | ev.StepStopped | None = None

    @property
    def fraction(self) -> float | None:
        """0..1 of the current phase, None when unknown."""
        return min(1.0, self.done / self.total) if self.total > 0 else None

    def eta_s(self, now: float) -> float | None:
        """Seconds left in the current phase at its mean pace so far, None when unknown."""
        if self.status is not StepStatus.RUNNING or self.phase_started is None:
            return None
        gone, moved = now - self.phase_started, self.done - self.phase_from
        if self.total <= 0 or moved <= 0 or gone <= 0:
            return None
        return max(0.0, (self.total - self.done) * gone / moved)


@dataclass
class RunState:
    """Everything a front end draws of a run."""

    id: str = ""
    recipe: str = ""
    command: str = ""
    status: RunStatus = RunStatus.CREATED
    attempt: int = 0
    pid: int | None = None
    created: float | None = None
    started: float | None = None
    ended: float | None = None
    exit_code: int | None = None
    steps: dict[str, StepState] = field(default_factory=dict)
    curves: dict[tuple[str, str], list[Point]] = field(default_factory=dict)  # (name, split)
    checkpoint: tuple[float, int] | None = None  # (t, step count)
    silent_hosts: dict[str, float] = field(default_factory=dict)
    losses: list[ev.WorkLost] = field(default_factory=list)  # that the fault policy met
    stops: list[ev.StepStopped] = field(default_factory=list)  # losses that ended an attempt
    awaited: ev.HostsAwaited | None = None
    trials: dict[int, Trial] = field(default_factory=dict)  # of a search, by number
    without: list[str] = field(default_factory=list)  # hosts that are left out
    updated: float = 0.0

    @property
    def current(self) -> StepState | None:
        """The step at work, or the one where the run ended early."""
        for wanted in (StepStatus.RUNNING, StepStatus.FAILED, StepStatus.STOPPED):
            for step in self.steps.values():
                if step.status is wanted:
                    return step
        return None

    @property
    def problem(self) -> ev.StepFailed | ev.StepStopped | None:
        """Why the run failed, or what it lost, if it did."""
        return next((s.problem for s in self.steps.values() if s.problem), None)

    def unsaved(self) -> tuple[int, int]:
        """(steps, rows) of the training since its last checkpoint, as far as it was told."""
        points = self.curves.get(("loss", "train"), [])
        if not points:
            return 0, 0
        saved = self.checkpoint[1] if self.checkpoint else 0
        rows = max((p.rows for p in points if p.step <= saved), default=0)
        at = max((p.step for p in points if p.step <= saved), default=0)
        last = points[-1]
        if last.step <= saved:
            return 0, 0
        pace = (last.rows - rows) / (last.step - at)  # the checkpoint lies between two points
        return last.step - saved, round(pace * (last.step - saved))

    def result(self, kind: str) -> dict[str, Any]:
        """The result of the first step of that kind, {} when there is none yet."""
        return next((s.result for s in self.steps.values() if s.kind == kind), {})


def fold(events: Iterable[ev.Event], state: RunState | None = None) -> RunState:
    """Apply events in order to a state (a new one by default) and return it."""
    state = state or RunState()
    for event in events:
        _apply(event, state)
        state.updated = max(state.updated, event.t)
    return state


def _step(state: RunState, step_id: str) -> StepState:
    """The step of that id; one that a damaged journal never announced is known by its id alone."""
    return state.steps.setdefault(step_id, StepState(step_id, step_id, step_id))


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    """Those of a journal's values that are numbers: it may be damaged."""
    return {key: float(value) for key, value in values.items() if isinstance(value, int | float)}


@singledispatch
def _apply(event: ev.Event, state: RunState) -> None:
    """Events that change nothing a front end draws."""


@_apply.register
def _(event: ev.RunCreated, state: RunState) -> None:
    state.id, state.recipe, state.command = event.run, event.recipe, event.command
    state.created = event.t
    state.steps = {
        s["id"]: StepState(s["id"], s["kind"], s["title"], s.get("host", "localhost"))
        for s in event.steps
    }


@_apply.register
def _(event: ev.StepEstimated, state: RunState) -> None:
    step = _step(state, event.step)
    step.estimate = {
        "minutes": event.minutes, "memory_gib": event.memory_gib, "disk_gib": event.disk_gib,
        "network_gib": event.network_gib, "cpu_s": event.cpu_s,
    }  # fmt: skip
    step.within, step.basis = _numbers(event.within), event.basis


@_apply.register
def _(event: ev.RunStarted, state: RunState) -> None:
    state.status, state.pid, state.attempt = RunStatus.RUNNING, event.pid, event.attempt
    state.started = state.started or event.t
    state.ended = state.exit_code = state.awaited = None
    state.silent_hosts, state.without = {}, event.without
    for step in state.steps.values():
        if not step.status.is_whole:
            step.status, step.problem = StepStatus.WAITING, None


@_apply.register
def _(event: ev.StopRequested, state: RunState) -> None:
    state.status, state.awaited = RunStatus.STOPPING, None


@_apply.register
def _(event: ev.WorkLost, state: RunState) -> None:
    state.losses.append(event)
    state.silent_hosts = {}


@_apply.register
def _(event: ev.HostsAwaited, state: RunState) -> None:
    state.status, state.awaited = RunStatus.WAITING, event


@_apply.register
def _(event: ev.WorkRestarted, state: RunState) -> None:
    state.status, state.attempt, state.awaited = RunStatus.RUNNING, event.attempt, None
    state.without = event.without


@_apply.register
def _(event: ev.StepStarted, state: RunState) -> None:
    step = _step(state, event.step)
    step.status, step.identity, step.host = StepStatus.RUNNING, event.identity, event.host
    step.started, step.ended, step.problem = event.t, None, None
    step.starts += 1
    step.log, step.command = event.log, event.command
    step.phase, step.done, step.total, step.phase_started = "", 0.0, 0.0, None
    step.paces, step.slow = [], {}


@_apply.register
def _(event: ev.StepReused, state: RunState) -> None:
    step = _step(state, event.step)
    step.status, step.identity, step.result = StepStatus.REUSED, event.identity, event.result
    step.seconds = 0.0


@_apply.register
def _(event: ev.StepFinished, state: RunState) -> None:
    step = _step(state, event.step)
    step.status, step.identity, step.result = StepStatus.DONE, event.identity, event.result
    step.ended, step.seconds = event.t, event.seconds
    step.actual = _numbers(event.actual)


@_apply.register
def _(event: ev.StepFailed, state: RunState) -> None:
    step = _step(state, event.step)
    step.status, step.problem, step.ended = StepStatus.FAILED, event, event.t


@_apply.register
def _(event: ev.StepStopped, state: RunState) -> None:
    step = _step(state, event.step)
    step.status, step.ended = StepStatus.STOPPED, event.t
    step.problem = event if event.what else None
    if event.what:
        state.stops.append(event)


@_apply.register
def _(event: ev.StepProgressed, state: RunState) -> None:
    step = _step(state, event.step)
    if event.phase != step.phase or step.phase_started is None:
        step.phase, step.phase_started, step.phase_from = event.phase, event.t, event.done
    step.done, step.total, step.unit = event.done, event.total, event.unit


@_apply.register
def _(event: ev.Measured, state: RunState) -> None:
    curve = state.curves.setdefault((event.name, event.split), [])
    # A resumed step measures again what it had measured after its last checkpoint.
    while curve and curve[-1].step >= event.step_count:
        curve.pop()
    curve.append(Point(event.t, event.rows, event.step_count, event.epoch, event.value))


@_apply.register
def _(event: ev.RanksPaced, state: RunState) -> None:
    step = _step(state, event.step)
    step.paces = [
        RankPace(host, own, wait, step.slow.get(rank, 0.0)) for rank, (host, own, wait)
        in enumerate(zip(event.hosts, event.own_s, event.wait_s, strict=True))
    ]  # fmt: skip


@_apply.register
def _(event: ev.RankSlow, state: RunState) -> None:
    step, who = _step(state, event.step), f"rank {event.rank} on {event.host}"
    if event.ratio > 0:
        step.slow[event.rank] = event.ratio
        text = f"{who} is slow: its own work takes {event.ratio:.1f}x that of the other ranks"
        step.notes.append(("warning", text))
    else:
        step.slow.pop(event.rank, None)
        step.notes.append(("info", f"{who} keeps up again"))
    step.paces = [replace(pace, slow=step.slow.get(r, 0.0)) for r, pace in enumerate(step.paces)]


@_apply.register
def _(event: ev.WorkloadCounted, state: RunState) -> None:
    _step(state, event.step).workload = {
        "flops_per_row": event.flops_per_row, "bytes_per_row": event.bytes_per_row,
        "precision": event.precision,
    }  # fmt: skip


@_apply.register
def _(event: ev.Noted, state: RunState) -> None:
    if event.step in state.steps:
        notes = state.steps[event.step].notes
        if (event.level, event.text) not in notes:
            notes.append((event.level, event.text))


@_apply.register
def _(event: ev.CheckpointSaved, state: RunState) -> None:
    state.checkpoint = (event.t, event.step_count)


@_apply.register
def _(event: ev.HostSilent, state: RunState) -> None:
    if event.seconds > 0:
        state.silent_hosts[event.host] = event.seconds
    else:
        state.silent_hosts.pop(event.host, None)


@_apply.register
def _(event: ev.TrialQueued, state: RunState) -> None:
    trial = Trial(event.trial, event.assignment, event.origin)
    state.trials.setdefault(event.trial, trial)


@_apply.register
def _(event: ev.TrialStarted, state: RunState) -> None:
    trial = state.trials.get(event.trial)
    if trial is None or trial.state.is_over or event.token <= trial.token:
        return
    trial.state, trial.token = TrialState.RUNNING, event.token
    trial.host, trial.cores, trial.log = event.host, tuple(event.cores), event.log
    trial.started, trial.ended = event.t, None
    trial.failure, trial.what = None, ""
    trial.tries += 1


def _leased(event: ev.TrialMeasured | ev.TrialEnded, state: RunState) -> Trial | None:
    """The trial, if it waits for this word: None for a word of an earlier lease, or a second end.

    One that was never leased (token 0) may end, too: its values come from an earlier study, or from
    another trial. So may one that waits to be run again, when the search is over before.
    """
    trial = state.trials.get(event.trial)
    if trial is None or event.token != trial.token:
        return None
    never_begun = trial.state is TrialState.QUEUED and trial.token == 0
    given_up = (
        trial.state is TrialState.INTERRUPTED
        and isinstance(event, ev.TrialEnded)
        and (event.state == TrialState.PRUNED or event.as_trial != ev.NOT_ANOTHER)
    )
    return trial if trial.is_leased or never_begun or given_up else None


@_apply.register
def _(event: ev.TrialMeasured, state: RunState) -> None:
    trial = _leased(event, state)
    if trial is None:
        return
    reports = trial.reports.setdefault(event.name, [])
    # A trial that goes on from a checkpoint measures again what it had measured after it.
    while reports and reports[-1].step >= event.step_count:
        reports.pop()
    reports.append(Report(event.step_count, event.value))


@_apply.register
def _(event: ev.TrialEnded, state: RunState) -> None:
    trial = _leased(event, state)
    if trial is None:
        return
    trial.state, trial.ended = TrialState(event.state), event.t
    trial.seconds += event.seconds
    trial.values = _numbers(event.values)
    trial.failure = Failure(event.failure) if event.failure else None
    trial.what = event.what
    trial.as_trial = event.as_trial if event.as_trial != ev.NOT_ANOTHER else None
    if trial.failure and not trial.state.is_over:
        trial.retries += 1


@_apply.register
def _(event: ev.RunEnded, state: RunState) -> None:
    state.status, state.exit_code, state.ended = RunStatus(event.status), event.exit_code, event.t
    for trial in state.trials.values():
        if trial.state is TrialState.RUNNING:
            trial.state = TrialState.INTERRUPTED
