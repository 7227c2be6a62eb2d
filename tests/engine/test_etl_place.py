"""Where the ETL of a run over hosts happens, and what the plan says about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from engine import environments
from engine.advisor.costs import DISK_GIB, ENVIRONMENT_MINUTES, JAVA_GIB, SPARK_HOST_GIB
from engine.advisor.job import Job
from engine.advisor.layout import ClusterHost
from engine.advisor.planner import make_plan
from engine.facts import FileFacts
from engine.plan import Plan
from engine.recipe import Recipe, flatten
from engine.steps.etl_over_hosts import heap_mib
from hosts import java
from hosts.bringup import placed
from hosts.installer import MARKER
from hosts.inventory import LOCAL
from hosts.local import LocalTransport
from hosts.probe import HostFacts

JAVA = 'openjdk version "17.0.15" 2025-04-15'


def facts(name: str, cores: int = 4, java: str = JAVA) -> HostFacts:
    return HostFacts(
        hostname=name, cpu_model="x", cores=list(range(cores)), physical_cores=cores, sockets=1,
        numa=[list(range(cores))], isa=["avx2"], memory_gib=32.0, memory_free_gib=24.0,
        disk_free_gib=500.0, disk_total_gib=900.0, python="3.11.2", python_path="/usr/bin/python3",
        kernel="6.1", java=java, clock=0.0, load1=0.0,
    )  # fmt: skip


def planned(
    etl: dict[str, Any], rows: int = 100_000, shared: str | None = "/nfs", cores: int = 4,
    hosts: tuple[HostFacts, ...] = (), has_jdk: bool = False,
    room_gib: Mapping[str, float] | None = None,
) -> Plan:  # fmt: skip
    recipe = Recipe.model_validate(
        {"dataset": {"generate": {"rows": rows}}, "cluster": "lab", "etl": etl}
    )
    found = hosts or tuple(facts(name, cores) for name in ("h1", "h2", "h3"))
    cluster = [
        ClusterHost(name=host.hostname, slots=None, facts=host, room_gib=room_gib or {})
        for host in found
    ]
    return make_plan(Job(
        name="r", recipe=recipe, origins=dict.fromkeys(flatten(recipe.model_dump()), "recipe"),
        facts=facts(LOCAL), files=list[FileFacts](), missing_gib={}, cluster=cluster,
        shared=shared, has_jdk=has_jdk,
    ))  # fmt: skip


def engine_of(plan: Plan) -> tuple[str, str, str]:
    """(engine, host of the step, reason)."""
    (value,) = [value for value in plan.values if value.key == "etl.engine"]
    return value.value, plan.step("etl").host, value.reason


def test_spark_that_is_asked_for_runs_on_the_hosts() -> None:
    plan = planned({"engine": "spark"})
    assert engine_of(plan)[:2] == ("spark", "lab")
    assert plan.value("etl.address") is None
    assert plan.step("etl").title == "prepare data on Apache Spark on h1, h2, h3"
    assert plan.step("etl").environment == "spark"
    assert plan.problems == ()


def test_small_data_stay_here_and_the_plan_says_from_when_on_not() -> None:
    small = planned({}, cores=64)
    engine, host, reason = engine_of(small)
    assert (engine, host) == ("sail", LOCAL)
    least = int(reason.split("from ")[1].split(" rows")[0].replace(",", ""))
    assert engine_of(planned({}, rows=least - 1, cores=64))[:2] == ("sail", LOCAL)
    large = planned({}, rows=least, cores=64)
    assert engine_of(large)[:2] == ("spark", "lab")
    assert f"Spark pays from {least:,} on" in engine_of(large)[2]
    here = planned({"engine": "sail"}, rows=least, cores=64).step("etl").estimate.minutes
    assert large.step("etl").estimate.minutes <= here + 0.01


def test_hosts_with_too_few_cores_never_pay() -> None:
    engine, host, reason = engine_of(planned({}, rows=10**9, cores=1))
    assert (engine, host) == ("sail", LOCAL)
    assert "does not pay: it needs more cores" in reason


@pytest.mark.parametrize("etl", [{"engine": "spark"}, {}])
def test_without_a_shared_folder_the_head_does_it(etl: dict[str, Any]) -> None:
    plan = planned(etl, rows=10**9, shared=None, cores=64)
    engine, host, reason = engine_of(plan)
    assert (engine, host) == ("sail", "lab")
    assert reason.startswith("lab has no folder that all hosts see (`shared` in the inventory)")
    assert plan.step("etl").title == "prepare data on Sail (embedded) on h1"


@pytest.mark.parametrize(
    ("address", "environment", "secret"),
    [("spark://m:7077", "spark", True), ("sc://m:15002", "etl", False)],
)  # fmt: skip
def test_an_address_is_spoken_to_from_here_and_the_plan_says_what_it_must_see(
    address: str, environment: str, secret: bool
) -> None:
    """Spark Connect needs its client only, which lies beside Sail."""
    plan = planned({"address": address})
    engine, host, reason = engine_of(plan)
    assert (engine, host) == ("spark", LOCAL)
    assert reason == f"an address is given: {address}"
    assert plan.step("etl").environment == environment
    (said,) = [value.reason for value in plan.values if value.key == "etl.address"]
    assert "must see AIOK_HOME and the data at the same paths" in said
    assert ("SPARK_CONF_DIR" in said) is secret


def test_a_host_without_java_is_a_problem_only_where_none_can_be_made() -> None:
    hosts = (facts("h1"), facts("h2", java=""), facts("h3", java='openjdk version "25.0.1"'))
    (problem,) = planned({"engine": "spark"}, hosts=hosts).problems
    assert problem.startswith("h2, h3: there is no Java 17 or 21, which Apache Spark needs")
    assert "openjdk-17-jre-headless" in problem
    assert planned({"engine": "spark"}, hosts=hosts, has_jdk=True).problems == ()
    assert planned({"engine": "sail"}, hosts=hosts).problems == ()


@pytest.mark.parametrize(
    ("etl", "free_gib", "said"),
    [
        ({"engine": "spark"}, 2.4, "h2: 2.40 GiB free, the environments spark and torch need about "
         "2.50 GiB; free some, or choose another work_folder in the inventory"),
        ({"engine": "spark"}, 2.6, None),
        ({"engine": "sail"}, 1.4, None),  # torch alone: the preflight has said it
    ],
)  # fmt: skip
def test_a_host_needs_space_for_spark_too_where_it_is_to_run(
    etl: dict[str, Any], free_gib: float, said: str | None
) -> None:
    room = {"spark": 1.0, "torch": 1.5, "tensorflow": 4.0}
    small = replace(facts("h2"), disk_free_gib=free_gib)
    plan = planned(etl, hosts=(facts("h1"), small), room_gib=room)
    assert plan.problems == ((said,) if said else ())


def test_bare_hosts_take_time_disk_and_network() -> None:
    """They are made ready side by side: as long as one of them, as much disk as all."""
    room = {"spark": 1.0, "torch": 1.5}
    whole = planned({"engine": "spark"}).step("provision").estimate
    bare = planned({"engine": "spark"}, room_gib=room)
    one = planned({"engine": "spark"}, room_gib={"torch": 1.5}).step("provision").estimate
    assert (whole.minutes, whole.disk_gib) == (0.0, 0.0)
    assert one.minutes == ENVIRONMENT_MINUTES["torch"]
    assert one.disk_gib == 4.5
    took = bare.step("provision").estimate
    assert took.minutes == ENVIRONMENT_MINUTES["torch"] + ENVIRONMENT_MINUTES["spark"]
    assert took.disk_gib == 7.5
    assert bare.problems == ()  # their disks, not that of this machine


def test_data_prepared_on_hosts_travel_there_and_back() -> None:
    """... with a Java for each host that has none; what is prepared here stays here."""
    rows = 10**7
    here = planned({"engine": "sail"}, rows=rows).step("etl").estimate
    head = planned({"engine": "spark"}, rows=rows, shared=None).step("etl").estimate
    spark = planned({"engine": "spark"}, rows=rows).step("etl").estimate
    hosts = (facts("h1"), facts("h2", java=""), facts("h3", java=""))
    sent = planned({"engine": "spark"}, rows=rows, hosts=hosts, has_jdk=True).step("etl").estimate
    assert here.network_gib == 0.0
    assert head.network_gib == pytest.approx(10 * (DISK_GIB["data"] + DISK_GIB["etl"]))
    assert spark.network_gib == head.network_gib
    assert sent.network_gib - spark.network_gib == pytest.approx(2 * JAVA_GIB, abs=1e-3)
    assert spark.memory_gib - head.memory_gib == pytest.approx(3 * SPARK_HOST_GIB)


def test_a_host_lacks_only_the_environments_that_are_not_whole_there(aiok_home: Path) -> None:
    there = aiok_home / "there"
    whole = there / "envs" / environments.environment_folder("torch").name
    whole.mkdir(parents=True)
    (whole / MARKER).touch()
    with LocalTransport() as here:
        found = placed(here, PurePosixPath(there)).whole
    lacks = environments.missing_there(found)
    assert set(environments.names()) - set(lacks) == {"torch"}
    assert lacks["spark"].wheels_gib > 0.3


@pytest.mark.parametrize(("free_gib", "heap"), [(0.5, 512), (24.0, 6144), (1000.0, 8192)])
def test_the_heap_of_an_executor_is_that_of_the_smallest_host(free_gib: float, heap: int) -> None:
    large = replace(facts("h1"), memory_free_gib=2000.0)
    assert heap_mib([large, replace(large, memory_free_gib=free_gib)]) == heap


def test_only_a_jdk_that_spark_runs_on_makes_runtimes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(java, "INSTALLED", tmp_path / "none")
    assert java.find_jdk() is None
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "jlink").touch()
    (tmp_path / "jmods").mkdir()
    for version, found in (("25.0.1", None), ("21.0.4", tmp_path), ("17.0.15", tmp_path)):
        (tmp_path / "release").write_text(f'JAVA_VERSION="{version}"\n')
        assert java.find_jdk() == found
