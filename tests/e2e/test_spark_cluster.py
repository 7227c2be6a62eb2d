"""Spark over real SSH hosts: the embedded engine's bytes, known ports, a secret that stays one.

One cluster of three hosts with a core each. The runs have only the steps that prepare data.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from engine import api, clusters, host_jobs
from engine import events as ev
from engine.clusters import Inventory
from engine.code import deploy
from engine.environments import lock_of
from engine.errors import ExitCode
from engine.plan import Plan
from engine.state import RunState, RunStatus
from engine.store import lock_holder, open_run_folder
from hosts import java, spark
from hosts.site import Site
from hosts.spark import SparkCluster, SparkHost, SparkPlan, Watcher
from hosts.testbed import HostProcess, Testbed
from hosts.transport import HostProblem
from tests.e2e.conftest import Home, assert_same, new_home, wait_for
from tests.testbed import Testbeds, open_ports

# The time limit is for a test with the fixture: Spark goes to three hosts first.
pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(900)]

HOSTS = ("h1", "h2", "h3")
ROWS, FILES = 100_000, 6
RUN_S = 280.0
SECRET_S = 60.0
NOTICE_S, GRACE_S = 15.0, 5.0
NOT_MADE = "dataset.generate=null"
STEPS = ("provision", "data", "etl")
ON_SPARK = ("cluster=lab", "etl.engine=spark", f"faults.grace_s={GRACE_S}")


@dataclass(frozen=True)
class Lab:
    """The cluster, the user's home, the data, and what the embedded engine made of them."""

    testbed: Testbed
    home: Home
    data: Path
    reference: Path

    def declare(self, **fields: Any) -> None:
        """Change the cluster in the inventory; None takes a field away."""
        data = clusters.inventory().to_data()
        group = {**data["clusters"]["lab"], **fields}
        kept = {key: value for key, value in group.items() if value is not None}
        clusters.write_inventory(
            Inventory.model_validate({**data, "clusters": {"lab": kept}})
        )  # fmt: skip

    def start(self, *overrides: str) -> str:
        """Start a run that prepares the data anew."""
        for path in (self.home.path / "cache").glob("etl-*"):
            os.rename(path, path.with_name(f".{path.name}.{time.time_ns()}.building"))
        return api.start("tiny", [f"dataset.path={self.data}", NOT_MADE, *overrides])

    def spark_processes(self, host: str) -> list[HostProcess]:
        """Spark's programs on a host."""
        return [p for p in self.testbed.processes(host) if "org.apache.spark" in p.command]

    def idle(self, host: str) -> None:
        """No process of a run is left there, and no port."""
        ours = ("org.apache.spark", "models.dlrm", "agent.py", "pyspark")
        end = time.monotonic() + 20
        while left := [
            p for p in self.testbed.processes(host) if any(w in p.command for w in ours)
        ]:
            assert time.monotonic() < end, f"{host}: {left}"
            time.sleep(0.2)
        while ports := open_ports(self.testbed, host):  # a process that ends closes them last
            assert time.monotonic() < end, f"{host}: {ports}"
            time.sleep(0.2)

    def bare(self, host: str) -> None:
        """Nothing of a run is left there: no process, no port, no file of Spark's."""
        self.idle(host)
        found = self.testbed.run_as_root(
            host, ["find", "/tmp", "/shared", "/home", "-name", "*spark-defaults*", "-o", "-name",
                   "*hsperf*", "-o", "-name", ".*.building", "-o", "-name", ".work.*"],
        )  # fmt: skip
        assert found.stdout == ""


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def lab(
    testbeds: Testbeds, environments: None, tmp_path_factory: pytest.TempPathFactory,
    patch: pytest.MonkeyPatch,
) -> Lab:  # fmt: skip
    """Three hosts that share /shared, and 100,000 rows in six files, prepared here first."""
    testbed = testbeds(3, "spark", shared=True)
    home = new_home(tmp_path_factory.mktemp("spark") / "home")
    patch.setenv("AIOK_HOME", str(home.path))
    planned = api._plan

    def only_etl(*words: Any) -> Plan:
        made = planned(*words)
        return replace(made, steps=tuple(step for step in made.steps if step.id in STEPS))

    patch.setattr(api, "_plan", only_etl)
    testbed.inventory(home.path / "inventory.yaml", "lab")
    for host in ("h2", "h3"):
        testbed.run_as_root(host, ["rm", "/usr/bin/java"])
    hosts = clusters.inventory().to_data()
    slim = {name: {**host, "slots": 1} for name, host in hosts["hosts"].items()}
    clusters.write_inventory(Inventory.model_validate({**hosts, "hosts": slim}))
    data = home.path / "clicks"
    made = ended(api.start("tiny", [f"dataset.generate.rows={ROWS}"]))
    lines = (made_by(made, "data") / "part-00000.tsv").read_bytes().splitlines(keepends=True)
    assert len(lines) == ROWS
    data.mkdir()
    for number in range(FILES):
        part = lines[number * ROWS // FILES : (number + 1) * ROWS // FILES]
        (data / f"day-{number}.tsv").write_bytes(b"".join(part))
    here = ended(api.start("tiny", [f"dataset.path={data}", NOT_MADE]))
    reference = made_by(here, "etl").rename(home.path / "reference")
    return Lab(testbed, home, data, reference)


def made_by(run: RunState, step: str) -> Path:
    return clusters.home() / "cache" / run.steps[step].identity


def ended(run: str) -> RunState:
    state = api.wait_for_end(run, RUN_S)
    assert state.status is RunStatus.DONE, f"{state.problem}\n{state}"
    return state


def test_spark_makes_what_the_embedded_engine_makes(lab: Lab) -> None:
    """... on the ports that README names, and its secret is seen nowhere."""
    run = lab.start(*ON_SPARK)
    seen: dict[str, set[int]] = {host: set() for host in HOSTS}
    argv: set[str] = set()
    secrets: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.3):
            for host in HOSTS:
                seen[host] |= open_ports(lab.testbed, host)
                argv.update(p.command for p in lab.testbed.processes(host))
            found = lab.testbed.run_as_root("h1", [
                "sh", "-c", "cat /home/*/.local/share/aiok/jobs/*/*/spark-defaults.conf; "
                "stat -c %a /home/*/.local/share/aiok/jobs/*/*/spark-defaults.conf",
            ])  # fmt: skip
            words = [line.split() for line in found.stdout.splitlines()]
            secrets.update(w[1] for w in words if w[:1] == ["spark.authenticate.secret"])
            assert {w[0] for w in words if len(w) == 1} <= {"600"}

    thread = threading.Thread(target=look)
    thread.start()
    try:
        state = ended(run)
    finally:
        over.set()
        thread.join()
    assert_same(lab.reference, made_by(state, "etl"))
    assert state.result("etl")["engine"] == "spark"
    assert_all_is_counted(lab, state)
    for host in HOSTS:
        assert seen[host], f"nothing was seen to listen on {host}"
        assert all(spark.PORTS[0] <= port <= spark.PORTS[1] for port in seen[host]), seen
        lab.bare(host)
    (secret,) = secrets
    assert len(secret) == 64
    texts = [*argv, *(path.read_text(errors="replace") for path in
                      (lab.home.path / "runs" / run).rglob("*") if path.is_file())]  # fmt: skip
    assert any("deploy.master.Master" in text for text in texts)
    assert not any(secret in text for text in texts)


def assert_all_is_counted(lab: Lab, state: RunState) -> None:
    """What the step took is that of all hosts: executors are in it, and what was sent."""
    folder = open_run_folder(state.id)
    seconds = {
        host: [json.loads(line) for line in folder.telemetry(host).read_text().splitlines()]
        for host in HOSTS
    }
    cpu_s = {
        host: sum(one["job_cpu"] for one in samples) / 100 for host, samples in seconds.items()
    }
    took, planned = state.steps["etl"].actual, state.steps["etl"].estimate
    assert min(cpu_s.values()) > 1.0
    assert took["cpu_s"] > 1.2 * cpu_s["h1"]  # where the driver is, with master and worker
    peaks = {host: max(s["job_memory_gib"] for s in samples) for host, samples in seconds.items()}
    assert min(peaks.values()) > 0.2
    assert took["memory_gib"] > 0.9 * sum(peaks.values())
    data = sum(path.stat().st_size for path in lab.data.iterdir())
    made = sum(path.stat().st_size for path in lab.reference.rglob("*") if path.is_file())
    assert took["network_gib"] >= (data + made) / 2**30
    assert planned["network_gib"] >= data / 2**30


def struck_run(lab: Lab, strike: Callable[[str], object], *settings: str) -> tuple[str, float]:
    """A run that is struck while Spark's tasks read the data, and when that was."""
    run = lab.start(*ON_SPARK, *settings)
    wait_for(run, lambda e: isinstance(e, ev.StepProgressed) and e.phase == "read", RUN_S)
    struck = time.time()
    strike(run)
    return run, struck


def kill(lab: Lab, host: str, words: str) -> None:
    """kill -9 of Spark's programs on a host with these words in their command line."""
    found = [process for process in lab.spark_processes(host) if words in process.command]
    assert found
    for process in found:
        os.kill(process.pid, signal.SIGKILL)


FAULTS: dict[str, tuple[Callable[[Lab], None], str]] = {
    "worker killed": (
        lambda lab: kill(lab, "h2", "spark"), "h2: the Spark worker there is lost"
    ),
    "master killed": (
        lambda lab: kill(lab, "h1", "deploy.master.Master"), "h1: the Spark master there is lost"
    ),
    "host cut": (lambda lab: lab.testbed.cut("h3"), "h3: the Spark worker there is lost"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_spark_loses_changes_nothing_but_time(lab: Lab, fault: str) -> None:
    strike, sentence = FAULTS[fault]
    try:
        run, struck = struck_run(lab, lambda _run: strike(lab))
        state = ended(run)
    finally:
        lab.testbed.heal("h3")
    assert state.attempt == 1
    assert_same(lab.reference, made_by(state, "etl"))
    events, _ = api.events_since(run, 0)
    warnings = [event for event in events if isinstance(event, ev.Noted)
                and event.level == "warning"]  # fmt: skip
    told = [event.t - struck for event in warnings if event.text.startswith(sentence)]
    assert len(told) == 1, warnings
    assert 0 <= told[0] <= NOTICE_S
    for host in HOSTS:
        lab.bare(host)


def test_a_killed_run_process_takes_spark_with_it_and_resume_prepares_the_same(lab: Lab) -> None:
    def kill_run_process(run: str) -> None:
        pid = lock_holder(open_run_folder(run).lock)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    run, _ = struck_run(lab, kill_run_process)
    for host in HOSTS:
        lab.idle(host)
    assert api.state(run).status is RunStatus.LOST
    api.resume(run)
    state = ended(run)
    assert state.steps["etl"].starts == 2
    assert_same(lab.reference, made_by(state, "etl"))
    for host in HOSTS:
        lab.bare(host)


def test_wait_prepares_the_same_when_the_crashed_head_is_back(lab: Lab) -> None:
    """It had the driver and the master: nothing of Spark could survive that."""
    try:
        run, _ = struck_run(lab, lambda _run: lab.testbed.crash("h1"), "faults.policy=wait")
        wait_for(run, lambda event: isinstance(event, ev.HostsAwaited), 60)
    finally:
        lab.testbed.boot("h1")
    state = ended(run)
    assert (state.attempt, state.steps["etl"].starts) == (2, 1)
    (lost,) = state.losses
    assert (lost.step, lost.hosts, lost.policy) == ("etl", ["h1"], "wait")
    assert_same(lab.reference, made_by(state, "etl"))
    for host in HOSTS:
        lab.bare(host)


class Told(Watcher):
    """Shows the log of the daemons where a test fails."""

    def daemon_output(self, role: str, host: str, text: str) -> None:
        print(f"{host} {role}: {text}")


@contextmanager
def spark_of(sites: list[Site], name: str = "secret") -> Iterator[SparkCluster]:
    """Spark over hosts that are ready."""
    plan = SparkPlan(
        environment=sites[0].environment(lock_of("spark")),
        agent=str(sites[0].code(deploy().name) / "agent.py"),
        job=lambda role: f"{name}.etl-{role}.1", executor_mib=512, grace_s=5.0,
    )  # fmt: skip
    try:
        hosts = [SparkHost(site=site, java=java_of(site), cores=1) for site in sites]
        with SparkCluster(hosts, plan, Told()) as cluster:
            yield cluster
    finally:
        clusters.leave(sites)


def java_of(site: Site) -> str:
    """Installed, or made from a JDK here, as a run does it."""
    if site.name == "h1":
        return java.java_home(site)
    jdk = java.find_jdk()
    assert jdk is not None
    return java.send_runtime(site, java.make_runtime(jdk, clusters.home()))


def test_a_wrong_secret_ends_soon_with_a_sentence(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process: one host gets another secret than the rest."""
    write = spark.write_properties

    def mistake(site: Any, path: Any, settings: Any) -> None:
        if site.name == "h3":
            settings = {**settings, "spark.authenticate.secret": "0" * 64}
        write(site, path, settings)

    host_jobs.refuse(host_jobs.up("lab", [lock_of("spark")], lambda *progress: None))
    monkeypatch.setattr(spark, "write_properties", mistake)
    began = time.monotonic()
    with pytest.raises(HostProblem) as caught, spark_of(clusters.connect("lab")):
        pass
    assert time.monotonic() - began <= SECRET_S
    assert str(caught.value) == "h3: the Spark worker did not register with the master"
    assert "its log says: " in caught.value.why
    assert "another secret" in caught.value.todo
    for host in HOSTS:
        lab.bare(host)


def test_two_that_start_together_get_ports_of_their_own(lab: Lab) -> None:
    """In this process: both are up at once, each with its own master and workers."""
    host_jobs.refuse(host_jobs.up("lab", [lock_of("spark")], lambda *progress: None))
    sites = clusters.connect("lab")
    for site in sites:
        java_of(site)  # once for both
    clusters.leave(sites)
    both = threading.Barrier(2, timeout=RUN_S)

    def up(name: str) -> str:
        with spark_of(clusters.connect("lab"), name) as cluster:
            both.wait()
            assert cluster.lost_all() is None
            return cluster.address

    with ThreadPoolExecutor(2) as pool:
        addresses = list(pool.map(up, ("first", "second")))
    ports = sorted(int(address.rpartition(":")[2]) for address in addresses)
    assert ports == [spark.MASTER_PORTS[0], spark.MASTER_PORTS[0] + 1]
    for host in HOSTS:
        lab.bare(host)


def test_without_a_shared_folder_the_head_prepares_the_data(lab: Lab, tmp_path: Path) -> None:
    """The plan says so, though Spark was asked for; bad rows are told with the user's own path."""
    lab.declare(shared=None)
    try:
        plan = api.plan("tiny", [f"dataset.path={lab.data}", NOT_MADE, *ON_SPARK])
        (engine,) = [value for value in plan.values if value.key == "etl.engine"]
        assert (engine.value, engine.origin) == ("sail", "advisor")
        assert engine.reason == (
            "lab has no folder that all hosts see (`shared` in the inventory), which Spark needs: "
            "the embedded engine on h1"
        )
        assert plan.step("etl").title == "prepare data on Sail (embedded) on h1"
        state = ended(lab.start(*ON_SPARK))
        assert state.result("etl")["engine"] == "sail"
        assert_same(lab.reference, made_by(state, "etl"))
        bad = tmp_path / "bad.tsv"
        bad.write_bytes((lab.data / "day-0.tsv").read_bytes() + b"1\t2\n")
        run = api.start("tiny", [f"dataset.path={bad}", NOT_MADE, *ON_SPARK])
        state = api.wait_for_end(run, RUN_S)
        assert state.exit_code == ExitCode.BAD_INPUT
        assert state.problem is not None
        assert state.problem.what.startswith(f"{bad}, line {ROWS // FILES + 1}: found 2 columns")
    finally:
        lab.declare(shared="/shared")
    for host in HOSTS:
        lab.bare(host)
