"""The command line's verbs for hosts: questions, progress, tables."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Sequence
from typing import Any

from aiok_tui.output import print_findings, print_json, table, tell_error, words
from engine import clusters, host_jobs, preflight
from engine.clusters import HostEntry
from engine.environments import lock_of
from engine.errors import EnvironmentProblem, ExitCode, InputError


def ask_password(entry: HostEntry) -> str | None:
    """A password typed by a person on a terminal; None when there is none."""
    if not sys.stdin.isatty():
        return None
    return getpass.getpass(f"password of {entry.user} on {entry.name} ({entry.address}): ")


def add(
    place: str, name: str | None, cluster: str | None, fields: dict[str, Any],
    fingerprint: str | None,
) -> None:  # fmt: skip
    """Show the key of a host, have it compared, then keep both.

    The name of a host that stands in the inventory already, written by hand, pins its key.
    """
    known = clusters.inventory()
    pinning = place in known.hosts and name is None
    if pinning:
        name, new = place, host_jobs.joined(known, place, cluster) if cluster else known
    else:
        name = name or host_jobs.next_name(known)
        said = {key: value for key, value in fields.items() if value is not None}
        new = host_jobs.describe(name, place, said, cluster)
    key = host_jobs.show_key(new, name, ask_password)
    print(f"{name} ({key.entry.address}) shows the key {key.fingerprint}", file=sys.stderr)
    if fingerprint is not None and fingerprint != key.fingerprint:
        raise EnvironmentProblem(
            f"{name}: its key is not the one you named",
            why=f"named {fingerprint}, shown {key.fingerprint}",
            todo="do not connect; ask who runs the host",
        )
    if fingerprint is None and not _confirmed(key):
        raise InputError(f"{name} was not added", todo="compare the fingerprint on the host itself")
    host_jobs.add(new, key)
    done = "its key is pinned" if pinning else "added"
    print(f"{name}: {done}" + (f", in {cluster}" if cluster else ""))


def _confirmed(key: host_jobs.HostKey) -> bool:
    if not sys.stdin.isatty():
        raise InputError(
            "nobody is here to compare the key",
            todo=f"give it: --fingerprint SHA256:... (on the host: {key.to_compare})",
        )
    return input("is that its key? [y/N] ").strip().lower() in ("y", "yes")


def print_inventory(as_json: bool) -> None:
    """Hosts and the clusters they are in."""
    known = clusters.inventory()
    if as_json:
        print_json(known.to_data())
        return
    rows = [
        [name, known.cluster_of(name) or "", f"{e.user}@{e.address}:{e.port}", e.key or "",
         e.jump or "", str(e.slots or "")]
        for name in known.hosts
        for e in [known.entry(name)]
    ]  # fmt: skip
    print(table(rows, ["host", "cluster", "reached as", "key", "through", "slots"]))


def check(names: Sequence[str], as_json: bool) -> int:
    """What is wrong with hosts, and with each what to do; the exit code."""
    reports = preflight.check(names, ask_password)
    if not reports:
        words("there is no host yet: aiok hosts add USER@ADDRESS")
    for report in reports:
        if as_json:
            print_json(report)
            continue
        print(report.host)
        print_findings(report.findings, False)
    bad = [report.host for report in reports if report.problems]
    if bad:
        words(f"{len(bad)} of {len(reports)} hosts have problems: {', '.join(bad)}")
    return int(ExitCode.ENVIRONMENT if bad else ExitCode.OK)


def up(cluster: str, environments: Sequence[str], as_json: bool) -> int:
    """Make hosts ready; the exit code."""
    said: dict[str, str] = {}

    def progress(host: str, phase: str, done: float, total: float) -> None:
        if said.get(host) != phase:
            said[host] = phase
            print(f"  {host or 'here':10} {phase}", file=sys.stderr, flush=True)

    locks = [lock_of(name) for name in environments]
    outcomes = host_jobs.up(cluster, locks, progress, ask_password)
    return _tell(outcomes, "made ready", "was ready", as_json)


def down(cluster: str, as_json: bool) -> int:
    """Make hosts bare; the exit code."""
    return _tell(host_jobs.down(cluster, ask_password), "bare again", "was bare", as_json)


def _tell(outcomes: Sequence[host_jobs.Outcome], done: str, nothing: str, as_json: bool) -> int:
    for outcome in outcomes:
        if as_json:
            what = outcome.problem.what if outcome.problem else None
            print_json({"host": outcome.host, "changed": list(outcome.changed), "problem": what})
        elif outcome.problem is None:
            print(f"{outcome.host}: {done if outcome.changed else nothing}")
    problems = [outcome for outcome in outcomes if outcome.problem is not None]
    return tell_error(host_jobs.told(problems)) if problems else 0
