"""Faults on purpose: what aiok promises for each, what is seen, and whether it is kept.

Each drill starts the tiny recipe in a sandbox, waits for its first checkpoint, strikes, and follows
the run to its end. A fault is one entry of FAULTS: its promise in words, how it is done and undone,
and how a run under each policy is expected to end.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from engine import api
from engine import events as ev
from engine.errors import AiokError, InputError
from engine.processes import processes_of
from engine.sandbox import Sandbox, sandbox
from engine.state import RunState, RunStatus, fold
from engine.store import lock_holder, open_run_folder
from models.settings import nearest

HOSTS = 3
FILLED = "h1"  # the head: checkpoints are written there
GRACE_S, HANG_S, CHECKPOINT_S = 5.0, 8.0, 2.0
NOTICE_S = 15.0
DRIFT = 0.002  # of the test AUC
STRIKE_S = 1.0  # after the moment, so that there is work to lose
FETCH_S = 3.0  # a checkpoint counts when it is here
RUN_S = 200.0
POLICIES = ("stop", "wait", "shrink")


@dataclass
class Trial:
    """One fault under one policy, while it is drilled."""

    sandbox: Sandbox
    policy: str
    run: str = ""
    other: str = ""  # a second run, where the fault needs one
    struck: float = 0.0
    refusal: str = ""

    @property
    def testbed(self) -> Any:
        """The hosts; only faults with `hosts` may ask."""
        assert self.sandbox.testbed is not None
        return self.sandbox.testbed

    def events(self) -> list[ev.Event]:
        """All events of the run so far."""
        return api.events_since(self.run, 0)[0]

    def rank(self) -> int:
        """The pid of a rank: that of h2, or the last one on this machine."""
        if self.sandbox.testbed is None:
            return [p.pid for p in processes_of(self.run) if p.role == "rank"][-1]
        found = self.testbed.processes("h2")
        return int(next(p.pid for p in found if "-m models.train" in p.command))


Act = Callable[[Trial], None]
TRAINING = ("train", "evaluate", "optimize")


def checkpoint_saved(event: ev.Event) -> bool:
    """The usual moment to strike."""
    return isinstance(event, ev.CheckpointSaved)


def nothing(_trial: Trial) -> None:
    """There is nothing to undo."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A run of the tiny recipe with `settings`, for which no output of the kinds `anew` is reused,
    is struck at the first event that is the `moment`.

    `ends` is the state in which the run ends by itself, by policy; "" as key: under any.
    `mend_at`: when the fault is undone: after the `end`, when the run is `waiting` for the host (a
    run that does not wait: after its end), or `late`, past the grace. `grace`: it is noticed by
    silence, so the grace may be added. `loses`: work is lost and done again.
    """

    name: str
    promise: str
    strike: Act
    mend: Act = nothing
    hosts: bool = True
    policies: tuple[str, ...] = POLICIES
    ends: dict[str, RunStatus] = field(default_factory=dict)
    mend_at: Literal["waiting", "late", "end"] = "waiting"
    grace: bool = False
    loses: bool = True
    said: str = ""  # a word that the user must read
    moment: Callable[[ev.Event], bool] = checkpoint_saved
    anew: tuple[str, ...] = TRAINING
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What came of a trial. Seconds; `notice_s` None: nothing had to be noticed."""

    fault: str
    policy: str
    promise: str
    observation: str
    broken: list[str]
    notice_s: float | None
    notice_limit_s: float
    orphans: int
    end: str
    drift: float | None
    lost_steps: int
    lost_s: float

    @property
    def kept(self) -> bool:
        """Whether the promise was."""
        return not self.broken


# --- faults ---------------------------------------------------------------------------------------


def _signal_rank(number: signal.Signals) -> Act:
    return lambda trial: os.kill(trial.rank(), number)


def _on(host: str, what: str, *words: str) -> Act:
    return lambda trial: getattr(trial.testbed, what)(host, *words)


def _kill_run_process(trial: Trial) -> None:
    pid = lock_holder(open_run_folder(trial.run).lock)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def _move_keys(trial: Trial, source: str, target: str) -> None:
    folder = f"/home/{trial.testbed.layout.user}/.ssh"
    done = trial.testbed.run_as_root("h2", ["mv", f"{folder}/{source}", f"{folder}/{target}"])
    assert done.returncode == 0, done.stderr


def _revoke_key(trial: Trial) -> None:
    _move_keys(trial, "authorized_keys", "revoked")


def _try_without_key(trial: Trial) -> None:
    """What a new run says while the key is revoked; then it is given back."""
    try:
        trial.other = api.start("tiny", _overrides(trial, seed=9))
    except AiokError as error:
        trial.refusal = str(error)
    _move_keys(trial, "revoked", "authorized_keys")


def _start_another(trial: Trial) -> None:
    trial.other = api.start("tiny", _overrides(trial, seed=8))


def _end_of_other(trial: Trial) -> None:
    api.wait_for_end(trial.other, RUN_S)


STOPPED = {"stop": RunStatus.STOPPED, "": RunStatus.DONE}
GOES_ON = {"": RunStatus.DONE}
FAULTS = (
    Fault(
        name="rank killed", hosts=False, ends=STOPPED, strike=_signal_rank(signal.SIGKILL),
        promise="noticed, named; stop: resumable, else started again from the last checkpoint",
    ),
    Fault(
        name="rank stopped", hosts=False, ends=STOPPED, strike=_signal_rank(signal.SIGSTOP),
        promise="found by the watchdog, named as stopped, ended; then like a killed rank",
        said="state T in /proc",
    ),
    Fault(
        name="worker host crashed", ends=STOPPED, strike=_on("h2", "crash"),
        mend=_on("h2", "boot"), grace=True, said="h2",
        promise="host named; stop: resumable, wait: goes on when it is back, shrink: without it",
    ),
    Fault(
        name="head host crashed", ends=STOPPED, strike=_on("h1", "crash"),
        mend=_on("h1", "boot"), grace=True, said="h1",
        promise="like any host: no host is special",
    ),
    Fault(
        name="link cut", ends=STOPPED, strike=_on("h3", "cut"), mend=_on("h3", "heal"),
        grace=True, said="h3",
        promise="silence is told at once; lost after the grace; its ranks end by themselves",
    ),
    Fault(
        name="link healed late", ends=STOPPED, strike=_on("h3", "cut"), mend=_on("h3", "heal"),
        mend_at="late", grace=True, said="h3",
        promise="a host that comes back after the grace does no work twice and holds no orphan",
    ),
    Fault(
        name="slow link", policies=("stop",), ends=GOES_ON, strike=_on("h2", "slow", "10mbit"),
        mend=lambda trial: trial.testbed.slow("h2", None), mend_at="end", loses=False,
        promise="slower, but no false alarm",
    ),
    Fault(
        name="disk full on a host", policies=("stop",), ends={"": RunStatus.FAILED},
        strike=_on(FILLED, "fill"), mend=_on(FILLED, "free"), mend_at="end",
        said="No space left on device",
        promise="ends with host and reason, keeps the last checkpoint; goes on when there is space",
    ),
    Fault(
        name="controller kill -9", hosts=False, policies=("stop",), ends={"": RunStatus.LOST},
        strike=_kill_run_process, grace=True,
        promise="the ranks end within the grace; resume goes on, nothing runs twice",
    ),
    Fault(
        name="key revoked mid-run", policies=("stop",), ends=GOES_ON, strike=_revoke_key,
        mend=_try_without_key, mend_at="end", loses=False,
        promise="the run keeps its connections; a new one is refused, host and key named",
    ),
    Fault(
        name="two runs on the same hosts", hosts=False, policies=("stop",), ends=GOES_ON,
        strike=_start_another, mend=_end_of_other, mend_at="end", loses=False,
        promise="both end well, neither touches the other's processes",
    ),
)  # fmt: skip


def chosen(names: Sequence[str]) -> list[Fault]:
    """The faults of these names, all without any; InputError for a name that is none."""
    known = {fault.name: fault for fault in FAULTS}
    for name in names:
        if name not in known:
            raise InputError(f"there is no fault {name!r}", todo=nearest(name, list(known)))
    return [fault for fault in FAULTS if not names or fault.name in names]


# --- drills ---------------------------------------------------------------------------------------


def drill(
    names: Sequence[str] = (), policies: Sequence[str] = POLICIES, *, on_hosts: bool | None = None
) -> Iterator[Verdict]:
    """Drill faults one by one, each under each of the policies that make a difference to it.

    On hosts of the testbed where root is had, else on this machine those faults that need none.
    """
    wanted = chosen(names)
    with_hosts = os.geteuid() == 0 if on_hosts is None else on_hosts
    wanted = [fault for fault in wanted if with_hosts or not fault.hosts]
    if not wanted:
        raise InputError("these faults need hosts, and hosts need root", todo="sudo aiok drill")
    small_disk = FILLED if any("disk" in fault.name for fault in wanted) else None
    with sandbox(HOSTS if with_hosts else 0, small_disk if with_hosts else None) as place:
        plain = _undisturbed(place)
        for fault in wanted:
            for policy in fault.policies:
                if policy in policies:
                    yield _tried(fault, Trial(place, policy), plain)


def _overrides(trial: Trial, seed: int = 7) -> list[str]:
    ranks = HOSTS if trial.sandbox.testbed else 2
    return [
        f"cluster={trial.sandbox.cluster}", f"train.ranks={ranks}", f"seed={seed}",
        f"train.checkpoint_s={CHECKPOINT_S}", f"faults.policy={trial.policy}",
        f"faults.grace_s={GRACE_S}", f"faults.hang_s={HANG_S}",
    ]  # fmt: skip


def _undisturbed(place: Sandbox) -> float:
    """Test AUC of a run that nobody disturbs; it also makes the hosts ready."""
    run = api.start("tiny", _overrides(Trial(place, "stop")))
    state = api.wait_for_end(run, 900)
    if state.status is not RunStatus.DONE:
        problem = state.problem
        raise AiokError(
            f"the undisturbed run {run} ended {state.status}: {problem.what if problem else ''}",
            why="the drill needs a run that works", log=problem.log if problem else "",
        )  # fmt: skip
    return float(state.result("evaluate")["auc"])


def _tried(fault: Fault, trial: Trial, plain_auc: float) -> Verdict:
    """The verdict of a trial; one that does not come to its end is a promise broken."""
    try:
        return _drill(fault, trial, plain_auc)
    except AiokError as error:
        for run in filter(None, (trial.run, trial.other)):
            api.stop(run, kill=True)
        if trial.struck:
            fault.mend(trial)
        return Verdict(
            fault=fault.name, policy=trial.policy, promise=fault.promise, observation=error.what,
            broken=[error.what], notice_s=None, notice_limit_s=NOTICE_S,
            orphans=len(trial.sandbox.wait_until_bare(trial.run, GRACE_S + NOTICE_S)),
            end="unknown", drift=None, lost_steps=0, lost_s=0.0,
        )  # fmt: skip


def _drill(fault: Fault, trial: Trial, plain_auc: float) -> Verdict:
    trial.sandbox.forget(fault.anew)
    trial.run = api.start("tiny", [*_overrides(trial), *fault.settings])
    _wait_for(trial, fault.moment)
    time.sleep(STRIKE_S)
    trial.struck = time.time()
    fault.strike(trial)
    mended = _mended_in_time(fault, trial)
    ended = api.wait_for_end(trial.run, RUN_S)
    seen_s = time.time() - trial.struck
    if not mended:
        fault.mend(trial)
    left = trial.sandbox.wait_until_bare(trial.run, GRACE_S + NOTICE_S)
    final = ended
    if ended.status is not RunStatus.DONE:
        api.resume(trial.run)
        final = api.wait_for_end(trial.run, RUN_S)
        left += trial.sandbox.wait_until_bare(trial.run, GRACE_S + NOTICE_S)
    return _judge(fault, trial, ended, final, left, plain_auc, seen_s)


def _wait_for(trial: Trial, wanted: Callable[[ev.Event], bool]) -> None:
    """Until such an event is there or the run has ended; AiokError after RUN_S."""
    end = time.monotonic() + RUN_S
    while time.monotonic() < end:
        events = trial.events()
        if any(wanted(event) or isinstance(event, ev.RunEnded) for event in events):
            return
        time.sleep(0.05)
    raise AiokError(f"{trial.run}: what the drill waits for did not come in {RUN_S:g} s")


def _mended_in_time(fault: Fault, trial: Trial) -> bool:
    """Undo the fault while the run goes on, where that belongs to it; whether it was undone."""
    if fault.mend_at == "late":
        _wait_for(trial, lambda event: isinstance(event, ev.WorkLost | ev.StepStopped))
        time.sleep(GRACE_S + 2)  # the agent over there has given up too
    elif fault.mend_at == "waiting" and trial.policy == "wait" and fault.mend is not nothing:
        _wait_for(trial, lambda event: isinstance(event, ev.HostsAwaited))
    else:
        return False
    fault.mend(trial)
    return True


# --- verdicts -------------------------------------------------------------------------------------


def _judge(
    fault: Fault, trial: Trial, ended: RunState, final: RunState, left: Sequence[str],
    plain_auc: float, seen_s: float,
) -> Verdict:  # fmt: skip
    events = trial.events()
    auc = final.result("evaluate").get("auc")
    drift = abs(float(auc) - plain_auc) if isinstance(auc, int | float) else None
    told = [event for event in events if isinstance(event, ev.WorkLost)]
    loss = told[0] if told else ended.problem
    said = f"{loss.what} {loss.why}" if loss else ""
    notice_s = _noticed(events, trial.struck) if fault.loses else None
    if ended.status is RunStatus.LOST:
        notice_s = seen_s
    limit = NOTICE_S + (GRACE_S if fault.grace else 0)
    lost_steps, lost_s = _work_lost(events)
    broken = [
        *_wrong_end(fault, trial, ended, final),
        *([f"left: {', '.join(sorted(set(left)))}"] if left else []),
        *([f"AUC differs by {drift:.4f}"] if drift is not None and drift > DRIFT else []),
        *([f"noticed after {notice_s:.1f} s"] if notice_s and notice_s > limit else []),
        *([f"{lost_s:.1f} s of work lost"] if lost_s > CHECKPOINT_S + FETCH_S else []),
        *([f"{fault.said!r} was not told"] if fault.said not in said else []),
        *(["work was lost"] if told and not fault.loses else []),
        *(["nothing was told"] if notice_s is None and fault.loses else []),
    ]
    return Verdict(
        fault=fault.name, policy=trial.policy, promise=fault.promise,
        observation=_observation(trial.refusal or (loss.what if loss else ""), ended, final),
        broken=broken, notice_s=notice_s, notice_limit_s=limit, orphans=len(left),
        end=str(ended.status), drift=drift, lost_steps=lost_steps, lost_s=lost_s,
    )  # fmt: skip


def _problem_text(state: RunState) -> str:
    problem = state.problem
    return f"{problem.what} {problem.why}" if problem else ""


def _noticed(events: Sequence[ev.Event], struck: float) -> float | None:
    """Seconds from the strike to the first thing that was told of it."""
    kinds = (ev.HostSilent, ev.WorkLost, ev.StepStopped, ev.StepFailed)
    found = [event.t - struck for event in events if isinstance(event, kinds) and event.t >= struck]
    return min(found, default=None)


def _work_lost(events: Sequence[ev.Event]) -> tuple[int, float]:
    """The most steps, and seconds, of training after a checkpoint that had to be done again."""
    most, seconds = 0, 0.0
    for number, event in enumerate(events):
        if isinstance(event, ev.WorkLost | ev.StepStopped | ev.StepFailed | ev.RunStarted):
            before = fold(events[:number])
            steps = before.unsaved()[0]
            points = before.curves.get(("loss", "train"), [])
            saved = before.checkpoint[1] if before.checkpoint else 0
            done = [point.t for point in points if point.step <= saved]
            if steps and done:
                seconds = max(seconds, points[-1].t - done[-1])
            most = max(most, steps)
    return most, seconds


def _wrong_end(fault: Fault, trial: Trial, ended: RunState, final: RunState) -> list[str]:
    wanted = fault.ends.get(trial.policy, fault.ends.get("", RunStatus.DONE))
    found = []
    if ended.status is not wanted:
        found.append(f"ended {ended.status}, not {wanted}: {_problem_text(ended)[:200]}")
    if final.status is not RunStatus.DONE:
        found.append(f"resume ended {final.status}: {_problem_text(final)[:200]}")
    if trial.other and api.state(trial.other).status is not RunStatus.DONE:
        found.append(f"the other run ended {api.state(trial.other).status}")
    if fault.strike is _revoke_key and not ("h2" in trial.refusal and "key" in trial.refusal):
        found.append(f"a new run was not refused for the key: {trial.refusal!r}")
    return found


def _observation(said: str, ended: RunState, final: RunState) -> str:
    """What a user reads, and how it ended, in a line."""
    words = said.partition("\n")[0]
    end = f"ended {ended.status}"
    if ended.status is not RunStatus.DONE:
        end += f", after resume {final.status}"
    if final.attempt > 1:
        end += f", attempt {final.attempt}"
    return f"{words[:120]}; {end}" if words else end
