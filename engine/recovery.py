"""What a run does when a host or a rank is lost: the recipe's `faults.policy`.

The work is tried again by the same run process, each time as a new attempt with jobs of its own
name, from its last checkpoint. Whatever else goes wrong is not tried again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from engine import clusters
from engine import events as ev
from engine.errors import AiokError, HostAway, HostError, HostLost, RunStopped, WorkerLost
from engine.plan import TRAINING, Step
from engine.steps import over_hosts
from engine.steps.context import Context
from hosts.inventory import LOCAL
from hosts.transport import HostProblem, Refusal

LOOK_S = 3.0  # between two looks whether a host is back
REFUSED_S = 60.0  # that one which is waited for may refuse: while it boots it lets nobody in
Work = Callable[[], dict[str, Any]]


def with_policy(
    context: Context, step: Step, work: Work, *, makes_ready: bool = False
) -> dict[str, Any]:
    """Do the work, again after each loss that the policy goes on from. The hosts are made ready
    before, unless the work `makes_ready` itself.

    Raises HostLost when `faults.restarts` are used up or no host is left, RunStopped for a stop
    request while it waits, HostError when a host refuses to work, and whatever the work raised
    that is no loss.
    """
    policy, limit = str(context.value("faults.policy")), int(context.value("faults.restarts"))
    restart = 0
    while True:
        try:
            if restart and context.cluster != LOCAL and not makes_ready:
                over_hosts.make_hosts_ready(context, step)
            return work()
        except (HostLost, WorkerLost, HostError) as loss:
            if policy == "stop" or context.stop_level():
                raise
            absent = absent_hosts(context)
            if isinstance(loss, HostError) and not (absent or isinstance(loss, HostAway)):
                raise  # a host answers and says no: that will not change
            if restart == limit:
                raise _given_up(
                    loss, f"the {limit} restarts (faults.restarts) are used up"
                ) from loss
            restart += 1
            _tell_loss(context, step, loss, absent, restart)
            if policy == "wait":
                _wait_for(context, step, absent)
            else:
                _leave_out(context, absent, loss)
            context.attempt += 1
            context.emit(
                ev.WorkRestarted, step=step.id, attempt=context.attempt,
                without=list(context.without),
            )  # fmt: skip


def absent_hosts(context: Context) -> list[HostProblem]:
    """Why hosts of this attempt do not answer now; [] on this machine alone.

    HostError when one answers and refuses to work: it is no loss, is not waited for and not left
    out. Behind a host key that has changed may be somebody else.
    """
    if context.cluster == LOCAL:
        return []
    known, wanted = clusters.inventory(), context.cluster_hosts()
    entries = [entry for entry in clusters.entries(context.cluster, known) if entry.name in wanted]
    sites, problems = clusters.reach(entries, known)
    clusters.leave(sites)
    if refusals := [problem for problem in problems if isinstance(problem, Refusal)]:
        raise clusters.unreachable(refusals)
    return problems


def _tell_loss(
    context: Context, step: Step, loss: AiokError, absent: Sequence[HostProblem], restart: int
) -> None:
    steps, rows = context.folder.state().unsaved() if step.kind in TRAINING else (0, 0)
    context.emit(
        ev.WorkLost, step=step.id, what=loss.what, why=loss.why, log=loss.log,
        policy=str(context.value("faults.policy")), restart=restart,
        restarts=int(context.value("faults.restarts")), hosts=[p.host for p in absent],
        steps_lost=steps, rows_lost=rows,
    )  # fmt: skip


def _wait_for(context: Context, step: Step, absent: Sequence[HostProblem]) -> None:
    """Until all hosts answer; each change of what keeps them away is told."""
    told, refused_since = "", 0.0
    while absent:
        why = "\n".join(clusters.sentence(problem) for problem in absent)
        if why != told:
            told = why
            hosts = [problem.host for problem in absent]
            context.emit(ev.HostsAwaited, step=step.id, hosts=hosts, why=why)
        end = time.monotonic() + LOOK_S
        while time.monotonic() < end:
            if context.stop_level():
                raise RunStopped("stopped on request")
            time.sleep(0.1)
        try:
            absent, refused_since = absent_hosts(context), 0.0
        except HostError:
            refused_since = refused_since or time.monotonic()
            if time.monotonic() - refused_since >= REFUSED_S:
                raise


def _leave_out(context: Context, absent: Sequence[HostProblem], loss: AiokError) -> None:
    gone = tuple(problem.host for problem in absent)
    if gone and set(context.cluster_hosts()) <= set(gone):
        raise _given_up(loss, "no host is left") from loss
    context.without = (*context.without, *gone)


def _given_up(loss: AiokError, reason: str) -> HostLost:
    """The loss as the end of the run: stopped, resumable."""
    return HostLost(
        loss.what, why=loss.why, todo=f"{reason}; {loss.todo or 'then: aiok resume RUN'}",
        log=loss.log,
    )  # fmt: skip
