"""What is wrong with this machine or this installation, each with its fix."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from engine import environments
from engine.api import host_facts
from engine.code import ROOT
from engine.errors import AiokError
from engine.store import home, make_folder


@dataclass(frozen=True)
class Finding:
    """One check. `level` is ok, note or problem."""

    level: str
    what: str
    todo: str = ""


def findings() -> list[Finding]:
    """All checks; none of them changes anything but creating $AIOK_HOME."""
    return [*_python(), *_places(), *_machine(), *_environments()]


def _python() -> list[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info[:2] == (3, 11)
    found = [Finding("ok" if good else "problem", f"Python {version} at {sys.executable}",
                     "" if good else "aiok needs CPython 3.11")]  # fmt: skip
    for name in ("aiok_tui", "engine", "hosts", "models"):
        module = __import__(name)
        place = Path(str(module.__file__ or next(iter(module.__path__)))).resolve().parent
        if place.parent != ROOT and place != ROOT:
            found.append(
                Finding("problem", f"package {name} comes from {place}",
                        f"expected below {ROOT}: remove the other installation")
            )  # fmt: skip
    return found


def _places() -> list[Finding]:
    try:
        make_folder(home())
    except AiokError as error:
        return [Finding("problem", error.what, error.todo)]
    free = shutil.disk_usage(home()).free / 2**30
    level = "ok" if free > 5 else "problem"
    return [Finding(level, f"{home()}: {free:.1f} GiB free",
                    "" if level == "ok" else "a first run needs about 5 GiB")]  # fmt: skip


def _machine() -> list[Finding]:
    facts = host_facts()
    isa = ", ".join(facts.isa) or "no AVX2"
    found = [
        Finding("ok", f"{facts.cpu_model}, {facts.physical_cores} cores, {isa}"),
        Finding("ok" if facts.memory_gib >= 4 else "problem", f"{facts.memory_gib:.1f} GiB memory",
                "" if facts.memory_gib >= 4 else "4 GiB is the least that trains"),
    ]  # fmt: skip
    if not facts.has_bf16:
        found.append(Finding("note", "no AMX or AVX512-BF16: training runs in fp32"))
    found.append(
        Finding("ok", facts.java) if facts.java else
        Finding("note", "no Java: Apache Spark (etl.engine=spark) is out of reach",
                "apt-get install openjdk-17-jre-headless; the embedded engine needs none")
    )  # fmt: skip
    if facts.load1 > len(facts.cores):
        found.append(Finding("note", f"load {facts.load1:.1f} on {len(facts.cores)} cores",
                             "others work here: timings will be worse"))  # fmt: skip
    if os.environ.get("TERM", "") in ("", "dumb"):
        found.append(Finding("note", "this terminal is dumb", "use aiok new, run, show"))
    return found


def _environments() -> list[Finding]:
    return [
        Finding("ok" if state.installed else "note",
                f"environment {state.name}: " + (f"installed, {state.size_gib:.2f} GiB"
                                                 if state.installed else "not installed"),
                "" if state.installed else "the first run that needs it installs it")
        for state in environments.listing()
    ]  # fmt: skip
