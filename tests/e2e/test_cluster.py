"""Training over real SSH hosts: the same model as here, and every fault ends well.

One cluster of three hosts, made ready once. `tiny` with one rank a host; the ETL is done once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from engine import api, clusters
from engine import events as ev
from engine.clusters import Inventory
from engine.processes import processes_of
from engine.state import RunStatus
from engine.steps.train_over_hosts import PORTS
from engine.store import lock_holder, open_run_folder
from hosts.testbed import Testbed
from tests.e2e.conftest import Home, new_home, wait_for
from tests.testbed import Testbeds, open_ports

# The time limit is for a test with the fixture: torch goes to three hosts first.
pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(900)]

Told = TypeVar("Told", bound=ev.Event)
HOSTS = ("h1", "h2", "h3")
GRACE_S = 5.0
NOTICE_S = 15.0
UP_LIMIT_S = 600.0
RUN = (
    "tiny",
    "--set",
    "cluster=lab",
    "--set",
    "train.ranks=3",
    "--set",
    f"faults.grace_s={GRACE_S}",
)


@dataclass(frozen=True)
class Lab:
    """The cluster, the user's home, and the test AUC that training reached here and on it."""

    testbed: Testbed
    home: Home
    auc: float
    auc_there: float

    def forget_training(self) -> None:
        """Let the next run train anew."""
        for path in (self.home.path / "cache").iterdir():
            if path.name.split("-")[0] in ("train", "evaluate", "optimize"):
                os.rename(path, path.with_name(f".{path.name}.{time.time_ns()}.building"))

    def ours(self, host: str) -> list[str]:
        """Processes of aiok on a host."""
        return [
            process.command
            for process in self.testbed.processes(host)
            if any(word in process.command for word in ("models.", "mpiexec", "hydra", "agent.py"))
        ]


@pytest.fixture(scope="module")
def lab(testbeds: Testbeds, environments: None, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Three bare hosts, added, made ready and trained on by the run itself."""
    testbed = testbeds(3, "training", shared=True)
    home = new_home(tmp_path_factory.mktemp("lab") / "home")
    here = home.aiok("run", "tiny", "--set", "train.ranks=1")
    assert here.returncode == 0, here.stderr
    for host in testbed.hosts():
        added = home.aiok(
            *("hosts", "add", f"{testbed.layout.user}@{host.address}", "--name", host.name),
            *("--cluster", "lab", "--key", str(testbed.key)),
            *("--fingerprint", fingerprint(testbed, host.name)),
        )
        assert added.returncode == 0, added.stderr
    checked = home.aiok("hosts", "check", "lab")
    assert checked.returncode == 0, checked.stdout
    there = home.aiok("run", *RUN, timeout_s=UP_LIMIT_S)
    assert there.returncode == 0, there.stderr
    return Lab(testbed, home, auc_of(home, "tiny-1"), auc_of(home, "tiny-2"))


def fingerprint(testbed: Testbed, host: str) -> str:
    """What the owner of a host reads on it."""
    key = "/etc/testbed/host_key.pub"
    return testbed.run_as_root(host, ["ssh-keygen", "-lf", key]).stdout.split()[1]


def auc_of(home: Home, run: str) -> float:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIOK_HOME", str(home.path))
        return float(api.state(run).result("evaluate")["auc"])


def test_bare_hosts_train_what_this_machine_does(lab: Lab) -> None:
    assert abs(lab.auc_there - lab.auc) <= 0.002
    for host in HOSTS:
        assert lab.ours(host) == []


def test_only_the_ports_that_readme_names_listen_while_ranks_train(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One on the head where the ranks meet, and those that the kernel picks for mpirun and gloo;
    nothing after."""
    monkeypatch.setenv("AIOK_HOME", str(lab.home.path))
    lab.forget_training()
    run = lab.home.aiok("run", *RUN, "--detach").stdout.split()[0]
    seen: dict[str, set[int]] = {host: set() for host in HOSTS}
    while api.state(run).status.is_live:
        for host in HOSTS:
            seen[host] |= open_ports(lab.testbed, host)
        time.sleep(0.2)
    assert api.state(run).status is RunStatus.DONE
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    named = {host: {port for port in seen[host] if not first <= port <= last} for host in HOSTS}
    (meeting,) = named["h1"]
    assert PORTS[0] <= meeting <= PORTS[1]
    assert named["h2"] == named["h3"] == set()
    assert all(seen.values()), seen  # gloo's
    wait_until_bare(lab, run)
    assert not any(open_ports(lab.testbed, host) for host in HOSTS)


def test_tables_too_large_for_a_host_are_spread_and_train_the_same(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two hosts; the limit is three quarters of what all tables take on each."""
    monkeypatch.setenv("AIOK_HOME", str(lab.home.path))
    two = ("run", "tiny", "--set", "cluster=lab", "--set", "train.ranks=2")
    whole = finished(lab.home.aiok(*two))
    limit = 0.75 * whole["placement"]["gib_replicated"]
    spread = finished(lab.home.aiok(*two, "--set", f"table_memory_gib={limit:.9f}"))
    assert "sharded" in spread["placement"]["tables"].values()
    assert spread["placement"]["gib_per_rank"] <= limit
    assert spread["weights_sha256"] == whole["weights_sha256"]


def finished(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The result of the training of a run that ended well."""
    assert done.returncode == 0, done.stderr
    run = next(line.split()[1] for line in done.stderr.splitlines() if line.startswith("run "))
    return api.state(run).result("train")


def test_data_in_a_shared_folder_lies_there_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Declared for one run; what is not shared by all is refused before anything is trained."""
    monkeypatch.setenv("AIOK_HOME", str(lab.home.path))
    plain = clusters.inventory()
    data = plain.to_data()

    def declare(folder: str) -> None:
        group = {**data["clusters"]["lab"], "shared": folder}
        clusters.write_inventory(Inventory.model_validate({**data, "clusters": {"lab": group}}))

    try:
        declare("/shared")
        assert lab.home.aiok("hosts", "check", "lab").returncode == 0
        lab.forget_training()
        result = finished(lab.home.aiok("run", *RUN))
        found = lab.testbed.run_as_root("h3", ["find", "/shared/aiok", "-name", "manifest.json"])
        (manifest,) = found.stdout.split()
        identity = Path(manifest).parent.name
        private = f"/home/{lab.testbed.layout.user}/.local/share/aiok/cache/{identity}"
        for host in HOSTS:
            lab.testbed.run_as_root(host, ["rm", "-rf", private])  # of the runs before
        lab.forget_training()
        assert finished(lab.home.aiok("run", *RUN))["weights_sha256"] == result["weights_sha256"]
        for host in HOSTS:
            assert lab.testbed.run_as_root(host, ["test", "-e", private]).returncode == 1
        declare("/tmp")
        lab.forget_training()
        refused = lab.home.aiok("run", *RUN)
        assert refused.returncode == 3
        assert "h2: /tmp is not the folder that h1 has there" in refused.stderr
        assert "h3: /tmp is not the folder that h1 has there" in refused.stderr
    finally:
        clusters.write_inventory(plain)


def kill_rank(lab: Lab) -> None:
    rank = next(p for p in lab.testbed.processes("h2") if "-m models.train" in p.command)
    os.kill(rank.pid, signal.SIGKILL)


FAULTS: dict[str, tuple[str, Callable[[Lab], None]]] = {
    "rank killed": ("h2", kill_rank),
    "worker crashed": ("h2", lambda lab: lab.testbed.crash("h2")),
    "head crashed": ("h1", lambda lab: lab.testbed.crash("h1")),
    "link cut": ("h3", lambda lab: lab.testbed.cut("h3")),
}


@pytest.mark.parametrize(
    ("fault", "back"),
    [("rank killed", True), ("worker crashed", True), ("worker crashed", False),
     ("head crashed", True), ("head crashed", False), ("link cut", True)],
)  # fmt: skip
def test_a_fault_stops_the_run_and_resume_ends_with_the_same_model(
    lab: Lab, fault: str, back: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, strike = FAULTS[fault]
    monkeypatch.setenv("AIOK_HOME", str(lab.home.path))
    lab.forget_training()
    started = lab.home.aiok("run", *RUN, "--detach")
    run = started.stdout.split()[0]
    wait_for(run, lambda event: isinstance(event, ev.CheckpointSaved), 80)
    struck = time.time()
    strike(lab)
    state = api.wait_for_end(run, 80)
    assert state.status is RunStatus.STOPPED, state.problem
    assert state.problem is not None
    assert host in state.problem.what
    assert state.problem.log.endswith("output.log")
    events, _ = api.events_since(run, 0)
    noticed = min(
        event.t for event in events
        if event.t >= struck and (
            (isinstance(event, ev.HostSilent) and event.host == host)
            or (isinstance(event, ev.StepStopped) and host in event.what)
        )
    )  # fmt: skip
    assert noticed - struck <= NOTICE_S
    lab.testbed.heal(host)
    lab.testbed.boot(host)
    wait_until_bare(lab, run)
    if back:
        resumed = lab.home.aiok("resume", run)
    else:
        lab.testbed.cut(host)
        resumed = lab.home.aiok("resume", run, "--without", host)
        lab.testbed.heal(host)
    assert resumed.returncode == 0, resumed.stderr
    assert abs(auc_of(lab.home, run) - lab.auc) <= 0.002


def wait_until_bare(lab: Lab, run: str) -> None:
    """Nothing of the run is left, here and on every host."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        left = [*processes_of(run), *(p for h in HOSTS for p in lab.ours(h))]
        if not left:
            return
        time.sleep(0.2)
    raise AssertionError(f"left of {run}: {left}")


def test_a_cut_shorter_than_the_grace_is_survived(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOK_HOME", str(lab.home.path))
    lab.forget_training()
    started = lab.home.aiok("run", *RUN, "--set", "faults.grace_s=40", "--detach")
    run = started.stdout.split()[0]
    wait_for(run, lambda event: isinstance(event, ev.CheckpointSaved), 80)
    lab.testbed.cut("h2")
    silent = wait_for(run, lambda event: isinstance(event, ev.HostSilent), 20)
    assert isinstance(silent, ev.HostSilent)
    assert silent.host == "h2"
    time.sleep(4)
    lab.testbed.heal("h2")
    state = api.wait_for_end(run, 100)
    assert state.status is RunStatus.DONE, state.problem
    assert state.attempt == 1
    assert abs(auc_of(lab.home, run) - lab.auc) <= 0.002


def struck_run(lab: Lab, strike: Callable[[], object], *settings: str) -> str:
    """A run that trains anew and is struck after its first checkpoint."""
    lab.forget_training()
    words = [word for setting in settings for word in ("--set", setting)]
    started = lab.home.aiok("run", *RUN, *words, "--detach")
    assert started.returncode == 0, started.stderr
    run = started.stdout.split()[0]
    wait_for(run, lambda event: isinstance(event, ev.CheckpointSaved), 80)
    strike()
    return run


def ended_well(lab: Lab, run: str, attempts: int) -> list[ev.Event]:
    """The events of a run that ends by itself with the same model and leaves nothing."""
    state = api.wait_for_end(run, 150)
    assert state.status is RunStatus.DONE, state.problem
    assert state.attempt == attempts
    assert abs(auc_of(lab.home, run) - lab.auc) <= 0.002
    wait_until_bare(lab, run)
    return api.events_since(run, 0)[0]


def one(events: list[ev.Event], kind: type[Told]) -> Told:
    """The only event of its kind."""
    (found,) = [event for event in events if isinstance(event, kind)]
    return found


def test_wait_goes_on_when_the_crashed_host_is_back(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOK_HOME", str(lab.home.path))
    struck: list[float] = []

    def strike() -> None:
        struck.append(time.time())
        lab.testbed.crash("h2")

    run = struck_run(lab, strike, "faults.policy=wait")
    wait_for(run, lambda event: isinstance(event, ev.HostsAwaited), 40)
    assert api.state(run).status is RunStatus.WAITING
    assert "waiting" in lab.home.aiok("runs").stdout
    assert "waits for h2: h2: " in lab.home.aiok("show", run).stdout
    lab.testbed.boot("h2")
    events = ended_well(lab, run, attempts=2)
    lost = one(events, ev.WorkLost)
    assert (lost.hosts, lost.policy, lost.restart) == (["h2"], "wait", 1)
    assert "h2" in lost.what
    told = [event.t for event in events if isinstance(event, ev.HostSilent | ev.WorkLost)]
    assert min(told) - struck[0] <= NOTICE_S
    assert one(events, ev.WorkRestarted).without == []


def test_shrink_goes_on_without_the_crashed_head(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOK_HOME", str(lab.home.path))
    run = struck_run(lab, lambda: lab.testbed.crash("h1"), "faults.policy=shrink")
    try:
        state = api.wait_for_end(run, 150)
    finally:
        lab.testbed.boot("h1")
    assert state.status is RunStatus.DONE, state.problem
    events = ended_well(lab, run, attempts=2)
    assert one(events, ev.WorkLost).hosts == ["h1"]
    assert one(events, ev.WorkRestarted).without == ["h1"]


def test_shrink_resumes_a_killed_run_without_the_host_that_is_down(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOK_HOME", str(lab.home.path))
    run = struck_run(lab, lambda: lab.testbed.cut("h3"), "faults.policy=shrink")
    try:
        pid = lock_holder(open_run_folder(run).lock)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert api.wait_for_end(run, 30).status is RunStatus.LOST
        api.resume(run)
        state = api.wait_for_end(run, 150)
    finally:
        lab.testbed.heal("h3")
    assert state.status is RunStatus.DONE, state.problem
    events = ended_well(lab, run, attempts=3)  # the second met the host, making ready
    lost = one(events, ev.WorkLost)
    assert (lost.step, lost.hosts, lost.steps_lost) == ("provision", ["h3"], 0)
    assert one(events, ev.WorkRestarted).without == ["h3"]


def test_a_waiting_run_can_be_stopped(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOK_HOME", str(lab.home.path))
    run = struck_run(lab, lambda: lab.testbed.cut("h3"), "faults.policy=wait")
    try:
        wait_for(run, lambda event: isinstance(event, ev.HostsAwaited), 60)
        assert lab.home.aiok("stop", run).returncode == 0
        state = api.wait_for_end(run, 30)
    finally:
        lab.testbed.heal("h3")
    assert state.status is RunStatus.STOPPED
    assert state.awaited is None
    wait_until_bare(lab, run)


def stop_rank(lab: Lab, host: str) -> None:
    found = lab.testbed.processes(host)
    rank = next(p for p in found if "-m models.train" in p.command)
    os.kill(rank.pid, signal.SIGSTOP)


def test_a_stopped_rank_is_named_and_started_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOK_HOME", str(lab.home.path))
    run = struck_run(lab, lambda: stop_rank(lab, "h3"), "faults.policy=wait")
    lost = one(ended_well(lab, run, attempts=2), ev.WorkLost)
    assert lost.what.startswith("rank 2 on h3 hangs: no progress for")
    assert "state T in /proc" in lost.why
    assert lost.hosts == []
    log = Path(lost.log).read_text()
    assert log.count("models/dist.py") >= 2  # where ranks 0 and 1 waited for it


def test_a_rank_that_hangs_is_named_with_its_stack(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own copy of the code is changed so that it sleeps in the middle of the training."""
    monkeypatch.setenv("AIOK_HOME", str(lab.home.path))
    code = f"/home/{lab.testbed.layout.user}/.local/share/aiok/code"
    found = lab.testbed.run_as_root("h2", ["find", code, "-name", "pulse.py"]).stdout.split()
    sleep = r"s/^    def beat(.*/&\n        if step > 300: time.sleep(1000)/"
    for path in found:
        lab.testbed.run_as_root("h2", ["cp", "-p", path, f"{path}.kept"])
    try:
        lab.testbed.run_as_root("h2", ["sed", "-i", sleep, *found])
        lab.forget_training()
        done = lab.home.aiok("run", *RUN)
    finally:
        for path in found:
            lab.testbed.run_as_root("h2", ["mv", f"{path}.kept", path])
    assert done.returncode == 4, done.stderr
    assert "rank 1 on h2 hangs: no progress for" in done.stderr
    assert "it was at models/pulse.py:" in done.stderr
    run = next(line.split()[1] for line in done.stderr.splitlines() if line.startswith("run "))
    problem = api.state(run).problem
    assert problem is not None
    assert "models/loop.py" in Path(problem.log).read_text()
    wait_until_bare(lab, run)


def test_a_key_that_is_revoked_ends_no_run_but_refuses_the_next(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOK_HOME", str(lab.home.path))
    keys = f"/home/{lab.testbed.layout.user}/.ssh/authorized_keys"
    try:
        run = struck_run(
            lab, lambda: lab.testbed.run_as_root("h2", ["mv", keys, f"{keys}.revoked"])
        )
        ended_well(lab, run, attempts=1)
        lab.forget_training()
        refused = lab.home.aiok("run", *RUN)
        assert refused.returncode == 3
        assert "h2: " in refused.stderr
        assert "key" in refused.stderr
    finally:
        lab.testbed.run_as_root("h2", ["mv", f"{keys}.revoked", keys])


def test_hosts_are_bare_again(lab: Lab, tmp_path: Path) -> None:
    down = lab.home.aiok("hosts", "down", "lab", timeout_s=UP_LIMIT_S)
    assert down.returncode == 0, down.stderr
    for host in HOSTS:
        left = [line for line in lab.testbed.listing(host) if "aiok/.local" in line]
        assert left == []
        assert lab.testbed.run_as_root(host, ["ls", "-A", "/shared", "/tmp"]).stdout.split() == [
            "/shared:", "/tmp:"
        ]  # fmt: skip
