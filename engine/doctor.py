"""What is wrong with this machine or this installation, each with its fix."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from engine import environments
from engine.api import host_facts
from engine.code import ROOT
from engine.errors import AiokError
from engine.store import home, make_folder
from hosts.preflight import Finding, machine


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
    found = machine(host_facts())
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
