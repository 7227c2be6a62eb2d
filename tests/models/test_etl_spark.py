"""The same ETL on Apache Spark with real Java, and what is said when there is no Java.

tests/data/criteo_sample_*.json are the manifests, with the sha256 of every block file, that both
engines must make of tests/data/criteo_sample.tsv: test_etl.py holds the embedded engine to them.
"""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyspark
import pytest

from models.recdp import session, sources
from models.recdp.blocks import Manifest
from models.worker import STOPPED, InputProblem, WorkFailed
from tests.models.recdp_reference import SAMPLE, assert_equal_to_reference, expected_manifest

pytestmark = [
    pytest.mark.environment("spark"),
    pytest.mark.spark,
    # pyspark leaves its sockets to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.mark.parametrize("by", ["time", "random"])
def test_files_are_those_of_the_embedded_engine(prepare, monkeypatch, by):
    monkeypatch.setattr(sources, "CHUNK_BYTES", 20_000)
    result, folder = prepare([SAMPLE], engine="spark", address="local[2]", memory_gib=2,
                             split={"by": by, "valid": 0.1, "test": 0.2})  # fmt: skip
    assert result["engine"] == "spark"
    assert json.loads((folder / "manifest.json").read_text()) == expected_manifest(by)


@pytest.mark.parametrize("plan", ["broadcast join", "shuffle join"])
def test_joins_find_the_same_ids(prepare, monkeypatch, plan):
    monkeypatch.setattr(sources, "CHUNK_BYTES", 20_000)
    result, folder = prepare([SAMPLE], engine="spark", address="local[2]", forced=plan)
    assert {entry["plan"] for entry in result["plan"]} == {plan}
    assert json.loads((folder / "manifest.json").read_text()) == expected_manifest("time")


def test_real_log_equals_reference(prepare, criteo_10k):
    _, folder = prepare([criteo_10k], engine="spark", address="local[2]")
    assert_equal_to_reference(folder, gzip.decompress(criteo_10k.read_bytes()))


def test_table_with_a_time_column(prepare, tmp_path):
    path = tmp_path / "t.csv"
    lines = [f"{n % 2},{n},{'abc'[n % 3]},{1000 - n}" for n in range(200)]
    path.write_text("y,a,c,t\n" + "\n".join(lines) + "\n")
    columns = {"label": "y", "numeric": ["a"], "categorical": ["c"], "time": "t"}
    result, folder = prepare([path], format="table", columns=columns, engine="spark",
                             address="local[2]")  # fmt: skip
    assert result["rows"] == {"train": 140, "valid": 20, "test": 40}
    numeric, _, _ = Manifest.load(folder).split("test").read(0, 40)
    np.testing.assert_array_equal(numeric[:, 0], np.log1p(np.arange(40.0)).astype(np.float32))


def test_bad_data_reaches_the_driver(prepare, tmp_path):
    (tmp_path / "a.tsv").write_bytes(SAMPLE.read_bytes() + b"1\t2\n")
    with pytest.raises(InputProblem, match=r"a\.tsv, line 601: found 2 columns"):
        prepare([tmp_path / "a.tsv"], engine="spark", address="local[2]")


def test_without_java_the_error_says_what_to_install(prepare, tmp_path, monkeypatch):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputProblem, match="needs Java 17 or 21") as caught:
        prepare([SAMPLE], engine="spark", address="local[2]")
    assert "install OpenJDK 17 or 21" in caught.value.todo


def test_java_of_another_version_is_refused(tmp_path, monkeypatch):
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"25.0.1\"' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(InputProblem, match=r"is version 25"):
        session.find_java()


def test_address_is_checked(prepare):
    with pytest.raises(InputProblem, match="expected local"):
        prepare([Path(SAMPLE)], engine="spark", address="yarn")


@pytest.mark.parametrize(
    "address", ["spark://", "spark://m", "spark://a,b:7077", "sc://", "sc://m:x"]
)
def test_an_address_without_a_host_or_port_is_refused(prepare, address):
    with pytest.raises(InputProblem, match=r"expected .*sc://host:port"):
        prepare([Path(SAMPLE)], engine="spark", address=address)


def test_executors_find_this_machine_by_its_address_on_the_way_to_the_master():
    """Masters that cannot be reached are passed over."""
    assert session.own_address("spark://no.such.host.invalid:7077,127.0.0.1:7077") == "127.0.0.1"
    with pytest.raises(InputProblem, match=r"there is no way to spark://127\.0\.0\.1:99999"):
        session.own_address("spark://127.0.0.1:99999")


SILENT_MASTER = """
import sys
from models.dlrm import etl
from models.recdp import session
from models.worker import run
session.REGISTER_S = 3.0
sys.exit(run(etl.prepare, ["etl", sys.argv[1]]))
"""


@pytest.mark.parametrize(
    ("error", "why", "secret"),
    [
        ("Authentication failed for user bob\nmore", "Authentication failed for user bob", False),
        ("Reason: All masters are unresponsive! Giving up.", "it did not answer within", True),
    ],
)  # fmt: skip
def test_only_a_master_that_does_not_answer_lets_one_think_of_the_secret(error, why, secret):
    class Builder:
        def getOrCreate(self):
            raise RuntimeError(error)

    with pytest.raises(WorkFailed, match="at spark://m:7077 did not take this job") as caught:
        session._register(Builder(), "spark://m:7077", 45.0)
    assert caught.value.why.startswith(why)
    assert ("secret" in caught.value.todo) is secret


def test_a_master_that_is_known_to_be_up_may_take_longer(monkeypatch):
    class Builder:
        def getOrCreate(self):
            time.sleep(1.0)
            return "session"

    monkeypatch.setattr(session, "_java_is_up", lambda: True)
    with pytest.raises(WorkFailed) as caught:
        session._register(Builder(), "spark://m:7077", 0.1)
    assert "secret" in caught.value.todo
    assert session._register(Builder(), "spark://m:7077", 60.0) == "session"


def test_a_master_that_does_not_answer_is_told_soon(tmp_path):
    """Such as one whose secret we do not know. In a process of its own: Spark waits for ever."""
    with socket.create_server(("127.0.0.1", 0)) as master:
        address = f"spark://127.0.0.1:{master.getsockname()[1]}"
        spec = {"dataset": {"format": "criteo", "paths": [str(SAMPLE)]}, "engine": "spark",
                "address": address, "work": str(tmp_path / "work"),
                "output": str(tmp_path)}  # fmt: skip
        (tmp_path / "spec.json").write_text(json.dumps(spec))
        messages = tmp_path / "messages"
        messages.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", SILENT_MASTER, str(tmp_path / "spec.json")],
            env={**os.environ, "AIOK_MESSAGES": str(messages)}, timeout=80, check=False,
            capture_output=True, text=True,
        )  # fmt: skip
    assert done.returncode == 1, done.stderr
    said = "".join(path.read_text() for path in messages.iterdir())
    assert f"the Spark master at {address} did not take this job" in said
    assert "it did not answer within 3 s" in said


NO_CORES = """
import sys
from models.dlrm import etl
from models.recdp import prepare
from models.worker import run
prepare.NO_CORES_S = 1.0
sys.exit(run(etl.prepare, ["etl", sys.argv[1]]))
"""


def test_a_master_without_workers_is_told_and_a_stop_is_obeyed(tmp_path):
    """Apache Spark itself waits for cores for ever, and says so in its log alone."""
    home = Path(pyspark.__file__).parent
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"spark://127.0.0.1:{port}"
    argv = ["bash", f"{home}/bin/spark-class", "org.apache.spark.deploy.master.Master",
            "--host", "127.0.0.1", "--port", str(port), "--webui-port", "0"]  # fmt: skip
    env = {**os.environ, "SPARK_HOME": str(home), "SPARK_LOCAL_IP": "127.0.0.1",
           "SPARK_DAEMON_MEMORY": "256m", "SPARK_DAEMON_JAVA_OPTS":
           "-XX:-UsePerfData -Dspark.master.rest.enabled=false"}  # fmt: skip
    spec = {"dataset": {"format": "criteo", "paths": [str(SAMPLE)]}, "engine": "spark",
            "address": address, "work": str(tmp_path / "work"), "output": str(tmp_path),
            "register_s": 120.0}  # fmt: skip
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    messages = tmp_path / "messages"
    messages.mkdir()
    with open(tmp_path / "log", "wb") as log:
        master = subprocess.Popen(argv, env=env, stdout=log, stderr=log)
        worker = subprocess.Popen(
            [sys.executable, "-c", NO_CORES, str(tmp_path / "spec.json")],
            env={**os.environ, "AIOK_MESSAGES": str(messages)}, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        end, said = time.monotonic() + 120, ""
        while "its cores may all be taken" not in said:
            assert worker.poll() is None and time.monotonic() < end, said
            said = "".join(path.read_text() for path in messages.glob("*.jsonl"))
            time.sleep(0.2)
        assert f"{address} has not done this run's first task within 1 s" in said
        worker.terminate()
        assert worker.wait(30) == STOPPED
    finally:
        for process in (worker, master):
            process.kill()
            process.wait()
