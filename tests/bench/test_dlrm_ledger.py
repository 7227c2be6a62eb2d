"""The ledger of DLRM's switches: where its ladder begins and ends, and what it reads off a run."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from bench import dlrm_ledger as ledger
from models import catalog
from models.settings import resolve


def test_the_ladder_leads_from_stock_to_the_optimized_profile() -> None:
    spec = catalog.load("dlrm")
    rungs = ledger.ladder()
    names = list(rungs)
    assert len(names) == len(ledger.SWITCHES) + 1
    first, last = rungs[names[0]], rungs[names[-1]]
    for name in ("batch_size", "bottom_widths", "fused_tables", "table_optimizer", "average"):
        values, _ = resolve(spec.settings, spec.profiles["stock"])
        assert resolve(spec.settings, {name: first[name]})[0][name] == values[name]
    optimized, _ = resolve(spec.settings, spec.profiles["optimized"])
    settings = {key: value for key, value in last.items() if key not in ("ranks", "threads")}
    reached, problems = resolve(spec.settings, settings)
    assert not problems
    left = {name for name, value in optimized.items() if reached[name] != value}
    assert left <= {"min_count", "evals_per_epoch", "patience"}
    for lower, upper in pairwise(names):  # every rung changes something
        assert rungs[lower] != rungs[upper]


def test_every_switch_is_undone_by_itself_with_valid_settings() -> None:
    spec = catalog.load("dlrm")
    whole = ledger.profiles()[1]
    undone = ledger.without()
    assert {f"without {name}" for name, _ in ledger.SWITCHES} <= set(undone)
    for name, variant in undone.items():
        settings = {key: value for key, value in variant.items() if key not in ("ranks", "threads")}
        assert resolve(spec.settings, settings)[1] == [], name
        assert variant != whole
    assert undone["without row-wise Adagrad for the tables"]["first_order_rate"] == 0.0


def test_cpu_seconds_to_a_target_are_those_up_to_the_first_validation_that_reached_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "messages").mkdir()
    lines = [{"kind": "progress", "phase": "epoch 1/1"}]
    for epoch, value in ((0.25, 0.6), (0.5, 0.7), (1.0, 0.69)):
        lines.append({"kind": "scalar", "split": "valid", "name": "auc", "value": value,
                      "epoch": epoch})  # fmt: skip
        lines.append({"kind": "scalar", "split": "valid", "name": "logloss", "value": 9.0,
                      "epoch": epoch})  # fmt: skip
    text = "\n".join(json.dumps(line) for line in lines)
    (tmp_path / "messages" / "rank-0000.jsonl").write_text(text)
    curve = ledger.validations(tmp_path)
    assert curve == [(0.25, 0.6), (0.5, 0.7), (1.0, 0.69)]
    run = {"cpu_seconds": 8.0, "curve": curve}
    assert ledger.to_target(run, 0.69) == pytest.approx(4.0)
    assert ledger.to_target(run, 0.71) is None
