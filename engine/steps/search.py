"""Search for the best hyper-parameters; the output is that of `train`, for the best trial."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine import clusters
from engine import events as ev
from engine.advisor.layout import ClusterHost, lay_out
from engine.advisor.trial_slots import hosts_for_trials
from engine.errors import StepFailed
from engine.hpo import optimizers
from engine.hpo.front import findings
from engine.hpo.leases import Lease, Slot
from engine.hpo.pruner import make as make_pruner
from engine.hpo.results import counts, planned_search
from engine.hpo.schema import Search as SearchPart
from engine.hpo.search import Policy, Search
from engine.hpo.study import Study
from engine.hpo.trials import Trial
from engine.hpo.warm import earlier
from engine.plan import Step
from engine.recovery import with_policy
from engine.state import fold
from engine.steps import over_hosts
from engine.steps.context import TRIALS, Context
from engine.steps.trial_program import TrialProgram
from engine.steps.trial_runner import TrialRunner, TrialWork
from engine.steps.trial_training import TrialTraining
from engine.store import empty_folder, read_events
from hosts.inventory import LOCAL
from hosts.site import Site

OF_TRIALS = (ev.TrialQueued, ev.TrialStarted, ev.TrialMeasured, ev.TrialEnded)


def run(context: Context, step: Step, output: Path) -> dict[str, Any]:
    """Search from where the run's events stand; the result of the best trial, and which it is.

    A host that is lost costs what ran there: the others go on. The fault policy decides when none
    is left, and when one does not answer at the beginning.
    """
    planned = planned_search(context.plan)
    assert planned is not None  # or it had no such step
    part, study = planned

    def attempt() -> dict[str, Any]:
        sites = _connect(context, step)
        try:
            return _search(context, step, part, study, sites, output)
        finally:
            if context.site not in sites:
                context.usage(step).moved(sum(site.transport.moved_bytes for site in sites))
                clusters.leave(sites)

    return with_policy(context, step, attempt)


def _search(
    context: Context, step: Step, part: SearchPart, study: Study, sites: Sequence[Site],
    output: Path,
) -> dict[str, Any]:  # fmt: skip
    """The search on connected hosts."""
    events = read_events(context.folder.events, 0)[0]
    trials = fold(events).trials
    slots = _slots(context, step, sites, int(part.parallel))
    kind = TrialProgram if "program" in step.settings else TrialTraining
    busiest = max(Counter(slot.host for slot in slots).values())
    work: TrialWork = kind(context, step, busiest)
    if step.host != LOCAL:
        work.send(sites)
    names = [objective.name for objective in study.objectives]
    runner = TrialRunner(context, step, work, {site.name: site for site in sites}, names)
    optimizer = optimizers.make(part.optimizer, study)
    search = Search(
        study, optimizer, runner, slots, context.log.append, step=step.id,
        trials=trials, died=_died(events), pruner=make_pruner(part.pruner, study),
        policy=Policy(
            retries=part.retries,
            timeout_s=60 * part.timeout_minutes if part.timeout_minutes else None,
        ),
        earlier=lambda: earlier(part.warm, study), stop_level=context.stop_level,
    )  # fmt: skip
    try:
        best = search.run()
    finally:
        runner.close()
        optimizer.close()
    found = findings(study, search.trials.values())
    context.emit(ev.Noted, step=step.id, text=found.words,
                 level="info" if found.feasible else "warning")  # fmt: skip
    result = _keep(context, step, runner, best, search.trials, output)
    if found.nearest is not None:  # no trial keeps all thresholds
        result["nearest"] = {"trial": found.nearest.number, "values": found.nearest.values}
    return result


def _connect(context: Context, step: Step) -> list[Site]:
    """The hosts of the run's cluster; this machine where the step is here."""
    if step.host == LOCAL:
        return [context.site]
    sites = over_hosts.connect(context)
    try:
        over_hosts.at_each(sites, lambda site: over_hosts.clear_jobs(context, site))
    except BaseException:
        clusters.leave(sites)
        raise
    return sites


def _slots(context: Context, step: Step, sites: Sequence[Site], parallel: int) -> list[Slot]:
    """So many slots on the hosts that can take a trial, each with cores of its own as long as there
    are enough."""
    facts = {LOCAL: context.facts, **context.cluster_hosts()}
    hosts = [ClusterHost(name=s.name, slots=s.slots, facts=facts[s.name]) for s in sites]
    return [
        Slot(host=host.name, cores=cores)
        for host, layout in lay_out(hosts_for_trials(hosts, step), parallel)
        for cores in layout.cores
    ]


def _died(events: Sequence[ev.Event]) -> float:
    """When an earlier run process was heard last: right before this one started."""
    last = max((n for n, e in enumerate(events) if isinstance(e, ev.RunStarted)), default=0)
    return events[last - 1].t if last else 0.0


def _keep(
    context: Context, step: Step, runner: TrialRunner, best: Trial, trials: Mapping[int, Trial],
    output: Path,
) -> dict[str, Any]:  # fmt: skip
    """Put the output of the best trial in its place, and beside it what happened to all of them.

    Files of a user's program may have any name: they lie in a folder of their own.
    """
    lease = Lease(number=best.number, token=best.token, assignment=best.assignment,
                  slot=Slot(host=best.host, cores=tuple(best.cores)))  # fmt: skip
    files = runner.files(lease)
    result = files.result()
    if result is None:
        raise StepFailed(
            f"the output of the best trial ({best.number}) is gone from {files.here}",
            todo="start a new run of the same recipe",
        )
    empty_folder(output)
    place = output / "trial" if "program" in step.settings else output
    shutil.copytree(files.home.output, place, copy_function=_link, dirs_exist_ok=True)
    events = read_events(context.folder.events, 0)[0]
    with open(output / TRIALS, "wb") as file:
        file.writelines(ev.encode(event) for event in events if isinstance(event, OF_TRIALS))
    own = [trial for trial in trials.values() if trial.origin != "warm"]
    return {
        **result,
        "trial": best.number,
        "assignment": dict(best.assignment),
        "values": best.values,
        "trials": counts(own),
        "trial_seconds": round(sum(trial.seconds for trial in trials.values()), 3),
    }


def _link(source: str, target: str) -> None:
    """The same file under a second name where that is possible, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
