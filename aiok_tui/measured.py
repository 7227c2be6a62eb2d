"""What steps took, in words: each rank's step time, and the whole beside its estimate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine import estimates

if TYPE_CHECKING:
    from engine.plan import Plan
    from engine.state import RunState, StepState

PLAN_HEAD = ("step", "what", "minutes", "CPU-s", "memory GiB", "disk GiB", "network GiB")
ESTIMATE_HEAD = ("step", "minutes", "CPU-s", "memory GiB", "disk GiB", "network GiB")
FORMS = {"minutes": "{:.2f}", "cpu_s": "{:.1f}", "memory_gib": "{:.2f}", "disk_gib": "{:.3f}",
         "network_gib": "{:.3f}"}  # fmt: skip


def pace_lines(step: StepState) -> list[str]:
    """What a step takes each rank, of which it waits how long for the others."""
    lines = []
    for rank, pace in enumerate(step.paces):
        slow = f"   SLOW: {pace.slow:.1f}x the others" if pace.slow else ""
        own, wait = 1e3 * pace.own_s, 1e3 * pace.wait_s
        lines.append(f"rank {rank} on {pace.host}: {own:.1f} ms a step, waits {wait:.1f}{slow}")
    return lines


def pace_summary(step: StepState) -> str:
    """The step times of two or more ranks in a line, "" for fewer."""
    if len(step.paces) < 2:
        return ""
    own = sorted(1e3 * pace.own_s for pace in step.paces)
    said = f"{len(own)} ranks: {own[0]:.1f} to {own[-1]:.1f} ms a step"
    slow = [f"rank {rank} on {pace.host} {pace.slow:.1f}x the others"
            for rank, pace in enumerate(step.paces) if pace.slow]  # fmt: skip
    return f"{said}; SLOW: {', '.join(slow)}" if slow else said


def _said(key: str, value: float | None, within: float) -> str:
    """A figure of an estimate; "-" where nobody gave one: no CPU time at all is not known."""
    if value is None or (key == "cpu_s" and not value):
        return "-"
    return estimates.in_words(value, within, FORMS[key])


def plan_rows(plan: Plan) -> list[list[str]]:
    """Under PLAN_HEAD, what each step is expected to take, with 90 % intervals."""
    rows = []
    for step in plan.steps:
        said, within = step.estimate, step.estimate.within
        figures = [_said(key, getattr(said, key), within.get(key, 1.0)) for key in FORMS]
        if step.reuse:
            figures[:2] = ["reused", "-"]
        rows.append([step.id, step.title, *figures])
    return rows


def plan_words(plan: Plan) -> list[str]:
    """Where the estimates of a plan come from, and how good they were so far."""
    known = max(plan.steps, key=lambda step: step.estimate.runs)
    runs, what = known.estimate.runs, "trial" if known.estimate.basis.get("trials") else "run"
    source = "built-in prices: nothing like it ran on this host yet"
    if runs:
        source = f"learned from {runs} earlier {what}{'s' * (runs > 1)} on this host"
    return [f"in brackets 90 % intervals; {source}",
            *filter(None, [estimates.record_sentence()])]  # fmt: skip


def estimate_rows(state: RunState) -> list[list[str]]:
    """Under ESTIMATE_HEAD, what each step was expected to take, and what it took."""

    def pair(step: StepState, key: str, form: str) -> str:
        taken = step.actual.get(key)
        said = _said(key, step.estimate.get(key), step.within.get(key, 1.0))
        return f"{said} / {'-' if taken is None else form.format(taken)}"

    return [
        [step.id, *(pair(step, key, form) for key, form in FORMS.items())]
        for step in state.steps.values()
        if step.actual
    ]


def estimate_words(state: RunState) -> list[str]:
    """How this run and earlier ones compare to their estimates, as far as that is known."""
    own = estimates.sentence(estimates.score(state))
    found = [f"this run: {own} (median of its steps)"] if own else []
    return [*found, *filter(None, [estimates.record_sentence()])]
