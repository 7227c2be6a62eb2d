"""The report step: what a run did and found, as one HTML file and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine import estimates
from engine.plan import Step
from engine.report.figures import collect
from engine.report.page import render
from engine.state import RunState
from engine.steps.context import Context
from engine.store import RunFolder, make_folder, write_atomically

HTML_NAME, JSON_NAME = "report.html", "report.json"


def write_report(
    folder: RunFolder, state: RunState, plan: dict[str, Any], output: Path
) -> dict[str, Any]:
    """Write report.html and report.json into the folder `output` and return the step's result.

    `plan` is the plan's JSON; keys it lacks leave gaps in the report, never an error. Both files
    are replaced as a whole. EnvironmentProblem when `output` cannot be written.
    """
    document = collect(folder, state, plan)
    make_folder(output)
    html, twin = output / HTML_NAME, output / JSON_NAME
    write_atomically(twin, json.dumps(document, indent=1, allow_nan=False) + "\n")
    write_atomically(html, render(document))
    return {
        "html": str(html),
        "json": str(twin),
        "figures": len(document["figures"]),
        "bytes": html.stat().st_size,
    }


def run(context: Context, step: Step, output: Path) -> dict[str, Any]:
    """Write the report of the run as it stands: every step before this one is whole."""
    plan = json.loads(context.folder.plan.read_text(encoding="utf-8"))
    state = context.folder.state()
    result = write_report(context.folder, state, plan, output)
    estimates.keep(state)
    return result
