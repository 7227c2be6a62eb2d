"""Workers run one after the other for the training benchmarks, each as a user's run starts them."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.harness import ROOT, python_of
from models import catalog

SPLIT = {"by": "time", "valid": 0.1, "test": 0.2}


def work(module: str, environment: str, folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """Run a worker to its end in `folder`/output; the values of its result."""
    process = begin([python_of(environment)], module, folder, spec)
    return finished(process, folder)


def begin(
    launch: list[str], module: str, folder: Path, spec: dict[str, Any]
) -> subprocess.Popen[bytes]:
    """Start a worker; `launch` ends with the Python to use."""
    (folder / "output").mkdir(parents=True, exist_ok=True)
    (folder / "spec.json").write_text(json.dumps({"output": str(folder / "output"), **spec}))
    threads = str(spec.get("threads", spec.get("cores", 1)))
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "AIOK_MESSAGES": str(folder / "messages"),
        "OMP_NUM_THREADS": threads, "I_MPI_HYDRA_BOOTSTRAP": "fork", "I_MPI_PIN": "0",
        "PATH": f"{Path(launch[-1]).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "I_MPI_ROOT": str(Path(launch[-1]).parent.parent),
    }  # fmt: skip
    with open(folder / "log", "wb") as log:
        return subprocess.Popen(
            [*launch, "-m", module, str(folder / "spec.json")], cwd=folder, stdout=log, stderr=log,
            env=environment,
        )  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """What one job took, from the start of its first process to the end of its last: wall time,
    CPU-seconds of all its processes, peak memory of the largest, and the load when it began."""

    seconds: float
    cpu_seconds: float
    peak_gib: float
    load: float


def timed(launch: list[str], module: str, folder: Path, spec: dict[str, Any]) -> Cost:
    """Run a worker to its end; RuntimeError with the end of its log when it fails."""
    load = os.getloadavg()[0]
    start = time.monotonic()
    process = begin(launch, module, folder, spec)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        log = (folder / "log").read_text()
        raise RuntimeError(f"{module} in {folder}: exit {process.returncode}: {log[-2000:]}")
    peak_gib = usage.ru_maxrss / 2**20
    return Cost(seconds, usage.ru_utime + usage.ru_stime, peak_gib, load)


def finished(process: subprocess.Popen[bytes], folder: Path) -> dict[str, Any]:
    """Wait for a worker; the values of its result, or RuntimeError with the end of its log."""
    code = process.wait()
    path = folder / "messages" / "rank-0000.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for line in reversed(lines):
        if line["kind"] == "result":
            values: dict[str, Any] = line["values"]
            return values
    problems = [line["what"] for line in lines if line["kind"] == "problem"]
    raise RuntimeError(f"{folder}: exit {code}: {problems} {(folder / 'log').read_text()[-2000:]}")


def generated(folder: Path, rows: int, seed: int, split: dict[str, Any] = SPLIT) -> Path:
    """Generated click logs and their truth."""
    work("models.dlrm.generator", "etl", folder,
         {"rows": rows, "seed": seed, "split": split, "cores": 2, "settings": {}})  # fmt: skip
    return folder / "output"


def prepared(folder: Path, logs: Path, profile: str, split: dict[str, Any] = SPLIT) -> Path:
    """The ETL's blocks of click logs, with the profile's min_count."""
    min_count = int(catalog.load("dlrm").profiles[profile]["min_count"])
    work("models.dlrm.etl", "etl", folder, etl_spec(folder, logs, min_count, split))
    return folder / "output"


def etl_spec(
    folder: Path, logs: Path, min_count: int, split: dict[str, Any] = SPLIT
) -> dict[str, Any]:
    """The spec of the ETL of click logs on the embedded engine."""
    return {
        "dataset": {"format": "criteo", "paths": [str(logs)], "columns": None}, "split": split,
        "engine": "sail", "address": None, "settings": {"min_count": min_count},
        "cores": len(os.sched_getaffinity(0)), "memory_gib": 4, "work": str(folder / "work"),
    }  # fmt: skip


def baseline_spec(logs: Path, min_count: int) -> dict[str, Any]:
    """The spec of the same job by one of bench/baselines."""
    return {"paths": [str(logs)], "split": SPLIT, "min_count": min_count,
            "cores": len(os.sched_getaffinity(0))}  # fmt: skip


def trained(folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """Train as a spec of `train_spec` says, under mpirun when it has several ranks."""
    return finished(begin(train_launch(spec), "models.train", folder, spec), folder)


def train_launch(spec: dict[str, Any]) -> list[str]:
    """How to start the training of a spec."""
    python = python_of("torch")
    if spec["ranks"] == 1:
        return [python]
    return [str(Path(python).parent / "mpirun"), "-n", str(spec["ranks"]), python]


def train_spec(folder: Path, data: Path, profile: str, **changes: Any) -> dict[str, Any]:
    """The spec of a training by one rank; `settings` in changes go over the profile's."""
    settings = {**catalog.load("dlrm").profiles[profile], **changes.pop("settings", {})}
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    return {
        "model": "dlrm", "settings": settings, "data": str(data),
        "checkpoints": str(folder / "checkpoints"), "checkpoint_s": 600, "ranks": 1, "threads": 1,
        "rendezvous": f"file://{folder}/rendezvous" if changes.get("ranks", 1) > 1 else None,
        "seed": 7, "goal": {"metric": "auc", "target": None, "minutes": None}, **changes,
    }  # fmt: skip


def evaluated(folder: Path, data: Path, weights: Path, truth: Path | None) -> dict[str, Any]:
    """Metrics on the test rows; their logits are in `folder`/output/scores.npy."""
    return work("models.evaluate", "torch", folder, {
        "model": "dlrm", "data": str(data), "weights": str(weights), "split": "test", "threads": 1,
        "batch_size": 4096, "truth": None if truth is None else str(truth),
    })  # fmt: skip
