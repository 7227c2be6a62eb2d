"""Waits for a job of the engine: reports progress, watches memory, obeys a stop request."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.messages import Messenger, Note, Progress
from models.recdp.tasks import STOP_FILE, StopRequested
from models.worker import StopFlag, Stopped, WorkFailed

LOOK_S = 0.25  # between two looks at the progress files


@dataclass(frozen=True)
class Overdue:
    """What a person is told, once, of a job that has not ended after so many seconds. From then on
    a stop request calls `cancel` instead of waiting for tasks: there may be none."""

    seconds: float
    text: str
    cancel: Callable[[], object]


def run_job(
    action: Callable[[], Any], phase: str, weights: list[int], unit: str, work: Path,
    messenger: Messenger, stop: StopFlag, overdue: Overdue | None = None,
) -> tuple[Any, float]:  # fmt: skip
    """Run `action` in a thread until it ends; returns its value and the peak memory in GiB.

    Task n counts for weights[n] of the progress once `work/done/PHASE-n` exists. On a stop
    request the tasks find the stop file and end, then Stopped is raised.
    """
    outcome: dict[str, Any] = {}

    def call() -> None:
        try:
            outcome["value"] = action()
        except BaseException as error:  # noqa: BLE001 - raised again below, in the caller's thread
            outcome["error"] = error

    thread = threading.Thread(target=call, name=phase, daemon=True)
    thread.start()
    total, reported, peak = sum(weights), -1, 0.0
    due, told = time.monotonic() + (overdue.seconds if overdue else 0.0), False
    while True:
        thread.join(LOOK_S)
        peak = max(peak, tree_rss_gib())
        if stop.requested:
            (work / STOP_FILE).touch()
        done = _done(work / "done", phase, weights)
        if done != reported and total:
            messenger.send(Progress(phase=phase, done=done, total=total, unit=unit))
            reported = done
        if not thread.is_alive():
            break
        if overdue and time.monotonic() > due:
            if stop.requested:
                overdue.cancel()
            elif not told:
                messenger.send(Note(text=overdue.text, level="warning"))
                told = True
    stop.check()
    if "error" in outcome:
        raise _explain(outcome["error"])
    return outcome["value"], peak


def _done(folder: Path, phase: str, weights: list[int]) -> int:
    prefix = f"{phase}-"
    names = [name for name in os.listdir(folder) if name.startswith(prefix)]
    return sum(weights[int(name.removeprefix(prefix))] for name in names)


def _explain(error: BaseException) -> BaseException:
    """Known ends of a task in plain words; anything else as it came."""
    text = str(error)
    if StopRequested.__name__ in text:
        return Stopped()
    if "No space left on device" in text or "Disk quota exceeded" in text:
        return WorkFailed("the disk is full", "a task could not write its file",
                          "free some space, or put the run on a larger disk")  # fmt: skip
    return error


def tree_rss_gib() -> float:
    """Resident memory of this process and all processes it started, in GiB."""
    parents: dict[int, int] = {}
    resident: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            stat = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        parents[int(entry)], resident[int(entry)] = int(stat[1]), int(stat[21])
    total = 0
    for process in parents:
        ancestor = process
        while ancestor not in (os.getpid(), 0):
            ancestor = parents.get(ancestor, 0)
        if ancestor:
            total += resident[process]
    return total * os.sysconf("SC_PAGE_SIZE") / 2**30
