"""What a trial of a built-in model does: the worker of `train`, one rank on the cores of a slot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.environments import lock_of
from engine.hpo.leases import Lease
from engine.hpo.schema import Search
from engine.plan import Step
from engine.steps import over_hosts
from engine.steps.context import Context
from engine.steps.train import training_spec
from engine.steps.trial_runner import LeaseFiles
from engine.work import Launch, worker_environment, write_spec
from hosts.site import Site
from models import catalog


class TrialTraining:
    """Trains a model with the values of a trial over its settings."""

    def __init__(self, context: Context, step: Step, slots: int) -> None:
        """`slots`: trials at a time on a host."""
        self._context, self._step, self._slots = context, step, slots
        search = Search.model_validate(step.settings["search"])
        self._goal = search.goal_of_trial(step.settings["goal"])

    def send(self, sites: Sequence[Site]) -> None:
        """The training data."""
        over_hosts.send_data(self._context, self._step, sites)

    def launch(self, lease: Lease, files: LeaseFiles, job: str, site: Site) -> Launch:
        """The worker as spec.json and argv; alone, so without mpirun."""
        context, settings = self._context, self._step.settings
        threads = max(1, len(lease.slot.cores))
        spec = {
            **training_spec(context, self._step, 1),
            "settings": {**settings["settings"], **lease.assignment},
            "goal": self._goal,
            "data": str(over_hosts.data_on(context, site)),
            "output": str(files.output),
            "checkpoints": str(files.checkpoints),
            "outcome": str(files.outcome),
            "threads": threads,
            "rendezvous": None,
        }
        spec_file = write_spec(files.spec, spec)
        worker = catalog.load(context.plan.model).workers[self._step.worker]
        prefix = site.environment(lock_of(self._step.environment))
        env = {
            **worker_environment(site.code(context.code.name)),
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            # the only rank, as its agent knows one: it is asked for its stack when it hangs
            "PMI_RANK": "0",
            "PMI_SIZE": "1",
        }
        return Launch(
            job=job,
            code=context.code.name,
            argv=[f"{prefix}/bin/python", "-m", worker.module, str(spec_file)],
            env=env,
            grace_s=float(context.value("faults.grace_s")),
            hang_s=float(context.value("faults.hang_s")),
            cores=lease.slot.cores,
            sample_s=float(self._slots),  # all trials together once a second
        )

    def metrics(self, result: Mapping[str, Any]) -> dict[str, float]:
        """The metrics of the best weights on the validation rows, and what they cost."""
        found = {
            name: float(value)
            for name, value in result.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        return {**found, **(result.get("best") or {}).get("valid", {})}
