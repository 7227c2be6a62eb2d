"""Parts of a run that more than one screen draws. Words and figures are those of the CLI."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiok_tui.output import awaited_text, duration, headline, progress_text
from aiok_tui.widgets.chart import Series
from aiok_tui.widgets.glyphs import bar, state_cell
from aiok_tui.widgets.linetable import Row
from aiok_tui.widgets.paint import Cell, fit, wrap
from engine.roofline import roofline
from engine.state import RunStatus, StepStatus

if TYPE_CHECKING:
    from aiok_tui.feed import RunView
    from engine.state import RunState, StepState

ID_WIDTH = 10
STATE_WIDTH = 10


def moment(state: RunState, now: float) -> float:
    """The time to reckon with: that of the last event when nothing goes on any more."""
    return now if state.status.is_live else state.ended or state.updated


def step_seconds(step: StepState, now: float) -> str:
    """How long a step took, or runs already."""
    if step.status is StepStatus.RUNNING and step.started is not None:
        return duration(max(0.0, now - step.started))
    if step.status in (StepStatus.REUSED, StepStatus.WAITING):
        return ""
    if step.seconds is None and step.started is not None and step.ended is not None:
        return duration(max(0.0, step.ended - step.started))
    return duration(step.seconds)


def step_text(step: StepState, now: float) -> Cell:
    """What there is to say of a step: its progress, its result, why it failed."""
    if step.status is StepStatus.RUNNING:
        return (progress_text(step, now) if step.phase else step.title), "accent"
    if step.problem is not None:
        return step.problem.what, "bad"
    if step.status.is_whole:
        return headline(step), "plain"
    return step.title, "dim"


def step_rows(state: RunState, now: float) -> list[Row]:
    """The step tree as rows: id, state, time, text."""
    now, lost = moment(state, now), state.status is RunStatus.LOST
    return [
        Row(step.id, [(step.id, "plain"), _state_cell(step, lost),
                      (step_seconds(step, now), "dim"), step_text(step, now)])
        for step in state.steps.values()
    ]  # fmt: skip


def _state_cell(step: StepState, lost: bool) -> Cell:
    """A step that ran when its run was lost does not run any more."""
    return state_cell("lost" if lost and step.status is StepStatus.RUNNING else step.status.value)


def step_lines(view: RunView, now: float, width: int) -> list[list[Cell]]:
    """The step tree as lines of at most `width` cells."""
    room = max(0, width - ID_WIDTH - STATE_WIDTH - 10)
    return [
        [(fit(row.cells[0][0], ID_WIDTH) + " ", "plain"),
         (fit(row.cells[1][0], STATE_WIDTH), row.cells[1][1]),
         (fit(row.cells[2][0], 7, right=True) + "  ", "dim"),
         (fit(row.cells[3][0], room).rstrip(), row.cells[3][1])]
        for row in step_rows(view.state, now)
    ]  # fmt: skip


def headline_lines(view: RunView, width: int) -> list[list[Cell]]:
    """The result of a finished run, why it failed, or what a live one reaches of the machine."""
    state = view.state
    if state.awaited is not None and state.status.is_live:
        return wrap(awaited_text(state.awaited), width, "warn")[:5]
    if state.status.is_live and state.current is not None:
        beside = roofline(state, state.current)
        return wrap(beside.line, width, "accent") if beside is not None else []
    if state.status is RunStatus.DONE:
        figures = result_figures(state)
        return [[("result  ", "dim"), (figures, "good")]] if figures else []
    problem = state.problem
    if problem is not None and not state.status.is_live:
        lines = wrap(f"{problem.step}: {problem.what}", width, "bad")
        if problem.why:
            lines += wrap(f"why  {problem.why}", width, "plain", "     ")
        if problem.todo:
            lines += wrap(f"do   {problem.todo}", width, "plain", "     ")
        return lines[:5]
    if state.status is RunStatus.LOST:
        return [[("its process is gone without a word; r resumes it", "bad")]]
    if state.status is RunStatus.STOPPED:
        return [[("stopped; r resumes it from its last checkpoint", "warn")]]
    return []


def result_figures(state: RunState) -> str:
    """The figures of a finished run in one line."""
    test, best = state.result("evaluate"), state.result("optimize")
    parts = []
    for name, form in (("auc", "test AUC {:.4f}"), ("ceiling_auc", "ceiling {:.4f}")):
        if isinstance(test.get(name), int | float):
            parts.append(form.format(test[name]))
    if isinstance(best.get("rows_per_second"), int | float):
        parts.append(f"inference {best['rows_per_second']:,.0f} rows/s")
    return "   ".join(parts)


def run_fraction(state: RunState) -> float | None:
    """Whole steps, and the part of the current one, of all."""
    if not state.steps:
        return None
    current = state.current
    part = (current.fraction or 0.0) if current is not None else 0.0
    whole = sum(step.status.is_whole for step in state.steps.values())
    return min(1.0, (whole + part) / len(state.steps))


def status_line(view: RunView, now: float, width: int) -> list[Cell]:
    """Name, state, step, progress and what is left of a run, in one line."""
    state = view.state
    cells: list[Cell] = [(f" {view.run}  ", "strong"), state_cell(state.status.value)]
    current = state.current
    fraction = run_fraction(state)
    if state.status.is_live and current is not None:
        cells += [("  ", "dim"), (current.id, "accent")]
    if fraction is not None and width >= 60:
        cells += [("  ", "dim"), (bar(fraction, 10), "accent"), (f" {100 * fraction:.0f} %", "dim")]
    begun = state.started or state.created
    if begun is not None:
        cells.append((f"  {duration(max(0.0, moment(state, now) - begun))}", "dim"))
    left = current.eta_s(now) if current is not None and state.status.is_live else None
    if left is not None:
        cells.append((f"  {'this step: ' if width >= 100 else ''}{duration(left)} left", "dim"))
    return cells


def metric_names(state: RunState) -> list[str]:
    """The metrics that have points; those measured on valid rows first."""
    names = dict.fromkeys(name for name, split in state.curves if split == "valid")
    names.update(dict.fromkeys(name for name, _ in state.curves))
    return list(names)


def chart_series(view: RunView, metric: str | None) -> tuple[list[Series], str, str]:
    """The curves of a metric (default: the first) over the rows seen."""
    names = metric_names(view.state)
    wanted = metric if metric in names else names[0] if names else ""
    found = []
    for (name, split), points in view.state.curves.items():
        if name == wanted:
            xs = [float(point.rows) for point in points]
            found.append(Series(f"{split} {name}", xs, [point.value for point in points]))
    return found, "rows", "no figures yet: they come with the training"
