"""Run one benchmark and keep its result: `python -m bench.harness NAME` (scripts/bench NAME).

`scripts/bench NAME --VARIANT` runs the function VARIANT of bench/NAME.py instead of `measure` and
writes NAME_VARIANT.json. `scripts/bench --table` writes README's table (bench/table.py).

A benchmark is bench/NAME.py with a docstring (its first line is the title), ENVIRONMENTS (the
first is where it runs, the others are installed for its workers; "app" = the app's own) and
`measure()`, which returns rows of {name, value, unit} and, where they apply, {baseline, ratio,
goal, met, data, command, spread, note, readme}. `met` is None where the spread is larger than the
effect, and in every row with a spread when other processes took more than BUSY of the CPU: then
nobody may judge, for threads that wait for each other lose many times what was taken from them.
This file adds machine, versions and date, and writes bench/results/NAME.json.
"""

from __future__ import annotations

import ast
import datetime
import importlib
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
KEYS = ("name", "value", "unit", "baseline", "ratio", "goal", "met", "data", "command")
LIBRARIES = (
    *("torch", "numpy", "pyarrow", "pysail", "pyspark", "pyspark-client", "openvino", "impi-rt"),
    *("scikit-learn", "polars", "duckdb", "pandas", "textual", "typer"),
)
INSIDE = "AIOK_BENCH_INSIDE"
BUSY = 0.1


def python_of(environment: str) -> str:
    """The Python of an environment the benchmark has named in ENVIRONMENTS."""
    return os.environ[f"AIOK_BENCH_PYTHON_{environment.upper()}"]


def judge(effect: float, goal: float, spread: float) -> bool | None:
    """Whether effect >= goal; None when their distance is smaller than the spread of the runs."""
    return None if abs(effect - goal) < spread else effect >= goal


def spread(values: list[float]) -> float:
    """Half the range of repeated runs; from six runs on without the lowest and the highest.

    Of a few runs no smaller figure can be trusted: the distance of the closest two says nothing.
    ValueError for a single run, which shows nothing of the noise.
    """
    if len(values) < 2:
        raise ValueError("the spread needs at least two runs")
    ordered = sorted(values)
    kept = ordered[1:-1] if len(ordered) >= 6 else ordered
    return (kept[-1] - kept[0]) / 2


def names() -> list[str]:
    """The benchmarks there are."""
    return sorted(
        path.stem for path in (ROOT / "bench").glob("*.py") if "ENVIRONMENTS" in _constants(path)
    )


def titles() -> dict[str, str]:
    """The first line of each benchmark's docstring."""
    return {name: _constants(ROOT / "bench" / f"{name}.py")["__doc__"] for name in names()}


def _constants(path: Path) -> dict[str, Any]:
    """The literal constants of a module, without importing it; its docstring as __doc__."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: dict[str, Any] = {"__doc__": (ast.get_docstring(tree) or "").partition("\n")[0]}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue
    return found


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    flags = fields.get("flags", "").split()
    wanted = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": fields.get("model name", platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "isa": [flag for flag in wanted if flag in flags],
        "memory_gib": round(memory, 1),
        "load1": round(os.getloadavg()[0], 2),
        "kernel": platform.release(),
    }


_counted_as_own: list[float] = []


def count_as_own(cpu_seconds: float) -> None:
    """CPU time that a benchmark caused in processes that are no children of it: those of hosts."""
    _counted_as_own.append(cpu_seconds)


class OtherWork:
    """How much of the CPU others take while a benchmark runs; Linux."""

    def __init__(self) -> None:
        self._busy, self._all, self._own = *_machine_seconds(), _own_seconds()

    def share(self) -> float:
        """The part of all cores' time since the start, 0 to 1, that was not the benchmark's own.

        Its own are this process, what it started and waited for, and what it counts as own.
        """
        busy, total = _machine_seconds()
        others = busy - self._busy - (_own_seconds() - self._own) - sum(_counted_as_own)
        return min(1.0, max(0.0, others / max(total - self._all, 1e-9)))


def _machine_seconds() -> tuple[float, float]:
    """CPU-seconds of all cores so far: not idle, and all."""
    first = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0]
    ticks = [int(field) for field in first.split()[1:9]]  # ... idle, iowait, irq, softirq, steal
    second = os.sysconf("SC_CLK_TCK")
    return (sum(ticks) - ticks[3] - ticks[4]) / second, sum(ticks) / second


def _own_seconds() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def versions() -> dict[str, str]:
    """Python and the libraries of this environment."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def complete(row: dict[str, Any], name: str, about: dict[str, Any]) -> dict[str, Any]:
    """A row with every key; ValueError names one that is missing or unknown."""
    if missing := {"name", "value", "unit"} - set(row):
        raise ValueError(f"bench {name}: a row lacks {', '.join(sorted(missing))}")
    if unknown := set(row) - {*KEYS, "spread", "note", "readme"}:
        raise ValueError(f"bench {name}: unknown keys {', '.join(sorted(unknown))}")
    filled = {**dict.fromkeys(KEYS), **about, **row}
    return {**{key: filled[key] for key in KEYS}, **filled}


def unjudged_if_busy(row: dict[str, Any], others: float) -> dict[str, Any]:
    """The row without its verdict when it is of repeated timings and others took too much."""
    if others <= BUSY or row.get("spread") is None or row["met"] is None:
        return row
    reason = f"not judged: other processes took {others:.0%} of the CPU"
    return {**row, "met": None, "note": "; ".join(filter(None, (row.get("note"), reason)))}


def inside(arguments: list[str]) -> None:
    """Measure, in the benchmark's own environment, and write the result."""
    about_machine, others = machine(), OtherWork()
    name, *options = arguments
    variant = options[0].removeprefix("--") if options else ""
    rows = getattr(importlib.import_module(f"bench.{name}"), variant or "measure")()
    about_machine["load1_after"] = round(os.getloadavg()[0], 2)
    about_machine["others_cpu_share"] = round(others.share(), 3)
    about = {
        "command": shlex.join(["scripts/bench", *arguments]),
        "machine": about_machine,
        "versions": versions(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    done = [
        unjudged_if_busy(complete(row, name, about), about_machine["others_cpu_share"])
        for row in rows
    ]
    RESULTS.mkdir(exist_ok=True)
    file = f"{name}_{variant}.json" if variant else f"{name}.json"
    scratch = RESULTS / f".{file}"
    scratch.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
    scratch.replace(RESULTS / file)
    for row in done:
        word = {True: "met", False: "NOT met", None: "not judged"}[row["met"]]
        goal = f"  goal {row['goal']}: {word}" if row["goal"] is not None else ""
        print(f"{row['name']:40} {row['value']} {row['unit']}{goal}")


def pythons(environments: tuple[str, ...]) -> dict[str, str]:
    """Install what a benchmark needs; the Python of each environment."""
    from engine.environments import environment_folder, install_environment, size_to_install
    from hosts.local import LocalTransport

    found = {}
    for environment in environments:
        if environment == "app":
            found[environment] = sys.executable
            continue
        last = ""

        def show(phase: str, done: float, total: float, *, name: str = environment) -> None:
            nonlocal last
            if phase != last:
                last = phase
                print(f"environment {name}: {phase}", file=sys.stderr, flush=True)

        if size := size_to_install(environment, LocalTransport()):
            print(f"environment {environment}: {size}", file=sys.stderr, flush=True)
        install_environment(environment, LocalTransport(), show)
        found[environment] = str(environment_folder(environment) / "bin" / "python")
    return found


def main(arguments: list[str]) -> int:
    """List the benchmarks, or run one in its environment."""
    if os.environ.get(INSIDE):
        inside(arguments)
        return 0
    if arguments == ["--table"]:
        from bench import table

        table.write(ROOT / "README.md", RESULTS, titles())
        return 0
    if not arguments or arguments[0] not in names():
        for name, title in titles().items():
            print(f"{name:16} {title}")
        return 0 if not arguments else 2
    name = arguments[0]
    constants = _constants(ROOT / "bench" / f"{name}.py")
    found = pythons(tuple(constants["ENVIRONMENTS"]))
    shown = {f"AIOK_BENCH_PYTHON_{key.upper()}": value for key, value in found.items()}
    python = found[constants["ENVIRONMENTS"][0]]
    argv = [python, "-P", "-m", "bench.harness", *arguments]
    environ = {**os.environ, **shown, INSIDE: "1", "PYTHONPATH": str(ROOT)}
    # mpirun and the tools of an environment are found beside its Python
    environ["PATH"] = f"{Path(python).parent}{os.pathsep}{environ.get('PATH', os.defpath)}"
    code = subprocess.run(argv, env=environ, cwd=ROOT, check=False).returncode
    if code:
        print(f"bench {name} failed (exit {code}): {shlex.join(argv)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    from bench import harness  # the module that benchmarks import, not a second one

    sys.exit(harness.main(sys.argv[1:]))
