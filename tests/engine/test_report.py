"""The report of a run: one safe HTML file whose figures are those of report.json."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine import events as ev
from engine.report.charts import (
    Dot,
    Frame,
    Line,
    Plane,
    line_chart,
    powers,
    scatter_chart,
    ticks,
    time_ticks,
)
from engine.report.figures import collect
from engine.report.plaintext import plain, plain_tree, show, show_gib
from engine.report.telemetry import WorkClock, read_samples
from engine.state import RunState, fold
from engine.steps.report import write_report
from engine.store import RunFolder

T0 = 1_700_000_000.0
HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e\" onload='x' {{ 7*7 }}"
STEPS = [
    ("data", "Make the data", 21.0,
     {"rows": 300_000, "rows_per_second": 14_285.0}, 0.5),
    ("etl", "Prepare the data", 9.5,
     {"rows": {"train": 210_000, "valid": 30_000, "test": 60_000}, "rows_per_second": 31_578.9,
      "seconds": {"read": 2.0, "dictionaries": 3.0, "encode": 4.5}, "engine": "sail",
      "plan": [{"column": f"C{i}", "entries": 900 * i, "plan": "arrow lookup",
                "reason": "fits in memory"} for i in range(1, 27)], "peak_rss_gib": 1.25}, 0.2),
    ("train", "Train DLRM", 62.0,
     {"best": {"step": 300, "epoch": 1.5, "valid": {"auc": 0.7712, "logloss": 0.4821}},
      "steps": 410, "rows": 420_000, "seconds": 51.2, "rows_per_second": 8203.125,
      "eval_seconds": 3.3, "parameters": 5_412_001, "peak_rss_gib": 0.9}, 1.2),
    ("evaluate", "Evaluate on the test rows", 2.2,
     {"auc": 0.7688, "logloss": 0.4833, "rows": 60_000, "bayes_auc": 0.8012,
      "ceiling_auc": 0.7801}, 0.1),
    ("optimize", "Optimize for inference", 6.0,
     {"rows_per_second": 251_113.0, "rows_per_second_eager": 120_200.0, "speedup": 2.0891,
      "auc_drop": 0.0, "batch_size": 1024, "bytes": 21_000_000, "form": "torch_int8",
      "precision": "int8", "rows_per_second_eager_streams": 190_000.0,
      "forms": [{"name": "torch_int8", "precision": "int8", "rows_per_second": 251_113.0,
                 "metric_drop": 0.00012, "verdict": "metric drop 0.000120"}],
      "curves": {
          "kept": [{"batch_size": size, "rows_per_second": 9e3 * size**0.4, "calls": 50,
                    "p50_ms": 0.1 * size**0.5, "p99_ms": 0.2 * size**0.5}
                   for size in (1, 16, 128, 1024, 8192)],
          "eager": [{"batch_size": size, "rows_per_second": 4e3 * size**0.4, "calls": 50,
                     "p50_ms": 0.3 * size**0.5, "p99_ms": 0.5 * size**0.5}
                    for size in (1, 16, 128, 1024, 8192)]}}, 0.3),
]  # fmt: skip


def make_state(title: str = "", pause: float = 0.0) -> RunState:
    events: list[ev.Event] = [
        ev.RunCreated(t=T0, run="quickstart-1", recipe="quickstart", command="aiok run quickstart",
                      steps=[{"id": kind, "kind": kind, "title": title or words,
                              "host": "localhost"} for kind, words, *_ in STEPS]
                      + [{"id": "report", "kind": "report", "title": "Report"}]),
        ev.RunStarted(t=T0, pid=1, attempt=1),
    ]  # fmt: skip
    t = T0
    for kind, _, seconds, result, _ in STEPS:
        events.append(ev.StepStarted(t=t, step=kind, identity="i" + kind,
                                     command=f"python -m models.{kind} spec.json"))  # fmt: skip
        if kind == "train":
            events += curve_events(t, seconds)
        t += seconds + (pause if kind == "etl" else 0.0)
        events.append(ev.StepFinished(t=t, step=kind, identity="i" + kind, seconds=seconds,
                                      result=result))  # fmt: skip
    events.append(ev.StepStarted(t=t, step="report", identity="ireport"))
    return fold(events)


def curve_events(t: float, seconds: float) -> list[ev.Event]:
    found: list[ev.Event] = []
    for i in range(1, 401):
        at, rows = t + seconds * i / 400, i * 1050
        loss = 0.47 + 0.22 * math.exp(-i / 70) + 0.012 * math.sin(i * 1.7)
        found.append(ev.Measured(t=at, step="train", name="loss", value=loss, split="train",
                                 rows=rows, step_count=i))  # fmt: skip
        if i % 50 == 0:
            auc = 0.7712 - 0.11 * math.exp(-i / 60)
            for name, value in (("auc", auc), ("logloss", 0.482 + 0.07 * math.exp(-i / 60))):
                found.append(ev.Measured(t=at, step="train", name=name, value=value,
                                         split="valid", rows=rows, step_count=i))  # fmt: skip
    return found


def make_plan() -> dict[str, Any]:
    return {
        "run": "quickstart-1",
        "steps": [{"id": kind, "kind": kind, "title": words, "host": "localhost",
                   "worker": "generate" if kind == "data" else kind,
                   "settings": {"rows": 300_000, "seed": 1} if kind == "data" else {},
                   "estimate": {"minutes": minutes, "memory_gib": 1.0, "disk_gib": 0.2}}
                  for kind, words, _, _, minutes in STEPS],
        "facts": {"localhost": {"cpu_model": "Test CPU 9000", "cores": [0, 1], "memory_gib": 23.4,
                                "isa": ["avx2"]}},
        "values": [{"key": "dataset.format", "value": "criteo", "origin": "recipe", "reason": ""},
                   {"key": "seed", "value": 7, "origin": "built-in", "reason": "repeatable"},
                   {"key": "train.ranks", "value": 2, "origin": "advisor",
                    "reason": "one rank a core"}],
    }  # fmt: skip


def write_telemetry(folder: RunFolder, host: str = "localhost", pause_at: float = math.inf) -> Path:
    path = folder.telemetry(host)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for second in range(101):
        t = T0 + second + (7200.0 if second > pause_at else 0.0)
        lines.append(json.dumps({
            "t": t, "host": host, "cpu": [90.0 + second % 7, 60.0 + 3 * math.sin(second)],
            "memory_used_gib": 3 + second / 60, "memory_total_gib": 23.4,
            "disk_read_mib_s": max(0.0, 40 - second), "disk_write_mib_s": float(second % 11),
            "net_rx_mib_s": 0.01, "net_tx_mib_s": 0.02, "load1": 2.0,
            "job_cpu": 150.0, "job_memory_gib": 1 + second / 90}))  # fmt: skip
    path.write_text("\n".join(lines) + '\nnot json\n{"t": "soon"}\n{"t": 17')
    return path


@dataclass
class Page(HTMLParser):
    """What a browser would make of the page."""

    tags: list[str] = field(default_factory=list)
    attributes: list[tuple[str, str, str]] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    rows: dict[str, list[list[str]]] = field(default_factory=dict)
    figures: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()
        self._table = self._figure = ""
        self._cell: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        given = dict(attrs)
        if tag == "table":
            self._table = given.get("id") or ""
        elif tag == "tr":
            self.rows.setdefault(self._table, []).append([])
            self._figure = given.get("data-figure") or ""
        elif tag in ("td", "th"):
            self._cell = []

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._cell is not None:
            self.rows[self._table][-1].append("".join(self._cell))
            self._cell = None
        elif tag == "tr" and self._figure:
            self.figures[self._figure] = self.rows[self._table][-1][1]

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self._cell is not None:
            self._cell.append(data)


def read_page(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    return page


def assert_safe(page: Page) -> None:
    assert not {"script", "iframe", "object", "link", "img", "base", "form"} & set(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        assert name not in ("href", "src", "style", "xlink:href", "action"), (tag, name)
        assert "://" not in value, (tag, name, value)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    path = tmp_path / "quickstart-1"
    path.mkdir()
    return RunFolder(path)


def test_page_is_one_safe_file_with_the_figures_of_its_twin(folder: RunFolder) -> None:
    write_telemetry(folder)
    result = write_report(folder, make_state(), make_plan(), folder.report.parent)
    assert sorted(p.name for p in folder.report.parent.iterdir()) == ["report.html", "report.json"]
    page, twin = read_page(folder.report), json.loads(Path(result["json"]).read_text())
    assert_safe(page)
    assert "http" not in folder.report.read_text().replace("http-equiv", "")
    assert "url(" not in folder.report.read_text() and "@import" not in folder.report.read_text()
    assert page.figures == {figure["name"]: figure["text"] for figure in twin["figures"]}
    assert len(page.figures) == result["figures"] >= 20
    figures = {figure["name"]: figure for figure in twin["figures"]}
    assert figures["test_auc"]["value"] == 0.7688 and page.figures["test_auc"] == "0.7688"
    assert page.figures["inference_speedup"] == "2.09x"
    assert page.figures["inference_rows_per_second"] == "251,113 rows/s"
    assert figures["test_auc"]["machine"] == "localhost: Test CPU 9000, 2 cores, 23 GiB, avx2"
    data = "criteo, 300,000 generated rows, seed 1; test: 60,000 rows"
    assert figures["test_auc"]["data"] == data
    assert all(one["machine"] and one["data"] and one["command"] for one in twin["figures"])
    assert twin["run"]["status"] == "done" and twin["run"]["seconds"] == pytest.approx(100.7)


def test_headline_comes_first_and_names_all_results(folder: RunFolder) -> None:
    write_report(folder, make_state(), make_plan(), folder.report.parent)
    page = read_page(folder.report)
    assert next(iter(page.rows)) == "headline"
    rows = {row[0]: row for row in page.rows["headline"][1:]}
    assert list(rows) == [words for _, words, *_ in STEPS]
    assert rows["Prepare the data"][3:5] == ["9.5 s", "31,579"]
    assert rows["Evaluate on the test rows"][5] == "test AUC 0.7688, ceiling 0.7801"
    assert rows["Optimize for inference"][5] == "2.09x the eager model, AUC drop 0.0000"
    estimates = {row[0]: row for row in page.rows["estimates"][1:]}
    assert estimates["Train DLRM"][1:7] == ["62.0 s", "72.0 s", "-", "-", "0.90", "1.00"]
    assert estimates["Evaluate on the test rows"][7] == "-"
    plan = page.rows["etl-plan"][1:]
    assert [row[:3] for row in plan] == [["arrow lookup", "fits in memory", "26"]]
    assert plan[0][3].startswith("C1 (900), C2 (1,800), ") and plan[0][3].endswith("C26 (23,400)")


def test_every_figure_has_a_command(tmp_path: Path) -> None:
    """The one in the step's log, the last start of it; else the line that began the run."""
    folder = RunFolder(tmp_path / "tiny-1")
    folder.logs("etl").mkdir(parents=True)
    (folder.logs("etl") / "output.log").write_text("$ first\nrows\n$ A=1 python -m etl s.json\nx\n")
    names = ("etl", "train")
    steps = [{"id": name, "kind": name, "title": name} for name in names]
    said: list[ev.Event] = [
        ev.RunCreated(t=1.0, run="tiny-1", recipe="tiny", steps=steps, command="aiok run tiny"),
        *(ev.StepFinished(t=2.0, step=name, identity="i", seconds=1.0,
                          result={"rows_per_second": 5.0}) for name in names),
    ]  # fmt: skip
    document = collect(folder, fold(said), {})
    commands = {figure["step"]: figure["command"] for figure in document["figures"]}
    assert commands == {"etl": "A=1 python -m etl s.json", "train": "aiok run tiny"}


def test_charts_are_drawn(folder: RunFolder) -> None:
    write_telemetry(folder)
    write_report(folder, make_state(), make_plan(), folder.report.parent)
    page = read_page(folder.report)
    # loss, AUC; time; throughput, latency; CPU, memory, disk, network
    assert page.tags.count("svg") == 2 + 1 + 2 + 4
    twin = json.loads((folder.report.parent / "report.json").read_text())
    loss = next(curve for curve in twin["curves"] if curve["name"] == "loss")
    assert loss["measured"] == 400 and 100 <= len(loss["points"]) <= 240
    series = twin["telemetry"]["hosts"][0]["series"]
    assert series["disk_read"]["peak"] == 40.0
    assert series["job_cpu"]["mean"] == 75.0  # 150 % of one core on 2 cores
    assert twin["telemetry"]["seconds"] == 100.0


def test_inference_is_shown_over_the_batch_size(folder: RunFolder) -> None:
    write_report(folder, make_state(), make_plan(), folder.report.parent)
    page = read_page(folder.report)
    assert page.rows["batches"][1] == ["1", "9,000", "0.1 ms", "0.2 ms", "4,000", "0.3 ms",
                                       "0.5 ms"]  # fmt: skip
    assert [row[0] for row in page.rows["batches"][1:]] == ["1", "16", "128", "1,024", "8,192"]
    assert page.rows["forms"][1] == ["torch_int8", "int8", "251,113", "0.0001",
                                     "metric drop 0.000120"]  # fmt: skip
    assert page.figures["inference_rows_per_second_eager_streams"] == "190,000 rows/s"
    assert "kept form at 128 rows: 2.26 ms" in "".join(page.text)


def test_a_logarithmic_chart_has_its_points_where_they_belong() -> None:
    points = [(1.0, 0.1), (10.0, 10.0), (100.0, 1000.0)]
    chart = line_chart([Line("a", points, marked=True)], Frame("x", logarithmic=True))
    page = Page()
    page.feed(chart)
    places = {name: [float(value) for tag, at, value in page.attributes
                     if (tag, at) == ("circle", name)] for name in ("cx", "cy")}  # fmt: skip
    for found in places.values():
        assert found[1] == pytest.approx((found[0] + found[2]) / 2, abs=0.02)
    assert powers(0.2, 30.0) == pytest.approx([0.1, 1.0, 10.0, 100.0])
    assert powers(5.0, 5.0) == [1.0, 10.0]


def test_text_from_outside_stays_text(folder: RunFolder) -> None:
    state, plan = make_state(title=HOSTILE), make_plan()
    write_telemetry(folder)
    for step in state.steps.values():
        step.command = HOSTILE
        step.notes.append(("warning", HOSTILE))
    state.steps["etl"].result["plan"][0]["column"] = HOSTILE
    state.curves[HOSTILE, HOSTILE] = state.curves["auc", "valid"]
    plan["facts"]["localhost"]["cpu_model"] = HOSTILE
    plan["values"].append({"key": HOSTILE, "value": HOSTILE, "origin": HOSTILE})
    write_report(folder, state, plan, folder.report.parent)
    page, raw = read_page(folder.report), folder.report.read_bytes()
    assert_safe(page)
    assert b"\x1b" not in raw and "\u202e".encode() not in raw
    assert "<script>alert(1)</script>[31m" in "".join(page.text)
    assert "{{ 7*7 }}" in "".join(page.text)


def test_missing_everything_is_said_not_an_error(folder: RunFolder) -> None:
    write_report(folder, fold([]), {}, folder.report.parent)
    page = read_page(folder.report)
    assert_safe(page)
    assert "No resource samples were kept" in "".join(page.text)
    state = fold([ev.RunCreated(t=T0, run="r-1", recipe="r", steps=[
        {"id": "etl", "kind": "etl", "title": "Prepare"}])])  # fmt: skip
    state.steps["etl"].result = {"plan": "odd", "rows": 3, "seconds": None,
                                 "rows_per_second": float("nan")}  # fmt: skip
    plan = {"steps": [None, {"id": "etl", "estimate": "soon"}], "facts": [], "values": {"a": 1}}
    write_report(folder, state, plan, folder.report.parent)
    assert_safe(read_page(folder.report))


def test_a_failed_run_says_what_to_do_first(folder: RunFolder) -> None:
    state = fold([
        ev.RunCreated(t=T0, run="r-1", recipe="r", steps=[
            {"id": "etl", "kind": "etl", "title": "Prepare"}]),
        ev.RunStarted(t=T0, pid=1, attempt=1),
        ev.StepStarted(t=T0, step="etl", identity="x"),
        ev.StepFailed(t=T0 + 1, step="etl", what="day_0.tsv line 7: 39 columns",
                      todo="mend the file"),
        ev.RunEnded(t=T0 + 1, status="failed", exit_code=2)])  # fmt: skip
    write_report(folder, state, {}, folder.report.parent)
    text = "".join(read_page(folder.report).text)
    assert text.index("day_0.tsv line 7: 39 columns") < text.index("Time by step")
    assert "mend the file" in text


def test_losses_and_restarts_are_shown_with_what_was_done_again(folder: RunFolder) -> None:
    state = make_state()
    fold([
        ev.StepStopped(t=T0 + 90, step="train", what="h3 was lost: no word for 15 s", why="silent"),
        ev.RunStarted(t=T0 + 95, pid=2, attempt=3),
        ev.StepStopped(t=T0 + 96, step="etl"),  # asked for: no loss
        ev.WorkLost(t=T0 + 50, step="train", what=f"h2 was lost{HOSTILE}", policy="wait", restart=1,
                    restarts=3, hosts=["h2"], steps_lost=1200, rows_lost=76_800),
        ev.WorkRestarted(t=T0 + 60, step="train", attempt=2),
    ], state)  # fmt: skip
    write_report(folder, state, make_plan(), folder.report.parent)
    page = read_page(folder.report)
    assert_safe(page)
    first, second = page.rows["loss-table"][1:]
    assert first[1:] == ["train", f"h2 was lost{plain(HOSTILE)}", "h2",
                         "policy wait: restart 1 of 3", "1,200 steps (76,800 rows)"]  # fmt: skip
    assert second[1:] == ["train", "h3 was lost: no word for 15 s", "-", "ended here", "-"]
    assert "2 attempts, 2 losses of hosts or ranks (below)" in "".join(page.text)
    twin = json.loads((folder.report.parent / "report.json").read_text())
    assert [loss["steps_lost"] for loss in twin["losses"]] == [1200, None]
    (folder.report.parent / "report.html").unlink()
    write_report(folder, make_state(), make_plan(), folder.report.parent)
    assert "loss-table" not in read_page(folder.report).rows


def test_estimates_stand_beside_what_the_steps_took(folder: RunFolder) -> None:
    plan, state = make_plan(), make_state()
    estimate = {"minutes": 1.2, "memory_gib": 1.0, "disk_gib": 0.2, "network_gib": 0.4}
    for step in plan["steps"]:
        step["estimate"] = estimate
    fold([
        ev.StepEstimated(t=T0, step="train", **estimate),
        ev.StepFinished(t=T0, step="train", identity="i", seconds=62.0, result={},
                        actual={"minutes": 62 / 60, "memory_gib": 1.5, "network_gib": 0.3}),
    ], state)  # fmt: skip
    write_report(folder, state, plan, folder.report.parent)
    page = read_page(folder.report)
    (row,) = [row for row in page.rows["estimates"][1:] if row[0] == "Train DLRM"]
    assert page.rows["estimates"][0] == [
        "step", "time", "estimate", "CPU-seconds", "estimate", "memory, GiB", "estimate",
        "disk, GiB", "estimate", "network, GiB", "estimate",
    ]  # fmt: skip
    assert row[1:] == [
        "62.0 s", "72.0 s", "-", "-", "1.50", "1.00", "-", "0.20", "0.30", "0.40",
    ]  # fmt: skip
    assert "This run took time 0.86x, memory 1.5x, network 0.75x of the estimate" in "".join(
        page.text
    )


def test_a_pause_between_stop_and_resume_is_cut_out(folder: RunFolder) -> None:
    samples = read_samples(write_telemetry(folder, pause_at=30))
    assert len(samples) == 101
    clock = WorkClock([sample["t"] for sample in samples])
    assert clock.span == 99.0 and clock.pauses == [30.0]
    assert clock(T0 - 5) == 0.0 and clock(T0 + 3000) == 30.0 and clock(T0 + 7231.5) == 30.5
    write_report(folder, make_state(pause=7200.0), make_plan(), folder.report.parent)
    assert "stopped here and resumed later" in folder.report.read_text()


@given(st.text(max_size=80))
def test_plain_text_has_no_control_and_keeps_printable(text: str) -> None:
    made = plain(text)
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in made)
    made.encode("utf-8")
    assert plain(made) == made


@given(st.recursive(st.none() | st.floats() | st.text(max_size=9) | st.integers(),
                    lambda inner: st.lists(inner, max_size=3)
                    | st.dictionaries(st.text(max_size=4), inner, max_size=3)))  # fmt: skip
def test_plain_tree_is_json(value: Any) -> None:
    clean = plain_tree(value)
    assert json.loads(json.dumps(clean, allow_nan=False)) == clean


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
@example(499999999.984375, 1e-06)
def test_ticks_cover_the_range_evenly(low: float, width: float) -> None:
    high = low + width
    marks = ticks(low, high)
    assert 2 <= len(marks) <= 12
    if high > low:
        # A range too narrow to draw is widened; what counts is a millionth of what is drawn.
        drawn = marks[-1] - marks[0]
        assert marks[0] <= low + 1e-6 * drawn and marks[-1] >= high - 1e-6 * drawn


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(0, 1e9), st.floats(-1e6, 1e6)), min_size=1, max_size=30))
@example([(0.0, 0.0), (0.0, -7e-283)])
def test_a_line_stays_inside_its_drawing(points: list[tuple[float, float]]) -> None:
    page = Page()
    page.feed(str(line_chart([Line("a", points, marked=True)], Frame("test"))))
    dots = [float(value) for tag, name, value in page.attributes if tag == "circle" and
            name in ("cx", "cy")]  # fmt: skip
    assert len(dots) == 2 * len(points)
    assert all(0 <= at <= 520 for at in dots)


coordinates = st.tuples(st.floats(-1e6, 1e9), st.floats(-1e6, 1e6), st.integers(1, 3))


@given(st.lists(coordinates, max_size=20), st.booleans())
def test_dots_stay_inside_their_drawing(
    points: list[tuple[float, float, int]], joined: bool
) -> None:
    dots = [Dot(x, y, f"<b>{n}</b>", slot) for n, (x, y, slot) in enumerate(points)]
    chart = str(scatter_chart(dots, Plane("a plane", joined=joined)))
    assert chart.count("<circle") == len(points)
    assert "<b>" not in chart
    for x, y in re.findall(r'cx="([^"]*)" cy="([^"]*)"', chart):
        assert 0 <= float(x) <= 520
        assert 0 <= float(y) <= 220


def test_numbers_for_people() -> None:
    assert show(0.76881, "auc") == "0.7688"
    assert show(8203.1, "rows/s") == "8,203 rows/s"
    assert show(185.4, "s") == "3 min 05 s"
    assert show(8040.0, "s") == "2 h 14 min"
    assert show(None) == "-" and show(True) == "True"
    shown = [show_gib(value) for value in (0, 0.0001, 1.256, None)]
    assert shown == ["0.00", "< 0.01", "1.26", "-"]
    assert time_ticks(476)[0] == [0, 120, 240, 360, 480] and time_ticks(476)[2] == "min"
    assert time_ticks(50)[0] == [0, 10, 20, 30, 40, 50]
