"""What a trial of a user's program takes: what earlier trials of it took, else what its file says.

Nothing is known of how its time grows with its parameters, so it is the median of the trials that
ran to their end on the same hosts (engine/estimates.py keeps them), with an interval by how much
they differ.
"""

from __future__ import annotations

from engine.advisor.job import Job
from engine.advisor.place import place_of
from engine.estimates import Basis
from engine.plan import Estimate
from engine.programs import registry

UNKNOWN_S, UNKNOWN_GIB = 60.0, 0.5  # a trial of a program that says nothing about itself
UNKNOWN_WITHIN = {"minutes": 60.0, "memory_gib": 8.0}  # from a second to an hour


def program_trial(job: Job, name: str) -> Estimate:
    """What one trial takes. Memory is that of its file where that sets a limit, time never above
    its time-out."""
    program = registry.get(name).program
    basis = Basis(group=f"{place_of(job)} | {name} | trial", trials=True)
    time = job.learned.usual(basis.group, "minutes")
    memory = job.learned.usual(basis.group, "memory_gib")
    minutes, gib = (program.timeout_s or UNKNOWN_S) / 60, UNKNOWN_GIB
    within = dict(UNKNOWN_WITHIN)
    if time is not None:
        minutes = min(time.value, minutes) if program.timeout_s else time.value
        within["minutes"] = round(time.within, 3)
    if memory is not None:
        gib, within["memory_gib"] = memory.value, round(memory.within, 3)
    if program.resources.memory_gb is not None:
        gib = program.resources.memory_gb
    return Estimate(
        minutes=minutes, memory_gib=gib, disk_gib=0.0, within=within, basis=basis.to_json(),
        runs=0 if time is None else time.runs,
    )  # fmt: skip


def about_program(job: Job, name: str) -> str:
    """How long a trial takes, in words."""
    one = program_trial(job, name)
    if not one.runs:
        return "how long a trial takes is not known yet: no trial has ended on these hosts so far"
    trials = f"{one.runs} earlier trial{'s' * (one.runs > 1)}"
    return f"a trial takes {in_words(one.minutes)}: the median of {trials} on these hosts"


def in_words(minutes: float) -> str:
    """2.5 minutes, 12 seconds."""
    return f"{minutes:.1f} minutes" if minutes >= 1 else f"{60 * minutes:.0f} seconds"
