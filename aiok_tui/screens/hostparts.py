"""Parts of a host that more than one screen draws: its state, facts, problems, what aiok placed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from aiok_tui.output import duration
from aiok_tui.widgets.glyphs import state_cell
from aiok_tui.widgets.paint import Cell, fit, wrap

if TYPE_CHECKING:
    from aiok_tui.hostboard import HostRow, Problem
    from engine.api import HostFacts, HostReport

LONGEST = 400  # signs of a text that a host says; a good one is far shorter
MOST_ENTRIES = 200


def cut(text: str) -> str:
    """What a host says, no longer than what a person reads."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def age(row: HostRow, now: float) -> str:
    """How long ago a host last answered."""
    return "" if row.at is None else f"{duration(max(0.0, now - row.at))} ago"


def facts_text(facts: HostFacts, report: HostReport | None = None) -> str:
    """The facts in one line: cores, memory, disk, Python, how fast it answers."""
    parts = [f"{facts.physical_cores} cores", f"{facts.memory_gib:.1f} GiB",
             f"disk {facts.disk_free_gib:.0f} GiB", f"python {cut(facts.python)}"]  # fmt: skip
    if report is not None and report.answer_s is not None:
        parts.append(f"{1000 * report.answer_s:.0f} ms")
    return "  ".join(parts)


def problem_lines(problem: Problem, width: int) -> list[list[Cell]]:
    """A problem with its reason and what to do."""
    lines = wrap(f"! {cut(problem.what)}", width, "bad", "  ")
    if problem.why:
        lines += wrap(f"  why  {cut(problem.why)}", width, "plain", "       ")
    if problem.todo:
        lines += wrap(f"  do   {cut(problem.todo)}", width, "plain", "       ")
    return lines


def check_lines(row: HostRow, width: int) -> list[list[Cell]]:
    """A host in the wizard: .. while it is looked at, OK with its facts, FAIL with each problem."""
    name = f"{fit(row.name, 12)}  "
    if row.doing or row.report is None:
        word, tone = ("..", "accent") if row.doing else ("?", "dim")
        text = f"{row.doing}  {cut(row.phase)}" if row.doing else "not looked at yet"
        return [[(f"{word:<5}", tone), (fit(name + text, max(0, width - 5)), "dim")]]
    if row.problems:
        head: list[list[Cell]] = [[("FAIL ", "bad"), (fit(name, max(0, width - 5)), "plain")]]
        for problem in row.problems:
            head += [[("     ", "plain"), *line] for line in problem_lines(problem, width - 5)]
        return head
    text = facts_text(row.facts, row.report) if row.facts is not None else ""
    if width >= 90:
        name += f"{fit(row.status, 10)}  "
    return [[("OK   ", "good"), (fit(name + text, max(0, width - 5)), "plain")]]


def _fact_lines(facts: HostFacts, width: int) -> list[list[Cell]]:
    nodes = f", {len(facts.numa)} NUMA nodes" if len(facts.numa) > 1 else ""
    pairs = (
        ("processor", f"{facts.cpu_model}, {facts.physical_cores} cores{nodes}"),
        ("isa", ", ".join(facts.isa) or "no AVX2"),
        ("memory", f"{facts.memory_free_gib:.1f} of {facts.memory_gib:.1f} GiB free"),
        ("disk", f"{facts.disk_free_gib:.1f} of {facts.disk_total_gib:.1f} GiB free"),
        ("python", f"{facts.python} at {facts.python_path}"),
        ("java", facts.java or "none"),
        ("kernel", facts.kernel),
        ("load", f"{facts.load1:.1f}"),
    )
    lines: list[list[Cell]] = []
    for label, text in pairs:
        first, *rest = wrap(cut(text), max(10, width - 11))
        lines += [[(f"{label:<11}", "dim"), *first], *([(" " * 11, "dim"), *r] for r in rest)]
    return lines


def detail_lines(row: HostRow, width: int, now: float) -> list[list[Cell]]:
    """All that is known of a host: problems first, then facts and what else a check found."""
    said = age(row, now)
    lines: list[list[Cell]] = [
        [state_cell(row.status), (f"   {row.place}", "dim"),
         (f"   answered {said}" if said else "   has not answered yet", "dim")],
    ]  # fmt: skip
    if row.phase:
        lines += wrap(cut(row.phase), width, "accent")
    for problem in row.problems:
        lines += problem_lines(problem, width)
    if row.facts is not None:
        lines += [[], *_fact_lines(row.facts, width)]
    notes = [f for f in row.report.findings if f.level == "note"] if row.report else []
    for found in notes:
        text = f"{found.what}: {found.todo}" if found.todo else found.what
        lines += wrap(f"note       {cut(text)}", width, "warn", " " * 11)
    return lines


def ledger_lines(row: HostRow, width: int) -> list[list[Cell]]:
    """What aiok placed on a host, by the host's own ledger."""
    placed = row.report.placed if row.report is not None else None
    if placed is None:
        return [[("not known: the host was not reached", "dim")]]
    if not placed.entries:
        return [[("nothing: the host is bare", "dim")]]
    lines: list[list[Cell]] = [
        [(f"{fit(entry.kind, 7)} ", "dim"), (fit(cut(entry.path), max(0, width - 8)), "plain")]
        for entry in placed.entries[:MOST_ENTRIES]
    ]
    left = len(placed.entries) - MOST_ENTRIES
    if left > 0:
        lines.append([(f"and {left:,} more", "dim")])
    for path in placed.whole[:MOST_ENTRIES]:
        lines.append([("whole   ", "good"), (fit(cut(path), max(0, width - 8)), "plain")])
    return lines


def layout_line(layout: Sequence[tuple[str, int, int]]) -> list[Cell]:
    """Where the ranks of a training lie: (host, ranks, threads of a rank)."""
    if not layout:
        return []
    total = sum(ranks for _, ranks, _ in layout)
    shares = ", ".join(
        f"{ranks} on {host} ({threads} thread{'s' * (threads > 1)} each)"
        for host, ranks, threads in layout
    )
    return [(f"{total} rank{'s' * (total > 1)}: {shares}", "dim")]
