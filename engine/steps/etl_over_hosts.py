"""Prepare data on the hosts of a cluster: Spark over all of them, or Sail on the head.

The driver runs on the head as the host's own user. Raw data go to the hosts once, by content; what
is made lies where the training will look for it, and is fetched into the cache here, too. Spark
reads and writes in the folder that all hosts see; the embedded engine needs the head's disk only.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from engine import clusters
from engine import events as ev
from engine.advisor.layout import spark_cores
from engine.environments import lock_of
from engine.errors import HostError, HostLost, InputError, RunStopped
from engine.plan import Step
from engine.steps import over_hosts
from engine.steps.context import PROGRESS_S, Context, StepListener
from engine.store import home
from engine.work import Launch, LogFile, run_worker, worker_environment, write_spec
from hosts import bringup, folders, java
from hosts.probe import HostFacts
from hosts.site import Site
from hosts.spark import SparkCluster, SparkHost, SparkPlan, Watcher
from hosts.transport import HostProblem, clean
from models import catalog

MEMORY_SHARE = 0.6  # of what is free on a host
HEAP_SHARE, LEAST_HEAP_MIB, MOST_HEAP_MIB = 0.25, 512, 8192  # the rest is for Python workers
LEAST_DRIVER_MIB = 1024
REGISTER_S = 180.0  # our own master, which is up and knows the secret: the hosts may be busy
KEPT_S = 0.9  # between two lines of a host's telemetry: jobs are sampled each second
OF_JOBS = ("job_cpu", "job_memory_gib")
LOST_EXECUTOR = re.compile(r"Lost executor (\S+) on ([^\s:]+): (.*)")


class ClusterEtl:
    """One attempt at an ETL step on connected hosts, the head first."""

    def __init__(self, context: Context, step: Step, sites: Sequence[Site]) -> None:
        self.context, self.step, self.sites = context, step, sites
        self.head = sites[0]
        self.facts = context.cluster_hosts()
        self.job = context.job(step)
        self.on_spark = context.value("etl.engine") == "spark"
        self.shared = over_hosts.shared_place(context.cluster)
        self.root = self.shared or self.head.home / "cache"
        self.building = self.root / f".{step.identity}.{self.job}.building"
        self.work = self.root / f".work.{self.job}"

    def clear(self) -> None:
        """End and remove what earlier attempts left on the hosts."""
        over_hosts.at_each(self.sites, lambda site: over_hosts.clear_jobs(self.context, site))
        left = f"{self.context.folder.tag}.{self.step.id}."
        remove = 'rm -rf -- "$1"/.*."$2"*'
        self.head.transport.run(["/bin/sh", "-c", remove, "sh", str(self.root), left])

    def send(self) -> list[str]:
        """The raw data to where the engine reads them; their paths there."""
        if self.shared is not None:
            over_hosts.make_shared(self.sites, self.shared)
        for folder in (self.building, self.work):
            self.head.transport.run(["mkdir", "-p", str(folder)])
        if "data" in self.step.needs:
            target = self.root / self.context.plan.step("data").identity
            source = self.context.output_of("data")
            folders.send_folder(self.head, source, target, self._tell("send data"))
            return [str(target)]
        found = []
        for entry in self.context.plan.data:
            path = Path(entry["path"])
            tell = self._tell(f"send {path.name}")
            found.append(str(folders.send_file(self.head, path, self.root / "raw", tell)))
        return found

    def _tell(self, phase: str) -> folders.Progress:
        told = 0.0

        def tell(done: int, total: int) -> None:
            nonlocal told
            if done < total and time.monotonic() - told < PROGRESS_S:
                return
            told = time.monotonic()
            self.context.emit(
                ev.StepProgressed, step=self.step.id, phase=phase, done=done, total=total,
                unit="bytes",
            )  # fmt: skip

        return tell

    def run(self, plain: Mapping[str, Any], output: Path) -> dict[str, Any]:
        """Send, prepare, fetch; the result lies in `output`."""
        paths = self.send()
        listener = EtlListener(self.context, self.step, self.sites)
        try:
            with self._engine(listener) as cluster:
                spec = {**plain, **self._places(paths), **self._resources(cluster)}
                return self._drive(spec, cluster, listener, output)
        except InputError as error:
            raise _named_here(error, paths, self.context) from None
        finally:
            listener.close()
            with contextlib.suppress(HostProblem):  # the next attempt clears what is left
                self.head.transport.run(["rm", "-rf", str(self.work), str(self.building)])

    def _places(self, paths: Sequence[str]) -> dict[str, Any]:
        return {
            "dataset": {**self.step.settings["dataset"], "paths": list(paths)},
            "engine": "spark" if self.on_spark else "sail",
            "work": str(self.work),
            "output": str(self.building),
        }

    def _resources(self, cluster: SparkCluster | None) -> dict[str, Any]:
        """What the planner of joins may count on: the cluster's cores and memory, or the head's."""
        facts = self.facts[self.head.name]
        if cluster is None:
            memory = round(facts.memory_free_gib * MEMORY_SHARE, 2)
            return {"address": None, "cores": len(facts.cores), "memory_gib": memory}
        a_core = min(
            self.facts[host.site.name].memory_free_gib * MEMORY_SHARE / host.cores
            for host in cluster.hosts
        )
        driver_mib = max(LEAST_DRIVER_MIB, heap_mib([facts]))
        return {
            "address": cluster.address,
            "cores": cluster.cores,
            "memory_gib": round(a_core * cluster.cores, 2),
            "spark": {"spark.driver.memory": f"{driver_mib}m"},
            "register_s": REGISTER_S,
        }

    @contextlib.contextmanager
    def _engine(self, listener: EtlListener) -> Iterator[SparkCluster | None]:
        """Spark for the length of a with block; None for the embedded engine."""
        if not self.on_spark:
            yield None
            return
        hosts = [
            SparkHost(
                site=site, java=home_of_java, cores=spark_cores(site.slots, self.facts[site.name])
            )
            for site, home_of_java in zip(self.sites, self._java(), strict=True)
        ]
        plan = SparkPlan(
            environment=self.head.environment(lock_of("spark")),
            agent=str(self.head.code(self.context.code.name) / "agent.py"),
            job=self._service,
            executor_mib=heap_mib([self.facts[site.name] for site in self.sites]),
            grace_s=float(self.context.value("faults.grace_s")),
        )
        self.context.emit(
            ev.StepProgressed, step=self.step.id, phase="start Spark", done=0, total=1, unit=""
        )
        with SparkCluster(hosts, plan, listener) as cluster:
            yield cluster

    def _service(self, role: str) -> str:
        """The job of Spark's master or worker: cleared with the others of this run."""
        return f"{self.context.folder.tag}.{self.step.id}-{role}.{self.context.attempt}"

    def _java(self) -> list[str]:
        """Where each host has its Java; those without get a runtime made here."""
        lacking = [s.name for s in self.sites if not java.is_fit(self.facts[s.name].java)]
        jdk = java.find_jdk() if lacking else None
        if lacking and jdk is None:
            raise HostError(java.is_missing(lacking))
        runtime = java.make_runtime(jdk, home()) if jdk is not None else None

        def one(site: Site) -> str:
            if runtime is None or site.name not in lacking:
                return java.java_home(site)
            bringup.keep(site, java.place_of(site))
            return java.send_runtime(site, runtime, self._tell(f"{site.name}: Java"))

        found: list[str] = over_hosts.at_each(self.sites, one)
        return found

    def _drive(
        self, spec: Mapping[str, Any], cluster: SparkCluster | None, listener: EtlListener,
        output: Path,
    ) -> dict[str, Any]:  # fmt: skip
        logs = self.context.folder.logs(self.step.id)
        place = self.head.job(self.job)
        spec_file = write_spec(logs / "spec.json", spec)
        self.head.transport.put(spec_file, str(place / "spec.json"))
        worker = catalog.load(self.context.plan.model).workers[self.step.worker]
        prefix = self.head.environment(lock_of(self.step.environment))
        argv = [f"{prefix}/bin/python", "-m", worker.module, str(place / "spec.json")]
        env = worker_environment(self.head.code(self.context.code.name))
        env |= cluster.driver_variables() if cluster else {"OMP_NUM_THREADS": str(spec["cores"])}
        listener.command(argv, env)
        lost: list[HostProblem] = []

        def stop_level() -> int:
            if cluster and (problem := cluster.lost_all()):
                lost.append(problem)
                return 2
            return self.context.stop_level()

        launch = Launch(
            job=self.job, code=self.context.code.name, argv=argv, env=env,
            grace_s=float(self.context.value("faults.grace_s")),
        )  # fmt: skip
        try:
            return run_worker(
                [self.head], launch, listener, stop_level, log=str(logs / "output.log"),
                fetch=lambda: self._fetch(output),
            )  # fmt: skip
        except RunStopped:
            if not lost:
                raise
            raise HostLost(
                str(lost[0]), why=lost[0].why, log=str(logs / "output.log"),
                todo="bring the hosts back, then: aiok resume RUN",
            ) from None  # fmt: skip

    def _fetch(self, output: Path) -> None:
        """Take what was made, and leave it where training looks for it."""
        folders.fetch_folder(self.head, self.building, output, self._tell("fetch training data"))
        target = str(self.root / self.step.identity)
        self.head.transport.run(["mv", "-T", str(self.building), target])


def heap_mib(facts: Sequence[HostFacts]) -> int:
    """The Java heap of an executor: the same on all hosts, so that of the smallest one."""
    free_mib = min(host.memory_free_gib for host in facts) * 1024
    return int(min(MOST_HEAP_MIB, max(LEAST_HEAP_MIB, free_mib * HEAP_SHARE)))


def _named_here(error: InputError, paths: Sequence[str], context: Context) -> InputError:
    """A problem with the data, told with the user's own paths."""
    what = error.what
    for there, entry in zip(paths, context.plan.data, strict=False):
        what = what.replace(there, str(entry["path"]))
    return InputError(what, why=error.why, todo=error.todo, log=error.log)


class EtlListener(StepListener, Watcher):
    """Tells what Spark loses, and what its daemons take; they have log files of their own."""

    def __init__(self, context: Context, step: Step, sites: Sequence[Site]) -> None:
        super().__init__(context, step)
        self._names = {site.address: site.name for site in sites}
        self._logs: dict[str, LogFile] = {}
        self._lock = Lock()  # samples come from the cluster's thread, and those of the driver
        self._samples: dict[str, dict[str, Mapping[str, Any]]] = {}  # the last, by host and role
        self._kept: dict[str, float] = {}

    def output(self, text: str) -> None:
        super().output(text)
        for line in text.splitlines():
            if found := LOST_EXECUTOR.search(line):
                host = self._names.get(found[2], clean(found[2]))
                self._warn(f"{host}: Spark lost its executor there ({clean(found[3]).strip()})")

    def daemon_output(self, role: str, host: str, text: str) -> None:
        name = f"spark-{role}-{host}.log"
        if name not in self._logs:
            self._logs[name] = LogFile(self._context.folder.logs(self._step.id) / name)
        self._logs[name].write(text)

    def sample(self, host: str, sample: Mapping[str, Any]) -> None:
        self.daemon_sample("driver", host, sample)

    def daemon_sample(self, role: str, host: str, sample: Mapping[str, Any]) -> None:
        """Telemetry of a host is a line a second, with what all its jobs take together."""
        self._context.usage(self._step).sample(host, sample, role)
        with self._lock:
            jobs = self._samples.setdefault(host, {})
            jobs[role] = sample
            now = time.monotonic()
            if now - self._kept.get(host, 0.0) < KEPT_S:
                return
            self._kept[host] = now
            both = {key: sum(float(job.get(key, 0.0)) for job in jobs.values()) for key in OF_JOBS}
            self.keep(host, {**sample, **both})

    def daemon_lost(self, role: str, host: str, why: str) -> None:
        goes_on = "others do its work" if role == "worker" else "the workers go on without it"
        self._warn(f"{host}: the Spark {role} there is lost ({why}); {goes_on}")

    def _warn(self, text: str) -> None:
        self._context.emit(ev.Noted, step=self._step.id, text=text, level="warning")

    def close(self) -> None:
        for log in self._logs.values():
            log.close()
        super().close()


def etl_over_hosts(
    context: Context, step: Step, plain: Mapping[str, Any], output: Path
) -> dict[str, Any]:
    """Prepare data on the run's cluster; `plain` is the part of the spec that names no place."""
    sites = over_hosts.connect(context)
    try:
        etl = ClusterEtl(context, step, sites)
        etl.clear()
        return etl.run(plain, output)
    except HostProblem as problem:
        raise clusters.unreachable([problem]) from None
    finally:
        context.usage(step).moved(sum(site.transport.moved_bytes for site in sites))
        clusters.leave(sites)
