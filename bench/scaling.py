"""Training over 1, 2 and 3 hosts, each rank with the jobs' batch, beside as many one-core jobs.

Hosts are namespaces of this machine with one core each, which meet over TCP only. The jobs are
independent one-core trainings at the same time, on the same data. Where hosts outnumber cores the
ratio says nothing and is not judged: there the share of a step that a rank waits for the others,
and the bytes it hears from them, are what counts.

The prediction for more and faster links, with the batch of a rank kept (so weak scaling):

    step(N) = own + (N - 1) * (m * merge + 8 * m / bandwidth + latency)
    efficiency(N) = own / step(N)

own: seconds of a step of one rank alone; m: bytes that one rank tells in a step, heard bytes of the
runs divided by the other ranks; merge: seconds of own work for each byte heard, from how own grows
from one to two ranks; latency: 50 us for each turn of gloo's ring, in which every link carries what
all ranks but one say. Nothing of it overlaps with the work. Needs root.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from bench import training
from bench.faults import forget
from bench.harness import judge, python_of, spread
from bench.sandbox import Sandbox, fresh_home
from engine import api, host_jobs
from engine.environments import lock_of
from engine.state import RunStatus
from engine.store import cache_folder, make_folder
from hosts.testbed import Testbed
from models import catalog

ENVIRONMENTS = ("app", "etl", "torch")
NET, PREFIX = "10.201.9", "aioksc"
ROWS, SEED, REPEATS, HOSTS = 1_000_000, 20261124, 3, (1, 2, 3)
GOAL = 0.85
LIMIT_S = 1800.0
LATENCY_S = 50e-6
PREDICTED = tuple((hosts, gbit) for hosts in (4, 16) for gbit in (10, 25))
ONE_PASS = {"epochs": 1, "evals_per_epoch": 1}


def measure() -> list[dict[str, Any]]:
    """Rows/s of both, the communication share, and the predicted efficiency."""
    return _measure(ROWS, REPEATS)


def small() -> list[dict[str, Any]]:
    """A look whether it works; its figures mean nothing."""
    return _measure(60_000, 2)


def _measure(rows: int, repeats: int) -> list[dict[str, Any]]:
    with fresh_home() as place, Sandbox(place, max(HOSTS), NET, PREFIX) as testbed:
        _one_core_a_host(testbed)
        host_jobs.refuse(host_jobs.up("lab", [lock_of("torch")], lambda *_: None))
        found: dict[int, list[tuple[dict[str, Any], float]]] = {hosts: [] for hosts in HOSTS}
        for repeat in range(repeats):
            for hosts in HOSTS:
                there, data = over_hosts(hosts, rows)
                jobs = side_by_side(place / f"jobs-{repeat}-{hosts}", data, hosts)
                found[hosts].append((there, jobs))
    about = f"{rows:,} generated rows, one epoch, {_batch():,} rows a rank and step"
    rows_of = [row for hosts in HOSTS for row in _rows(hosts, found[hosts], about)]
    return [*rows_of, *_predictions({n: [one for one, _ in found[n]] for n in HOSTS}, about)]


def _one_core_a_host(testbed: Testbed) -> None:
    """All see this machine's cores; what is started there from now on may use only one of them."""
    cores = sorted(os.sched_getaffinity(0))
    for number, host in enumerate(testbed.hosts()):
        for process in testbed.processes(host.name):
            os.sched_setaffinity(process.pid, {cores[number % len(cores)]})


def _batch() -> int:
    return int(catalog.load("dlrm").profiles["optimized"]["batch_size"])


def over_hosts(hosts: int, rows: int) -> tuple[dict[str, Any], Path]:
    """A run that trains on so many hosts, one rank on each: its train result and its blocks."""
    settings = {
        "dataset.generate.rows": rows, "dataset.generate.seed": SEED, "cluster": "lab",
        "train.ranks": hosts, "goal.minutes": 600, "train.checkpoint_s": 600,
        "model.settings.batch_size": hosts * _batch(), "model.settings.min_steps": 1,
        **{f"model.settings.{name}": value for name, value in ONE_PASS.items()},
    }  # fmt: skip
    make_folder(cache_folder())
    forget(("train",))  # a finished training would be reused
    run = api.start("quickstart", [f"{key}={value}" for key, value in settings.items()])
    state = api.wait_for_end(run, LIMIT_S)
    if state.status is not RunStatus.DONE:
        raise RuntimeError(f"{run} on {hosts} hosts: {state.status}: {state.problem}")
    return state.result("train"), cache_folder() / state.steps["etl"].identity


def side_by_side(folder: Path, data: Path, count: int) -> float:
    """Summed rows/s of independent one-core jobs at the same time."""
    jobs = []
    for number in range(count):
        work = folder / str(number)
        spec = training.train_spec(work, data, "optimized", settings={**ONE_PASS, "min_steps": 1})
        jobs.append((training.begin([python_of("torch")], "models.train", work, spec), work))
    return sum(float(training.finished(*job)["rows_per_second"]) for job in jobs)


def _rows(hosts: int, pairs: list[tuple[dict[str, Any], float]], data: str) -> list[dict[str, Any]]:
    together = [float(there["rows_per_second"]) for there, _ in pairs]
    ratios = [rate / alone for rate, (_, alone) in zip(together, pairs, strict=True)]
    ratio, spreads = median(ratios), spread(ratios)
    cores = len(os.sched_getaffinity(0))
    enough = cores >= hosts
    steps = [there["mean_step"] for there, _ in pairs]
    shares = [100 * step["wait_s"] / (step["own_s"] + step["wait_s"]) for step in steps]
    heard = median(step["heard_bytes"] for step in steps)
    wait = median(step["wait_s"] for step in steps)
    name = f"{hosts} host{'s' * (hosts > 1)}"
    return [
        {"name": name, "value": round(median(together)), "unit": "rows/s",
         "baseline": round(median(alone for _, alone in pairs)), "ratio": round(ratio, 3),
         "goal": f">= {GOAL} of the jobs' summed rows/s" if enough else None,
         "met": judge(ratio, GOAL, spreads) if enough else None, "spread": round(spreads, 3),
         "data": data, "note": "" if enough else f"not judged: {cores} cores for {hosts} hosts"},
        {"name": f"{name}: waiting for the others", "value": round(median(shares), 1),
         "unit": "% of a step", "data": data, "readme": hosts > 1,
         "note": f"{1e3 * wait:.2f} ms and {heard / 2**20:.2f} MiB a step"},
    ]  # fmt: skip


def _predictions(results: Mapping[int, list[dict[str, Any]]], data: str) -> list[dict[str, Any]]:
    """Efficiency by the model of this file's docstring."""

    def step(hosts: int, key: str) -> float:
        return median(float(result["mean_step"][key]) for result in results[hosts])

    own, told = step(1, "own_s"), step(2, "heard_bytes")
    merge = max(0.0, step(2, "own_s") - own) / told
    return [
        {"name": f"predicted: {hosts} hosts at {gbit} Gbit/s",
         "value": round(100 * efficiency(hosts, gbit, own, told, merge), 1), "unit": "% efficiency",
         "data": data, "readme": True,
         "note": f"own {1e3 * own:.2f} ms, a rank tells {told / 2**20:.2f} MiB, "
         f"merging {1e9 * merge:.2f} ns a byte"}
        for hosts, gbit in PREDICTED
    ]  # fmt: skip


def efficiency(hosts: int, gbit: float, own_s: float, told: float, merge_s: float) -> float:
    """Rows/s of so many hosts beside as many alone, 0 to 1; `told` are the bytes one rank tells in
    a step, `merge_s` the seconds that a byte of another rank costs."""
    turn = told * (merge_s + 8 / (gbit * 1e9)) + LATENCY_S
    return own_s / (own_s + (hosts - 1) * turn)
