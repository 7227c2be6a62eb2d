"""A recorded run: written by the engine's own events and store, at a fixed time."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

from engine import events as ev
from engine.store import EventLog, RunFolder

T0 = 1_760_000_000.0  # 2025-10-09 08:53:20 UTC
STEPS = [
    {"id": "provision", "kind": "provision", "title": "environments etl, torch"},
    {"id": "data", "kind": "data", "title": "make 300,000 rows of DLRM data"},
    {"id": "etl", "kind": "etl", "title": "prepare data on Sail (embedded)"},
    {"id": "roofline", "kind": "roofline", "title": "matmul and memory peaks of this machine"},
    {"id": "train", "kind": "train", "title": "train DLRM (optimized), 2 ranks"},
    {"id": "evaluate", "kind": "evaluate", "title": "test metric"},
    {"id": "optimize", "kind": "optimize", "title": "inference export"},
    {"id": "report", "kind": "report", "title": "report"},
]
PEAKS = {"threads": 2, "matmul_gflops": {"fp32": 100.0}, "memory_gb_per_s": 20.0, "cores_kept": 2.0}
TRAINING = {"flops_per_row": 240_000.0, "bytes_per_row": 6_000.0, "precision": "fp32"}
INFERENCE = {"flops_per_row": 80_000.0, "bytes_per_row": 2_000.0, "precision": "fp32"}


def _before_training(run: str) -> list[ev.Event]:
    return [
        ev.RunCreated(t=T0, run=run, recipe="quickstart", steps=STEPS,
                      command="aiok run quickstart"),
        ev.RunStarted(t=T0 + 0.4, pid=1, attempt=1),
        ev.StepStarted(t=T0 + 0.5, step="provision", identity=""),
        ev.StepFinished(t=T0 + 1.5, step="provision", identity="", seconds=1.0,
                        result={"installed": {}, "environments": ["etl", "torch"]}),
        ev.StepReused(t=T0 + 1.6, step="data", identity="data-1",
                      result={"rows": 300000, "ceiling_auc": 0.8123}),
        ev.StepStarted(t=T0 + 2, step="etl", identity="etl-1"),
        ev.Noted(t=T0 + 3, step="etl", text="C3: broadcast join, 41,212 entries fit in memory"),
        ev.Noted(t=T0 + 3, step="etl", text="12 rows were malformed and left out", level="warning"),
        ev.StepFinished(t=T0 + 15, step="etl", identity="etl-1", seconds=13.0,
                        result={"rows": {"train": 240000, "valid": 30000, "test": 30000},
                                "rows_per_second": 23076.9, "engine": "sail"}),
        ev.StepReused(t=T0 + 15, step="roofline", identity="roofline-1", result=PEAKS),
        ev.StepStarted(t=T0 + 15.1, step="train", identity="train-1"),
        ev.WorkloadCounted(t=T0 + 15.1, step="train", **TRAINING),
    ]  # fmt: skip


def _training(points: int) -> list[ev.Event]:
    found: list[ev.Event] = []
    for i in range(1, points + 1):
        t, rows = T0 + 15.1 + i, i * 8000
        found += [
            ev.Measured(t=t, step="train", name="loss", split="train", rows=rows, step_count=i * 10,
                        value=0.69 - 0.2 * (1 - math.exp(-i / 12)) + 0.01 * math.sin(i)),
            ev.Measured(t=t, step="train", name="auc", split="valid", rows=rows, step_count=i * 10,
                        value=0.5 + 0.29 * (1 - math.exp(-i / 10))),
            ev.Measured(t=t, step="train", name="rows_per_second", split="train", rows=rows,
                        step_count=i * 10, value=95_000 + 5_000 * math.sin(i)),
            ev.StepProgressed(t=t, step="train", phase="epoch 1", done=rows, total=480000,
                              unit="rows"),
        ]  # fmt: skip
    return [*found, ev.CheckpointSaved(t=found[-1].t, step="train", step_count=points * 10)]


def _after_training(report: Path) -> list[ev.Event]:
    t = T0 + 80
    result = {
        "rows_per_second": 95000.0,
        "best": {"valid": {"auc": 0.7896}},
        "stop_reason": "epochs",
        **TRAINING,
    }
    return [
        ev.StepFinished(t=t, step="train", identity="train-1", seconds=64.9, result=result),
        ev.StepStarted(t=t, step="evaluate", identity="evaluate-1"),
        ev.StepFinished(t=t + 2, step="evaluate", identity="evaluate-1", seconds=2.0,
                        result={"auc": 0.7881, "ceiling_auc": 0.8123}),
        ev.StepStarted(t=t + 2, step="optimize", identity="optimize-1"),
        ev.StepFinished(t=t + 9, step="optimize", identity="optimize-1", seconds=7.0,
                        result={"rows_per_second": 410000.0, "speedup": 2.4, "auc_drop": 0.00001,
                                **INFERENCE}),
        ev.StepStarted(t=t + 9, step="report", identity=""),
        ev.StepFinished(t=t + 10, step="report", identity="", seconds=1.0,
                        result={"html": str(report)}),
        ev.RunEnded(t=t + 10, status="done", exit_code=0),
    ]  # fmt: skip


def _failure() -> list[ev.Event]:
    t = T0 + 60
    return [
        ev.StepFailed(t=t, step="train", what="rank 1 was killed by signal 9",
                      why="the machine ran out of memory: 0.2 of 15.6 GiB free",
                      todo="use fewer ranks: --set train.ranks=1", log="logs/train/output.log"),
        ev.RunEnded(t=t, status="failed", exit_code=1),
    ]  # fmt: skip


def events_of(run: str, kind: str, report: Path = Path("report.html")) -> list[ev.Event]:
    """The journal of a run that is done, failed, stopped, or in the middle of its training."""
    ends: dict[str, list[ev.Event]] = {
        "running": [],
        "done": _after_training(report),
        "failed": _failure(),
        "stopped": [ev.StopRequested(t=T0 + 59), ev.StepStopped(t=T0 + 60, step="train"),
                    ev.RunEnded(t=T0 + 60, status="stopped", exit_code=4)],
    }  # fmt: skip
    return [*_before_training(run), *_training(60 if kind == "done" else 40), *ends[kind]]


def record(folder: Path, kind: str) -> RunFolder:
    """Write a whole run folder: journal, telemetry, logs, report."""
    found = RunFolder(folder)
    for part in ("telemetry", "logs/train", "logs/etl", "artifacts/report"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    log = EventLog(found.events)
    for event in events_of(folder.name, kind, Path("/home/user/report.html")):
        log.append(event)
    log.close()
    with open(found.telemetry("localhost"), "w", encoding="utf-8") as file:
        for i in range(60):
            sample = {
                "host": "localhost", "t": T0 + i, "cpu": [40 + 50 * math.sin(i / 9) ** 2, 80.0],
                "memory_used_gib": 2 + i / 20, "memory_total_gib": 15.6, "disk_read_mib_s": i % 7,
                "disk_write_mib_s": 3.5, "net_rx_mib_s": 0.1, "net_tx_mib_s": 0.2, "load1": 1.5,
                "job_cpu": 180.0, "job_memory_gib": 1.25,
            }  # fmt: skip
            file.write(json.dumps(sample) + "\n")
    lines = [f"epoch 1 step {i * 10} loss {0.69 - i / 400:.4f} 95,000 rows/s" for i in range(1, 61)]
    lines[20:20] = [
        "warning: 1 NUMA node only",
        "loading \x1b[31mred\x1b[0m [bold]text[/bold] \x9b2J",
    ]
    (found.logs("train") / "output.log").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (found.logs("etl") / "output.log").write_text("sail 0.7.2 started\n", encoding="utf-8")
    found.report.write_text("<html></html>", encoding="utf-8")
    return found


def set_time(path: Path, at: float) -> None:
    """The age of a run is that of its plan."""
    os.utime(path, (at, at))
