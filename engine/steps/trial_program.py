"""What a trial of a user's program does: its command with the values of the trial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.hpo.leases import Lease
from engine.plan import Step
from engine.programs import registry
from engine.programs.model import space_of
from engine.programs.trial import Places, trial_spec, worker_argv
from engine.steps.context import Context
from engine.steps.trial_runner import LeaseFiles
from engine.work import Launch, worker_environment, write_spec
from hosts.site import Site


class TrialProgram:
    """Runs the program that a step's settings hold, as it was when the run was planned."""

    def __init__(self, context: Context, step: Step, slots: int) -> None:
        """`slots`: trials at a time on a host."""
        self._context, self._step, self._slots = context, step, slots
        self._known = registry.planned(step.settings)
        self._space = space_of(self._known.program)
        self._searched = {part["name"] for part in step.settings["search"]["parameters"]}

    def launch(self, lease: Lease, files: LeaseFiles, job: str, site: Site) -> Launch:
        """The worker that runs the command; any Python of the host will do."""
        settings = self._step.settings
        fixed = {k: v for k, v in settings["settings"].items() if k not in self._searched}
        values = self._space.active({**fixed, **lease.assignment})
        places = Places(
            trial=str(files.output),
            checkpoints=str(files.checkpoints) if self._known.program.checkpoints else "",
            data=settings["data"], seed=int(settings["seed"]), cores=lease.slot.cores,
        )  # fmt: skip
        spec = trial_spec(self._known, values, places)
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
