"""`aiok trials`: the trials of a search as a table, JSON lines or CSV; data on stdout."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from aiok_tui.output import duration, print_json, table, words
from engine import api
from engine.errors import InputError
from engine.hpo import results as found
from engine.hpo.results import Cell, Results
from engine.store import refuse_existing, write_atomically

MOST_PARAMETERS = 8  # of a table; JSON and CSV have all


def show_or_save(
    run: str, as_json: bool, as_csv: bool, best: Path | None, trial: int | None, export: str | None
) -> None:
    """What the words of `aiok trials` ask for; InputError where they contradict each other."""
    if as_json and as_csv:
        raise InputError("--json and --csv exclude each other", todo="give one of them")
    if trial is not None and best is None:
        raise InputError("--trial names the trial of --best, which is missing",
                         todo=f"aiok trials {run} --trial {trial} --best FILE")  # fmt: skip
    if best is not None:
        save_best(run, trial, best)
    if export is not None:
        save_export(run, export)
    if best is None and export is None:
        show(run, as_json, as_csv)


def show(run: str, as_json: bool, as_csv: bool) -> None:
    """All trials, then what they come to: the front, what mattered, or what to relax."""
    results = api.trials(run)
    rows = found.rows(results)
    if as_json:
        for row, trial in zip(rows, results.trials, strict=True):
            print_json({**row, "assignment": dict(trial.assignment), "values": trial.values,
                        "cores": list(trial.cores), "tries": trial.tries,
                        "as_trial": trial.as_trial,
                        "started": trial.started, "ended": trial.ended})  # fmt: skip
    elif as_csv:
        names = [*rows[0]] if rows else ["trial"]
        written = csv.DictWriter(sys.stdout, names, lineterminator="\n")
        written.writeheader()
        written.writerows(rows)
    else:
        print(table_text(results))
    words(results.found.words)


def table_text(results: Results) -> str:
    """The trials as a table; below it what mattered."""
    of_metrics, of_parameters = found.columns(results.study)
    metrics, names = [*of_metrics.values()], [*of_parameters.values()][:MOST_PARAMETERS]
    head = ["trial", "state", *metrics, "", *names, "time", "why"]
    lines = [
        [
            str(row["trial"]), str(row["state"]), *(_cell(row[name]) for name in metrics),
            {"front": "*", "infeasible": "!"}.get(str(row["best"]), ""),
            *(_cell(row[name]) for name in names), duration(float(row["seconds"] or 0)),
            " ".join(filter(None, (str(row["failure"]), str(row["what"])))),
        ]
        for row in found.rows(results)
    ]  # fmt: skip
    text = [table(lines, head)]
    left_out = len(of_parameters) - len(names)
    if left_out > 0:
        text.append(f"{left_out} more parameter{'s' * (left_out > 1)}: --json or --csv")
    for one in results.importance:
        shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in one.shares.items())
        few = f" (in too few trials to tell: {', '.join(one.few)})" if one.few else ""
        text.append(f"what matters for {one.metric}: {shares or one.why_not}{few}")
    return "\n".join(text)


def _cell(value: Cell) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def save_best(run: str, trial: int | None, path: Path) -> None:
    """Write the recipe of the best trial, or of the one named."""
    results = api.trials(run)
    refuse_existing(path)
    write_atomically(path, found.recipe_of(results, trial))
    if trial is None and len(results.found.front) > 1:
        words(f"{results.found.words} The recipe is that of trial {results.found.front[0].number}, "
              "the best in the first metric; --trial takes another")  # fmt: skip
    words(f"wrote {path}; next: aiok run {path}")


def save_export(run: str, wanted: str) -> None:
    """Write the search for another tool."""
    path = found.export(api.trials(run), wanted)
    words(f"wrote {path}; optuna-dashboard {path} shows it")
