"""Runs the trials of a search as jobs under agents: a thread a lease, a folder a lease.

A lease writes only below its own folder (work/STEP/trial-NNNN/lease-TTTTTT of the run), so that
nothing of an earlier lease that still lives can touch what a later one makes. Only checkpoints go
on: those of the trial's last lease are moved into the folder of the new one.
"""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from engine.errors import AiokError, HostError, HostLost, InputError, RunStopped
from engine.hpo.leases import Ended, Heard, Lease, Outcome
from engine.hpo.trials import Failure, TrialState
from engine.plan import Step
from engine.steps import over_hosts
from engine.steps.context import Context, StepListener
from engine.store import make_folder, remove_tree
from engine.work import Launch, run_worker
from hosts import folders
from hosts.inventory import LOCAL
from hosts.site import Site
from hosts.transport import HostProblem
from models import messages

CLOSE_S = 30.0  # for the threads to end what they run, when the search ends early


@dataclass(frozen=True)
class LeaseFiles:
    """Where a lease writes: in `there` on its host, which comes back to `here`; without `there` its
    host is this machine. `outcome` is written last, when the output is whole."""

    here: Path
    there: PurePosixPath | None = None

    @property
    def home(self) -> LeaseFiles:
        """The same files on this machine."""
        return LeaseFiles(self.here)

    @property
    def output(self) -> Path:
        """What the trial makes: weights and what belongs to them."""
        return Path(self.there or self.here) / "output"

    @property
    def checkpoints(self) -> Path:
        """What it goes on from after an interruption."""
        return Path(self.there or self.here) / "checkpoints"

    @property
    def outcome(self) -> Path:
        """The values of its result."""
        return Path(self.there or self.here) / "outcome.json"

    @property
    def spec(self) -> Path:
        """The worker's spec, on this machine: its copy on another host has the same name."""
        return self.here / "spec.json"

    def result(self) -> dict[str, Any] | None:
        """The values of the result that is here; None when the lease did not come to its end."""
        try:
            values = json.loads(self.home.outcome.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return values if isinstance(values, dict) else None


class TrialWork(Protocol):
    """What the trials of a search do: train a model, run a program. Called from any thread."""

    def send(self, sites: Sequence[Site]) -> None:
        """What trials need to hosts of a cluster, before the first of them begins there."""

    def launch(self, lease: Lease, files: LeaseFiles, job: str, site: Site) -> Launch:
        """The worker of a lease; its spec is written."""

    def metrics(self, result: Mapping[str, Any]) -> dict[str, float]:
        """The figures of a result that may be metrics of a study, by their names."""


class TrialListener(StepListener):
    """Passes on the metrics of one lease; telemetry and output go where those of steps go."""

    def __init__(
        self, context: Context, step: Step, lease: Lease, log: Path, words: queue.Queue[Any]
    ) -> None:
        super().__init__(context, step, log)
        self._lease, self._words = lease, words
        # Trials side by side add up; those of a slot take its place one after the other.
        self.job = ",".join(map(str, lease.slot.cores))

    def message(self, message: messages.Message, rank: int) -> None:
        lease = self._lease
        if isinstance(message, messages.Scalar) and message.split == "valid" and rank == 0:
            # Batches differ from trial to trial: where rows are counted, they are what compares.
            at = message.rows or message.step
            self._words.put(Heard(lease.number, lease.token, message.name, at, message.value))
        elif isinstance(message, messages.Note):
            self.output(f"{message.level}: {message.text}\n")


class TrialRunner:
    """The Runner of a search step."""

    def __init__(
        self, context: Context, step: Step, work: TrialWork, sites: Mapping[str, Site],
        names: Sequence[str],
    ) -> None:  # fmt: skip
        """`sites`: the hosts by name; `names`: the metrics of the study, others are not told."""
        self._context, self._step, self._work, self._sites = context, step, work, sites
        self._names = frozenset(names)
        self._words: queue.Queue[Heard | Ended | BaseException] = queue.Queue()
        self._levels: dict[int, int] = {}  # token -> how a lease was told to stop
        self._threads: dict[int, threading.Thread] = {}  # token -> at work

    def files(self, lease: Lease) -> LeaseFiles:
        """Where a lease writes."""
        here = self._trial_folder(lease.number) / f"lease-{lease.token:06d}"
        site = self._sites.get(lease.slot.host)
        if site is None or site.name == LOCAL:
            return LeaseFiles(here)
        there = over_hosts.work_folder(self._context, self._step, site)
        return LeaseFiles(here, there / here.parent.name / here.name)

    def _trial_folder(self, number: int) -> Path:
        return self._context.work_folder(self._step) / f"trial-{number:05d}"

    def log(self, lease: Lease) -> str:
        return str(self._log(lease))

    def _log(self, lease: Lease) -> Path:
        logs = self._context.folder.logs(self._step.id)
        return logs / f"trial-{lease.number:05d}.{lease.token:06d}.log"

    def start(self, lease: Lease) -> None:
        self._levels[lease.token] = 0
        name = f"trial {lease.number}, lease {lease.token}"
        thread = threading.Thread(target=self._run, args=(lease,), name=name, daemon=True)
        self._threads[lease.token] = thread
        thread.start()

    def stop(self, lease: Lease, level: int) -> None:
        self._levels[lease.token] = max(level, self._levels.get(lease.token, 0))

    def poll(self, timeout_s: float) -> list[Heard | Ended]:
        found: list[Heard | Ended] = []
        with contextlib.suppress(queue.Empty):
            word = self._words.get(timeout=timeout_s)
            while True:
                if isinstance(word, BaseException):
                    raise word
                if isinstance(word, Ended):
                    self._threads.pop(word.token, None)
                    self._levels.pop(word.token, None)
                if isinstance(word, Ended) or word.name in self._names:
                    found.append(word)
                word = self._words.get_nowait()
        return found

    def recover(self, lease: Lease) -> Outcome | None:
        files = self.files(lease)
        if files.there is not None:
            with contextlib.suppress(HostProblem):  # what it had not finished has no outcome there
                self._fetch(files, self._sites[lease.slot.host])
        result = files.result()
        if result is None:
            return None
        took = files.home.outcome.stat().st_mtime - files.spec.stat().st_mtime
        return self._finished(result, max(0.0, took))

    def drop(self, number: int) -> None:
        remove_tree(self._trial_folder(number))

    def close(self) -> None:
        """End at once what still runs."""
        for token in self._threads:
            self._levels[token] = 2
        end = time.monotonic() + CLOSE_S
        for thread in list(self._threads.values()):
            thread.join(max(0.0, end - time.monotonic()))
        for site in self._sites.values():
            if site.name != LOCAL:
                folder = over_hosts.work_folder(self._context, self._step, site)
                with contextlib.suppress(HostProblem):
                    site.transport.run(["rm", "-rf", str(folder)])

    # --- in the thread of a lease ---------------------------------------------------------------

    def _run(self, lease: Lease) -> None:
        """One lease, from its folder to its outcome; what nobody knows goes to the search."""
        try:
            outcome = self._outcome(lease)
        except BaseException as error:  # noqa: BLE001 - the border of the thread: poll raises it
            self._words.put(error)
            return
        self._words.put(Ended(lease.number, lease.token, outcome))

    def _outcome(self, lease: Lease) -> Outcome:
        began = time.monotonic()

        def ended(state: TrialState, **fields: Any) -> Outcome:
            return Outcome(state=state, seconds=time.monotonic() - began, **fields)

        try:
            result = self._follow(lease)
        except InputError as error:
            return ended(TrialState.FAILED, failure=Failure.BAD_INPUT, what=error.what)
        except (HostLost, HostError) as error:
            return ended(TrialState.INTERRUPTED, what=error.what, lost_host=True)
        except RunStopped as error:
            return ended(TrialState.INTERRUPTED, what=error.what)
        except AiokError as error:
            failure = Failure(error.failure or Failure.CRASH)
            return ended(TrialState.FAILED, failure=failure, what=error.what)
        return self._finished(result, time.monotonic() - began)

    def _finished(self, result: Mapping[str, Any], seconds: float) -> Outcome:
        values = self._work.metrics(result)
        return Outcome(state=TrialState.FINISHED, values=values, seconds=seconds)

    def _follow(self, lease: Lease) -> dict[str, Any]:
        """Make the lease's folder, run its worker to the end and return its result."""
        site, files = self._sites[lease.slot.host], self.files(lease)
        self._prepare(files.home)
        job = f"{self._context.folder.tag}.{self._step.id}-{lease.number}.{lease.token}"
        launch = self._work.launch(lease, files, job, site)
        log = self._log(lease)
        listener = TrialListener(self._context, self._step, lease, log, self._words)
        listener.command(launch.argv, launch.env)
        if files.there is None:
            away: contextlib.AbstractContextManager[Launch] = contextlib.nullcontext(launch)
        else:
            away = self._elsewhere(files, site, launch)
        try:
            with away as launch:
                return run_worker(
                    [site], launch, listener, lambda: self._levels.get(lease.token, 2),
                    log=str(log), fetch=lambda: self._fetch(files, site),
                )  # fmt: skip
        except HostProblem as problem:
            raise HostLost(str(problem), why=problem.why, log=str(log)) from None
        finally:
            listener.close()

    def _prepare(self, files: LeaseFiles) -> None:
        """The folder of a lease here, with the checkpoints of the trial's last one that has any."""
        make_folder(files.output)
        earlier = [path for path in files.here.parent.iterdir() if path != files.here]
        for folder in sorted(earlier, reverse=True):
            left = LeaseFiles(folder).checkpoints
            if left.is_dir() and not files.checkpoints.exists():
                left.rename(files.checkpoints)
            shutil.rmtree(folder, ignore_errors=True)
        files.checkpoints.mkdir(exist_ok=True)

    # --- on another host ------------------------------------------------------------------------

    @contextlib.contextmanager
    def _elsewhere(self, files: LeaseFiles, site: Site, launch: Launch) -> Iterator[Launch]:
        """The lease's folder on its host, from its checkpoints to its removal."""
        assert files.there is not None
        run, spec = site.transport.run, str(files.there / "spec.json")
        run(["mkdir", "-p", str(files.output)])
        if any(files.home.checkpoints.iterdir()):
            place = PurePosixPath(files.checkpoints)
            folders.send_folder(site, files.home.checkpoints, place)
        run(["mkdir", "-p", str(files.checkpoints)])
        site.transport.put(files.spec, spec)
        argv = [spec if word == str(files.spec) else word for word in launch.argv]
        lost = False
        try:
            yield replace(launch, argv=argv)
        except HostLost:  # each further question would wait for its time-out, and the trial with it
            lost = True
            raise
        finally:
            if not lost:
                with contextlib.suppress(HostProblem, OSError):
                    if files.result() is None:
                        source = PurePosixPath(files.checkpoints)
                        folders.fetch_whole([site], source, files.home.checkpoints)
                    run(["rm", "-rf", str(files.there)])

    def _fetch(self, files: LeaseFiles, site: Site) -> None:
        """Bring home what a lease has finished with, the outcome last."""
        if files.there is None:
            return
        found = site.transport.run(["test", "-e", str(files.outcome)])
        if found.code == 0:
            folders.fetch_folder(site, PurePosixPath(files.output), files.home.output)
            site.transport.get(str(files.outcome), files.home.outcome)
