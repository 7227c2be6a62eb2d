"""Opens Spark: the embedded engine (Sail, no Java) or Apache Spark at an address.

Both are spoken to by the same PySpark DataFrame API; what differs stays in this file.
"""

from __future__ import annotations

import gc
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.recdp.reach import carried
from models.recdp.tasks import TaskFunction
from models.worker import InputProblem, WorkFailed

ENGINES = ("sail", "spark")
JAVA_VERSIONS = (17, 21)
JAVA_S = 60.0  # until Java is up, on a busy host
REGISTER_S = 45.0  # then for the master to answer
RETRIES = 6  # of a call to a Connect server that does not answer any more: about a minute
UNANSWERED = "masters are unresponsive"  # what Spark says after it has asked three times


@dataclass
class Session:
    """An open engine. `spread` says how many tasks to cut n pieces of work into; `carry` makes a
    task ready to travel there; `address` is that of an engine which other machines may be part of.
    """

    spark: Any
    engine: str
    cores: int
    spread: Callable[[int], int]
    address: str = ""
    carry: Callable[[TaskFunction], TaskFunction] = lambda task: task


@contextmanager
def open_session(
    engine: str, address: str | None, cores: int, memory_gib: float, work: Path,
    settings: Mapping[str, str] | None = None, register_s: float | None = None,
) -> Iterator[Session]:  # fmt: skip
    """An engine for the length of a with block; InputProblem says what it lacks.

    `settings` are Spark's own and come before those made here; no secret may be among them, since
    they stand in the command line of Spark's driver. `register_s`: how long a master that is known
    to be up may take to answer; without it REGISTER_S.
    """
    if engine not in ENGINES:
        raise InputProblem(f"engine is {engine!r}, expected sail or spark")
    if engine == "sail":
        with _sail(cores) as spark:
            # every task is a thread of this process: more of them than cores only costs memory
            yield Session(spark, engine, cores, lambda pieces: max(1, min(pieces, cores)))
    else:
        place = address or f"local[{cores}]"
        limit_s = register_s or REGISTER_S
        remote = "" if place.startswith("local") else place
        if place.startswith("sc://"):
            with _connect(place, limit_s) as spark:
                yield Session(spark, engine, cores, lambda n: max(1, n), remote, carried)
            return
        with _spark(place, cores, memory_gib, work, settings or {}, limit_s) as spark:
            yield Session(spark, engine, cores, lambda n: max(1, n), remote)


@contextmanager
def _sail(cores: int) -> Iterator[Any]:
    os.environ["SAIL_EXECUTION__DEFAULT_PARALLELISM"] = str(cores)
    os.environ.setdefault("RUST_LOG", "error")
    gc.disable()  # nothing of what imports make is garbage; looking for it, now or at the end,
    from pysail.spark import SparkConnectServer
    from pyspark.sql import SparkSession

    gc.freeze()  # would take 0.3 CPU-seconds
    gc.enable()
    server = SparkConnectServer(ip="127.0.0.1", port=0)
    server.start(background=True)
    try:
        _, port = server.listening_address
        spark = SparkSession.builder.remote(f"sc://127.0.0.1:{port}").create()
        try:
            yield spark
        finally:
            # not spark.stop(): it asks the server to end the session, and retries for minutes
            # when there is none (any more); the server goes away with all its sessions here
            spark.client.close()
    finally:
        server.stop()


@contextmanager
def _connect(address: str, answer_s: float) -> Iterator[Any]:
    """A session at a Spark Connect server, once it answers: the client itself asks for minutes."""
    if not re.fullmatch(r"sc://[^/:]+(:[0-9]+)?(/.*)?", address):
        raise InputProblem(f"Spark address {address!r}: expected sc://host:port")
    try:
        import grpc
        from pyspark.sql import SparkSession
        from pyspark.sql.connect.client import DefaultChannelBuilder
        from pyspark.sql.connect.client.retries import DefaultPolicy
    except ImportError:
        raise InputProblem("the Spark Connect client is not in this environment",
                           todo="run this step in the environment etl") from None  # fmt: skip
    channel = DefaultChannelBuilder(address).toChannel()
    try:
        grpc.channel_ready_future(channel).result(timeout=answer_s)
    except grpc.FutureTimeoutError:
        raise WorkFailed(
            f"the Spark Connect server at {address} did not take this job",
            f"it did not answer within {answer_s:.0f} s",
            "check the address, and that the server is up",
        ) from None
    finally:
        channel.close()
    spark = SparkSession.builder.remote(address).create()
    spark.client.set_retry_policies([DefaultPolicy(max_retries=RETRIES)])
    try:
        yield spark
    finally:
        spark.client.set_retry_policies([])  # one that is gone is not waited for
        spark.stop()


@contextmanager
def _spark(
    address: str, cores: int, memory_gib: float, work: Path, settings: Mapping[str, str],
    register_s: float,
) -> Iterator[Any]:  # fmt: skip
    one = r"[^,/:]+:[0-9]{1,5}"
    if not re.fullmatch(rf"local(\[[0-9*]+(,[0-9]+)?\])?|spark://{one}(,{one})*", address):
        raise InputProblem(f"Spark address {address!r}: expected local[N], spark://host:port"
                           " or sc://host:port")  # fmt: skip
    find_java()
    try:
        from pyspark.sql import SparkSession
    except ImportError:
        raise InputProblem("Apache Spark is not in this environment",
                           todo="run this step in the environment spark") from None  # fmt: skip
    _require_classic()
    (work / "spark").mkdir(parents=True, exist_ok=True)
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    builder = SparkSession.builder.master(address).appName("aiok")
    if address.startswith("spark://"):
        # Where the executors find this driver; spark.driver.host in the user's own
        # spark-defaults.conf comes first. Else Spark would say what the host's name means to the
        # host itself, which may be 127.0.1.1.
        os.environ.setdefault("SPARK_LOCAL_HOSTNAME", own_address(address))
    chosen = {**_spark_settings(address, cores, memory_gib, work), **settings}
    for key, value in chosen.items():
        builder = builder.config(key, value)
    if address.startswith("local"):
        spark = builder.getOrCreate()
    else:
        spark = _register(builder, address, register_s)
    spark.sparkContext.setLogLevel("ERROR")
    try:
        yield spark
    finally:
        spark.stop()


def _register(builder: Any, address: str, register_s: float) -> Any:
    """The session when the master has taken us in. It says nothing to who does not know its secret,
    and Spark asks it three times, 20 s each: too long to leave a person waiting."""
    opened: dict[str, Any] = {}

    def call() -> None:
        try:
            opened["session"] = builder.getOrCreate()
        except BaseException as error:  # noqa: BLE001 - raised again below, in the caller's thread
            opened["error"] = error

    thread = threading.Thread(target=call, name="register", daemon=True)
    thread.start()
    end = time.monotonic() + JAVA_S
    while thread.is_alive() and not _java_is_up() and time.monotonic() < end:
        thread.join(0.2)
    thread.join(register_s)
    if "session" in opened:
        return opened["session"]
    failed = f"the Spark master at {address} did not take this job"
    error = str(opened.get("error") or "").strip()
    if error and UNANSWERED not in error:  # it or this side said why, which is not the secret
        raise WorkFailed(failed, error.splitlines()[0], "the step's log has all that Spark said")
    raise WorkFailed(
        failed, f"it did not answer within {register_s:.0f} s",
        "check the address, that the master is up, and that its secret (spark.authenticate.secret)"
        " stands in spark-defaults.conf of the folder that SPARK_CONF_DIR names",
    )  # fmt: skip


def own_address(master: str) -> str:
    """The address of this machine on its way to a master, spark://host:port[,host:port..]."""
    why = ""
    for place in master.removeprefix("spark://").split(","):
        host, _, port = place.rpartition(":")
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect((host, int(port)))  # UDP: nothing is sent
                return str(probe.getsockname()[0])
        except (OSError, OverflowError) as error:
            why = str(error)
    raise InputProblem(f"there is no way to {master}", why, "check the address")


def _java_is_up() -> bool:
    """Whether this process's Java listens to it; PySpark tells it nowhere else."""
    from pyspark import SparkContext

    return SparkContext._gateway is not None


def _require_classic() -> None:
    try:
        import py4j  # noqa: F401
    except ImportError:
        raise InputProblem(
            "this environment has the Spark Connect client only", "a local[N] or spark:// address"
            " needs the whole of Apache Spark", "run this step in the environment spark, or name"
            " an sc:// address",
        ) from None  # fmt: skip


def _spark_settings(address: str, cores: int, memory_gib: float, work: Path) -> dict[str, str]:
    local = address.startswith("local")
    heap_mib = max(1024, int(memory_gib * 1024 * (0.5 if local else 0.25)))  # rest: Python workers
    settings = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.memory": f"{heap_mib}m",
        "spark.driver.maxResultSize": "0",
        "spark.local.dir": str(work / "spark"),
        "spark.sql.warehouse.dir": str(work / "spark" / "warehouse"),
        "spark.sql.shuffle.partitions": str(max(2, cores)),
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.execution.arrow.maxRecordsPerBatch": "65536",
        "spark.sql.session.timeZone": "UTC",
        "spark.executorEnv.PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "spark.log.level": "ERROR",
    }
    if local:
        settings |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    return settings


def find_java() -> str:
    """The java program Spark will use (JAVA_HOME, else PATH); InputProblem says what to install."""
    todo = "install OpenJDK 17 or 21 (Debian: openjdk-17-jre-headless), or set JAVA_HOME to one"
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(home) / "bin")) if home else shutil.which("java")
    if java is None:
        where = f"JAVA_HOME={home} has no bin/java" if home else "there is no java on PATH"
        raise InputProblem("Apache Spark needs Java 17 or 21", where, todo)
    # Without that option a JVM leaves /tmp/hsperfdata_USER behind.
    argv = [java, "-XX:-UsePerfData", "-version"]
    shown = subprocess.run(argv, capture_output=True, text=True, check=False)
    match = re.search(r'version "(\d+)', shown.stderr + shown.stdout)
    version = int(match.group(1)) if match else 0
    if version not in JAVA_VERSIONS:
        raise InputProblem(f"Apache Spark needs Java 17 or 21, {java} is version {version or '?'}",
                           todo=todo)  # fmt: skip
    return java
