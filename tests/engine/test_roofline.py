"""Training and inference beside the machine's peaks: live, finished, in the report, in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aiok_tui import output
from engine import events as ev
from engine.roofline import beside, roofline, rooflines
from engine.state import RunState, fold
from engine.steps.report import write_report
from engine.store import RunFolder

PEAKS = {"threads": 2, "matmul_gflops": {"fp32": 100.0, "bf16": 400.0}, "memory_gb_per_s": 20.0,
         "cores_kept": 1.95}  # fmt: skip
WORK = {"flops_per_row": 250_000.0, "bytes_per_row": 6_000.0, "precision": "fp32"}
STEPS = [{"id": kind, "kind": kind, "title": kind} for kind in ("roofline", "train", "optimize")]


def history(finished: bool, peaks: dict[str, Any] = PEAKS) -> list[ev.Event]:
    live: list[ev.Event] = [
        ev.RunCreated(t=1, run="job-1", recipe="job", steps=STEPS, command="aiok run job"),
        ev.StepReused(t=2, step="roofline", identity="roofline-a", result=peaks),
        ev.StepStarted(t=3, step="train", identity="train-a"),
        ev.WorkloadCounted(t=3, step="train", **WORK),
        ev.Measured(t=4, step="train", name="rows_per_second", value=134_400.0, split="train",
                    rows=10, step_count=1),
    ]  # fmt: skip
    if not finished:
        return live
    ends = [(100_000.0, "train", WORK), (1_600_000.0, "optimize", {**WORK, "flops_per_row": 1e4})]
    return live + [
        ev.StepFinished(t=9, step=step, identity=f"{step}-a", seconds=4,
                        result={**work, "rows_per_second": speed})
        for speed, step, work in ends
    ]  # fmt: skip


def test_a_live_training_is_seen_beside_the_peaks() -> None:
    state = fold([ev.decode(ev.encode(event)) or event for event in history(False)])
    found = roofline(state, state.steps["train"])
    assert found is not None
    assert found.matmul == pytest.approx(134_400 * 250_000 / 100e9)
    assert found.memory == pytest.approx(134_400 * 6_000 / 20e9)
    words = "training 134 k rows/s, 34 % of matmul peak (fp32, 2 cores), 4 % of memory peak"
    assert found.line == words
    assert "matmul is the nearer limit" in found.verdict
    assert rooflines(state) == [found]


def test_a_finished_run_tells_training_and_inference_in_show_and_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = fold(history(True))
    training, inference = rooflines(state)
    assert training.matmul == pytest.approx(0.25) and training.limit == "matmul"
    assert inference.matmul == pytest.approx(0.16) and inference.memory == pytest.approx(0.48)
    assert inference.limit == "memory"
    output.print_state(state, as_json=False)
    shown = capsys.readouterr().out
    assert f"train: {training.text}" in shown and f"optimize: {inference.text}" in shown
    output.print_state(state, as_json=True)
    assert json.loads(capsys.readouterr().out)["roofline"][1]["memory_percent"] == 48.0
    folder = RunFolder(tmp_path / "job-1")
    written = write_report(folder, state, {}, folder.report.parent)
    document = json.loads(Path(written["json"]).read_text())
    assert [one["verdict"] for one in document["roofline"]] == [training.verdict, inference.verdict]
    figures = {figure["name"]: figure["text"] for figure in document["figures"]}
    assert figures["train_matmul_percent"] == "25 %"
    assert figures["optimize_memory_percent"] == "48 %"
    page = folder.report.read_text()
    assert training.verdict in page and inference.verdict in page
    assert "25 of 100" in page and "9.60 of 20" in page
    assert figures["matmul_peak_fp32"] == "100 GFLOP/s" and figures["memory_peak"] == "20 GB/s"


@pytest.mark.parametrize(("speed", "words"), [
    (300_000.0, "bound by matmul"), (100_000.0, "matmul is the nearer limit"),
    (10_000.0, "far from both limits (matmul is nearer): the time goes to overhead"),
])  # fmt: skip
def test_words_say_which_limit_is_near(speed: float, words: str) -> None:
    found = beside("train", "training", speed, WORK, PEAKS)
    assert found is not None and words in found.verdict


def test_peaks_of_a_busy_machine_are_doubted() -> None:
    found = beside("train", "training", 1e5, WORK, {**PEAKS, "cores_kept": 1.2})
    assert found is not None and found.verdict.startswith("not judged: other programs")
    slow = beside("train", "training", 1e4, WORK, {**PEAKS, "cores_kept": 1.2})
    assert slow is not None and slow.verdict.startswith("far from both limits")


def test_the_peak_is_that_of_the_precision_or_fp32_where_the_cpu_lacks_it() -> None:
    peaks_of = {"bf16": 400.0, "int8": 100.0, "fp32": 100.0}
    for precision, peak in peaks_of.items():
        found = beside("train", "training", 1e5, {**WORK, "precision": precision}, PEAKS)
        assert found is not None and found.gflops_peak == peak
        assert found.precision == ("bf16" if precision == "bf16" else "fp32")


@pytest.mark.parametrize("peaks", [
    {}, {"matmul_gflops": 3}, {**PEAKS, "memory_gb_per_s": "fast"}, {**PEAKS, "threads": 0},
    {**PEAKS, "matmul_gflops": {"fp32": float("nan")}},
])  # fmt: skip
def test_without_whole_figures_nothing_is_claimed(peaks: dict[str, Any]) -> None:
    assert rooflines(fold(history(True, peaks))) == []
    assert rooflines(fold(history(False)[:4])) == []
    assert rooflines(RunState()) == []
