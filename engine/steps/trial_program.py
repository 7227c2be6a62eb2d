"""What a trial of a user's program does: its command with the values of the trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from engine.hpo.leases import Lease
from engine.plan import Step
from engine.programs import files as program_files
from engine.programs import registry
from engine.programs.model import space_of
from engine.programs.schema import Known
from engine.programs.trial import Places, trial_spec, worker_argv
from engine.steps import over_hosts
from engine.steps.context import Context
from engine.steps.trial_runner import LeaseFiles
from engine.work import Launch, worker_environment, write_spec
from hosts import folders
from hosts.site import Site
from hosts.transport import HostProblem


class TrialProgram:
    """Runs the program that a step's settings hold, as it was when the run was planned."""

    def __init__(self, context: Context, step: Step, slots: int) -> None:
        """`slots`: trials at a time on a host."""
        self._context, self._step, self._slots = context, step, slots
        self._known = registry.planned(step.settings)
        self._space = space_of(self._known.program)
        self._searched = {part["name"] for part in step.settings["search"]["parameters"]}
        self._data: str = step.settings["data"]
        self._there: dict[str, tuple[Known, str]] = {}  # host -> the program and its data there

    def send(self, sites: Sequence[Site]) -> None:
        """The program's folder and its data, each once by content. Trials work in a copy of the
        folder: what they change in it must not meet the next run."""
        context, known = self._context, self._known
        kept = program_files.keep(known, context.work_folder(self._step) / "program")
        program = f"program-{folders.digest_of(kept)[:20]}"
        data = Path(self._data) if self._data else None
        inside = program_files.inside(known, data) if data else None
        apart = {_name_of(data): data} if data and inside is None else {}
        over_hosts.send(context, self._step, sites, {program: kept, **apart})
        named = program_files.absolute_paths(known)

        def one(site: Site) -> None:
            _check_there(site, known, named)
            copy = over_hosts.work_folder(context, self._step, site) / "program"
            _copy(site, over_hosts.place_on(context, site, program), copy)
            places = [copy / inside] if inside is not None else []
            places += [over_hosts.place_on(context, site, name) for name in apart]
            there = Known(known.program, str(copy / Path(known.file).name))
            self._there[site.name] = there, "".join(map(str, places))

        over_hosts.at_each(sites, one)

    def launch(self, lease: Lease, files: LeaseFiles, job: str, site: Site) -> Launch:
        """The worker that runs the command; any Python of the host will do."""
        settings = self._step.settings
        known, data = self._there.get(site.name, (self._known, self._data))
        fixed = {k: v for k, v in settings["settings"].items() if k not in self._searched}
        values = self._space.active({**fixed, **lease.assignment})
        places = Places(
            trial=str(files.output),
            checkpoints=str(files.checkpoints) if self._known.program.checkpoints else "",
            data=data, seed=int(settings["seed"]), cores=lease.slot.cores,
        )  # fmt: skip
        spec = trial_spec(known, values, places)
        spec_file = write_spec(files.spec, {**spec, "outcome": str(files.outcome)})
        return Launch(
            job=job,
            code=self._context.code.name,
            argv=worker_argv(site.python, spec_file),
            env=worker_environment(site.code(self._context.code.name)),
            grace_s=float(self._context.value("faults.grace_s")),
            cores=lease.slot.cores,
            sample_s=float(self._slots),  # all trials together once a second
        )

    def metrics(self, result: Mapping[str, Any]) -> dict[str, float]:
        """What the program said, and what was measured of it."""
        return {name: float(value) for name, value in result["metrics"].items()}


def _name_of(data: Path) -> str:
    """What data are called among what all hosts get: a folder, or a file as `send_file` puts it."""
    if data.is_dir():
        return f"data-{folders.digest_of(data)[:20]}"
    return f"data/{folders.sha256_of(data)[:20]}/{data.name}"


def _check_there(site: Site, known: Known, named: Sequence[str]) -> None:
    """HostProblem for a place that the program's file names and the host does not have."""
    for path in named:
        if site.transport.run(["test", "-e", path]).code:
            raise HostProblem(
                site.name, f"there is no {path}, which {known.file} names",
                todo="put it into the program's folder and write {program_dir}/NAME, or name it as "
                "dataset.path and write {data_path}",
            )  # fmt: skip


def _copy(site: Site, source: PurePosixPath, target: PurePosixPath) -> None:
    """A fresh copy of a host's folder there."""
    run = site.transport.run
    run(["rm", "-rf", str(target)])
    run(["mkdir", "-p", str(target.parent)])
    done = run(["cp", "-a", str(source), str(target)])
    if done.code:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise HostProblem(site.name, f"{target} cannot be written", last)
