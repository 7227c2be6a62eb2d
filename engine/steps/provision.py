"""Make the host ready: the environments of the plan, by the same path everywhere."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from engine import events as ev
from engine.environments import install_environment, size_to_install
from engine.plan import Step
from engine.steps.context import Context


def run(context: Context, step: Step, output: Path) -> dict[str, Any]:
    """Install what is missing; an environment that is there costs nothing."""
    seconds: dict[str, float] = {}
    for name in context.plan.environments:
        begun = time.monotonic()
        last = 0.0

        def report(phase: str, done: float, total: float, name: str = name) -> None:
            nonlocal last
            if time.monotonic() - last < 0.3 and done < total:
                return
            last = time.monotonic()
            context.emit(
                ev.StepProgressed, step=step.id, phase=f"{name}: {phase}", done=done, total=total,
                unit="",
            )  # fmt: skip

        if size := size_to_install(name, context.transport):
            context.emit(ev.Noted, step=step.id, text=f"installs the environment {name}: {size}")
        fresh = install_environment(name, context.transport, report, context.stop_level)
        if fresh:
            seconds[name] = round(time.monotonic() - begun, 1)
    return {"installed": seconds, "environments": list(context.plan.environments)}
