"""Make the host ready: the environments of the plan, by the same path everywhere."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from engine import clusters, host_jobs
from engine import events as ev
from engine.environments import install_environment, lock_of, size_to_install
from engine.errors import RunStopped
from engine.plan import Step
from engine.steps.context import Context
from hosts.inventory import LOCAL

TOLD_S = 0.3


def run(context: Context, step: Step, output: Path) -> dict[str, Any]:
    """Install what is missing; an environment that is there costs nothing."""
    seconds: dict[str, float] = {}
    here = {s.environment for s in context.plan.steps if s.host == LOCAL}
    for name in (name for name in context.plan.environments if name in here):
        begun = time.monotonic()
        last = 0.0

        def report(phase: str, done: float, total: float, name: str = name) -> None:
            nonlocal last
            if time.monotonic() - last < TOLD_S and done < total:
                return
            last = time.monotonic()
            context.emit(
                ev.StepProgressed, step=step.id, phase=f"{name}: {phase}", done=done, total=total,
                unit="",
            )  # fmt: skip

        if size := size_to_install(name, context.site.transport):
            context.emit(ev.Noted, step=step.id, text=f"installs the environment {name}: {size}")
        fresh = install_environment(name, context.site.transport, report, context.stop_level)
        if fresh:
            seconds[name] = round(time.monotonic() - begun, 1)
    result: dict[str, Any] = {"installed": seconds, "environments": list(context.plan.environments)}
    if context.cluster != LOCAL:
        result["hosts"] = make_hosts_ready(context, step)
    return result


def make_hosts_ready(context: Context, step: Step) -> dict[str, int]:
    """Complete the hosts of the cluster; how much was changed on each."""
    there = (s.environment for s in context.plan.steps if s.host == context.cluster)
    needed = {name for name in there if name}  # a program brings its own
    last: dict[str, float] = {}

    def report(host: str, phase: str, done: float, total: float) -> None:
        if context.stop_level():
            raise RunStopped("stopped on request")
        if time.monotonic() - last.get(host, 0.0) < TOLD_S and done < total:
            return
        last[host] = time.monotonic()
        phase = f"{host}: {phase}" if host else phase
        context.emit(ev.StepProgressed, step=step.id, phase=phase, done=done, total=total, unit="")

    sites = clusters.connect(context.cluster, without=context.without)
    try:
        outcomes = host_jobs.up(
            context.cluster, [lock_of(name) for name in sorted(needed)], report, sites=sites
        )
    finally:
        context.usage(step).moved(sum(site.transport.moved_bytes for site in sites))
        clusters.leave(sites)
    host_jobs.refuse(outcomes)
    return {outcome.host: len(outcome.changed) for outcome in outcomes}
