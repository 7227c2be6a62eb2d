"""Train over the hosts of a cluster: what they need goes there, what they saved comes back.

Every host has a full copy of the training data and of the newest checkpoint; rank 0 of the head
writes checkpoints and the result, which are fetched as soon as they are whole, so that any host,
the head too, may be lost.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path, PurePosixPath
from typing import Any

from engine import clusters
from engine.advisor.layout import ClusterHost, lay_out
from engine.environments import lock_of
from engine.errors import HostError, HostLost
from engine.plan import Step
from engine.steps import over_hosts
from engine.steps.context import Context, StepListener
from engine.store import remove_tree
from engine.watchdog import START_S
from engine.work import Launch, run_worker, worker_environment, write_spec
from hosts import folders, mpi
from hosts.probe import free_port, route_to
from hosts.site import Site
from hosts.transport import HostProblem
from models import catalog, messages

KEPT = 2  # checkpoints: the newest may be torn by a full disk
LAST_FETCH_S = 10.0  # for checkpoints that are on their way when a host is lost
PORTS = (29500, 29599)  # the ranks meet at one of them, on the head


class ClusterTraining:
    """One attempt at a training step on connected hosts, the head first."""

    def __init__(self, context: Context, step: Step, sites: Sequence[Site]) -> None:
        self.context, self.step, self.sites = context, step, sites
        self.head = sites[0]
        self.job = context.job(step)
        self.place = self.head.job(self.job)
        self.data = over_hosts.data_on(context, self.head)
        self.kept = self.head.home / "checkpoints" / f"{context.folder.tag}.{step.id}"

    def clear(self) -> None:
        """End and remove what earlier attempts left on the hosts."""

        def one(site: Site) -> None:
            over_hosts.clear_jobs(self.context, site)
            site.transport.run(["rm", "-rf", str(self.kept)])

        over_hosts.at_each(self.sites, one)

    def send(self, checkpoints: Path) -> None:
        """Training data and the newest checkpoint to every host that lacks them."""
        whole = sorted(checkpoints.glob("step-*"))
        over_hosts.send_data(self.context, self.step, self.sites)

        def one(site: Site) -> None:
            site.transport.run(["mkdir", "-p", str(self.kept)])
            if whole:
                folders.send_folder(site, whole[-1], self.kept / whole[-1].name)

        over_hosts.at_each(self.sites, one)

    def spec(self, plain: Mapping[str, Any], layouts: Sequence[mpi.HostRanks]) -> dict[str, Any]:
        """The worker's spec: the same for all ranks, since all hosts have the same paths."""
        port = free_port(self.head.transport, self.head.python, self.head.address, *PORTS)
        return {
            **plain,
            "data": str(self.data),
            "output": str(self.place / "output"),
            "checkpoints": str(self.kept),
            "ranks": sum(host.layout.ranks for host in layouts),
            "threads": min(host.layout.threads for host in layouts),
            "rendezvous": f"tcp://{self.head.address}:{port}",
        }

    def layouts(self) -> list[mpi.HostRanks]:
        """Which host gets how many ranks, on which cores."""
        facts = self.context.cluster_hosts()
        hosts = [
            ClusterHost(name=site.name, slots=site.slots, facts=facts[site.name])
            for site in self.sites
        ]
        planned = next(v for v in self.context.plan.values if v.key == "train.ranks")
        ranks = None if planned.origin == "advisor" else int(planned.value)
        address = {site.name: site.address for site in self.sites}
        return [
            mpi.HostRanks(host=host.name, address=address[host.name], layout=layout)
            for host, layout in lay_out(hosts, ranks)
        ]

    def run(self, plain: Mapping[str, Any], checkpoints: Path, output: Path) -> dict[str, Any]:
        """Train; the result lies in `output`, checkpoints in `checkpoints` while it goes on."""
        layouts = self.layouts()
        names = [host.host for host in layouts]
        sites = [site for site in self.sites if site.name in names]
        logs = self.context.folder.logs(self.step.id)
        spec_file = write_spec(logs / "spec.json", self.spec(plain, layouts))
        over_hosts.at_each(
            self.sites, lambda site: site.transport.put(spec_file, str(self.place / "spec.json"))
        )
        self.head.transport.run(["mkdir", "-p", str(self.place / "output")])
        argv, env = self.command(layouts)
        listener = ClusterListener(self.context, self.step, sites, checkpoints)
        listener.rank_hosts = [host.host for host in layouts for _ in range(host.layout.ranks)]
        listener.command(argv, env)
        launch = Launch(
            job=self.job, code=self.context.code.name, argv=argv, env=env,
            ranks=sum(host.layout.ranks for host in layouts),
            grace_s=float(self.context.value("faults.grace_s")),
            hang_s=float(self.context.value("faults.hang_s")),
            start_s=START_S,
            hosts=listener.rank_hosts,
        )  # fmt: skip
        try:
            return run_worker(
                sites, launch, listener, self.context.stop_level, log=str(logs / "output.log"),
                fetch=lambda: folders.fetch_folder(self.head, self.place / "output", output),
            )  # fmt: skip
        except HostLost:
            listener.give_up()
            raise
        finally:
            listener.close()

    def command(self, layouts: Sequence[mpi.HostRanks]) -> tuple[list[str], dict[str, str]]:
        """What the head starts."""
        worker = catalog.load(self.context.plan.model).workers[self.step.worker]
        prefix = str(self.head.environment(lock_of(self.step.environment)))
        argv = [f"{prefix}/bin/python", "-m", worker.module, str(self.place / "spec.json")]
        if len(layouts) == 1:
            argv, env = mpi.launch(prefix, layouts[0].layout, argv)
        else:
            interface = clusters.interface_of(self.context.cluster)
            interface = (
                interface
                or route_to(self.head.transport, self.head.python, layouts[1].address).interface
            )
            argv, env = mpi.launch_over_hosts(
                prefix, str(self.head.ssh / "rsh"), interface, layouts, argv
            )
        worker_env = worker_environment(self.head.code(self.context.code.name))
        # mpirun's own connections to the other hosts live longer than a cut that is survived.
        grace = math.ceil(float(self.context.value("faults.grace_s")))
        return argv, {**worker_env, "AIOK_GRACE_S": str(grace), **env}


class ClusterListener(StepListener):
    """Fetches each checkpoint when rank 0 says that it is whole; then it is told."""

    def __init__(
        self, context: Context, step: Step, sites: Sequence[Site], checkpoints: Path
    ) -> None:
        super().__init__(context, step)
        self._sites, self._folder = sites, checkpoints
        self._fetcher = ThreadPoolExecutor(1, thread_name_prefix="fetch checkpoints")
        self._fetches: list[Future[None]] = []

    def message(self, message: messages.Message, rank: int) -> None:
        if isinstance(message, messages.Saved) and rank == 0:
            path = PurePosixPath(message.path)
            self._fetches.append(self._fetcher.submit(self._fetch, path, message))
        else:
            super().message(message, rank)

    def _fetch(self, path: PurePosixPath, message: messages.Saved) -> None:
        """Told when it is here: only then the loss of the head cannot lose it."""
        try:
            folders.fetch_whole(self._sites, path, self._folder / path.name)
        except (HostProblem, OSError) as problem:
            text = f"the checkpoint of step {message.step} could not be fetched: {problem}"
            super().message(messages.Note(text=text, level="warning"), 0)
            return
        for old in sorted(self._folder.glob("step-*"))[:-KEPT]:
            remove_tree(old)
        super().message(message, 0)

    def give_up(self) -> None:
        """A host is lost: if it hangs, `close` would wait for it, so the connections are closed."""
        wait(self._fetches, LAST_FETCH_S)
        self._fetcher.shutdown(wait=False, cancel_futures=True)
        clusters.leave(self._sites)

    def close(self) -> None:
        self._fetcher.shutdown(wait=True)
        super().close()


def train_over_hosts(
    context: Context, step: Step, plain: Mapping[str, Any], checkpoints: Path, output: Path
) -> dict[str, Any]:
    """Train on the run's cluster; `plain` is the part of the spec that does not name a place."""
    sites = over_hosts.connect(context)
    training = ClusterTraining(context, step, sites)
    try:
        training.clear()
        training.send(checkpoints)
        result = training.run(plain, checkpoints, output)
        with contextlib.suppress(HostError):  # what a host keeps goes with `hosts down`
            training.clear()
        return result
    except HostProblem as problem:
        raise clusters.unreachable([problem]) from None
    finally:
        context.usage(step).moved(sum(site.transport.moved_bytes for site in sites))
        clusters.leave(sites)
