"""What every step gets to work with, and how a step's worker is started."""

from __future__ import annotations

import contextlib
import json
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine import catalog
from engine import events as ev
from engine.environments import environment_folder
from engine.pace import RankPaces
from engine.plan import Plan, Step
from engine.store import EventLog, RunFolder, cache_folder
from engine.usage import Usage
from engine.watchdog import START_S
from engine.work import Launch, Listener, LogFile, run_worker, worker_environment, write_spec
from hosts import mpi
from hosts.inventory import LOCAL
from hosts.probe import HostFacts
from hosts.site import Site
from hosts.transport import clean
from models import messages

PROGRESS_S = 0.5
PACE_S = 5.0
TRIALS = "events.jsonl"  # in the output of a search: what happened to its trials


@dataclass(kw_only=True)
class Context:
    """The run a step belongs to. `building` is where the step's output grows."""

    folder: RunFolder
    plan: Plan
    log: EventLog
    attempt: int
    site: Site
    code: Path
    stop_level: Callable[[], int]
    without: tuple[str, ...] = ()  # hosts of the cluster that this attempt leaves out
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    usages: dict[str, Usage] = field(default_factory=dict)

    def usage(self, step: Step) -> Usage:
        """What a step takes, counted while it runs."""
        return self.usages.setdefault(step.id, Usage())

    def emit(self, cls: type[ev.Event], **fields: Any) -> None:
        """Append an event, time-stamped now."""
        self.log.append(cls(t=time.time(), **fields))

    def output_of(self, step_id: str) -> Path:
        """The finished output of an earlier step."""
        return cache_folder() / self.plan.step(step_id).identity

    def value(self, key: str) -> Any:
        """A value of the finished recipe."""
        return self.plan.value(key)

    @property
    def facts(self) -> HostFacts:
        """Facts of the host the steps run on."""
        return HostFacts(**self.plan.facts[LOCAL])

    def job(self, step: Step) -> str:
        """The name of a step's job in this attempt; the tag of its processes."""
        return f"{self.folder.tag}.{step.id}.{self.attempt}"

    @property
    def cluster(self) -> str:
        """The cluster of this run, or localhost."""
        return str(self.value("cluster"))

    def cluster_hosts(self) -> dict[str, HostFacts]:
        """The hosts that this attempt works on, the head first, as they were when planned."""
        return {
            name: HostFacts(**facts)
            for name, facts in self.plan.facts.items()
            if name != LOCAL and name not in self.without
        }

    def work_folder(self, step: Step) -> Path:
        """Scratch space of a step; removed when the step is whole."""
        return self.folder.path / "work" / step.id


class StepListener(Listener):
    """Turns what a worker says into events, telemetry and log files."""

    def __init__(self, context: Context, step: Step, log: Path | None = None) -> None:
        """`log`: where the output goes, by default the step's output.log."""
        self._context, self._step = context, step
        self._log = LogFile(log or context.folder.logs(step.id) / "output.log")
        self._last_progress = 0.0
        self._silent_told: dict[str, float] = {}
        self._paces, self._last_pace = RankPaces(), time.monotonic()
        self.rank_hosts: Sequence[str] = ()  # by rank; all on this machine where it is empty
        self.job = ""  # of the step's on a host, where several run side by side

    def output(self, text: str) -> None:
        self._log.write(text)

    def command(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """Begin the log with the exact command, so that anyone can repeat it by hand."""
        exports = [f"{key}={value}" for key, value in env.items()]
        self.output(f"$ {shlex.join(['env', *exports, *argv])}\n")

    def close(self) -> None:
        """Tell the last step times and close the log file."""
        self._tell_paces()
        self._log.close()

    def sample(self, host: str, sample: Mapping[str, Any]) -> None:
        self._context.usage(self._step).sample(host, sample, self.job)
        self.keep(host, sample)

    def keep(self, host: str, sample: Mapping[str, Any]) -> None:
        """Add a second of a host to the run's telemetry."""
        path = self._context.folder.telemetry(host)
        with contextlib.suppress(OSError):  # a sample that is not kept ends no run
            path.parent.mkdir(exist_ok=True)
            with open(path, "a", encoding="utf-8") as file:
                # `heard` is this machine's time: that of the host may be another
                file.write(json.dumps({"host": host, "heard": time.time(), **sample}) + "\n")

    def ended(self, host: str, end: Mapping[str, Any]) -> None:
        self._context.usage(self._step).ended(host, end)

    def silent(self, host: str, seconds: float) -> None:
        if not seconds or time.monotonic() - self._silent_told.get(host, 0.0) > 1.0:
            self._silent_told[host] = time.monotonic()
            self._context.emit(ev.HostSilent, host=host, seconds=round(seconds, 1))

    def message(self, message: messages.Message, rank: int) -> None:
        emit, step = self._context.emit, self._step.id
        if isinstance(message, messages.Progress) and rank == 0:
            now, whole = time.monotonic(), message.done >= message.total
            if whole or now - self._last_progress >= PROGRESS_S:
                self._last_progress = now
                emit(
                    ev.StepProgressed, step=step, phase=clean(message.phase), done=message.done,
                    total=message.total, unit=clean(message.unit),
                )  # fmt: skip
        elif isinstance(message, messages.Scalar) and rank == 0:
            emit(
                ev.Measured, step=step, name=message.name, value=message.value,
                split=message.split, rows=message.rows, step_count=message.step,
                epoch=message.epoch,
            )  # fmt: skip
        elif isinstance(message, messages.Pace):
            self._pace(message, rank)
        elif isinstance(message, messages.Workload) and rank == 0:
            emit(
                ev.WorkloadCounted, step=step, flops_per_row=message.flops_per_row,
                bytes_per_row=message.bytes_per_row, precision=clean(message.precision),
            )  # fmt: skip
        elif isinstance(message, messages.Note):
            emit(ev.Noted, step=step, text=clean(message.text), level=message.level)
        elif isinstance(message, messages.Saved) and rank == 0:
            emit(ev.CheckpointSaved, step=step, step_count=message.step)

    def _pace(self, message: messages.Pace, rank: int) -> None:
        """All ranks now and then, a rank that becomes slow at once."""
        self._paces.take(rank, message.steps, message.own_s, message.wait_s)
        if time.monotonic() - self._last_pace >= PACE_S:
            self._tell_paces()
        for slow, ratio in self._paces.changes().items():
            self._context.emit(
                ev.RankSlow, step=self._step.id, rank=slow, host=self._host_of(slow), ratio=ratio
            )

    def _tell_paces(self) -> None:
        self._last_pace = time.monotonic()
        if known := self._paces.lately():
            self._context.emit(
                ev.RanksPaced, step=self._step.id,
                hosts=[self._host_of(rank) for rank in range(len(known))],
                own_s=[round(own, 6) for own, _ in known],
                wait_s=[round(wait, 6) for _, wait in known],
            )  # fmt: skip

    def _host_of(self, rank: int) -> str:
        return self.rank_hosts[rank] if rank < len(self.rank_hosts) else LOCAL


def run_step_worker(
    context: Context, step: Step, spec: Mapping[str, Any], ranks: int = 0
) -> dict[str, Any]:
    """Start the step's worker (under mpirun when `ranks` > 0) and follow it to its end."""
    prefix = environment_folder(step.environment)
    worker = catalog.load(context.plan.model).workers[step.worker]
    logs = context.folder.logs(step.id)
    spec_file = write_spec(logs / "spec.json", spec)
    argv = [f"{prefix}/bin/python", "-m", worker.module, str(spec_file)]
    threads = str(spec.get("cores") or spec.get("threads") or 1)
    env = {**worker_environment(context.code), "OMP_NUM_THREADS": threads}
    if ranks:
        layout = mpi.plan_layout(context.facts, ranks)
        argv, launch_env = mpi.launch(str(prefix), layout, argv)
        env.update(launch_env)
    listener = StepListener(context, step)
    listener.command(argv, env)
    try:
        return run_worker(
            [context.site],
            Launch(
                job=context.job(step),
                code=context.code.name,
                argv=argv,
                env=env,
                ranks=max(1, ranks),
                grace_s=float(context.value("faults.grace_s")),
                hang_s=float(context.value("faults.hang_s")),
                start_s=START_S if ranks else 0.0,
            ),
            listener,
            context.stop_level,
            log=str(logs / "output.log"),
        )
    finally:
        listener.close()
