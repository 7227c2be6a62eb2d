"""Events and results as text or as JSON lines: data on stdout, words on stderr."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from aiok_tui import measured
from engine import api, estimates, strict_json
from engine import events as ev
from engine.errors import AiokError, ExitCode, InputError, system_problem
from engine.roofline import roofline, rooflines
from engine.state import RunState, RunStatus, StepState, StepStatus, fold
from engine.work import clean

WORDS = {
    StepStatus.WAITING: "waits",
    StepStatus.RUNNING: "runs",
    StepStatus.REUSED: "reused",
    StepStatus.DONE: "done",
    StepStatus.FAILED: "FAILED",
    StepStatus.STOPPED: "stopped",
}


def words(text: str) -> None:
    """A line for a person, on stderr; whatever it quotes, no control byte reaches the terminal."""
    print(clean(text), file=sys.stderr, flush=True)


def tell_error(error: Exception) -> int:
    """An error as one clear text on stderr; returns the exit code. Never a traceback."""
    if isinstance(error, AiokError):
        words(f"aiok: {error}")
        return int(error.exit_code)
    if isinstance(error, OSError):
        words(f"aiok: {system_problem(error)}")
        return int(ExitCode.ENVIRONMENT)
    import traceback

    from engine.store import home

    place = ""
    try:
        log = home() / "last-error.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        place = f"\n  log: {log}"
    except OSError:
        pass
    words(
        f"aiok: {type(error).__name__}: {error}\n  why: aiok met an error it does not know{place}"
    )
    return int(ExitCode.FAILED)


def checkout_version() -> str:
    """The version of a checkout that was never installed as a package."""
    import tomllib

    path = Path(__file__).resolve().parents[1] / "pyproject.toml"
    return str(tomllib.loads(path.read_text(encoding="utf-8"))["project"]["version"])


def print_json(value: Any) -> None:
    """One JSON line on stdout."""
    plain = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    print(strict_json.dumps(plain), flush=True)


def duration(seconds: float | None) -> str:
    """Seconds as 0.4 s, 12 s, 3m05, 2h10."""
    if seconds is None:
        return ""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}"


def table(rows: Sequence[Sequence[str]], head: Sequence[str] = ()) -> str:
    """Columns aligned by width, without control bytes; the last one is not padded."""
    lines = [[clean(cell) for cell in row] for row in ([head, *rows] if head else rows)]
    if not lines:
        return ""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


# --- following a run ----------------------------------------------------------------------------


class _Interrupts:
    """Ctrl+C while following one's own run: first a good end of it, then a quick one."""

    def __init__(self) -> None:
        self.run, self.count = "", 0

    def install(self) -> None:
        """Take over SIGINT and SIGTERM, before the run exists: none may be lost."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def _on_signal(self, *_: object) -> None:
        self.count += 1
        if self.run:
            self.pass_on()

    def pass_on(self) -> None:
        """Ask the run to end."""
        api.stop(self.run, kill=self.count > 1)
        words("stopping after a checkpoint; once more ends it at once"
              if self.count == 1 else "ending it now")  # fmt: skip


def run_to_end(start: Callable[[], str], as_json: bool, offset: int = 0) -> int:
    """Start a run and follow it; Ctrl+C stops it. Returns its exit code, 130 after Ctrl+C."""
    interrupts = _Interrupts()
    interrupts.install()
    interrupts.run = start()
    if interrupts.count:
        interrupts.pass_on()
    code = follow_to_end(interrupts.run, as_json, offset)
    return int(ExitCode.INTERRUPTED) if interrupts.count and code != 0 else code


def follow_to_end(run: str, as_json: bool, offset: int = 0) -> int:
    """Print a run's events until it ends; returns its exit code."""
    narrator = _Narrator(run, as_json)
    earlier, offset = api.events_before(run, offset) if offset else ([], 0)
    fold(earlier, narrator.state)
    over = False
    while True:
        events, offset = api.events_since(run, offset)
        for event in events:
            narrator.tell(event)
        if over and not events:
            break
        over = not events and not api.state(run).status.is_live
        if not events:
            time.sleep(0.1)
    narrator.close()
    final = api.state(run)
    if final.status is RunStatus.LOST:
        words(f"the run process of {run} is gone without a word\n  do:  aiok resume {run}")
        return int(ExitCode.FAILED)
    if not as_json:
        print_headline(final)
    return final.exit_code if final.exit_code is not None else int(ExitCode.FAILED)


class _Narrator:
    """Turns events into lines; a progress line is rewritten in place on a terminal."""

    def __init__(self, run: str, as_json: bool) -> None:
        self.run, self.as_json = run, as_json
        self.state = RunState(id=run)
        self._live = sys.stderr.isatty() and not as_json
        self._open_line = False
        self._told = 0.0

    def tell(self, event: ev.Event) -> None:
        """One event."""
        fold([event], self.state)
        if self.as_json:
            print_json({"kind": event.kind, **asdict(event)})
            return
        speak = getattr(self, f"_{event.kind}", None)
        if speak:
            speak(event)

    def _line(self, text: str) -> None:
        if self._open_line:
            sys.stderr.write("\r\x1b[K")
            self._open_line = False
        words(text)

    def _run_created(self, event: ev.RunCreated) -> None:
        self._line(f"run {event.run}   (aiok show {event.run})")

    def _run_started(self, event: ev.RunStarted) -> None:
        if event.attempt > 1:
            self._line(f"resumed, attempt {event.attempt}")

    def _stop_requested(self, _: ev.StopRequested) -> None:
        self._line("stop requested: saving a checkpoint")

    def _step_started(self, event: ev.StepStarted) -> None:
        self._line(f"  {event.step:10} {self.state.steps[event.step].title}")

    def _step_reused(self, event: ev.StepReused) -> None:
        self._line(f"  {event.step:10} reused: an earlier run made the same output")

    def _step_finished(self, event: ev.StepFinished) -> None:
        step = self.state.steps[event.step]
        self._line(f"  {event.step:10} done in {duration(event.seconds)}{_after(headline(step))}")

    def _step_stopped(self, event: ev.StepStopped) -> None:
        if event.what:
            told = AiokError(event.what, why=event.why, todo=event.todo, log=event.log)
            self._line(f"  {event.step:10} STOPPED\n{told}")
        self._line(f"  {event.step:10} stopped; go on with: aiok resume {self.run}")

    def _step_failed(self, event: ev.StepFailed) -> None:
        told = AiokError(event.what, why=event.why, todo=event.todo, log=event.log)
        self._line(f"  {event.step:10} FAILED\n{told}")

    def _noted(self, event: ev.Noted) -> None:
        mark = "! " if event.level == "warning" else ""
        self._line(f"  {event.step:10} {mark}{event.text}")

    def _measured(self, event: ev.Measured) -> None:
        if event.split == "valid" and event.name == "auc":
            self._line(f"  {event.step:10} valid AUC {event.value:.4f} after {event.rows:,} rows")

    def _host_silent(self, event: ev.HostSilent) -> None:
        silent = f"is silent for {event.seconds:.0f} s" if event.seconds else "is heard again"
        self._line(f"  {event.host} {silent}")

    def _work_lost(self, event: ev.WorkLost) -> None:
        told = AiokError(event.what, why=event.why, log=event.log)
        self._line(f"  {event.step:10} ! {told}\n  {event.step:10} ! {loss_text(event)}")

    def _hosts_awaited(self, event: ev.HostsAwaited) -> None:
        self._line(f"  {event.step:10} ! {awaited_text(event)}")

    def _work_restarted(self, event: ev.WorkRestarted) -> None:
        left_out = f", without {', '.join(event.without)}" if event.without else ""
        self._line(f"  {event.step:10} goes on, attempt {event.attempt}{left_out}")

    def _rank_slow(self, event: ev.RankSlow) -> None:
        self._line(f"  {event.step:10} ! {self.state.steps[event.step].notes[-1][1]}")

    def _step_progressed(self, event: ev.StepProgressed) -> None:
        step = self.state.steps[event.step]
        beside = roofline(self.state, step)
        parts = [progress_text(step, event.t), *([beside.line] if beside else [])]
        text = f"  {event.step:10} {'; '.join(parts)}"
        if self._live:
            width = shutil.get_terminal_size((100, 24)).columns - 1
            sys.stderr.write(f"\r\x1b[K{text[:width]}")
            sys.stderr.flush()
            self._open_line = True
        elif time.monotonic() - self._told > 10:
            self._told = time.monotonic()
            self._line(text)

    def close(self) -> None:
        """End an open progress line."""
        if self._open_line:
            sys.stderr.write("\r\x1b[K")


def loss_text(event: ev.WorkLost) -> str:
    """What the fault policy does about a loss, and what has to be done again."""
    hosts = ", ".join(event.hosts)
    does = "starts again where it was"
    if hosts:
        does = f"waits for {hosts}" if event.policy == "wait" else f"goes on without {hosts}"
    again = f"{event.steps_lost:,} steps ({event.rows_lost:,} rows) since the last checkpoint"
    return (
        f"policy {event.policy}: {does}, restart {event.restart} of {event.restarts}; "
        f"{again} are done again"
    )


def awaited_text(event: ev.HostsAwaited) -> str:
    """For whom a run waits, and why."""
    return f"waits for {', '.join(event.hosts)}: " + "; ".join(event.why.splitlines())


def progress_text(step: StepState, now: float) -> str:
    """phase 45 % (450,000 of 1,000,000 rows), 12 s left."""
    fraction, left = step.fraction, step.eta_s(now)
    amount = f" ({step.done:,.0f} of {step.total:,.0f} {step.unit})" if step.unit else ""
    part = (
        f" {100 * fraction:.0f} %{amount}"
        if fraction is not None
        else f" {step.done:,.0f} {step.unit}"
    )
    return f"{step.phase}{part}" + (f", {duration(left)} left" if left is not None else "")


def _after(text: str) -> str:
    return f": {text}" if text else ""


def headline(step: StepState) -> str:
    """The few figures of a finished step that matter."""
    found = step.result
    say: Mapping[str, Callable[[], str]] = {
        "provision": lambda: ", ".join(f"{n} {duration(s)}" for n, s in found["installed"].items()),
        "data": lambda: f"{found['rows']:,} rows, ceiling AUC {found['ceiling_auc']:.4f}",
        "etl": lambda: (
            f"{sum(found['rows'].values()):,} rows, {found['rows_per_second']:,.0f} rows/s "
            f"on {found['engine']}"
        ),
        "roofline": lambda: (
            ", ".join(f"{form} {rate:,.0f}" for form, rate in found["matmul_gflops"].items())
            + f" GFLOP/s, memory {found['memory_gb_per_s']:,.1f} GB/s"
        ),
        "train": lambda: (
            f"{found['rows_per_second']:,.0f} rows/s, best valid AUC "
            f"{found['best']['valid']['auc']:.4f}, {found['stop_reason']}"
        ),
        "search": lambda: _searched(found),
        "evaluate": lambda: (
            f"test AUC {found['auc']:.4f}"
            + (f" (ceiling {found['ceiling_auc']:.4f})" if found.get("ceiling_auc") else "")
        ),
        "optimize": lambda: (
            f"{found['rows_per_second']:,.0f} rows/s, {found['speedup']:.2f}x the eager model, "
            f"AUC drop {max(found['auc_drop'], 0.0):.6f}{_one_row(found)}"
        ),
        "report": lambda: str(found["html"]),
    }
    try:
        return say[step.kind]()
    except (KeyError, TypeError, ValueError, AttributeError):
        return ""


def _searched(found: Mapping[str, Any]) -> str:
    """How many trials, and the best; where none keeps all thresholds, the nearest to them."""
    count = sum(n for state, n in found["trials"].items() if state != "repeated")
    what = "none keeps all thresholds, the nearest" if "nearest" in found else "the best"
    shown = found.get("nearest", found)
    values = ", ".join(f"{name} {value:.6g}" for name, value in shown["values"].items())
    return f"{count} trial{'s' * (count != 1)}, {what} is {shown['trial']}: {values}"


def _one_row(found: Mapping[str, Any]) -> str:
    """Precision and latency of one row by the kept form, from runs that measured them."""
    points = found.get("curves", {}).get("kept", [])
    latency = f", one row in {points[0]['p50_ms']:.2f} ms" if points else ""
    return f", {found['precision']}{latency}" if "precision" in found else latency


def _rate(step: StepState) -> str:
    rate = step.result.get("rows_per_second")
    if rate is None and isinstance(step.result.get("rows"), int) and step.seconds:
        rate = step.result["rows"] / step.seconds
    return f"{rate:,.0f}" if isinstance(rate, int | float) else ""


def step_rows(state: RunState) -> list[list[str]]:
    """One line a step: id, state, seconds, rows/s, what it found."""
    return [
        [s.id, WORDS[s.status], duration(s.seconds), _rate(s), headline(s)]
        for s in state.steps.values()
    ]


def print_headline(state: RunState) -> None:
    """The table a run ends with, on stdout."""
    print(table(step_rows(state), ["step", "state", "time", "rows/s", "result"]))
    test, inference = state.result("evaluate"), state.result("optimize")
    if state.status is RunStatus.DONE and test:
        ceiling = test.get("ceiling_auc")
        line = f"test AUC {test['auc']:.4f}"
        line += f"   ceiling {ceiling:.4f}" if ceiling else ""
        if inference.get("rows_per_second"):
            line += f"   inference {inference['rows_per_second']:,.0f} rows/s"
        print(line)
    predict = f"   aiok predict {state.id} -i NEW -o scores.csv" if inference else ""
    where = {
        RunStatus.DONE: f"aiok report {state.id}{predict}",
        RunStatus.STOPPED: f"stopped, resumable: aiok resume {state.id}",
        RunStatus.FAILED: f"failed: aiok show {state.id}; then: aiok resume {state.id}",
        RunStatus.LOST: f"its process is gone: aiok resume {state.id}",
    }
    words(where.get(state.status, f"aiok show {state.id} --follow"))


# --- views --------------------------------------------------------------------------------------


def print_started(run: str, as_json: bool) -> None:
    """What `--detach` prints: the id on stdout, how to come back on stderr."""
    print_json({"run": run}) if as_json else print(run)
    words(f"watch it: aiok show {run} --follow   or: aiok")


def print_stopped(run: str, stopped: bool) -> None:
    """What `stop` prints."""
    words(
        f"{run} was asked to end; aiok resume {run} goes on" if stopped else f"{run} does not run"
    )


WIDEST_VALUE = 40


def _short(value: Any) -> str:
    """A value in a table: a long list by how many things it names."""
    text = str(value)
    if len(text) <= WIDEST_VALUE or not isinstance(value, list | tuple):
        return text
    names = [str(item["name"]) for item in value if isinstance(item, Mapping) and "name" in item]
    return f"{len(value)}: {', '.join(names)}" if names else f"{len(value)} entries"


def print_plan(plan: api.Plan, as_json: bool) -> None:
    """Steps with estimates, values with origins, problems."""
    if as_json:
        print_json(plan)
        return
    print(table(measured.plan_rows(plan), measured.PLAN_HEAD))
    print("\n".join(measured.plan_words(plan)))
    print()
    values = [[v.key, _short(v.value), v.origin, v.reason] for v in plan.values]
    print(table(values, ["key", "value", "from", "why"]))
    for problem in plan.problems:
        words(f"! {problem}")


def print_runs(found: Sequence[api.RunSummary], as_json: bool) -> None:
    """One line a run."""
    if as_json:
        for run in found:
            print_json(run)
        return
    if not found:
        words("no runs yet: aiok run quickstart")
        return
    rows = [
        [r.id, r.status, r.step, "" if r.progress is None else f"{100 * r.progress:.0f} %", r.best,
         time.strftime("%m-%d %H:%M", time.localtime(r.created))]
        for r in found
    ]  # fmt: skip
    print(table(rows, ["run", "state", "step", "progress", "best", "created"]))


def print_state(state: RunState, as_json: bool, hosts: Sequence[str] = ()) -> None:
    """Everything about one run; `hosts` are those of its cluster."""
    if as_json:
        plain = {**asdict(state), "hosts": list(hosts)}
        plain["curves"] = {f"{split} {name}": [asdict(p) for p in points]
                           for (name, split), points in state.curves.items()}  # fmt: skip
        for step in plain["steps"].values():
            step.pop("problem")
        plain["roofline"] = [one.to_json() for one in rooflines(state)]
        plain["estimates"] = {"run": estimates.score(state), "record": estimates.record()}
        print_json(plain)
        return
    print(clean(f"{state.id}: {state.status}, recipe {state.recipe}   {state.command}"))
    if hosts:
        silent = {name: f"{name} (silent for {seconds:.0f} s)"
                  for name, seconds in state.silent_hosts.items()}  # fmt: skip
        print(clean(f"hosts: {', '.join(silent.get(name, name) for name in hosts)}"))
    print(table(step_rows(state), ["step", "state", "time", "rows/s", "result"]))
    for loss in state.losses:
        print(clean(f"{loss.step}: ! {loss.what}; {loss_text(loss)}"))
    if state.awaited is not None:
        print(clean(f"{state.awaited.step}: ! {awaited_text(state.awaited)}"))
    for step in state.steps.values():
        _print_step(state, step)
    if rows := measured.estimate_rows(state):
        print("\nestimated / taken")
        print(table(rows, measured.ESTIMATE_HEAD))
        print("\n".join(measured.estimate_words(state)))
    if state.problem:
        p = state.problem
        print(clean(str(AiokError(f"{p.step}: {p.what}", why=p.why, todo=p.todo, log=p.log))))


def _print_step(state: RunState, step: StepState) -> None:
    """What there is to say about a step beside its line in the table."""
    if step.status is StepStatus.RUNNING:
        print(f"{step.id}: {progress_text(step, time.time())}")
    for level, text in step.notes:
        print(f"{step.id}: {'! ' if level == 'warning' else ''}{text}")
    if (beside := roofline(state, step)) is not None:
        print(f"{step.id}: {beside.text}")
    for line in measured.pace_lines(step):
        print(f"{step.id}: {clean(line)}")
    _print_join_plan(step)


def _print_join_plan(step: StepState) -> None:
    """How each column's dictionary was applied, and why."""
    chosen = step.result.get("plan")
    if not isinstance(chosen, list) or not chosen:
        return
    print("\njoin plan")
    print(table([[str(c.get("column", "")), f"{c.get('entries', 0):,}", str(c.get("plan", "")),
                  str(c.get("reason", ""))] for c in chosen],
                ["column", "entries", "plan", "why"]))  # fmt: skip


def print_logs(run: str, step: str | None, follow: bool) -> None:
    """Log files one after the other, or one stream until the run ends."""
    known = list(api.state(run).steps)
    if step and step not in known:
        raise InputError(f"{run} has no step {step}", todo=f"valid: {', '.join(known)}")
    offsets: dict[Path, int] = {}
    while True:
        over = not api.state(run).status.is_live
        for label, path in api.log_files(run):
            if step and label.split("/")[0] != step:
                continue
            with open(path, "rb") as file:
                file.seek(offsets.get(path, 0))
                data = file.read()
            offsets[path] = offsets.get(path, 0) + len(data)
            for line in data.decode(errors="replace").splitlines():
                print(f"{label}: {clean(line)}")
        if not follow or over:
            return
        sys.stdout.flush()
        time.sleep(0.3)


def print_report(path: Path, as_json: bool) -> None:
    """Where the report lies, or its JSON twin as one line."""
    twin = path.with_suffix(".json")
    print_json(json.loads(twin.read_text(encoding="utf-8"))) if as_json else print(path)


def print_models(found: Sequence[Any], name: str | None, as_json: bool) -> None:
    """The catalog, or one model with all of its settings."""
    chosen = [m for m in found if name in (None, m.name)]
    if not chosen:
        raise InputError(f"there is no model {name}", todo=", ".join(m.name for m in found))
    for model in chosen:
        if as_json:
            print_json(model)
        elif name is None:
            print(f"{model.name}: {model.summary}; profiles {', '.join(model.profiles)}")
        else:
            print(f"{model.title}: {model.summary}\n{model.paper}\n")
            rows = [[s.name, "-".join(map(str, s.default)) if isinstance(s.default, tuple)
                     else str(s.default), s.bounds(), s.unit, "yes" if s.tunable else "", s.help]
                    for s in model.settings]  # fmt: skip
            print(table(rows, ["setting", "default", "allowed", "unit", "tunable", "what"]))


def print_datasets(found: Sequence[Any], as_json: bool) -> None:
    """The registered data sets."""
    if as_json:
        for entry in found:
            print_json(entry)
        return
    if not found:
        words("none registered: aiok data add NAME PATH")
        return
    rows = [[d.name, d.format, d.path, d.trouble] for d in found]
    print(table(rows, ["name", "format", "path", ""]))


def print_facts(facts: Any, as_json: bool) -> None:
    """Host facts."""
    if as_json:
        print_json(facts)
        return
    print(table([[key, str(value)] for key, value in asdict(facts).items()]))


def print_environments(found: Sequence[Any], as_json: bool) -> None:
    """The environments."""
    if as_json:
        for entry in found:
            print_json(entry)
        return
    rows = [[e.name, f"{e.packages} packages", f"{e.size_gib:.2f} GiB" if e.installed else "-",
             str(e.folder) if e.installed else "not installed"] for e in found]  # fmt: skip
    print(table(rows, ["name", "lock", "size", "folder"]))


def print_findings(found: Sequence[Any], as_json: bool) -> int:
    """Findings of the doctor or of a host's check; 3 when one is a problem."""
    for entry in found:
        if as_json:
            print_json(entry)
        else:
            mark = {"ok": "ok  ", "note": "note", "problem": "BAD "}[entry.level]
            print(f"{mark} {entry.what}" + (f"\n     why: {entry.why}" if entry.why else "")
                  + (f"\n     do: {entry.todo}" if entry.todo else ""))  # fmt: skip
    return 3 if any(entry.level == "problem" for entry in found) else 0


def print_cleaned(found: Sequence[Any], dry: bool, as_json: bool) -> None:
    """What went."""
    for item in found:
        print_json(item) if as_json else print(f"{item.what:10} {item.gib:8.3f} GiB  {item.path}")
    total = sum(item.gib for item in found)
    words(f"{'would free' if dry else 'freed'} {total:.3f} GiB in {len(found)} places")
