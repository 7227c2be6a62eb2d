"""Where table rows are put, against counting them one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.placement import GIB, Placement, Run, overlap, place, ranks_needed
from models.worker import InputProblem

TABLES = {"a": 5, "b": 1000, "c": 1, "d": 401}
ROW = 100


def rows_of(run: Run) -> dict[int, int]:
    """Row of the whole -> local row."""
    return {run.first + i * run.step: run.at + i for i in range(run.rows)}


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 5), st.integers(0, 4000)
)
def test_every_row_lies_on_one_rank_or_on_all(sizes: list[int], ranks: int, limit: int) -> None:
    tables = {str(k): size for k, size in enumerate(sizes)}
    try:
        made = place(tables, ROW, ranks, limit)
    except InputProblem as problem:
        needed = ranks_needed(sizes, ROW, limit)
        assert (f"train on {needed} ranks" in problem.todo) == (needed is not None)
        assert needed is None or needed > ranks
        return
    assert not limit or made.local_bytes == made.local_rows * ROW <= limit
    held = [
        {row: at for run in made.runs(rank) for row, at in rows_of(run).items()}
        for rank in range(ranks)
    ]
    for table, start in enumerate(made.starts):
        for i in range(sizes[table]):
            owners = [rank for rank in range(ranks) if start + i in held[rank]]
            assert owners == ([i % ranks] if made.sharded[table] else list(range(ranks)))
    for local in held:
        places = list(local.values())
        assert len(set(places)) == len(places) == len(local)
        assert all(at < made.local_rows for at in places)


def test_the_largest_tables_are_sharded_and_only_as_many_as_it_takes() -> None:
    everything = sum(TABLES.values()) * ROW
    assert place(TABLES, ROW, 2, 0).sharded == (False,) * 4
    assert place(TABLES, ROW, 2, everything).sharded == (False,) * 4
    assert place(TABLES, ROW, 2, everything - 1).sharded == (False, True, False, False)
    assert place(TABLES, ROW, 2, 720 * ROW).sharded == (False, True, False, True)
    described = place(TABLES, ROW, 2, 720 * ROW).describe()
    assert described["tables"] == {
        "a": "replicated", "b": "sharded", "c": "replicated", "d": "sharded",
    }  # fmt: skip
    assert described["gib_per_rank"] * GIB == pytest.approx((5 + 500 + 1 + 201) * ROW)
    assert described["gib_replicated"] * GIB == pytest.approx(everything)


def test_what_cannot_fit_says_how_many_ranks_would_do() -> None:
    # 3 ranks: 2 + 334 + 1 + 134 rows of 100 bytes each
    with pytest.raises(InputProblem, match="do not fit") as caught:
        place(TABLES, ROW, 2, 471 * ROW)
    assert "train on 3 ranks" in caught.value.todo
    assert place(TABLES, ROW, 3, 471 * ROW).local_rows == 471
    with pytest.raises(InputProblem, match="on 1 rank;"):
        place(TABLES, ROW, 1, 1000 * ROW)
    with pytest.raises(InputProblem) as caught:
        place(TABLES, ROW, 2, 3 * ROW)  # 4 tables have at least a row each
    assert "train on" not in caught.value.todo


runs = st.builds(Run, st.integers(0, 9), st.integers(0, 20), st.integers(0, 12), st.integers(1, 6))


@given(runs, runs)
def test_overlap_is_the_rows_that_both_have(run: Run, other: Run) -> None:
    mine, theirs = rows_of(run), rows_of(other)
    expected = [(mine[row], theirs[row]) for row in sorted(set(mine) & set(theirs))]
    both = overlap(run, other)
    found = [] if both is None else [
        (both.at + i * both.step, both.other_at + i * both.other_step) for i in range(both.rows)
    ]  # fmt: skip
    assert found == expected


def test_a_placement_of_replicated_tables_is_the_whole_in_order() -> None:
    made = Placement(names=("a", "b"), sizes=(3, 4), row_bytes=8, ranks=2, sharded=(False, False))
    assert made.runs(1) == (Run(0, 0, 3, 1), Run(3, 3, 4, 1))
    assert made.local_rows == made.replicated_rows == made.rows == 7
