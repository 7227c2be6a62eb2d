"""Chooses, for each column, how the ids reach the rows. Standard library only.

Three plans give the same ids:
- lookup: every task opens the column's dictionary itself and looks up its rows' values;
- broadcast join: the engine joins the tasks' distinct values with the whole dictionary, a copy
  of which goes to every executor;
- shuffle join: the engine cuts both sides by value and joins the pieces.
A lookup is the fastest wherever it fits: on the embedded engine with 2 cores join and encode took
more than three times as long at 75,000 entries in 26 columns (1 M rows), and four times as long at
4.9 million (300,000 rows). So the joins are for dictionaries a task should not hold.
The memory of one core bounds what may be copied: a quarter of it at 20 bytes an entry, over all
columns from the smallest dictionary on (the rule of section 2 of the RecDP notes).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

ENTRY_BYTES = 20  # what dictionary.KeySlots takes for a key, about
LARGEST_BROADCAST = 30_000_000  # entries of one dictionary
LARGEST_LOOKUP = 2_000_000
LOOKUP, BROADCAST, SHUFFLE = "lookup", "broadcast join", "shuffle join"
PLANS = (LOOKUP, BROADCAST, SHUFFLE)


@dataclass(frozen=True)
class JoinPlan:
    """The plan of one column, and why."""

    column: str
    entries: int
    plan: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        """For the result and the log."""
        return asdict(self)


def plan_joins(
    entries: Mapping[str, int], cores: int, memory_gib: float, forced: str | None = None
) -> list[JoinPlan]:
    """One plan for each column, in the order of `entries` (column -> ids of its dictionary)."""
    budget = int(memory_gib * 2**30 / max(1, cores) / 4 / ENTRY_BYTES)
    largest = min(budget, LARGEST_BROADCAST)
    running = 0
    plans: dict[str, JoinPlan] = {}
    for column, count in sorted(entries.items(), key=lambda item: item[1]):
        if forced is not None:
            plans[column] = JoinPlan(column, count, forced, "asked for")
            continue
        if count > largest:
            plan, reason = SHUFFLE, f"{count:,} entries; one core may hold {largest:,}"
        elif running + count > budget:
            plan = SHUFFLE
            reason = f"{running:,} entries held before it; a quarter of a core is {budget:,}"
        elif count > LARGEST_LOOKUP:
            plan = BROADCAST
            reason = f"{count:,} entries; more than {LARGEST_LOOKUP:,} for a lookup"
        else:
            plan = LOOKUP
            reason = f"at most {LARGEST_LOOKUP:,} entries, and all fit in a core's share"
        if plan != SHUFFLE:
            running += count
        plans[column] = JoinPlan(column, count, plan, reason)
    return [plans[column] for column in entries]
