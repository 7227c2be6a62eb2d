"""The report's part about a search: history, importance, the front and all trials."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from engine.hpo import front
from engine.hpo.results import Results, columns, counts, rows
from engine.hpo.study import Objective
from engine.report.charts import (
    Bar,
    Dot,
    Frame,
    Level,
    Line,
    Plane,
    bar_chart,
    line_chart,
    scatter_chart,
)
from engine.report.plaintext import show, show_seconds

UNITS = {"auc": "auc", "logloss": "nats", "training_time": "s"}


def collect(results: Results) -> dict[str, Any]:
    """All of it as one JSON value; `history` is one list of [trial, value, best so far] a metric,
    `front` one row of values a trial that no other one beats; there and in `trials` the values of a
    metric stand under its `column`."""
    found, study = results.found, results.study
    names, named = [objective.name for objective in study.optimized], columns(study)[0]
    bound = front.reference_point(study, found.finished)
    volume = None
    if 2 <= len(names) <= 3 and found.feasible:
        losses = [front.losses_of(study, trial) for trial in found.front]
        volume = front.hypervolume(losses, bound)
    return {
        "words": found.words,
        "states": counts(results.trials),
        "seconds": sum(trial.seconds for trial in results.trials),
        "metrics": [
            {"name": o.name, "maximize": o.maximize, "strategy": str(o.strategy),
             "threshold": o.threshold, "column": named[o.name]} for o in study.objectives
        ],
        "optimized": names,
        "chosen": None if found.chosen is None else found.chosen.number,
        "knee": None if found.knee is None else found.knee.number,
        "hypervolume": volume,
        "front": [
            {"trial": t.number, **{named[n]: t.values[n] for n in names}} for t in found.front
        ],
        "history": {objective.name: _history(results, objective) for objective in study.optimized},
        "importance": [
            {"metric": one.metric, "trials": one.trials, "shares": one.shares,
             "why_not": one.why_not, "few": list(one.few)} for one in results.importance
        ],
        "trials": rows(results),
    }  # fmt: skip


def _history(results: Results, objective: Objective) -> list[list[float | None]]:
    """By trial its value and the best one so far among those that keep all thresholds."""
    best: float | None = None
    allowed = {trial.number for trial in results.found.feasible}
    history: list[list[float | None]] = []
    for trial in results.found.finished:
        value = trial.values[objective.name]
        if trial.number in allowed:
            best = value if best is None else min(best, value, key=objective.loss)
        history.append([trial.number, value, best])
    return history


def charts(search: dict[str, Any]) -> list[dict[str, Any]]:
    """The panels of the page: history, front and importance, each with its legend."""
    found = [_history_panel(search, metric) for metric in search["metrics"]
             if metric["name"] in search["optimized"]]  # fmt: skip
    pairs = itertools.combinations(search["optimized"], 2)
    found += [_front_panel(search, across, up) for across, up in pairs]
    found += [_importance_panel(one) for one in search["importance"]]
    return [panel for panel in found if panel["svg"] or panel["note"]]


def _panel(title: str, axis: str, svg: Markup, legend: Sequence[tuple[int, str, str]] = (),
           note: str = "") -> dict[str, Any]:  # fmt: skip
    rows_of_legend = [{"slot": slot, "label": label, "last": last} for slot, label, last in legend]
    return {"title": title, "unit": "", "axis": axis, "svg": svg, "note": note,
            "legend": rows_of_legend}  # fmt: skip


def _history_panel(search: dict[str, Any], metric: dict[str, Any]) -> dict[str, Any]:
    name = metric["name"]
    unit, history = UNITS.get(name, ""), search["history"][name]
    values = [(number, value) for number, value, _ in history]
    best = [(number, value) for number, _, value in history if value is not None]
    limit = metric["threshold"]
    levels = [] if limit is None else [Level(f"threshold {show(limit, unit)}", limit)]
    lines = [Line("best so far", best, 1), Line("trial", values, 2, dots=True)]
    frame = Frame(f"{name} by trial", x_unit="trials", unit=unit, levels=levels)
    chart = line_chart(lines, frame)
    legend = [(1, "best so far", show(best[-1][1], unit))] if best else []
    return _panel(f"History of {name}", "number of the trial", chart,
                  [*legend, (2, "finished", str(len(values)))] if values else [])  # fmt: skip


def _front_panel(search: dict[str, Any], across: str, up: str) -> dict[str, Any]:
    on_front = {row["trial"] for row in search["front"]}
    column = {metric["name"]: metric["column"] for metric in search["metrics"]}
    dots = []
    for row in search["trials"]:
        x, y = row[column[across]], row[column[up]]
        if row["state"] != "finished" or x is None or y is None:
            continue
        said = (f"trial {row['trial']}: {across} {show(x, UNITS.get(across, ''))}, "
                f"{up} {show(y, UNITS.get(up, ''))}")  # fmt: skip
        slot = 1 if row["trial"] in on_front else 2
        slot = 3 if row["trial"] == search["knee"] else slot
        dots.append(Dot(x, y, said, slot))
    joined = len(search["optimized"]) == 2  # with a third metric a front is no line
    plane = Plane(f"{up} over {across}", UNITS.get(across, ""), UNITS.get(up, ""), joined)
    legend = [(1, "no trial beats these", str(len(on_front)))]
    if search["knee"] is not None:
        legend.append((3, "knee point", f"trial {search['knee']}"))
    legend.append((2, "others", str(len(dots) - len(on_front))))
    return _panel(f"Front: {up} over {across}", across, scatter_chart(dots, plane), legend)


def _importance_panel(one: dict[str, Any]) -> dict[str, Any]:
    bars = [Bar(name, share, f"{100 * share:.0f} %") for name, share in one["shares"].items()]
    return _panel(f"What matters for {one['metric']}",
                  f"share by PED-ANOVA, {one['trials']} finished trials" if bars else "",
                  bar_chart(bars, f"Importance for {one['metric']}"),
                  note=one["why_not"])  # fmt: skip


def table(search: dict[str, Any]) -> dict[str, Any]:
    """The trials as cells of text: a head, and rows with a class for those on the front."""
    if not search["trials"]:
        return {"head": [], "rows": []}
    names = [name for name in search["trials"][0] if name not in ("seconds", "origin")]
    made = []
    for row in search["trials"]:
        cells = [show(row[name], UNITS.get(name, "")) if row[name] not in ("", None) else "-"
                 for name in names]  # fmt: skip
        made.append({"front": row["best"] == "front",
                     "cells": [*cells, show_seconds(row["seconds"])]})  # fmt: skip
    return {"head": [*names, "time"], "rows": made}
