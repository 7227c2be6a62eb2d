"""The bench harness: rows are complete, nobody judges within the noise."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import harness

numbers = st.floats(-1e6, 1e6, allow_nan=False)


@given(numbers, numbers, st.floats(0, 1e6))
def test_a_goal_is_judged_only_beyond_the_spread(effect: float, goal: float, noise: float) -> None:
    verdict = harness.judge(effect, goal, noise)
    assert (verdict is None) == (abs(effect - goal) < noise)
    assert verdict in (None, effect >= goal)


def test_the_spread_is_half_the_range_of_the_runs() -> None:
    assert harness.spread([3.0, 3.0, 3.0]) == 0.0
    assert harness.spread([1.0, 9.0, 2.0]) == 4.0
    assert harness.spread([5.0, 1.0, 9.0, 100.0, 2.0, 3.0]) == 3.5  # one disturbed run of six
    with pytest.raises(ValueError, match="two runs"):
        harness.spread([3.0])


def test_runs_that_differ_more_than_the_effect_are_not_judged() -> None:
    calm, noisy = [12.0, 11.5, 12.2], [12.0, 8.0, 16.0]
    assert harness.judge(12.0, 10.0, harness.spread(calm)) is True
    assert harness.judge(12.0, 13.0, harness.spread(calm)) is False
    assert harness.judge(12.0, 10.0, harness.spread(noisy)) is None


def test_timings_are_not_judged_while_others_take_the_cpu() -> None:
    timing = {"name": "a", "met": True, "spread": 0.1, "note": "batch 9"}
    accuracy = {"name": "b", "met": True}
    assert harness.unjudged_if_busy(timing, harness.BUSY) == timing
    busy = harness.unjudged_if_busy(timing, 0.4)
    assert busy["met"] is None
    assert busy["note"] == "batch 9; not judged: other processes took 40% of the CPU"
    assert harness.unjudged_if_busy(accuracy, 0.4) == accuracy


def test_what_others_take_is_told_from_what_the_benchmark_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    busy, total = harness._machine_seconds()
    assert 0 < busy <= total
    readings = iter([(10.0, 100.0), (20.0, 120.0)])  # 10 s busy of 20
    own = iter([2.0, 7.0])
    monkeypatch.setattr(harness, "_machine_seconds", lambda: next(readings))
    monkeypatch.setattr(harness, "_own_seconds", lambda: next(own))
    assert harness.OtherWork().share() == pytest.approx((10 - 5) / 20)


def test_rows_must_be_whole_and_known() -> None:
    about = {"command": "scripts/bench x", "machine": {}, "versions": {}, "date": "today"}
    row = harness.complete({"name": "a", "value": 1, "unit": "s"}, "x", about)
    assert set(harness.KEYS) < set(row)
    assert row["met"] is None
    assert row["command"] == "scripts/bench x"
    with pytest.raises(ValueError, match="lacks unit"):
        harness.complete({"name": "a", "value": 1}, "x", about)
    with pytest.raises(ValueError, match="unknown keys speed"):
        harness.complete({"name": "a", "value": 1, "unit": "s", "speed": 2}, "x", about)


def test_a_benchmark_runs_in_its_environment_and_leaves_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bench").mkdir()
    source = Path(harness.__file__).read_text()
    (tmp_path / "bench" / "harness.py").write_text(source)
    (tmp_path / "bench" / "nothing.py").write_text(
        '"""Nothing at all.\n\nMore.\n"""\n\nENVIRONMENTS = ("app",)\n\n\n'
        "def measure():\n"
        "    from bench import harness\n"
        '    row = {"name": harness.python_of("app"), "value": 1, "unit": "s", "goal": 0}\n'
        '    return [row | {"met": True}]\n'
    )
    monkeypatch.setattr(harness, "ROOT", tmp_path)
    assert harness.names() == ["nothing"]
    assert harness.main([]) == 0
    assert "Nothing at all." in capfd.readouterr().out
    assert harness.main(["absent"]) == 2
    assert harness.main(["nothing"]) == 0
    assert "goal 0: met" in capfd.readouterr().out
    (row,) = json.loads((tmp_path / "bench" / "results" / "nothing.json").read_text())
    assert row["name"] == sys.executable
    assert row["machine"]["cores"] >= 1
    assert row["machine"]["load1"] >= 0
    assert row["machine"]["load1_after"] >= 0
    assert 0 <= row["machine"]["others_cpu_share"] <= 1
    assert row["versions"]["python"].startswith("3.11.")
    assert row["command"] == "scripts/bench nothing"
