"""Bare SSH hosts made ready: eight hosts with a small environment, three with that of torch.

Hosts are namespaces of this machine (scripts/testbed): they share its processors and disk, so real
ones are faster. Wheels are collected on the user's side before the clock starts. Cold: nothing of
aiok is on the hosts. Warm: the wheels are there, packed and unpacked as `up` left them, and the
environments are not. Needs root.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.harness import judge, spread
from bench.sandbox import Sandbox
from engine import clusters, host_jobs
from engine.environments import lock_of
from engine.store import home
from hosts.lockfile import Lock
from hosts.provision import collect_wheels

ENVIRONMENTS = ("app",)
HOSTS, TORCH_HOSTS, REPEATS, COMMANDS = 8, 3, 6, 200
NET, PREFIX = "10.201.7", "aiokbn"
COLD_S, WARM_S, NOTHING_S, COMMAND_MS = 60.0, 15.0, 3.0, 20.0


def measure() -> list[dict[str, Any]]:
    """Seconds of `up` in each case, and milliseconds of a command on a kept channel."""
    lock = Lock.read(Path(__file__).with_name("cluster.txt"))
    wheels_home = home()
    with tempfile.TemporaryDirectory(prefix="aiok-bench-") as place:
        (Path(place) / "wheels").symlink_to(wheels_home / "wheels")
        os.environ["AIOK_HOME"] = place
        collect_wheels(lock, Path(place))
        found = []
        with Sandbox(Path(place), HOSTS, NET, PREFIX):
            found += small_environment(lock)
            found.append(command())
        with Sandbox(Path(place), TORCH_HOSTS, NET, PREFIX):
            found.append(torch_environment())
    return found


def _up(locks: Sequence[Lock]) -> tuple[float, int]:
    """Seconds of making the hosts ready, and how many things were changed on them."""
    begun = time.monotonic()
    outcomes = host_jobs.up("lab", locks, lambda host, phase, done, total: None)
    seconds = time.monotonic() - begun
    host_jobs.refuse(outcomes)
    return seconds, sum(len(outcome.changed) for outcome in outcomes)


def small_environment(lock: Lock) -> list[dict[str, Any]]:
    """Cold, warm, and with nothing to do, each REPEATS times on the same hosts."""
    cold, warm, nothing = [], [], []
    for _ in range(REPEATS):
        cold.append(_up([lock])[0])
        _without_environments(lock)
        warm.append(_up([lock])[0])
        seconds, changed = _up([lock])
        assert changed == 0, f"a second `up` changed {changed} things"
        nothing.append(seconds)
        host_jobs.refuse(host_jobs.down("lab"))
    data = f"{HOSTS} hosts, {len(lock.packages)} wheels, {lock.wheels_gib * 1024:.0f} MiB"
    return [
        _row("cold: bare hosts ready", cold, COLD_S, data),
        _row("warm: wheels there, environments removed", warm, WARM_S, data),
        _row("a second `up`, nothing to do", nothing, NOTHING_S, data),
    ]


def _without_environments(lock: Lock) -> None:
    sites = clusters.connect("lab")
    try:
        for site in sites:
            site.transport.run(["rm", "-rf", str(site.environment(lock))])
    finally:
        clusters.leave(sites)


def command() -> dict[str, Any]:
    """A command on a connection that is open, `true` on each host in turn."""
    sites = clusters.connect("lab")
    try:
        took = []
        for number in range(COMMANDS):
            begun = time.monotonic()
            sites[number % len(sites)].transport.run(["true"])
            took.append(1e3 * (time.monotonic() - begun))
    finally:
        clusters.leave(sites)
    return {
        "name": "a warm remote command", "value": round(median(took), 1), "unit": "ms",
        "goal": f"<= {COMMAND_MS:g}", "met": median(took) <= COMMAND_MS,
        "note": f"95 % within {sorted(took)[int(0.95 * len(took))]:.1f} ms",
        "data": f"{COMMANDS} times `true`, one kept channel a host",
    }  # fmt: skip


def torch_environment() -> dict[str, Any]:
    """The environment that training needs, on bare hosts."""
    lock = lock_of("torch")
    seconds, _ = _up([lock])
    return {
        "name": f"torch environment on {TORCH_HOSTS} bare hosts", "value": round(seconds, 1),
        "unit": "s", "readme": True,
        "data": f"{len(lock.packages)} wheels, {lock.wheels_gib:.2f} GiB a host",
    }  # fmt: skip


def _row(name: str, seconds: Sequence[float], goal: float, data: str) -> dict[str, Any]:
    apart = spread(list(seconds))
    return {
        "name": name, "value": round(median(seconds), 2), "unit": "s", "goal": f"<= {goal:g}",
        "met": judge(-median(seconds), -goal, apart), "spread": round(apart, 2), "data": data,
    }  # fmt: skip
