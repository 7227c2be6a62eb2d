"""ETL on Spark over three hosts beside the embedded engine on this machine.

The same step of the same run, from its start to training data in the cache here: with Spark that
is the raw data's way to the hosts, Spark up, the work, Spark down and the way back. The hosts are
namespaces of this machine (scripts/testbed) and share its cores, so what is seen is the price of
Spark and of the hosts, not their gain. Both outputs must be the same, byte by byte. Needs root.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from bench.harness import spread
from bench.sandbox import Sandbox, fresh_home
from engine import api
from engine.clusters import local_site
from engine.code import deploy
from engine.steps import data, etl, provision
from engine.steps.context import Context
from engine.store import EventLog, create_run_folder, make_folder, remove_tree

ENVIRONMENTS = ("app",)
ROWS, HOSTS, TURNS = 1_000_000, 3, 2
ON_HOSTS = ("cluster=lab", "etl.engine=spark")
NET, PREFIX = "10.201.6", "aioksp"
NOT_SAME = ("result.json", "files.json")


def measure() -> list[dict[str, Any]]:
    """Seconds of the step on both engines, in turns."""
    with fresh_home() as place, Sandbox(place, HOSTS, NET, PREFIX, shared=True):
        with _context(()) as context:
            provision.run(context, context.plan.step("provision"), place)
            data.run(context, context.plan.step("data"), make_folder(context.output_of("data")))
        with _context(ON_HOSTS) as context:
            provision.run(context, context.plan.step("provision"), place)
        here, there = [], []
        for turn in range(TURNS):
            here.append(_step((), place / f"here-{turn}"))
            there.append(_step(ON_HOSTS, place / f"there-{turn}"))
            print(here[-1], there[-1], flush=True)
            _check_same(place / f"here-{turn}", place / f"there-{turn}")
    return _rows(here, there)


@contextmanager
def _context(overrides: tuple[str, ...]) -> Iterator[Context]:
    """A run of which only the steps that are called here take place."""
    made = api.plan("tiny", [f"dataset.generate.rows={ROWS}", *overrides])
    steps = tuple(step for step in made.steps if step.id in ("provision", "data", "etl"))
    code = deploy()
    folder = create_run_folder("spark")
    log = EventLog(folder.events)
    try:
        yield Context(
            folder=folder, plan=replace(made, steps=steps, code=code.name), log=log, attempt=1,
            site=local_site(), code=code, stop_level=lambda: 0,
        )  # fmt: skip
    finally:
        log.close()


def _step(overrides: tuple[str, ...], output: Path) -> dict[str, float]:
    """Run the ETL step: its seconds in all, those of the engine's start, and those of its work; and
    its CPU-seconds on all hosts beside what the plan had said."""
    with _context(overrides) as context:
        output.mkdir()
        begun, step = time.monotonic(), context.plan.step("etl")
        result = etl.run(context, step, output)
        seconds = time.monotonic() - begun
    phases = {name: value for name, value in result["seconds"].items() if name != "start"}
    return {
        "all": seconds, "start": result["seconds"]["start"], "work": sum(phases.values()),
        "cpu": context.usage(step).actual(seconds, result, output)["cpu_s"],
        "planned": step.estimate.cpu_s,
    }  # fmt: skip


def _check_same(ours: Path, theirs: Path) -> None:
    """RuntimeError unless both folders hold the same training data; frees them."""
    names = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()
                    and path.name not in NOT_SAME) for folder in (ours, theirs)]  # fmt: skip
    if names[0] != names[1] or not all(
        (ours / name).read_bytes() == (theirs / name).read_bytes() for name in names[0]
    ):
        raise RuntimeError("the engines made different training data")
    remove_tree(ours)
    remove_tree(theirs)


def _rows(here: list[dict[str, float]], there: list[dict[str, float]]) -> list[dict[str, Any]]:
    about = f"{ROWS:,} generated rows, {HOSTS} hosts on {len(os.sched_getaffinity(0))} cores"
    names = {"all": "the step", "start": "start of the engine", "work": "the work alone",
             "cpu": "CPU-seconds of all hosts"}  # fmt: skip
    planned = f"; the plan of a first run said {there[0]['planned']:.0f}"
    found = []
    for key, name in names.items():
        ours, theirs = ([turn[key] for turn in turns] for turns in (there, here))
        found.append({
            "name": f"Spark over {HOSTS} hosts: {name}", "value": round(median(ours), 1),
            "unit": "s", "baseline": round(median(theirs), 1),
            "ratio": round(median(theirs) / median(ours), 3), "goal": None, "met": None,
            "spread": round(spread(ours), 1), "readme": key in ("all", "cpu"), "data": about,
            "note": "the same bytes; baseline: the embedded engine, same cores"
            + planned * (key == "cpu"),
        })  # fmt: skip
    return found
