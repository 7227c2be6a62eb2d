"""`aiok hosts top`: all hosts, live: a table that is drawn again on a terminal, else JSON lines."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from aiok_tui.hosts import ask_password
from aiok_tui.output import duration, print_json, table, words
from engine.errors import ExitCode
from engine.monitor import Monitor, Reading, Standing

EVERY_S = 1.0
FIRST_S = 15.0  # a host that says nothing for so long is shown as it is by --once
FAREWELL_S = 2.0
HEAD = ("host", "state", "heard", "cpu", "busiest core", "memory", "net in/out MiB/s",
        "disk r/w MiB/s", "load")  # fmt: skip


def top(names: Sequence[str], as_json: bool, once: bool) -> int:
    """Show hosts until somebody has seen enough; the exit code of `--once` tells a lost host."""
    monitor = Monitor(ask_password)
    monitor.follow(names)
    try:
        if once:
            return _show_once(monitor, as_json)
        if as_json or not sys.stdout.isatty():
            _tell_on(monitor)
        _draw_on(monitor)
    finally:
        monitor.close(FAREWELL_S)
    return int(ExitCode.OK)


def _show_once(monitor: Monitor, as_json: bool) -> int:
    end = time.monotonic() + FIRST_S
    found = monitor.readings()
    while any(one.standing is Standing.CONNECTING for one in found) and time.monotonic() < end:
        time.sleep(0.1)
        end += 0.1 * monitor.asking  # a person takes the time it takes
        found = monitor.readings()
    if as_json:
        _tell(found)
    else:
        print("\n".join(lines(found)))
        for one in found:
            if one.problem:
                words(one.problem)
    bad = any(one.standing is not Standing.LIVE for one in found)
    return int(ExitCode.ENVIRONMENT if bad else ExitCode.OK)


def _tell_on(monitor: Monitor) -> None:
    """One line a host each second, from the first that can be said on."""
    due = time.monotonic()
    while True:
        _tell(monitor.readings())
        due += EVERY_S
        time.sleep(max(0.0, due - time.monotonic()))


def _tell(found: Sequence[Reading]) -> None:
    for one in found:
        print_json({
            "host": one.host, "t": time.time(), "state": one.standing.value,
            "age_s": None if one.age_s is None else round(one.age_s, 2),
            "problem": one.problem or None, "sample": one.sample,
        })  # fmt: skip


def _draw_on(monitor: Monitor) -> None:
    drawn = 0
    while True:
        while monitor.asking:  # the question stands below the table
            drawn = 0
            time.sleep(0.1)
        size = shutil.get_terminal_size((100, 24))
        found = monitor.readings()
        shown = [*lines(found), *(f"! {one.problem}" for one in found if one.problem)]
        shown = [line[: size.columns - 1] for line in shown[: size.lines - 1]]
        up = f"\x1b[{drawn}F\x1b[J" if drawn else ""
        sys.stdout.write(up + "".join(f"{line}\n" for line in shown))
        sys.stdout.flush()
        drawn = len(shown)
        time.sleep(EVERY_S)


def lines(found: Sequence[Reading]) -> list[str]:
    """The table; a host that is not heard keeps its last figures and shows their age."""
    return table([_row(one) for one in found], HEAD).splitlines()


def _row(one: Reading) -> list[str]:
    heard = "" if one.age_s is None else f"{duration(one.age_s)} ago"
    if one.sample is None:
        return [one.host, one.standing.value, heard, *[""] * (len(HEAD) - 3)]
    return [one.host, one.standing.value, heard, *figures(one.sample)]


def figures(sample: Mapping[str, Any]) -> list[str]:
    """CPU, busiest core, memory, network, disk and load of a sample, "" for what it lacks."""
    cores = [core for core in sample.get("cpu", ()) if isinstance(core, int | float)]
    cpu = f"{sum(cores) / len(cores):.0f} % of {len(cores)}" if cores else ""
    return [
        cpu, f"{max(cores):.0f} %" if cores else "",
        _form(sample, "{:.1f} of {:.1f} GiB", "memory_used_gib", "memory_total_gib"),
        _form(sample, "{:.1f} / {:.1f}", "net_rx_mib_s", "net_tx_mib_s"),
        _form(sample, "{:.1f} / {:.1f}", "disk_read_mib_s", "disk_write_mib_s"),
        _form(sample, "{:.1f}", "load1"),
    ]  # fmt: skip


def _form(sample: Mapping[str, Any], form: str, *keys: str) -> str:
    values = [sample.get(key) for key in keys]
    return form.format(*values) if all(isinstance(v, int | float) for v in values) else ""
