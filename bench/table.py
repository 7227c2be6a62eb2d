"""README's performance table, made from bench/results: `scripts/bench --table`.

One table a result file. A row is shown when it has a goal or says `readme: true`; `readme: false`
leaves a row with a goal out. A row's `note` is repeated, whatever it says.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

MARKER = "<!-- bench -->\n"
HEAD = "<!-- From here on written by `scripts/bench --table` from bench/results. -->\n"
NEEDED = ("name", "value", "unit", "goal", "met", "command", "machine", "date")
ISA = {
    "avx2": "AVX2", "avx512f": "AVX-512", "avx_vnni": "AVX-VNNI", "avx512_vnni": "AVX512-VNNI",
    "avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX-BF16", "amx_int8": "AMX-INT8",
}  # fmt: skip
Row = dict[str, Any]


def write(readme: Path, results: Path, titles: dict[str, str]) -> None:
    """Replace all behind the marker in a README; ValueError when there is no marker."""
    head, marker, _ = readme.read_text(encoding="utf-8").partition(MARKER)
    if not marker:
        raise ValueError(f"{readme} has no line {MARKER.strip()}")
    text = head + marker + generate(results, titles)
    scratch = readme.with_name(f".{readme.name}")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(readme)


def generate(results: Path, titles: dict[str, str]) -> str:
    """The tables of all result files, in the order of their names. `titles`: benchmark -> words."""
    parts = [HEAD]
    for path in sorted(results.glob("*.json")):
        rows = [row for row in read(path) if row.get("readme", row["goal"] is not None)]
        for source, group in groupby(rows, key=_source):
            parts.append(_table(_title(path.stem, titles), source, list(group)))
    return "\n".join(parts)


def read(path: Path) -> list[Row]:
    """The rows of a result file; ValueError names the file and what is wrong with it."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path} is no list of rows; run the benchmark again")
    for row in rows:
        if missing := set(NEEDED) - set(row):
            raise ValueError(f"{path}: a row lacks {', '.join(sorted(missing))}")
    return rows


def machine_words(machine: dict[str, Any]) -> str:
    """AMD EPYC, 2 cores, AVX2, 24 GiB."""
    cores = machine["cores"]
    isa = [ISA.get(flag, flag) for flag in machine.get("isa", ())]
    memory = machine.get("memory_gib")
    words = [machine["cpu"], f"{cores} core{'s' if cores != 1 else ''}", *isa]
    return ", ".join([*words, f"{memory:.0f} GiB"] if memory else words)


def _title(stem: str, titles: dict[str, str]) -> str:
    """The title of the benchmark behind a file: that of NAME for NAME_VARIANT.json."""
    if stem in titles:
        return titles[stem]
    name = max((one for one in titles if stem.startswith(f"{one}_")), key=len, default="")
    return f"{titles[name]} ({stem.removeprefix(f'{name}_')})" if name else stem


def _source(row: Row) -> tuple[str, str, str]:
    return row["command"], row["date"][:10], machine_words(row["machine"])


def _table(title: str, source: Sequence[str], rows: list[Row]) -> str:
    """One table under its title and where it comes from; columns nobody fills are left out."""
    command, date, machine = source
    data = {row.get("data") for row in rows}
    shared = data.pop() if len(data) == 1 else None
    columns = [
        ("figure", [row["name"] for row in rows]),
        ("value", [_with_unit(row) for row in rows]),
        ("baseline", [_value(row.get("baseline")) for row in rows]),
        ("ratio", [_value(row.get("ratio")) for row in rows]),
        ("goal", [_value(row["goal"]) for row in rows]),
        ("met", [_met(row) for row in rows]),
        ("data", ["" if shared else row.get("data") or "" for row in rows]),
        ("note", [row.get("note") or "" for row in rows]),
    ]
    kept = [(head, cells) for head, cells in columns if any(cells)]
    about = f"`{command}`, {date}, {machine}" + (f"; {shared}" if shared else "")
    lines = [
        _line(head for head, _ in kept),
        _line("---" for _ in kept),
        *(_line(cells) for cells in zip(*(cells for _, cells in kept), strict=True)),
    ]
    return "\n".join([f"**{title.removesuffix('.')}**<br>", about, "", *lines, ""])


def _line(cells: Iterable[Any]) -> str:
    return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def _with_unit(row: Row) -> str:
    return "-" if row["value"] is None else f"{_value(row['value'])} {row['unit']}"


def _value(value: Any) -> str:
    """A number with its thousands apart."""
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def _met(row: Row) -> str:
    if row["goal"] is None:
        return ""
    return {True: "yes", False: "**no**", None: "not judged: noise"}[row["met"]]
