"""What `aiok drill` prints: each promise, what was seen, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from aiok_tui.output import print_json, table, words
from engine import drill
from engine.errors import ExitCode


def run(faults: Sequence[str], policies: Sequence[str], as_json: bool) -> int:
    """Drill, telling each verdict as it comes; exit code 1 when a promise is broken."""
    seen: list[drill.Verdict] = []
    for name, why in drill.left_out(faults).items():
        words(f"left out: {name}: {why}")
    words("a sandbox is made ready: the first minutes go by without a verdict")
    for verdict in drill.drill(faults, policies):
        seen.append(verdict)
        if as_json:
            print_json({**asdict(verdict), "kept": verdict.kept})
        else:
            words(_line(verdict))
    if not as_json:
        print(table([_row(verdict) for verdict in seen], HEAD))
    broken = sum(not verdict.kept for verdict in seen)
    words(f"{len(seen) - broken} of {len(seen)} promises kept")
    return int(ExitCode.FAILED if broken else ExitCode.OK)


HEAD = ("fault", "policy", "promise", "noticed", "orphans", "work lost", "verdict")


def _row(verdict: drill.Verdict) -> list[str]:
    noticed = "" if verdict.notice_s is None else f"{verdict.notice_s:.1f} s"
    return [
        verdict.fault, verdict.policy, verdict.promise, noticed, str(verdict.orphans),
        f"{verdict.lost_steps:,} steps", "kept" if verdict.kept else "BROKEN",
    ]  # fmt: skip


def _line(verdict: drill.Verdict) -> str:
    lines = [
        f"{verdict.fault}, policy {verdict.policy}",
        f"  promise   {verdict.promise}",
        f"  seen      {verdict.observation}",
        f"  verdict   {'kept' if verdict.kept else 'BROKEN: ' + '; '.join(verdict.broken)}",
    ]
    return "\n".join(lines)
