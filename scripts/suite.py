"""The test environments and the test runs, for scripts/test and scripts/check.

    suite.py environment NAME      install a test environment and print its Python
    suite.py run [--fast] [...]    one pytest for each environment; the rest goes to pytest

A test environment is the product's lock plus locks/test.txt (the app's: plus locks/dev.txt), under
AIOK_TEST_HOME, which also serves as AIOK_HOME for tests that need installed environments.
Which file of tests/models runs where: `pytest.mark.environment("etl", ...)` anywhere in the file;
without it the name decides (DEFAULTS). Everything else in tests/ runs in the app's environment.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

from hosts.local import LocalTransport
from hosts.provision import (
    Lock,
    ProvisionError,
    collect_wheels,
    environment_folder,
    install,
    local_python,
)

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "models" / "environments"
WORKERS = ("etl", "torch", "spark", "bench")
DEFAULTS = (
    ("test_etl_spark", "spark"),
    ("test_etl", "etl"),
    ("test_recdp", "etl"),
    ("test_generator", "etl"),
)
MARK = re.compile(r"mark\.environment\(([^)]*)\)")
NO_TESTS = 5  # pytest's exit code
LIMIT_S = 320  # a test that hangs is ended, and its stack shown


@dataclass
class Outcome:
    """What one or more pytest runs came to. `unexcused` = skips CI does not accept."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    broken: bool = False
    unexcused: list[str] = field(default_factory=list)

    def add(self, report: Path, code: int) -> None:
        """Count the tests in a JUnit file; a run without one, or that was cut short, is broken."""
        self.broken |= code not in (0, 1, NO_TESTS)
        if not report.is_file():
            self.broken |= code != NO_TESTS
            return
        for case in ElementTree.parse(report).iter("testcase"):
            skip = case.find("skipped")
            if case.find("failure") is not None or case.find("error") is not None:
                self.failed += 1
            elif skip is None:
                self.passed += 1
            else:
                self.skipped += 1
                reason = skip.get("message", "")
                if "AIOK_TEST_DATA" not in reason:
                    self.unexcused.append(f"{case.get('classname')}.{case.get('name')}: {reason}")


def home() -> Path:
    """Where test environments and wheels are kept."""
    return Path(os.environ.get("AIOK_TEST_HOME") or ROOT / ".test-envs").absolute()


def environment(name: str) -> Path:
    """Install a test environment unless it is there; returns its Python."""
    extra = ROOT / "locks" / ("dev.txt" if name == "app" else "test.txt")
    base = ROOT / "locks" / "app.txt" if name == "app" else LOCKS / f"{name}.txt"
    lock = Lock.union(f"test-{name}", Lock.read(base), Lock.read(extra))
    folder = environment_folder(home(), lock)
    if not (folder / "installed.json").is_file():
        began = time.monotonic()
        print(f"test environment {name}: installing", file=sys.stderr, flush=True)
        sources = [Path(place) for place in os.environ.get("AIOK_WHEELS", "").split(":") if place]
        wheels = collect_wheels(lock, home(), sources)
        cores = len(os.sched_getaffinity(0))
        install(LocalTransport(), lock, wheels, folder, local_python(), cores=cores)
        print(f"test environment {name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    return folder / "bin" / "python"


def environments_of(file: Path) -> tuple[str, ...]:
    """Which environments a test file runs in."""
    if (ROOT / "tests" / "models") not in file.parents:
        return ("app",)
    if found := MARK.search(file.read_text(encoding="utf-8")):
        return tuple(re.findall(r"\w+", found[1]))
    return (next((where for start, where in DEFAULTS if file.name.startswith(start)), "torch"),)


def split(arguments: list[str]) -> tuple[list[Path], list[str]]:
    """Test files among the arguments (all of them when none is named), and pytest's options."""
    files, options = [], []
    for argument in arguments:
        place = Path(argument.split("::")[0])
        if argument.startswith("-") or not place.exists():
            options.append(argument)
        elif "::" in argument:
            options += ["-k", argument.rpartition("::")[2]]
            files.append(place.resolve())
        else:
            files += [place.resolve()] if place.is_file() else _files(place.resolve())
    return files or _files(ROOT / "tests"), options


def _files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("test_*.py"))


def run(arguments: list[str]) -> int:
    """Run the tests in every environment they name; the exit code of scripts/test."""
    fast = "--fast" in arguments
    files, options = split([a for a in arguments if a != "--fast"])
    if fast:
        options += ["-m", "not slow and not spark and not cluster"]
    by_environment: dict[str, list[Path]] = {}
    for file in files:
        for name in environments_of(file):
            if not (fast and name == "spark"):
                by_environment.setdefault(name, []).append(file)
    outcome = Outcome()
    pythons = {name: environment(name) for name in by_environment}
    shown = {f"AIOK_TEST_PYTHON_{name.upper()}": str(path) for name, path in pythons.items()}
    for name, chosen in by_environment.items():
        report = home() / f"report-{name}-{os.getpid()}.xml"
        print(f"== tests in the {name} environment", flush=True)
        code = subprocess.run(
            [
                *(pythons[name], "-m", "pytest", f"--junitxml={report}", f"--timeout={LIMIT_S}"),
                *(*options, *chosen),
            ],
            cwd=ROOT,
            env={**os.environ, **shown, **_variables(name)},
            check=False,
        ).returncode
        outcome.add(report, code)
        report.unlink(missing_ok=True)
    return summarize(outcome)


def _variables(name: str) -> dict[str, str]:
    data = os.environ.get("AIOK_TEST_DATA") or str(ROOT.parent / "shared" / "data")
    return {
        "AIOK_TEST_DATA": data,
        "AIOK_TEST_HOME": str(home()),
        "AIOK_TEST_ENVIRONMENT": name,
        "PYTHONPATH": str(ROOT),
    }


def summarize(outcome: Outcome) -> int:
    """Print the last line and say whether all is well."""
    bad = bool(outcome.failed) or outcome.broken
    if os.environ.get("CI") == "true" and outcome.unexcused:
        bad = True
        print("skipped, which CI does not accept:", *outcome.unexcused, sep="\n  ")
    if outcome.broken:
        print("a test run ended too early")
    if not outcome.passed:
        bad = True
        print("no test has passed")
    print(
        f"{outcome.passed} passed, {outcome.failed} failed, {outcome.skipped} skipped", flush=True
    )
    return 1 if bad else 0


def main(arguments: list[str]) -> int:
    """Do what the first argument says."""
    try:
        if arguments[:1] == ["environment"]:
            print(environment(arguments[1]))
            return 0
        return run(arguments[1:])
    except ProvisionError as problem:
        print(problem.what, problem.why, problem.todo, sep="\n  ", file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
