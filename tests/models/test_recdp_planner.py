"""The plan is chosen by size, says why, and changes nothing in the files."""

from __future__ import annotations

import pytest

from models.dlrm.generator import to_text
from models.dlrm.teacher import Teacher
from models.recdp import planner, sources
from models.recdp.planner import BROADCAST, ENTRY_BYTES, LOOKUP, SHUFFLE, plan_joins


def gib_for(entries: int, cores: int = 1) -> float:
    """Memory of which a quarter of a core's share holds so many entries."""
    return (entries + 0.5) * ENTRY_BYTES * 4 * cores / 2**30


def chosen(entries: dict[str, int], memory_gib: float, cores: int = 1) -> dict[str, str]:
    plans = plan_joins(entries, cores, memory_gib)
    assert [plan.column for plan in plans] == list(entries)
    return {plan.column: plan.plan for plan in plans}


def test_what_fits_is_looked_up_and_the_largest_is_joined_first():
    entries = {"large": 600, "small": 100, "middle": 300}
    everything = dict.fromkeys(entries, LOOKUP)
    assert chosen(entries, gib_for(1000)) == everything
    assert chosen(entries, gib_for(999)) == {**everything, "large": SHUFFLE}
    assert chosen(entries, gib_for(399)) == {**everything, "large": SHUFFLE, "middle": SHUFFLE}
    assert chosen(entries, gib_for(99)) == dict.fromkeys(entries, SHUFFLE)


def test_a_core_has_its_share_of_the_memory():
    assert chosen({"a": 500}, gib_for(500, cores=4), cores=4) == {"a": LOOKUP}
    assert chosen({"a": 500}, gib_for(500, cores=4), cores=8) == {"a": SHUFFLE}


@pytest.mark.parametrize(
    ("entries", "plan"),
    [(2_000_000, LOOKUP), (2_000_001, BROADCAST), (30_000_000, BROADCAST), (30_000_001, SHUFFLE)],
)
def test_borders_of_one_dictionary(entries, plan):
    (only,) = plan_joins({"a": entries}, 1, memory_gib=1024)
    assert only.plan == plan


def test_the_reason_names_the_numbers():
    plans = plan_joins({"a": 100, "b": 950, "c": 2000}, 1, gib_for(1000))
    assert [plan.reason for plan in plans] == [
        "at most 2,000,000 entries, and all fit in a core's share",
        "100 entries held before it; a quarter of a core is 1,000",
        "2,000 entries; one core may hold 1,000",
    ]


def test_plans_mixed_by_size_give_the_files_of_lookups_alone(prepare, tmp_path, monkeypatch):
    (tmp_path / "a.tsv").write_bytes(to_text(Teacher(3, 2000).draw(0, 2000, 0)))
    monkeypatch.setattr(sources, "CHUNK_BYTES", 100_000)
    result, lookup = prepare([tmp_path / "a.tsv"], name="lookup")
    sizes = sorted(entry["entries"] for entry in result["plan"])
    monkeypatch.setattr(planner, "LARGEST_LOOKUP", sizes[8])
    result, mixed = prepare([tmp_path / "a.tsv"], name="mixed", cores=2,
                            memory_gib=gib_for(sum(sizes[:20]), cores=2))  # fmt: skip
    plans = {entry["column"]: entry["plan"] for entry in result["plan"]}
    assert set(plans.values()) == {LOOKUP, BROADCAST, SHUFFLE}
    assert (mixed / "manifest.json").read_bytes() == (lookup / "manifest.json").read_bytes()
