"""README's performance table is what the result files say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import harness, table

MACHINE = {"cpu": "Test CPU", "cores": 2, "isa": ["avx2", "amx_int8"], "memory_gib": 23.5,
           "load1": 0.5}  # fmt: skip
ABOUT = {"command": "scripts/bench speed", "machine": MACHINE, "versions": {},
         "date": "2026-11-25T10:00:00+00:00"}  # fmt: skip


def result(folder: Path, file: str, *rows: dict[str, Any]) -> None:
    whole = [harness.complete({"name": "a", "value": 1, "unit": "s", **row}, "speed", ABOUT)
             for row in rows]  # fmt: skip
    (folder / file).write_text(json.dumps(whole))


def test_the_readme_holds_what_the_results_generate() -> None:
    """If this fails: scripts/bench --table."""
    text = (harness.ROOT / "README.md").read_text(encoding="utf-8")
    assert text.partition(table.MARKER)[2] == table.generate(harness.RESULTS, harness.titles())


def test_rows_with_a_goal_and_marked_ones_are_shown(tmp_path: Path) -> None:
    result(
        tmp_path, "speed.json",
        {"name": "fast", "value": 123456, "unit": "rows/s", "baseline": 61728, "ratio": 2.0,
         "goal": ">= 1.5", "met": True, "data": "x"},
        {"name": "slow", "goal": 3, "met": False, "data": "y"},
        {"name": "noisy", "value": None, "goal": 3, "data": "y", "note": "a | b"},
        {"name": "unseen"},
        {"name": "hidden", "goal": 3, "met": True, "readme": False},
        {"name": "marked", "readme": True, "data": "z"},
    )  # fmt: skip
    lines = table.generate(tmp_path, {"speed": "How fast it is."}).splitlines()
    assert "**How fast it is**<br>" in lines
    assert "`scripts/bench speed`, 2026-11-25, Test CPU, 2 cores, AVX2, AMX-INT8, 24 GiB" in lines
    assert lines[-6:] == [
        "| figure | value | baseline | ratio | goal | met | data | note |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| fast | 123,456 rows/s | 61,728 | 2.0 | >= 1.5 | yes | x |  |",
        "| slow | 1 s |  |  | 3 | **no** | y |  |",
        r"| noisy | - |  |  | 3 | not judged: noise | y | a \| b |",
        "| marked | 1 s |  |  |  |  | z |  |",
    ]


def test_what_all_rows_share_stands_above_and_empty_columns_are_left_out(tmp_path: Path) -> None:
    result(tmp_path, "speed_deep.json", {"goal": 3, "met": True, "data": "1,000 rows"})
    lines = table.generate(tmp_path, {"speed": "How fast", "spee": "no"}).splitlines()
    assert lines[2] == "**How fast (deep)**<br>"
    assert lines[3].endswith("24 GiB; 1,000 rows")
    assert lines[5] == "| figure | value | goal | met |"
    result(tmp_path, "speed_deep.json", {})
    assert table.generate(tmp_path, {}) == table.HEAD


def test_writing_keeps_what_stands_above_the_marker(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"# words\n{table.MARKER}old")
    result(tmp_path, "speed.json", {"goal": 3, "met": True})
    table.write(readme, tmp_path, {})
    text = readme.read_text()
    assert text == f"# words\n{table.MARKER}{table.generate(tmp_path, {})}" and "old" not in text
    readme.write_text("# words\n")
    with pytest.raises(ValueError, match="has no line <!-- bench -->"):
        table.write(readme, tmp_path, {})


@pytest.mark.parametrize(("text", "words"), [
    ("[", "is no JSON"), ('{"a": 1}', "is no list of rows"), ('[{"name": "a"}]', "lacks command"),
])  # fmt: skip
def test_a_damaged_result_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "odd.json").write_text(text)
    with pytest.raises(ValueError, match=rf"odd\.json.* {words}"):
        table.generate(tmp_path, {})
