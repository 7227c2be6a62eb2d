"""What steps took, in words: each rank's step time, and the whole beside its estimate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine import estimates

if TYPE_CHECKING:
    from engine.state import RunState, StepState

ESTIMATE_HEAD = ("step", "minutes", "memory GiB", "disk GiB", "network GiB")


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


def estimate_rows(state: RunState) -> list[list[str]]:
    """Under ESTIMATE_HEAD, what each step was expected to take, and what it took."""

    def pair(step: StepState, key: str, form: str) -> str:
        values = (step.estimate.get(key), step.actual.get(key))
        return " / ".join("-" if value is None else form.format(value) for value in values)

    return [
        [step.id, pair(step, "minutes", "{:.2f}"), pair(step, "memory_gib", "{:.2f}"),
         pair(step, "disk_gib", "{:.3f}"), pair(step, "network_gib", "{:.3f}")]
        for step in state.steps.values() if step.actual
    ]  # fmt: skip


def estimate_words(state: RunState) -> list[str]:
    """How this run and earlier ones compare to their estimates, as far as that is known."""
    own = estimates.sentence(estimates.score(state))
    found = [f"this run: {own} (median of its steps)"] if own else []
    return [*found, *filter(None, [estimates.record_sentence()])]
