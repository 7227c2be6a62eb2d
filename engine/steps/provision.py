"""Make the hosts ready: the environments of the plan, by the same path everywhere.

A host of the cluster that does not answer is met as the fault policy says, as long as a step there
is still to be done: what is whole needs no host.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from engine import events as ev
from engine.environments import install_environment, size_to_install
from engine.hpo import optimizers
from engine.plan import Step
from engine.recovery import with_policy
from engine.steps import over_hosts
from engine.steps.context import Context
from hosts.inventory import LOCAL


def run(context: Context, step: Step, output: Path) -> dict[str, Any]:
    """Install what is missing; an environment that is there costs nothing."""
    seconds: dict[str, float] = {}
    here = {s.environment for s in context.plan.steps if s.host == LOCAL}
    here |= set(optimizers.environments_for(context.plan.steps))
    for name in (name for name in context.plan.environments if name in here):
        begun = time.monotonic()
        last = 0.0

        def report(phase: str, done: float, total: float, name: str = name) -> None:
            nonlocal last
            if time.monotonic() - last < over_hosts.TOLD_S and done < total:
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
    if any(s.host == context.cluster != LOCAL and not s.reuse for s in context.plan.steps):
        result["hosts"] = with_policy(
            context, step, lambda: over_hosts.make_hosts_ready(context, step), makes_ready=True
        )
    return result
