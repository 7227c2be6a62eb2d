"""Apache Spark standalone over the hosts of a cluster, for the length of one step.

A master on the first host and a worker on each are jobs under our agent: they end when nobody asks
after them any more, and nothing of them is left. All that listens is bound to a host's address in
the cluster (PORTS); the web pages, which Spark does not do without, are bound to loopback. Whoever
connects must know a secret made for this cluster alone, and what is said is encrypted
(spark.authenticate and spark.network.crypto, spark.apache.org/docs/4.1.1/security.html). The secret
lies in files that only the user can read, until the daemons have read them; Spark itself hands it
to its executors in their environment.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import TracebackType
from typing import Any

from hosts.group import AT_ONCE, JobGroup
from hosts.job import Job, JobSpec
from hosts.site import Site
from hosts.transport import HostProblem, NoAnswer, clean

MASTER_PORTS, WORKER_PORTS, DRIVER_PORTS = (29600, 29619), (29620, 29639), (29640, 29659)
BLOCK_PORTS = (29660, 29699)  # of the driver and of executors: the first that is free on a host
PORTS = (MASTER_PORTS[0], BLOCK_PORTS[1])
READY_S = 120.0  # for all of it, on busy hosts; what is not up by then will not be
REFUSED_S = 50.0  # ... and what the master has refused by then
LOST_S = 10  # a worker from which the master hears nothing for so long is lost
DAEMON_MIB = 256
MOST_REFUSALS = 2  # the master is there: a worker that is refused twice has no way or no secret
REFUSED = "Failed to connect to master"
COMPLAINTS = (" WARN ", " ERROR ", "Caused by: ")
MASTER = re.compile(r"Starting Spark master at (spark://\S+)")
READY = {"master": "New state: ALIVE", "worker": "Successfully registered with master"}
# No file in /tmp, no second compiler for programs that only pass messages on, no IPv6 sockets.
DAEMON_JAVA = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"
QUIET_JAVA = "-XX:-UsePerfData -Djava.net.preferIPv4Stack=true"
WRITE_PRIVATE = """
import os, sys
path = sys.argv[1]
os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
    os.fchmod(file.fileno(), 0o600)
    file.write(sys.stdin.read())
"""


@dataclass(frozen=True, kw_only=True)
class SparkHost:
    """A host that works for Spark, with its Java and the cores it gives."""

    site: Site
    java: str
    cores: int


@dataclass(frozen=True, kw_only=True)
class SparkPlan:
    """What holds for all hosts. `environment` and `agent` have the same path on each; `job` names
    the job of a role."""

    environment: PurePosixPath
    agent: str
    job: Callable[[str], str]
    executor_mib: int
    grace_s: float


class Watcher:
    """Gets what the daemons say, from a thread of the cluster's. The base ignores all of it."""

    def daemon_output(self, role: str, host: str, text: str) -> None:
        """A piece of the log of the master or of a worker."""

    def daemon_lost(self, role: str, host: str, why: str) -> None:
        """The master or a worker has ended, or its host is silent; told once."""

    def daemon_sample(self, role: str, host: str, sample: Mapping[str, Any]) -> None:
        """A second of a daemon, with all that it started, and of its host (agent.Sampler)."""


class _Daemon:
    """The master or a worker on one host."""

    def __init__(self, role: str, host: SparkHost, plan: SparkPlan) -> None:
        self.role, self.host, self.plan = role, host, plan
        self.site = host.site
        self.folder = self.site.job(plan.job(role))
        self.group = JobGroup(
            Job(self.site.transport, self.site.python, plan.agent, str(self.folder))
        )
        self.conf = self.folder / "conf" / "spark-defaults.conf"
        self.ready = self.silent = False
        self.lost = ""
        self.refusals = 0
        self.last_line = self.complaint = ""
        self.address = ""  # where a master listens

    def start(self, settings: Mapping[str, str], ports: tuple[int, int], master: str = "") -> None:
        """Hand it to the agent; it takes the first of `ports` that is free. `master` is where a
        worker registers."""
        retries = {"spark.port.maxRetries": str(ports[1] - ports[0])}
        write_properties(self.site, self.conf, {**settings, **retries})
        words = ["--host", self.site.address, "--port", str(ports[0]), "--webui-port", "0",
                 "--properties-file", str(self.conf)]  # fmt: skip
        if self.role == "worker":
            words += ["--cores", str(self.host.cores), "--memory", f"{self.plan.executor_mib}m",
                      "--work-dir", str(self.folder / "work"), master]  # fmt: skip
        home = spark_home(self.plan.environment)
        name = f"org.apache.spark.deploy.{self.role}.{self.role.capitalize()}"
        temporary = f"-Djava.io.tmpdir={self.folder}"
        self.group.start(
            JobSpec(
                id=self.folder.name, argv=["/bin/bash", f"{home}/bin/spark-class", name, *words],
                grace_s=self.plan.grace_s,
                env={
                    **variables(self.plan.environment, self.host.java),
                    "SPARK_CONF_DIR": str(self.conf.parent),
                    "SPARK_LOCAL_IP": "127.0.0.1",  # the web page; what talks has --host
                    "SPARK_LOCAL_DIRS": str(self.folder / "local"),
                    "SPARK_DAEMON_MEMORY": f"{DAEMON_MIB}m",
                    "SPARK_DAEMON_JAVA_OPTS": f"{QUIET_JAVA} {DAEMON_JAVA} {temporary}",
                    "SPARK_LAUNCHER_OPTS": f"{QUIET_JAVA} {DAEMON_JAVA}",
                },
            )
        )  # fmt: skip

    def poll(self, watcher: Watcher) -> None:
        """Take and pass on what it said since the last call; `ready` and `lost` follow from it."""
        said, name, before = "", self.site.name, self.lost
        for _, frame in self.group.poll(0.0):
            if frame.kind == "output":
                said += str(frame.data)
            elif frame.kind == "sample":
                watcher.daemon_sample(self.role, name, frame.data)
            elif frame.kind == "end" and not self.lost:
                code = int(frame.data.get("code", -1))
                how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
                self.lost = str(frame.data.get("why") or "") or f"it {how}"
        for line in said.splitlines():
            self.ready = self.ready or READY[self.role] in line
            if self.role == "master" and (found := MASTER.search(line)):
                self.address = found[1]
            self.refusals += REFUSED in line
            self.last_line = clean(line).strip() or self.last_line
            if any(mark in line for mark in COMPLAINTS):
                self.complaint = clean(line).strip()
        for seconds in self.group.silent().values():
            if seconds > self.plan.grace_s and not self.lost:
                self.silent = True
                self.lost = f"nothing was heard from it for {seconds:.0f} s"
        if said:
            watcher.daemon_output(self.role, name, said)
        if self.lost and not before:
            watcher.daemon_lost(self.role, name, self.lost)

    def problem(self, what: str) -> HostProblem:
        """Why it cannot work, with the last line it said. Only of a worker that lives and that the
        master refused may the secret be the cause."""
        todo = f"see spark-{self.role}-{self.site.name}.log in the logs of the run"
        if self.refusals and not self.lost:
            todo += (
                f"; check that the hosts reach each other at ports {PORTS[0]}-{PORTS[1]}, and that "
                "nothing else answers there with another secret"
            )
        return (NoAnswer if self.silent else HostProblem)(
            self.site.name, f"the Spark {self.role} {what}",
            self.lost or f"its log says: {self.complaint or self.last_line or 'nothing'}", todo,
        )  # fmt: skip

    def end(self) -> None:
        """End it with all that it started, and remove its folder; on a host that cannot be reached
        its agent ends it."""
        self.group.leave()
        self.group.sweep()
        with contextlib.suppress(HostProblem):  # the next run clears what is left
            self.site.transport.run(["rm", "-rf", str(self.folder)])


class SparkCluster:
    """A standalone cluster between `with` and its end. `hosts`: the first one has the master.

    Raises HostProblem, within READY_S, when a part of it does not come up.
    """

    def __init__(self, hosts: Sequence[SparkHost], plan: SparkPlan, watcher: Watcher) -> None:
        self.hosts, self.plan, self.watcher = hosts, plan, watcher
        self.address = ""
        self._daemons: list[_Daemon] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch Spark", daemon=True)
        self._driver_conf = hosts[0].site.job(plan.job("master")) / "driver"

    @property
    def cores(self) -> int:
        """Cores of all workers."""
        return sum(host.cores for host in self.hosts)

    def driver_variables(self) -> dict[str, str]:
        """The environment of a driver on the first host; it finds its settings and the secret."""
        head = self.hosts[0]
        return {
            **variables(self.plan.environment, head.java),
            "SPARK_CONF_DIR": str(self._driver_conf),
            "SPARK_LOCAL_IP": head.site.address,
            "SPARK_LOCAL_DIRS": str(self._driver_conf / "local"),
            "SPARK_LAUNCHER_OPTS": f"{QUIET_JAVA} {DAEMON_JAVA}",
        }

    def lost_all(self) -> HostProblem | None:
        """The problem of the last worker when none is left."""
        workers = [daemon for daemon in self._daemons if daemon.role == "worker"]
        if all(worker.lost for worker in workers):
            return workers[-1].problem("was the last one")
        return None

    def __enter__(self) -> SparkCluster:
        try:
            self._up()
        except BaseException:
            self._down()
            raise
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._over.set()
        self._thread.join()
        self._down()

    def _up(self) -> None:
        head, began = self.hosts[0].site, time.monotonic()
        common = network_settings(secrets.token_hex(32))
        settings = {**common, **DAEMON_SETTINGS}
        master = _Daemon("master", self.hosts[0], self.plan)
        self._daemons = [master]
        master.start(settings, MASTER_PORTS)
        self._await([master], "did not start", began)
        self.address = master.address
        workers = [_Daemon("worker", host, self.plan) for host in self.hosts]
        self._daemons += workers

        def start(worker: _Daemon) -> None:
            worker.start(settings, WORKER_PORTS, self.address)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(start, workers))
        self._await(workers, "did not register with the master", began)
        for daemon in self._daemons:  # they have read it
            daemon.site.transport.run(["rm", "-f", str(daemon.conf)])
        write_properties(head, self._driver_conf / "spark-defaults.conf", {
            **common, **self._driver_settings(),
        })  # fmt: skip

    def _await(self, daemons: Sequence[_Daemon], failed: str, began: float) -> None:
        while waiting := [daemon for daemon in daemons if not daemon.ready]:
            self._relay()
            for daemon in waiting:
                gone = time.monotonic() - began
                late = gone > (REFUSED_S if daemon.refusals else READY_S)
                late = late or daemon.refusals >= MOST_REFUSALS
                if daemon.lost or (late and not daemon.ready):
                    raise daemon.problem(failed)
            time.sleep(0.1)

    def _driver_settings(self) -> dict[str, str]:
        head = self.hosts[0].site
        executor_folder = head.job(self.plan.job("worker"))  # the same path on all hosts
        return {
            "spark.driver.host": head.address,
            "spark.driver.bindAddress": head.address,
            # as for all: the first from there that is free
            "spark.driver.port": str(DRIVER_PORTS[0]),
            "spark.blockManager.port": str(BLOCK_PORTS[0]),
            "spark.port.maxRetries": str(BLOCK_PORTS[1] - BLOCK_PORTS[0]),
            "spark.executor.memory": f"{self.plan.executor_mib}m",
            "spark.executor.extraJavaOptions": f"{QUIET_JAVA} -Djava.io.tmpdir={executor_folder}",
            "spark.driver.extraJavaOptions": f"{QUIET_JAVA} -Djava.io.tmpdir={self._driver_conf}",
            # A host that hangs is given up in half a minute; the interval must be shorter.
            "spark.network.timeout": "30s",
            "spark.network.timeoutInterval": "10s",
            "spark.executor.heartbeatInterval": "5s",
        }

    def _relay(self) -> None:
        for daemon in self._daemons:
            daemon.poll(self.watcher)

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            self._relay()

    def _down(self) -> None:
        """Workers first, so that none looks for a master that is gone."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(_Daemon.end, [d for d in self._daemons if d.role == "worker"]))
        for daemon in self._daemons:
            if daemon.role == "master":
                daemon.end()
        self._daemons = []


DAEMON_SETTINGS = {
    "spark.master.rest.enabled": "false",
    "spark.worker.timeout": str(LOST_S),
    "spark.ui.killEnabled": "false",
}


def network_settings(secret: str) -> dict[str, str]:
    """Who does not know the secret gets no answer, and nobody else can read what is said.

    The cipher is Spark's default: AES/GCM, which would also notice changes on the way
    (CVE-2025-55039), does not work in 4.1.1 (SPARK-56227: after its first message a channel hangs).
    """
    return {
        "spark.authenticate": "true",
        "spark.authenticate.secret": secret,
        "spark.network.crypto.enabled": "true",
        "spark.network.crypto.saslFallback": "false",  # not the older protocol
    }


def write_properties(site: Site, path: PurePosixPath, settings: Mapping[str, str]) -> None:
    """Write a properties file that only its user can read; it travels on stdin, never in argv."""
    text = "".join(f"{key} {value}\n" for key, value in settings.items())
    argv = [site.python, "-I", "-S", "-c", WRITE_PRIVATE, str(path)]
    done = site.transport.run(argv, stdin=text.encode())
    if done.code:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.code}"])[-1]
        raise HostProblem(site.name, f"{path} cannot be written", last)


def variables(environment: PurePosixPath, java: str) -> dict[str, str]:
    """What every Spark program needs to find."""
    return {
        "SPARK_HOME": spark_home(environment),
        "JAVA_HOME": java,
        "PYSPARK_PYTHON": f"{environment}/bin/python",
    }


def spark_home(environment: PurePosixPath) -> str:
    """Where pip has put Spark: pyspark's jars are all of it."""
    return f"{environment}/lib/python3.11/site-packages/pyspark"
