"""The run process: `python -m engine.run FOLDER [HOST ...]`, in a session of its own.

It takes the lock, executes the plan step by step, and alone writes the run's events. The hosts
named are left out of its cluster. SIGTERM asks for a good end (a checkpoint first), a second one
for a quick end. Whatever kills it, a later `resume` replays the events and goes on with what is
not whole.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from engine import events as ev
from engine.clusters import local_site
from engine.errors import AiokError, EnvironmentProblem, ExitCode, HostLost, RunStopped
from engine.plan import FILES, RESULT, Plan, Step, is_whole, read_plan, read_result
from engine.state import RunState, fold
from engine.steps.context import TRIALS, Context
from engine.store import (
    EventLog,
    RunFolder,
    cache_folder,
    exclusive,
    home,
    make_folder,
    read_events,
    remove_tree,
    write_atomically,
)
from engine.work import jobs_folder, run_of_job
from hosts.job import sweep_jobs


class StopSignals:
    """Counts SIGTERM and SIGINT: 1 = end well, 2 = end at once."""

    def __init__(self) -> None:
        self.level = 0
        self.told = False

    def install(self) -> None:
        """Take over both signals."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.level = min(2, self.level + 1)


class RunProcess:
    """Executes one plan."""

    def __init__(
        self, folder: RunFolder, signals: StopSignals, without: Sequence[str] = ()
    ) -> None:
        self.folder, self.signals = folder, signals
        self._held = _which(folder.lock)
        self.plan: Plan = read_plan(folder.plan)
        self.state: RunState = fold(read_events(folder.events, 0)[0])
        self.log = EventLog(folder.events)
        code = home() / "code" / self.plan.code
        if not code.is_dir():
            raise EnvironmentProblem(
                f"the workers' code of this run is gone ({code})",
                todo="start a new run of the same recipe; finished steps are reused",
            )
        self.context = Context(
            folder=folder,
            plan=self.plan,
            log=self.log,
            attempt=self.state.attempt + 1,
            site=local_site(),
            code=code,
            stop_level=self._stop_level,
            without=tuple(without),
        )

    def is_gone(self) -> bool:
        """Whether the run's folder was deleted under it: nothing is left to work for."""
        return _which(self.folder.lock) != self._held

    def _stop_level(self) -> int:
        if self.is_gone():
            self.signals.level = 2
        if self.signals.level and not self.signals.told:
            self.signals.told = True
            self.context.emit(ev.StopRequested)
        return self.signals.level

    def run(self) -> ExitCode:
        """All steps in order; the exit code says how it ended, and so does the last event."""
        self.context.emit(
            ev.RunStarted, pid=os.getpid(), attempt=self.context.attempt,
            without=list(self.context.without),
        )  # fmt: skip
        self._tell_left_out()
        self._sweep_earlier_attempts()
        status, code = "done", ExitCode.OK
        for step in self.plan.steps:
            try:
                if self._stop_level():
                    raise RunStopped("stopped on request")
                self._do(step)
            except RunStopped as stop:
                self._tell_stop(step, stop)
                status, code = "stopped", ExitCode.STOPPED
                break
            except AiokError as error:
                status, code = "failed", error.exit_code
                self._tell_failure(step, error)
                break
            except OSError as error:
                status, code = "failed", ExitCode.ENVIRONMENT
                self._tell_failure(step, _disk_error(error))
                break
            except Exception as error:  # noqa: BLE001 - the border of the process: told, logged, never lost
                traceback.print_exc()
                status, code = "failed", ExitCode.FAILED
                told = AiokError(
                    f"{type(error).__name__}: {error}",
                    why="the run process met an error it does not know",
                    log=str(self.folder.path / "logs" / "run.log"),
                )
                self._tell_failure(step, told)
                break
        self.context.emit(ev.RunEnded, status=status, exit_code=int(code))
        return code

    def _tell_left_out(self) -> None:
        """Hosts that nobody named this time: the policy `shrink`, or an earlier resume, did."""
        if names := [name for name in self.context.without if name in self.state.without]:
            text = f"without {', '.join(names)}, as before; all work again with --all-hosts"
            self.context.emit(ev.Noted, step=self.plan.steps[0].id, text=text)

    def _tell_stop(self, step: Step, stop: RunStopped) -> None:
        if not isinstance(stop, HostLost):
            self.context.emit(ev.StepStopped, step=step.id)
            return
        self.context.emit(
            ev.StepStopped, step=step.id, what=stop.what, why=stop.why, log=stop.log,
            todo=stop.todo.replace("RUN", self.folder.id),
        )  # fmt: skip

    def _tell_failure(self, step: Step, error: AiokError) -> None:
        self.context.emit(
            ev.StepFailed, step=step.id, what=error.what, why=error.why, todo=error.todo,
            log=error.log, exit_code=int(error.exit_code),
        )  # fmt: skip

    def _sweep_earlier_attempts(self) -> None:
        """What a killed run process left is ended now, so that nothing ever runs twice."""
        left = [
            path for path in jobs_folder().glob(f"{self.folder.tag}.*")
            if run_of_job(path.name) == self.folder.id  # not of one whose name begins like this
        ]  # fmt: skip
        agent = str(self.context.code / "agent.py")
        jobs = [str(path) for path in left if path.is_dir()]
        sweep_jobs(self.context.site.transport, sys.executable, agent, jobs)
        for path in left:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def _do(self, step: Step) -> None:
        """Skip what is whole, reuse what the cache has, run the rest."""
        known = self.state.steps.get(step.id)
        result = read_result(step.identity) if step.identity else None
        if result is not None:
            self.context.results[step.id] = result
            if known is None or not known.status.is_whole or known.identity != step.identity:
                self._link(step)
                self.context.emit(
                    ev.StepReused, step=step.id, identity=step.identity, result=result
                )
                self._tell_again(step)
            return
        if step.identity:
            with self._building(step) as building:
                if building is not None:
                    self._execute(step, building)
            if building is None:
                self._do(step)
        else:
            self._execute(step, make_folder(self.folder.artifacts(step.id)))

    def _tell_again(self, step: Step) -> None:
        """What happened to the trials of a search that another run made is told here, too."""
        if step.kind == "search" and not self.state.trials:
            events, _ = read_events(cache_folder() / step.identity / TRIALS, 0)
            self.log.extend(events)

    @contextlib.contextmanager
    def _building(self, step: Step) -> Any:
        """The folder where the output grows, held by one run; None if another made it whole.

        Its name is this attempt's own: a worker that outlives its killed run process for a while
        still writes, and must not write into what grows now.
        """
        cache = make_folder(cache_folder())
        told = False
        while True:
            with exclusive(cache / f".{step.identity}.lock") as mine:
                if mine:
                    if is_whole(step.identity):
                        yield None
                        return
                    remove_tree(cache / step.identity)  # damaged since it was made
                    for left in cache.glob(f".{step.identity}.*.building"):
                        shutil.rmtree(left, ignore_errors=True)
                    mark = f"{self.folder.id}.{self.context.attempt}.{os.getpid()}"
                    building = cache / f".{step.identity}.{mark}.building"
                    building.mkdir()
                    try:
                        yield building
                    finally:
                        remove_tree(building)
                    return
            if not told:
                told = True
                self.context.emit(
                    ev.Noted, step=step.id, text="another run is making the same output: waiting"
                )
            if self._stop_level():
                raise RunStopped("stopped on request")
            time.sleep(0.3)

    def _execute(self, step: Step, output: Path) -> None:
        """Run the step's code, then make its output whole in one rename."""
        self.context.emit(
            ev.StepStarted, step=step.id, identity=step.identity, host=step.host,
            log=str(self.folder.logs(step.id) / "output.log"),
        )  # fmt: skip
        begun = time.monotonic()
        module = importlib.import_module(f"engine.steps.{step.kind}")
        result: dict[str, Any] = module.run(self.context, step, output)
        self.context.results[step.id] = result
        if step.identity:
            _seal(output, result)
            os.rename(output, cache_folder() / step.identity)
            _sync_folder(cache_folder())
            self._link(step)
        remove_tree(self.folder.path / "checkpoints" / step.id)
        remove_tree(self.context.work_folder(step))
        seconds = round(time.monotonic() - begun, 3)
        used = self.context.usage(step).actual(seconds, result, self.folder.artifacts(step.id))
        self.context.emit(
            ev.StepFinished, step=step.id, identity=step.identity, result=result, seconds=seconds,
            actual=used,
        )  # fmt: skip

    def _link(self, step: Step) -> None:
        link = self.folder.artifacts(step.id)
        link.parent.mkdir(exist_ok=True)
        remove_tree(link)
        # Relative, so that a home that is moved as a whole stays whole.
        link.symlink_to(
            os.path.relpath(cache_folder().resolve() / step.identity, link.parent.resolve())
        )


def _seal(output: Path, result: dict[str, Any]) -> None:
    """Write result.json last, and everything to disk, so that a whole output stays whole.

    Files of these two names that stand there already, such as a program's own result.json, are
    replaced, so they are not listed.
    """
    sizes, ours = {}, (output / FILES, output / RESULT)
    for path in output.rglob("*"):
        if path.is_file() and path not in ours:
            _sync_folder(path)
            sizes[str(path.relative_to(output))] = path.stat().st_size
    write_atomically(output / FILES, json.dumps(sizes, indent=1))
    write_atomically(output / RESULT, json.dumps(result, indent=1))
    _sync_folder(output)


def _sync_folder(path: Path) -> None:
    """fsync a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _which(path: Path) -> tuple[int, int] | None:
    """What tells a file from another one of its name; None when there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _disk_error(error: OSError) -> AiokError:
    place = f" ({error.filename})" if error.filename else ""
    return EnvironmentProblem(
        f"{error.strerror or error}{place}",
        todo="free disk space (aiok clean) or mend the folder, then: aiok resume",
    )


def main(argv: list[str]) -> int:
    """The command line of the run process."""
    folder = RunFolder(Path(argv[1]))
    signals = StopSignals()
    signals.install()
    with exclusive(folder.lock) as mine:
        if not mine:
            print(f"{folder.id} is already running", file=sys.stderr)
            return ExitCode.BAD_INPUT
        try:
            process = RunProcess(folder, signals, argv[2:])
            code = process.run()
            if process.is_gone() and not folder.recipe.exists():
                remove_tree(folder.path)  # what workers wrote after the folder was deleted
            return int(code)
        except AiokError as error:
            log = EventLog(folder.events)
            log.append(ev.RunStarted(t=time.time(), pid=os.getpid(), attempt=0))
            log.append(
                ev.StepFailed(
                    t=time.time(), step="provision", what=error.what, why=error.why, todo=error.todo
                )
            )
            log.append(ev.RunEnded(t=time.time(), status="failed", exit_code=error.exit_code))
            print(error, file=sys.stderr)
            return int(error.exit_code)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
