"""What is wrong with a data set: the first few places, in words, and how many there are in all.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from models.worker import InputProblem

LISTED = 10
FOUND_WIDTH = 80


@dataclass(frozen=True, kw_only=True)
class DataProblem:
    """One bad place. `line` counts from 1 (0: the file as a whole); all texts are printable."""

    file: str = ""
    line: int = 0
    column: str = ""
    found: str = ""
    expected: str = ""

    def __str__(self) -> str:
        where = self.file
        if self.line:
            where += f", line {self.line}"
        if self.column:
            where += f", column {self.column}"
        return f"{where}: found {self.found}; expected {self.expected}"


def describe_bytes(value: bytes) -> str:
    """A value as people may read it: quoted, control bytes escaped, cut to 80 characters."""
    cut = value[: 4 * FOUND_WIDTH]
    try:
        return describe_text(cut.decode())
    except UnicodeDecodeError:
        return _cut(repr(cut)[1:])


def describe_text(value: str) -> str:
    """The same for text."""
    return _cut(ascii(value[: 4 * FOUND_WIDTH]))


def _cut(shown: str) -> str:
    return shown if len(shown) <= FOUND_WIDTH else shown[: FOUND_WIDTH - 4] + "...'"


@dataclass
class Problems:
    """A bounded list: the first `limit` problems of one reader, and the count of all."""

    limit: int = LISTED
    listed: list[DataProblem] = field(default_factory=list)
    total: int = 0

    def room(self) -> int:
        """How many more problems would be listed."""
        return max(0, self.limit - len(self.listed))

    def add(self, problem: DataProblem) -> None:
        """Count a problem, and keep it while there is room."""
        self.total += 1
        if self.room():
            self.listed.append(problem)

    def to_json(self, file: str, first_line: int = 0) -> dict[str, Any]:
        """For the way from a task to the driver; `first_line` is added to the line numbers."""
        return {
            "total": self.total,
            "listed": [
                asdict(replace(p, file=file, line=p.line + first_line if p.line else 0))
                for p in sorted(self.listed, key=lambda problem: problem.line)
            ],
        }


def collect(found: Iterable[Mapping[str, Any]], limit: int = LISTED) -> Problems:
    """Join what several readers found, in their order."""
    problems = Problems(limit)
    for part in found:
        problems.total += int(part["total"])
        for entry in part["listed"][: problems.room()]:
            problems.listed.append(DataProblem(**entry))
    return problems


def refuse(problems: Problems, todo: str = "mend the data, or leave the bad lines out") -> None:
    """Raise InputProblem that lists the problems; nothing when there are none."""
    if not problems.total:
        return
    lines = [str(problem) for problem in problems.listed]
    more = problems.total - len(lines)
    if more > 0:
        lines.append(f"and {more} more")
    raise InputProblem("\n".join(lines), f"the data has {problems.total} problem"
                       f"{'s' if problems.total > 1 else ''}", todo)  # fmt: skip
