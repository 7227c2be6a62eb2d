"""The HTML page of a report document: charts and tables, one file, no script, nothing loaded."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from engine.estimates import sentence
from engine.report import search as search_part
from engine.report.charts import Bar, Frame, Level, Line, bar_chart, line_chart
from engine.report.plaintext import number, show, show_gib, show_seconds

LOSSES = ("loss", "logloss")
_UNITS = {"auc": "auc", "loss": "nats", "logloss": "nats"}
_WAYS = {"kept": "kept form", "eager": "eager"}
_SPLITS = {"train": "training", "valid": "validation", "test": "test"}


def render(document: dict[str, Any]) -> str:
    """The page as text; `document` is what figures.collect returned."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"show": show, "seconds": _seconds, "gib": show_gib, "moment": _moment}
    by_name = {figure["name"]: figure for figure in document["figures"]}
    return environment.get_template("report.html.j2").render(
        **document,
        figure=by_name,
        tiles=_tiles(by_name, document),
        headline=_headline(by_name, document),
        curve_charts=_curve_charts(document),
        time_chart=_time_chart(document["steps"]),
        estimated=_estimated(document["estimates"]),
        loss_rows=_loss_rows(document["losses"]),
        etl_plans=_etl_plans(document["etl"]["plan"]),
        inference_charts=_inference_charts(document["inference"]["curves"]),
        batches=_batches(document["inference"]["curves"]),
        search_charts=search_part.charts(document["search"]) if document["search"] else [],
        search_table=search_part.table(document["search"]) if document["search"] else None,
        resources=[_resources(host, document["telemetry"])
                   for host in document["telemetry"]["hosts"]],
    )  # fmt: skip


def _seconds(value: Any) -> str:
    found = number(value)
    return "-" if found is None else show_seconds(found)


def _moment(value: Any) -> str:
    found = number(value)
    if found is None:
        return "-"
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(min(max(found, 0.0), 2**37)))


def _tiles(figure: dict[str, Any], document: dict[str, Any]) -> list[dict[str, str]]:
    """The four answers a reader came for; one that the run does not give is left out."""
    tiles = []
    if "test_auc" in figure:
        ceiling = figure.get("ceiling_auc")
        below = f"ceiling {ceiling['text']}" if ceiling else "on rows never trained on"
        tiles.append({"title": "test AUC", "value": figure["test_auc"]["text"], "below": below})
    if "train_rows_per_second" in figure:
        tiles.append({"title": "training, rows/s",
                      "value": show(figure["train_rows_per_second"]["value"]),
                      "below": _below(figure, "train_seconds", "in {}")})  # fmt: skip
    if "inference_rows_per_second" in figure:
        tiles.append({"title": "inference, rows/s",
                      "value": show(figure["inference_rows_per_second"]["value"]),
                      "below": _below(figure, "inference_speedup", "{} the eager model"),
                      })  # fmt: skip
    tiles.append({"title": "all steps", "value": show_seconds(document["run"]["seconds"]),
                  "below": f"{len(document['steps'])} steps"})  # fmt: skip
    return tiles


def _below(figure: dict[str, Any], name: str, words: str) -> str:
    return words.format(figure[name]["text"]) if name in figure else ""


def _headline(figure: dict[str, Any], document: dict[str, Any]) -> list[dict[str, str]]:
    """One row a step: how long, how fast, and what came out."""
    return [
        {
            "title": step["title"],
            "host": step["host"],
            "status": step["status"],
            "seconds": "reused" if step["status"] == "reused" else _seconds(step["seconds"]),
            "rows_per_second": show(step["rows_per_second"]),
            "outcome": _outcome(step["kind"], figure),
        }
        for step in document["steps"]
    ]


def _outcome(kind: str, figure: dict[str, Any]) -> str:
    words = {
        "train": [("valid_auc", "validation AUC {}")],
        "evaluate": [("test_auc", "test AUC {}"), ("ceiling_auc", "ceiling {}")],
        "optimize": [("inference_speedup", "{} the eager model"),
                     ("inference_auc_drop", "AUC drop {}")],
        "etl": [("etl_peak_memory", "peak {}")],
    }  # fmt: skip
    found = [text.format(figure[name]["text"]) for name, text in words.get(kind, [])
             if name in figure]  # fmt: skip
    return ", ".join(found)


def _curve_charts(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Loss first, then AUC, then whatever else the workers measured; one chart a name."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for curve in document["curves"]:
        groups.setdefault("loss" if curve["name"] in LOSSES else curve["name"], []).append(curve)
    order = {"loss": 0, "auc": 1}
    charts = []
    for name in sorted(groups, key=lambda one: (order.get(one, 2), one)):
        curves = sorted(groups[name], key=lambda curve: curve["split"] != "train")[:3]
        unit = _UNITS.get(name, "")
        lines = [
            Line(_curve_label(curve), curve["points"], slot, marked=curve["measured"] <= 60)
            for slot, curve in enumerate(curves, 1)
        ]
        title = {"loss": "Log loss", "auc": "AUC"}.get(name, name.replace("_", " "))
        chart = line_chart(lines, Frame(f"{title} over rows seen", unit=unit,
                                        levels=_levels(name, document)))  # fmt: skip
        if chart:
            charts.append({"title": title, "unit": "nats" if unit == "nats" else "",
                           "svg": chart, "legend": _legend(name, lines)})  # fmt: skip
    return charts


def _curve_label(curve: dict[str, Any]) -> str:
    return str(_SPLITS.get(curve["split"], curve["split"]))


def _levels(name: str, document: dict[str, Any]) -> list[Level]:
    ceilings = [f for f in document["figures"] if f["name"] == "ceiling_auc"]
    if name != "auc" or not ceilings:
        return []
    return [Level(f"ceiling of the test rows {ceilings[0]['text']}", ceilings[0]["value"])]


def _legend(name: str, lines: list[Line]) -> list[dict[str, Any]]:
    """The last value of a training curve, the best of the others."""
    best = {"loss": min, "auc": max}.get(name)
    legend = []
    for line in lines:
        values = [value for _, value in line.points]
        if values:
            said = f"{values[-1]:.4g}"
            if best is not None and line.label != _SPLITS["train"]:
                said = f"best {best(values):.4f}"
            legend.append({"slot": line.slot, "label": line.label, "last": said})
    return legend


def _inference_charts(curves: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Throughput and latency over the batch size, the kept form and the eager network."""
    charts = []
    for title, unit, key in (("Throughput", "rows/s", "rows_per_second"),
                             ("Latency, 99th percentile", "ms", "p99_ms")):  # fmt: skip
        lines = [
            Line(label, _above_zero(curves[name], key), slot, marked=True)
            for slot, (name, label) in enumerate(_WAYS.items(), 1)
        ]
        frame = Frame(f"{title} over batch size, {unit}", unit=unit, logarithmic=True)
        chart = line_chart(lines, frame)
        if chart:
            best = max if unit == "rows/s" else min
            legend = [{"slot": line.slot, "label": line.label,
                       "last": f"{best.__name__} {show(best(y for _, y in line.points), unit)}"}
                      for line in lines if line.points]  # fmt: skip
            charts.append({"title": title, "unit": unit, "svg": chart, "legend": legend})
    return charts


def _above_zero(points: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """(batch size, value) of the points that a logarithmic chart can show."""
    pairs = [(number(point.get("batch_size")), number(point.get(key))) for point in points]
    return [(x, y) for x, y in pairs if x is not None and y is not None and x > 0 and y > 0]


def _batches(curves: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    """A row a batch size: the size, then rows/s, p50 and p99 of either way."""
    cells: dict[float, dict[str, list[str]]] = {}
    for name in _WAYS:
        for point in curves[name]:
            size = number(point.get("batch_size"))
            if size is not None:
                shown = [show(point.get("rows_per_second"))]
                shown += [show(point.get(key), "ms") for key in ("p50_ms", "p99_ms")]
                cells.setdefault(size, {})[name] = shown
    return [
        [show(size), *(cell for name in _WAYS for cell in ways.get(name, ["-"] * 3))]
        for size, ways in sorted(cells.items())
    ]


def _time_chart(steps: list[dict[str, Any]]) -> Markup:
    bars = []
    for step in steps:
        if step["status"] == "reused":
            text = "reused"
        elif step["seconds"] is None:
            text = step["status"]
        else:
            text = show_seconds(step["seconds"])
        bars.append(Bar(step["title"], step["seconds"], text, step["estimate"]["seconds"]))
    return bar_chart(bars, "Time by step")


def _estimated(scores: dict[str, Any]) -> str:
    """How this run and the ones before it compare to their estimates, "" when none can be."""
    own, known = sentence(scores["run"]), sentence(scores["record"]["ratios"])
    parts = [
        f"This run took {own} (median of its steps)." if own else "",
        f"Its {scores['record']['runs']} predecessors here: {known} (median)." if known else "",
    ]
    return " ".join(part for part in parts if part)  # fmt: skip


def _loss_rows(losses: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a loss: when, where, what, how the run went on, what was done again."""
    rows = []
    for loss in losses:
        went_on = "ended here"
        if loss["restart"]:
            went_on = f"policy {loss['policy']}: restart {loss['restart']} of {loss['restarts']}"
        steps, lost_rows = number(loss["steps_lost"]), number(loss["rows_lost"])
        again = "-" if steps is None else f"{show(steps)} steps ({show(lost_rows)} rows)"
        rows.append({**loss, "went_on": went_on, "again": again,
                     "hosts": ", ".join(map(str, loss["hosts"])) or "-"})  # fmt: skip
    return rows


def _etl_plans(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Columns with the same plan for the same reason share a row."""
    groups: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        column, entries = str(row.get("column", "-")), number(row.get("entries"))
        words = column if entries is None else f"{column} ({entries:,.0f})"
        key = (str(row.get("plan", "-")), str(row.get("reason", "")))
        groups.setdefault(key, []).append(words)
    return [
        {"plan": plan, "reason": reason, "columns": ", ".join(columns), "count": str(len(columns))}
        for (plan, reason), columns in groups.items()
    ]


def _resources(host: dict[str, Any], telemetry: dict[str, Any]) -> dict[str, Any]:
    """Four charts of one host over the time at work: CPU, memory, disk, network."""
    bands = [(step["from"], step["to"], step["title"]) for step in telemetry["steps"]]
    total = host["memory_total_gib"]
    panels = [
        ("CPU", "% of all cores", 100.0, [("cpu", "machine"), ("job_cpu", "this run")]),
        ("Memory", "GiB", total, [("memory_used", "machine"), ("job_memory", "this run")]),
        ("Disk", "MiB/s", None, [("disk_read", "read"), ("disk_write", "written")]),
        ("Network", "MiB/s", None, [("net_rx", "received"), ("net_tx", "sent")]),
    ]
    charts = []
    for title, unit, top, wanted in panels:
        known = [(name, label) for name, label in wanted if name in host["series"]]
        lines = [Line(label, host["series"][name]["points"], slot)
                 for slot, (name, label) in enumerate(known, 1)]  # fmt: skip
        frame = Frame(f"{title} of {host['host']}, {unit}", x_unit="s", unit=unit,
                      from_zero=True, top=top, bands=bands, pauses=telemetry["pauses"], height=190,
                      x_span=(0.0, telemetry["seconds"] or 1.0))  # fmt: skip
        chart = line_chart(lines, frame)
        if chart:
            peaks = [{"slot": slot, "label": label,
                      "last": "peak " + show(host["series"][name]["peak"], unit.split(" ")[0])}
                     for slot, (name, label) in enumerate(known, 1)]  # fmt: skip
            charts.append({"title": title, "unit": unit, "svg": chart, "legend": peaks})
    cores = f"{host['cores']} cores" if host["cores"] else ""
    memory = f"{total:.1f} GiB" if total else ""
    return {"host": host["host"], "samples": host["samples"], "charts": charts,
            "words": ", ".join(word for word in (cores, memory) if word)}  # fmt: skip
