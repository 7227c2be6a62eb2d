"""Faults on purpose: what aiok promises for each, what is seen, and whether it is kept.

Each drill starts the tiny recipe in a sandbox, waits for the fault's moment, strikes, and follows
the run to its end. The faults are in engine/faults.py.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from engine import api
from engine import events as ev
from engine.errors import AiokError, InputError
from engine.faults import (
    DATA,
    FAULTS,
    FILLED,
    GRACE_S,
    HOSTS,
    POLICIES,
    RUN_S,
    Fault,
    Trial,
    nothing,
    revoke_key,
)
from engine.sandbox import Sandbox, sandbox
from engine.state import RunState, RunStatus, fold
from engine.store import cache_folder
from engine.work import NO_PROGRESS
from hosts import java
from hosts.testbed_host import TestbedProblem
from models.settings import nearest

NOTICE_S = 15.0
DRIFT = 0.002  # of the test AUC
FILES = 6  # of the raw data, for Spark
# What a fault may do to the drill itself: it then has no verdict but this.
TROUBLES = (AiokError, TestbedProblem, OSError, subprocess.SubprocessError)


@dataclass(frozen=True)
class Verdict:
    """What came of a trial. Seconds; `notice_s` None: nothing had to be noticed. `interval_s`: the
    longest one between the run's checkpoints."""

    fault: str
    policy: str
    promise: str
    observation: str
    broken: list[str]
    notice_s: float | None
    orphans: int
    end: str
    drift: float | None
    lost_steps: int
    lost_s: float
    interval_s: float

    @property
    def kept(self) -> bool:
        """Whether the promise was."""
        return not self.broken


def chosen(names: Sequence[str]) -> list[Fault]:
    """The faults of these names, all without any; InputError for a name that is none."""
    known = {fault.name: fault for fault in FAULTS}
    for name in names:
        if name not in known:
            raise InputError(f"there is no fault {name!r}", todo=nearest(name, list(known)))
    return [fault for fault in FAULTS if not names or fault.name in names]


def left_out(names: Sequence[str] = (), *, on_hosts: bool | None = None) -> dict[str, str]:
    """The faults among those chosen that cannot be drilled here, and what each lacks."""
    with_hosts = os.geteuid() == 0 if on_hosts is None else on_hosts
    wanted = chosen(names)
    found = {f.name: "it needs hosts, and hosts need root" for f in wanted if f.hosts}
    if not with_hosts:
        return found
    if java.is_fit(api.host_facts().java) or java.find_jdk() is not None:
        return {}
    return {f.name: "Spark needs Java 17 or 21" for f in wanted if f.on_spark}


# --- drills ---------------------------------------------------------------------------------------


def drill(
    names: Sequence[str] = (), policies: Sequence[str] = POLICIES, *, on_hosts: bool | None = None
) -> Iterator[Verdict]:
    """Drill faults one by one, each under each of the policies that make a difference to it.

    On hosts of the testbed where root is had, else on this machine; those that lack something there
    (`left_out`) are passed over. InputError when none is left, or for a policy that is none.
    """
    for policy in policies:
        if policy not in POLICIES:
            raise InputError(f"there is no policy {policy!r}", todo=nearest(policy, POLICIES))
    with_hosts = os.geteuid() == 0 if on_hosts is None else on_hosts
    lacking = left_out(names, on_hosts=with_hosts)
    wanted = [fault for fault in chosen(names) if fault.name not in lacking]
    if not wanted:
        reasons = "; ".join(f"{name}: {why}" for name, why in lacking.items())
        raise InputError(f"none of these faults can be drilled: {reasons}", todo="sudo aiok drill")
    if not any(policy in fault.policies for fault in wanted for policy in policies):
        raise InputError(
            f"no fault of these is drilled under {', '.join(policies)}",
            todo="; ".join(f"{fault.name}: {', '.join(fault.policies)}" for fault in wanted),
        )
    small_disk = FILLED if any("disk" in fault.name for fault in wanted) else None
    with sandbox(HOSTS if with_hosts else 0, small_disk if with_hosts else None) as place:
        undisturbed = {False: _undisturbed(place)}  # test AUC, by whether Spark prepares the data
        for fault in wanted:
            for policy in (policy for policy in fault.policies if policy in policies):
                if fault.on_spark not in undisturbed:
                    undisturbed[True] = _undisturbed(place, on_spark=True)
                yield _tried(fault, Trial(place, policy), undisturbed[fault.on_spark])


def _undisturbed(place: Sandbox, on_spark: bool = False) -> float:
    """Test AUC of a run that nobody disturbs; it also makes the hosts ready."""
    run = api.start("tiny", Trial(place, "stop").overrides(on_spark=on_spark))
    state = api.wait_for_end(run, 900)
    if state.status is not RunStatus.DONE:
        problem = state.problem
        raise AiokError(
            f"the undisturbed run {run} ended {state.status}: {problem.what if problem else ''}",
            why="the drill needs a run that works", log=problem.log if problem else "",
        )  # fmt: skip
    if not on_spark:
        _write_files(place, state.steps["data"].identity)
    return float(state.result("evaluate")["auc"])


def _write_files(place: Sandbox, identity: str) -> None:
    """The generated rows in FILES files, in their order: the same training data come of them."""
    parts = sorted((cache_folder() / identity).glob("*.tsv"))
    lines = [line for part in parts for line in part.read_bytes().splitlines(keepends=True)]
    (place.place / DATA).mkdir()
    for number in range(FILES):
        some = lines[number * len(lines) // FILES : (number + 1) * len(lines) // FILES]
        (place.place / DATA / f"part-{number}.tsv").write_bytes(b"".join(some))


def _tried(fault: Fault, trial: Trial, plain_auc: float) -> Verdict:
    """The verdict of a trial; one that does not come to its end is a promise broken."""
    try:
        return _drill(fault, trial, plain_auc)
    except TROUBLES as error:
        broken = [_sentence(error)]
    left: list[str] = []

    def look() -> None:
        left.extend(trial.sandbox.wait_until_bare(trial.run, GRACE_S + NOTICE_S))

    undoings: list[Callable[[], object]] = [
        *(partial(api.stop, run, kill=True) for run in (trial.run, trial.other) if run),
        *([partial(fault.mend, trial)] if trial.struck else []),
        *([look] if trial.run else []),
    ]
    for undo in undoings:
        try:
            undo()
        except TROUBLES as error:
            broken.append(_sentence(error))
    return Verdict(
        fault=fault.name, policy=trial.policy, promise=fault.promise, observation=broken[0],
        broken=broken, notice_s=None, orphans=len(left), end="unknown", drift=None, lost_steps=0,
        lost_s=0.0, interval_s=0.0,
    )  # fmt: skip


def _sentence(error: Exception) -> str:
    return error.what if isinstance(error, AiokError) else str(error) or type(error).__name__


def _drill(fault: Fault, trial: Trial, plain_auc: float) -> Verdict:
    trial.sandbox.forget(fault.anew)
    trial.run = api.start("tiny", trial.overrides(on_spark=fault.on_spark))
    _wait_for(trial, fault.moment)
    time.sleep(fault.wait_s)
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
        _wait_for(trial, lambda event: event.t >= trial.struck and _tells(event, fault))
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
    after = [event for event in events if event.t >= trial.struck]
    told = [event for event in after if _tells(event, fault)]
    first, said = _said(told, ended)
    notices = [event.t - trial.struck for event in after if _tells(event, fault) or _warns(event)]
    must_notice = fault.loses or fault.warns
    notice_s = min(notices, default=None) if must_notice else None
    if ended.status is RunStatus.LOST:
        notice_s = seen_s
    lost_steps, lost_s = _work_lost(events)
    interval_s = _longest_interval(events)
    lost_work = any(isinstance(event, ev.WorkLost) for event in events)
    broken = [
        *_wrong_end(fault, trial, ended, final),
        *([f"left: {', '.join(sorted(set(left)))}"] if left else []),
        *([f"AUC differs by {drift:.4f}"] if drift is not None and drift > DRIFT else []),
        *([f"noticed after {notice_s:.1f} s"] if notice_s and notice_s > NOTICE_S else []),
        *(
            [f"{lost_s:.1f} s of work lost, a checkpoint interval took {interval_s:.1f} s"]
            if lost_s > interval_s
            else []
        ),
        *[f"{words!r} was not told" for words in fault.said if words not in said],
        *(["work was lost"] if lost_work and not fault.loses else []),
        *(["nothing was told"] if notice_s is None and must_notice else []),
    ]
    return Verdict(
        fault=fault.name, policy=trial.policy, promise=fault.promise,
        observation=_observation(trial.refusal or first, ended, final),
        broken=broken, notice_s=notice_s, orphans=len(left), end=str(ended.status), drift=drift,
        lost_steps=lost_steps, lost_s=lost_s, interval_s=interval_s,
    )  # fmt: skip


def _tells(event: ev.Event, fault: Fault) -> bool:
    """Whether an event tells a person of the fault: an end, a loss, or a warning where the step
    goes on."""
    if fault.warns and isinstance(event, ev.Noted):
        return event.level == "warning" and all(words in event.text for words in fault.said)
    return isinstance(event, ev.WorkLost | ev.StepStopped | ev.StepFailed)


def _warns(event: ev.Event) -> bool:
    """Whether a person reads of a silence that may become a loss."""
    if isinstance(event, ev.Noted):
        return event.level == "warning" and NO_PROGRESS in event.text
    return isinstance(event, ev.HostSilent)


def _said(told: Sequence[ev.Event], ended: RunState) -> tuple[str, str]:
    """What a person reads first of the fault, and all that belongs to it."""
    loss: ev.WorkLost | ev.StepFailed | ev.StepStopped | None = ended.problem
    for event in told:
        if isinstance(event, ev.Noted):
            return event.text, event.text
        if isinstance(event, ev.WorkLost):
            loss = event
            break
    if loss is None:
        return "", ""
    brief = loss.why if "\n" not in loss.why else ""  # not the last lines of the output
    return "; ".join(filter(None, (loss.what, brief))), f"{loss.what} {loss.why}"


def _problem_text(state: RunState) -> str:
    problem = state.problem
    return f"{problem.what} {problem.why}" if problem else ""


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


def _longest_interval(events: Sequence[ev.Event]) -> float:
    """The most seconds from the work that one checkpoint holds, or the first step of an attempt,
    until the next one was whole here: `checkpoint_s`, and what saving and fetching it took.

    No kill in between loses more; 0.0 when nothing was saved.
    """
    longest, safe = 0.0, 0.0
    points: list[tuple[int, float]] = []
    for event in events:
        if isinstance(event, ev.StepStarted | ev.WorkRestarted):
            points, safe = [], 0.0
        elif isinstance(event, ev.Measured) and (event.name, event.split) == ("loss", "train"):
            points.append((event.step_count, event.t))
            safe = safe or event.t
        elif isinstance(event, ev.CheckpointSaved) and points:
            longest = max(longest, event.t - safe)
            safe = max((t for step, t in points if step <= event.step_count), default=safe)
    return longest


def _wrong_end(fault: Fault, trial: Trial, ended: RunState, final: RunState) -> list[str]:
    wanted = fault.ends.get(trial.policy, fault.ends.get("", RunStatus.DONE))
    if wanted is RunStatus.STOPPED and trial.sandbox.testbed is None:
        wanted = RunStatus.FAILED  # on this machine alone: WorkerLost, resumable all the same
    found = []
    if ended.status is not wanted:
        found.append(f"ended {ended.status}, not {wanted}: {_problem_text(ended)[:200]}")
    if final.status is not RunStatus.DONE:
        found.append(f"resume ended {final.status}: {_problem_text(final)[:200]}")
    if trial.other and api.state(trial.other).status is not RunStatus.DONE:
        found.append(f"the other run ended {api.state(trial.other).status}")
    if fault.strike is revoke_key and not ("h2" in trial.refusal and "key" in trial.refusal):
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
    return f"{words[:240]}; {end}" if words else end
