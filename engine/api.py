"""The calls a front end may make. Nothing in here draws or prints."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine import (
    catalog,
    clusters,
    datasets,
    environments,
    estimates,
    facts,
    host_jobs,
    preflight,
    recipe,
)
from engine import events as ev
from engine.advisor.job import Job
from engine.advisor.layout import ClusterHost, lay_out
from engine.advisor.obstacles import refuse
from engine.advisor.planner import make_plan
from engine.clusters import Password, inventory
from engine.code import deploy
from engine.errors import AiokError, EnvironmentProblem, ExitCode, HostError, InputError
from engine.host_jobs import Outcome, Progress
from engine.host_jobs import down as hosts_down
from engine.host_jobs import remove as remove_host
from engine.hpo import warm
from engine.hpo.results import of_run as trials
from engine.hpo.results import planned_search
from engine.monitor import Monitor
from engine.new_host import add as add_host
from engine.new_host import command_line as host_line
from engine.new_host import meet as meet_host
from engine.new_host import problems as host_problems
from engine.new_host import questions as host_questions
from engine.plan import Plan, read_plan
from engine.preflight import HostReport
from engine.preflight import check as check_hosts
from engine.questions import STEPS, Question, check_answers, questions, recipe_text
from engine.run_list import RunSummary
from engine.run_list import summaries as runs
from engine.state import RunState, RunStatus
from engine.store import (
    EventLog,
    RunFolder,
    create_run_folder,
    home,
    is_locked,
    lock_holder,
    make_folder,
    open_run_folder,
    read_events,
    read_lines,
    run_name,
    safe_name,
    write_atomically,
)
from engine.strict_yaml import Source, to_yaml
from hosts import java
from hosts.inventory import LOCAL
from hosts.local import LocalTransport
from hosts.probe import HostFacts
from hosts.probe import probe as probe_host
from hosts.transport import HostProblem
from models.api import ModelSpec
from models.settings import nearest

__all__ = [
    "Follower", "HostFacts", "HostReport", "Monitor", "Outcome", "Plan", "Question", "RunSummary",
    "add_host", "check_answers", "check_hosts", "command_line", "events_since", "host_facts",
    "host_line", "host_problems", "host_questions", "hosts_down", "hosts_up", "inventory",
    "load_draft", "log_files", "meet_host", "models", "plan", "questions", "rank_layout",
    "recipe_text", "remove_host", "report", "resume", "run_hosts", "run_path", "runs",
    "save_draft", "save_recipe", "start", "state", "stop", "trials",
    "wizard_steps",
]  # fmt: skip


START_S = 30.0  # a run process on a busy machine


# --- the wizard ---------------------------------------------------------------------------------


def wizard_steps() -> tuple[str, ...]:
    """The wizard's steps in order; the review comes after the last."""
    return STEPS


def save_recipe(answers: Mapping[str, str], path: Path | None = None) -> Path:
    """Write the wizard's recipe; by default $AIOK_HOME/recipes/NAME.yaml."""
    problems = check_answers(answers)
    if problems:
        raise InputError("\n".join(f"{key}: {text}" for key, text in problems.items()))
    target = path or recipe_path(answers)
    make_folder(target.absolute().parent)
    write_atomically(target, recipe_text(answers))
    return target


def recipe_path(answers: Mapping[str, str]) -> Path:
    """Where the wizard keeps its recipe."""
    return home() / "recipes" / f"{safe_name(answers.get('name', 'my-job').strip())}.yaml"


def command_line(answers: Mapping[str, str]) -> str:
    """The line that does the same without the wizard."""
    try:
        return f"aiok run {shlex.quote(str(recipe_path(answers)))}"
    except InputError:
        return "aiok run ..."


def _draft() -> Path:
    return home() / "draft.json"


def load_draft() -> dict[str, str]:
    """The answers of an unfinished wizard, {} when there are none."""
    with contextlib.suppress(OSError, ValueError):
        data = json.loads(_draft().read_text(encoding="utf-8"))
        if isinstance(data, dict):
            return {str(key): str(value) for key, value in data.items()}
    return {}


def save_draft(answers: Mapping[str, str]) -> None:
    """Keep the wizard's answers; an empty mapping forgets them."""
    make_folder(home())
    if answers:
        write_atomically(_draft(), json.dumps(dict(answers), indent=1))
    else:
        _draft().unlink(missing_ok=True)


# --- planning -----------------------------------------------------------------------------------


def host_facts(place: Path | None = None) -> HostFacts:
    """Facts of this machine; the disk is that of `place` (default: $AIOK_HOME)."""
    try:
        return probe_host(LocalTransport(), sys.executable, str(place or home()))
    except HostProblem as problem:
        raise HostError(f"{problem.host}: {problem.what}", todo=problem.todo) from None


def plan(recipe_name: str, overrides: Sequence[str] = (), *, verify: bool = False) -> Plan:
    """The finished recipe as steps; nothing is written, `problems` says what stands against it."""
    return _plan(recipe.find(recipe_name), overrides, verify)


def _plan(source: Source, overrides: Sequence[str], verify: bool = False) -> Plan:
    wanted, origins = recipe.load(source, overrides)
    wanted, origins = _named_dataset(wanted, origins)
    files: list[facts.FileFacts] = []
    path: Path | None = None
    if wanted.dataset.path:
        path = Path(wanted.dataset.path)
        if origins.get("dataset.path") == "recipe" and not path.is_absolute():
            beside = Path(source.file).parent / path
            path = path if path.exists() and not beside.exists() else beside
        if catalog.is_program(wanted.model.name):
            files = facts.any_files(path)
        else:
            files = facts.data_facts(facts.data_files(path), verify)
        if wanted.dataset.columns is not None:
            facts.check_header([f.path for f in files], wanted.dataset.columns.names())
    job = Job(
        name=source.name,
        recipe=wanted,
        origins=origins,
        facts=host_facts(),
        files=files,
        missing_gib=environments.missing(LocalTransport()),
        data_path=path.expanduser().absolute() if path else None,
        cluster=cluster_hosts(wanted.cluster),
        shared=clusters.shared_folder(wanted.cluster),
        has_jdk=wanted.cluster != LOCAL and java.find_jdk() is not None,
        learned=estimates.earlier().learned(),
    )
    made = make_plan(job)
    if (planned := planned_search(made)) is not None:
        part, study = planned
        warm.earlier(part.warm, study)  # who could not be learned from is told before the run is
    return made


def cluster_hosts(name: str) -> tuple[ClusterHost, ...]:
    """The hosts of a cluster, checked side by side; () for this machine alone.

    HostError with all problems of all hosts when one of them tells no facts.
    """
    if name == LOCAL:
        return ()
    reports = preflight.check([name])
    if any(report.facts is None for report in reports):
        raise clusters.unreachable([p for report in reports for p in report.problems])
    known = clusters.inventory()
    return tuple(_cluster_host(report, known) for report in reports)


def _cluster_host(report: HostReport, known: clusters.Inventory) -> ClusterHost:
    """What the advisor needs of a host that tells its facts."""
    assert report.facts is not None
    lacks = environments.missing_there(report.placed.whole if report.placed else ())
    return ClusterHost(
        name=report.host, slots=known.entry(report.host).slots, facts=report.facts,
        problems=[clusters.sentence(problem) for problem in report.problems],
        missing_gib={name: lock.wheels_gib for name, lock in lacks.items()},
        room_gib={name: lock.wheels_gib + lock.installed_gib for name, lock in lacks.items()},
    )  # fmt: skip


def rank_layout(reports: Sequence[HostReport], ranks: str = "auto") -> list[tuple[str, int, int]]:
    """(host, ranks, threads of a rank) of a training on these hosts, those without facts apart.

    `ranks` is the wizard's answer: auto, or a number.
    """
    known = clusters.inventory().hosts
    hosts = [
        ClusterHost(name=r.host, slots=known[r.host].slots, facts=r.facts)
        for r in reports
        if r.facts is not None and r.host in known
    ]
    wanted = int(ranks) if ranks.isdigit() and int(ranks) > 0 else None
    if not hosts:
        return []
    return [(host.name, found.ranks, found.threads) for host, found in lay_out(hosts, wanted)]


def hosts_up(
    name: str, environment_names: Sequence[str], progress: Progress, password: Password | None
) -> list[Outcome]:
    """Make the hosts of a cluster, or one host, ready; see host_jobs.up."""
    locks = [environments.lock_of(environment) for environment in environment_names]
    return host_jobs.up(name, locks, progress, password)


def _named_dataset(
    wanted: recipe.Recipe, origins: dict[str, str]
) -> tuple[recipe.Recipe, dict[str, str]]:
    """A registered name becomes the path, format and columns that stand behind it."""
    name = wanted.dataset.name
    if name is None:
        return wanted, origins
    known = datasets.get(name)
    dataset = recipe.Dataset.model_validate(
        {"format": known.format, "path": known.path, "columns": known.columns}
    )
    origin = f"data set {name}"
    found = {**origins, "dataset.format": origin, "dataset.path": origin}
    return wanted.model_copy(update={"dataset": dataset}), found


def models() -> list[ModelSpec]:
    """The catalog."""
    return [catalog.load(name) for name in catalog.names()]


# --- runs ---------------------------------------------------------------------------------------


def start(
    recipe_name: str,
    overrides: Sequence[str] = (),
    *,
    folder: Path | None = None,
    verify: bool = False,
) -> str:
    """Plan, write the run folder and start the run process; returns the run's id."""
    source = recipe.find(recipe_name)
    make_folder(home())
    made = _plan(source, overrides, verify)
    refuse(made)
    target = _own_folder(folder) if folder else create_run_folder(run_name(source.name))
    code = deploy()
    made = Plan(**{**made.__dict__, "code": code.name})
    data: dict[str, Any] = {}
    for value in made.values:
        recipe.put(data, value.key, value.value)
    write_atomically(target.recipe, to_yaml(data))
    write_atomically(target.plan, made.to_json())
    words = ["aiok", "run", recipe_name, *(w for o in overrides for w in ("--set", o))]
    steps = [{"id": s.id, "kind": s.kind, "title": s.title, "host": s.host} for s in made.steps]
    log = EventLog(target.events)
    log.append(
        ev.RunCreated(
            t=time.time(), run=target.id, recipe=source.name, steps=steps, command=shlex.join(words)
        )
    )
    for step in made.steps:
        log.append(ev.StepEstimated(t=time.time(), step=step.id, **asdict(step.estimate)))
    log.close()
    _launch(target)
    return target.id


def _own_folder(folder: Path) -> RunFolder:
    """A run folder the user named: a link to it is kept among the runs, so its id finds it."""
    path = folder.expanduser().absolute()
    name = safe_name(path.name)
    if (path / "plan.json").exists() or (path / "events.jsonl").exists():
        raise InputError(
            f"{path} already holds a run", todo=f"aiok resume {name}, or name another folder"
        )
    if path.exists() and any(path.iterdir()):
        raise InputError(f"{path} is not empty", todo="name a new or an empty folder")
    make_folder(path)
    link = make_folder(home() / "runs") / name
    try:
        link.symlink_to(path)
    except FileExistsError:
        if link.resolve() != path.resolve():
            raise InputError(
                f"there is already a run named {name}", todo="name the folder otherwise"
            ) from None
    return RunFolder(link)


def _launch(folder: RunFolder, without: Sequence[str] = ()) -> None:
    """Start the run process in a session of its own; wait until its first event is there."""
    seen = _size(folder.events)
    logs = folder.path / "logs"
    logs.mkdir(exist_ok=True)
    root = str(Path(__file__).resolve().parents[1])
    env = {**os.environ, "PYTHONPATH": root}
    with open(logs / "run.log", "ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "engine.run", str(folder.path), *without],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=env,
            start_new_session=True,
        )
    # Reaped here when it ends before this process does; it never depends on us.
    threading.Thread(target=process.wait, name=f"reap {folder.id}", daemon=True).start()
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        code = process.poll()
        # Two that resume at once: the events may be those of the other one's run process.
        if _size(folder.events) > seen and lock_holder(folder.lock) in (process.pid, None):
            return
        if code == ExitCode.BAD_INPUT:
            raise InputError(f"{folder.id} is already running", todo=f"aiok show {folder.id}")
        if code is not None:
            raise EnvironmentProblem(
                f"the run process of {folder.id} ended at once", log=str(logs / "run.log")
            )
        time.sleep(0.02)


def _size(path: Path) -> int:
    """Bytes of a file, 0 when there is none."""
    return path.stat().st_size if path.exists() else 0


def resume(run: str, without: Sequence[str] = (), all_hosts: bool = False) -> str:
    """Go on with a run that is not finished or whose outputs are damaged.

    What is whole is not run again. `without` names hosts of its cluster that are left out from now
    on; those that were left out before, by name or by the policy `shrink`, stay so, unless
    `all_hosts` takes them back.
    """
    folder = open_run_folder(run)
    now = folder.state()
    if now.status.is_live:
        raise InputError(f"{run} is already running", todo=f"watch it: aiok show {run} --follow")
    if not folder.plan.exists():
        raise InputError(f"{run} was never whole (no plan.json)", todo="start a new run")
    if now.status is RunStatus.DONE and _is_undamaged(folder):
        raise InputError(f"{run} is finished", todo=f"see aiok show {run}")
    _check_data_unchanged(folder)
    left_out = list(dict.fromkeys([*(() if all_hosts else now.without), *without]))
    _check_left_out(folder, left_out)
    _launch(folder, left_out)
    return run


def _check_left_out(folder: RunFolder, without: Sequence[str]) -> None:
    """Only hosts of the run's cluster can be left out, and not all of them."""
    hosts = [name for name in read_plan(folder.plan).facts if name != LOCAL]
    for name in without:
        if name not in hosts:
            todo = nearest(name, hosts) if hosts else "it runs on this machine alone"
            raise InputError(f"{folder.id} does not run on a host {name}", todo=todo)
    if hosts and set(hosts) <= set(without):
        todo = f"{folder.id} runs on {', '.join(hosts)}; --all-hosts takes back who was left out"
        raise InputError("no host is left", todo=todo)


def _is_undamaged(folder: RunFolder) -> bool:
    """Whether all outputs of a finished run are as they were made; resuming makes others again."""
    steps = read_plan(folder.plan).steps
    return folder.report.is_file() and all(s.reuse for s in steps if s.identity)


def _check_data_unchanged(folder: RunFolder) -> None:
    """A run whose input changed must not mix old and new rows."""
    changed = []
    for entry in read_plan(folder.plan).data:
        path = Path(entry["path"])
        now = facts.file_facts(path, entry.get("verified", False)) if path.exists() else None
        if now is None or (now.size, now.digest) != (entry["size"], entry["digest"]):
            changed.append(entry["path"])
    if changed:
        raise InputError(
            "the data changed since the run began: " + ", ".join(changed),
            todo="put it back, or start a new run of the same recipe",
        )


def stop(run: str, kill: bool = False) -> bool:
    """Ask a run to end (a checkpoint first); `kill` ends it at once. False: it does not run."""
    folder = open_run_folder(run)
    pid = lock_holder(folder.lock)
    if pid is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        if kill:
            time.sleep(0.05)
            os.kill(pid, signal.SIGTERM)
    return True


def state(run: str) -> RunState:
    """The folded events of a run."""
    return open_run_folder(run).state()


def run_path(run: str) -> Path:
    """The folder of a run."""
    return open_run_folder(run).path


def run_hosts(run: str) -> list[str]:
    """The hosts of the cluster a run works on, the head first; [] on this machine alone."""
    plan_file = open_run_folder(run).plan
    try:
        return [name for name in read_plan(plan_file).facts if name != LOCAL]
    except InputError:  # a run without a whole plan still has a state to show
        return []


def journal_size(run: str) -> int:
    """Bytes of a run's journal so far: where a follower of what comes next begins."""
    return _size(open_run_folder(run).events)


def events_before(run: str, offset: int) -> tuple[list[ev.Event], int]:
    """The events of a journal up to a byte offset, and that offset."""
    found: list[ev.Event] = []
    lines, at = read_lines(open_run_folder(run).events, 0, offset)
    for line in lines:
        with contextlib.suppress(ValueError, TypeError):
            event = ev.decode(line)
            if event is not None:
                found.append(event)
    return found, max(at, offset)


def events_since(run: str, offset: int) -> tuple[list[ev.Event], int]:
    """The events after a byte offset of the journal, and the new offset."""
    return read_events(open_run_folder(run).events, offset)


class Follower:
    """Reads what is new of one run. One thread at a time. `samples` are the last of each host."""

    SAMPLES = 600

    def __init__(self, run: str) -> None:
        self._folder = open_run_folder(run)
        self._offset = 0
        self._sample_offsets: dict[Path, int] = {}
        self.state = RunState(id=run)
        self.samples: dict[str, list[dict[str, Any]]] = {}
        self.new_events: list[ev.Event] = []

    def poll(self) -> bool:
        """Read new events and samples; True when anything changed."""
        before = self.state.status
        self.new_events, self._offset = self._folder.read_on(self.state, self._offset)
        if self.state.status is RunStatus.LOST and is_locked(self._folder.lock):
            self.state.status = RunStatus.RUNNING
        fresh = self._poll_samples()
        return bool(self.new_events or fresh or self.state.status is not before)

    def _poll_samples(self) -> bool:
        fresh = False
        for path in sorted((self._folder.path / "telemetry").glob("*.jsonl")):
            lines, self._sample_offsets[path] = read_lines(path, self._sample_offsets.get(path, 0))
            kept = self.samples.setdefault(path.stem, [])
            for line in lines:
                with contextlib.suppress(ValueError):
                    sample = json.loads(line)
                    if isinstance(sample, dict):
                        kept.append(sample)
                        fresh = True
            del kept[: -self.SAMPLES]
        return fresh


def log_files(run: str) -> list[tuple[str, Path]]:
    """(label, path) of every log of a run, in the order of its steps."""
    folder = open_run_folder(run).path / "logs"
    found = [(str(p.relative_to(folder).with_suffix("")), p) for p in folder.rglob("*.log")]
    return sorted(found, key=lambda pair: pair[1].stat().st_mtime)


def report(run: str) -> Path:
    """The HTML report of a run; InputError when there is none yet."""
    path = open_run_folder(run).report
    if not path.is_file():
        raise InputError(
            f"{run} has no report yet", todo=f"it is the run's last step: aiok show {run}"
        )
    return path


def wait_for_end(run: str, limit_s: float) -> RunState:
    """Poll until the run process is gone; AiokError when it takes longer."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        now = state(run)
        if not now.status.is_live:
            return now
        time.sleep(0.1)
    raise AiokError(f"{run} did not end within {limit_s:g} s")
