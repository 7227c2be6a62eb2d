"""Data prepared at an address of the user's: a real Spark with a secret, a real Connect server.

Both stand on loopback, started as a user starts them: nothing of ours but the shared files.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from engine import api, clusters
from engine.environments import environment_folder, install_here
from engine.errors import ExitCode
from engine.plan import Plan
from engine.state import RunState, RunStatus
from hosts.spark import network_settings, spark_home
from tests.e2e.conftest import Home, assert_same, new_home

pytestmark = [pytest.mark.slow, pytest.mark.spark]

STEPS = ("provision", "data", "etl")
HERE = "127.0.0.1"
RUN_S = 280.0
QUIET = "-XX:-UsePerfData -Djava.net.preferIPv4Stack=true"


@pytest.fixture(scope="module")
def home(
    environments: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Home, Path]]:
    """A home, and what the embedded engine makes of the tiny recipe's data."""
    made = new_home(tmp_path_factory.mktemp("address") / "home")
    planned = api._plan

    def only_etl(*words: Any) -> Plan:
        plan = planned(*words)
        return replace(plan, steps=tuple(step for step in plan.steps if step.id in STEPS))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIOK_HOME", str(made.path))
        patch.setattr(api, "_plan", only_etl)
        install_here("spark", lambda phase, done, total: None, [], False)
        state = prepared()
        yield made, made_by(state).rename(made.path / "reference")


def made_by(state: RunState) -> Path:
    return clusters.home() / "cache" / state.steps["etl"].identity


def prepared(*overrides: str) -> RunState:
    state = api.wait_for_end(api.start("tiny", list(overrides)), RUN_S)
    assert state.status is RunStatus.DONE, f"{state.problem}\n{state}"
    return state


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind((HERE, 0))
        return int(trial.getsockname()[1])


@contextmanager
def server(argv: list[str], env: dict[str, str], folder: Path, ready: str) -> Iterator[None]:
    """A program for the length of a with block, once its log says that it is ready."""
    log = folder / f"{Path(argv[-1]).name}.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            argv, env={**os.environ, **env}, cwd=folder, stdout=output, stderr=output
        )
    try:
        end = time.monotonic() + 120
        while ready not in log.read_text(errors="replace"):
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def standalone(folder: Path) -> Iterator[str]:
    """Spark's own master and a worker of one core, with a secret; its address."""
    where = spark_home(PurePosixPath(environment_folder("spark")))
    conf = folder / "conf"
    conf.mkdir()
    settings = {**network_settings("0123456789abcdef"), "spark.master.rest.enabled": "false"}
    (conf / "spark-defaults.conf").write_text("".join(f"{k} {v}\n" for k, v in settings.items()))
    env = {
        "SPARK_CONF_DIR": str(conf), "SPARK_HOME": where, "SPARK_LOCAL_IP": HERE,
        "SPARK_DAEMON_MEMORY": "256m", "SPARK_DAEMON_JAVA_OPTS": QUIET,
        "SPARK_LAUNCHER_OPTS": QUIET,
    }  # fmt: skip
    port = free_port()
    address = f"spark://{HERE}:{port}"
    start = ["/bin/bash", f"{where}/bin/spark-class"]
    words = ["--host", HERE, "--webui-port", "0"]
    master = [*start, "org.apache.spark.deploy.master.Master", *words, "--port", str(port)]
    worker = [*start, "org.apache.spark.deploy.worker.Worker", *words, "--cores", "1",
              "--memory", "1g", "--work-dir", str(folder / "work"), address]  # fmt: skip
    with (
        server(master, env, folder, "New state: ALIVE"),
        server(worker, env, folder, "Successfully registered with master"),
    ):
        yield address


@pytest.mark.timeout(900)
def test_a_spark_of_the_users_makes_the_same_files(
    home: tuple[Home, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its secret comes from SPARK_CONF_DIR; executors find the driver by its address, not by what
    the host's name means."""
    with standalone(tmp_path) as address:
        monkeypatch.setenv("SPARK_CONF_DIR", str(tmp_path / "conf"))
        plan = api.plan("tiny", [f"etl.address={address}"])
        (said,) = [value.reason for value in plan.values if value.key == "etl.address"]
        assert "must see AIOK_HOME" in said
        assert "SPARK_CONF_DIR" in said
        state = prepared(f"etl.address={address}")
    assert state.result("etl")["engine"] == "spark"
    assert_same(home[1], made_by(state))
    (told,) = (tmp_path / "work").glob("app-*/0/stderr")
    driver = re.search(r"spark://CoarseGrainedScheduler@([^:]+):", told.read_text())
    assert driver is not None
    assert driver[1] == HERE


@contextmanager
def connect_server(folder: Path) -> Iterator[str]:
    """Sail as a server, without our code on its path."""
    port = free_port()
    sail = environment_folder("etl") / "bin" / "sail"
    argv = [str(sail), "spark", "server", "--ip", HERE, "--port", str(port)]
    with server(argv, {"PYTHONPATH": ""}, folder, "Starting the Spark Connect server"):
        yield f"sc://{HERE}:{port}"


@pytest.mark.timeout(300)
def test_a_connect_server_makes_the_same_files(home: tuple[Home, Path], tmp_path: Path) -> None:
    with connect_server(tmp_path) as address:
        state = prepared(f"etl.address={address}")
    assert state.result("etl")["engine"] == "spark"
    assert_same(home[1], made_by(state))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")
@pytest.mark.timeout(300)
def test_a_server_that_does_not_see_our_files_is_told(
    home: tuple[Home, Path], tmp_path: Path
) -> None:
    """Its own mounts hide this machine's home, as on another machine."""
    hidden = tmp_path / "elsewhere"
    hidden.mkdir()
    port = free_port()
    sail = environment_folder("etl").resolve() / "bin" / "sail"
    hide = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    argv = ["unshare", "--mount", "/bin/sh", "-c", hide, "sh", str(hidden),
            str(home[0].path / "runs"), str(sail), "spark", "server",
            "--port", str(port)]  # fmt: skip
    with server(argv, {"PYTHONPATH": ""}, tmp_path, "Starting the Spark Connect server"):
        run = api.start("tiny", [f"etl.address=sc://{HERE}:{port}", "dataset.generate.seed=2"])
        state = api.wait_for_end(run, RUN_S)
    assert state.exit_code == ExitCode.BAD_INPUT
    assert state.problem is not None
    assert "there does not see" in state.problem.what
    assert "same path" in state.problem.todo
