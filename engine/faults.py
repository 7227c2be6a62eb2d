"""The faults of a drill: what aiok promises for each, how it is done and undone, how runs end.

A fault is one entry of FAULTS. Those on Spark strike while its tasks read the data: Spark survives
them by itself whatever the policy, and the run tells of them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from engine import api
from engine import events as ev
from engine.errors import AiokError
from engine.processes import processes_of
from engine.sandbox import Sandbox
from engine.state import RunStatus
from engine.store import lock_holder, open_run_folder

HOSTS = 3
FILLED = "h1"  # the head: checkpoints are written there
GRACE_S, CHECKPOINT_S = 5.0, 2.0  # of hang_s the default holds
RUN_S = 200.0
POLICIES = ("stop", "wait", "shrink")
TRAINING = ("train", "evaluate", "optimize")
ON_SPARK = ("etl", *TRAINING)
DATA = "clicks"  # the raw data of the sandbox in several files, so that each Spark worker reads


@dataclass
class Trial:
    """One fault under one policy, while it is drilled."""

    sandbox: Sandbox
    policy: str
    run: str = ""
    other: str = ""  # a second run, where the fault needs one
    struck: float = 0.0
    refusal: str = ""

    @property
    def testbed(self) -> Any:
        """The hosts; only faults with `hosts` may ask."""
        assert self.sandbox.testbed is not None
        return self.sandbox.testbed

    def events(self) -> list[ev.Event]:
        """All events of the run so far."""
        return api.events_since(self.run, 0)[0]

    def rank(self) -> int:
        """The pid of a rank: that of h2, or the last one on this machine; AiokError without any."""
        if self.sandbox.testbed is None:
            found = [p.pid for p in processes_of(self.run) if p.role == "rank"]
        else:
            there = self.testbed.processes("h2")
            found = [p.pid for p in there if "-m models.train" in p.command]
        if not found:
            raise AiokError(f"{self.run} has no rank to strike any more")
        return int(found[-1])

    def overrides(self, seed: int = 7, on_spark: bool = False) -> list[str]:
        """What the drill changes in the tiny recipe."""
        ranks = HOSTS if self.sandbox.testbed else 2
        data = f"dataset.path={self.sandbox.place / DATA}"
        spark = [data, "dataset.generate=null", "etl.engine=spark"] if on_spark else []
        return [
            f"cluster={self.sandbox.cluster}", f"train.ranks={ranks}", f"seed={seed}",
            f"train.checkpoint_s={CHECKPOINT_S}", f"faults.policy={self.policy}",
            f"faults.grace_s={GRACE_S}", *spark,
        ]  # fmt: skip


Act = Callable[[Trial], None]


def checkpoint_saved(event: ev.Event) -> bool:
    """The usual moment to strike."""
    return isinstance(event, ev.CheckpointSaved)


def spark_reads(event: ev.Event) -> bool:
    """The first tasks of Spark are at work."""
    return isinstance(event, ev.StepProgressed) and (event.step, event.phase) == ("etl", "read")


def nothing(_trial: Trial) -> None:
    """There is nothing to undo."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A run of the tiny recipe, for which no output of the kinds `anew` is reused, is struck
    `wait_s` after the first event that is the `moment`.

    `ends` is the state in which the run ends by itself, by policy; "" as key: under any.
    `mend_at`: when the fault is undone: after the `end`, when the run is `waiting` for the host (a
    run that does not wait: after its end), or `late`, past the grace. `loses`: work is lost and
    done again. `warns`: the step goes on, and a warning tells of it. `said`: what the user must
    read.
    """

    name: str
    promise: str
    strike: Act
    mend: Act = nothing
    hosts: bool = True
    on_spark: bool = False
    policies: tuple[str, ...] = POLICIES
    ends: dict[str, RunStatus] = field(default_factory=dict)
    mend_at: Literal["waiting", "late", "end"] = "waiting"
    loses: bool = True
    warns: bool = False
    said: tuple[str, ...] = ()
    moment: Callable[[ev.Event], bool] = checkpoint_saved
    wait_s: float = 1.0  # so that there is work to lose
    anew: tuple[str, ...] = TRAINING


def _signal_rank(number: signal.Signals) -> Act:
    return lambda trial: os.kill(trial.rank(), number)


def _on(host: str, what: str, *words: str) -> Act:
    return lambda trial: getattr(trial.testbed, what)(host, *words)


def _kill_run_process(trial: Trial) -> None:
    pid = lock_holder(open_run_folder(trial.run).lock)
    if pid is None:
        raise AiokError(f"{trial.run} has no run process to strike any more")
    os.kill(pid, signal.SIGKILL)


def _kill_spark(host: str, words: str) -> Act:
    """kill -9 of all programs of Spark on a host with these words in their command line."""

    def strike(trial: Trial) -> None:
        found = [p.pid for p in trial.testbed.processes(host) if words in p.command]
        if not found:
            raise AiokError(f"{host} runs no {words} to kill")
        for pid in found:
            os.kill(pid, signal.SIGKILL)

    return strike


def _move_keys(trial: Trial, source: str, target: str) -> None:
    folder = f"/home/{trial.testbed.layout.user}/.ssh"
    done = trial.testbed.run_as_root("h2", ["mv", f"{folder}/{source}", f"{folder}/{target}"])
    if done.returncode:
        raise AiokError(f"h2: {source} cannot be renamed to {target}", why=done.stderr.strip())


def revoke_key(trial: Trial) -> None:
    """Nobody gets into h2 by the user's key any more."""
    _move_keys(trial, "authorized_keys", "revoked")


def _try_without_key(trial: Trial) -> None:
    """What a new run says while the key is revoked; then it is given back."""
    try:
        trial.other = api.start("tiny", trial.overrides(seed=9))
    except AiokError as error:
        trial.refusal = str(error)
    _move_keys(trial, "revoked", "authorized_keys")


def _start_another(trial: Trial) -> None:
    trial.other = api.start("tiny", trial.overrides(seed=8))


def _end_of_other(trial: Trial) -> None:
    api.wait_for_end(trial.other, RUN_S)


STOPPED = {"stop": RunStatus.STOPPED, "": RunStatus.DONE}
GOES_ON = {"": RunStatus.DONE}
FAULTS = (
    Fault(
        name="rank killed", hosts=False, ends=STOPPED, strike=_signal_rank(signal.SIGKILL),
        promise="noticed, named; stop: resumable, else started again from the last checkpoint",
    ),
    Fault(
        name="rank stopped", hosts=False, ends=STOPPED, strike=_signal_rank(signal.SIGSTOP),
        promise="found by the watchdog, named as stopped, ended; then like a killed rank",
        said=("state T in /proc",),
    ),
    Fault(
        name="worker host crashed", ends=STOPPED, strike=_on("h2", "crash"),
        mend=_on("h2", "boot"), said=("h2",),
        promise="host named; stop: resumable, wait: goes on when it is back, shrink: without it",
    ),
    Fault(
        name="head host crashed", ends=STOPPED, strike=_on("h1", "crash"),
        mend=_on("h1", "boot"), said=("h1",),
        promise="like any host: no host is special",
    ),
    Fault(
        name="link cut", ends=STOPPED, strike=_on("h3", "cut"), mend=_on("h3", "heal"),
        said=("h3",),
        promise="silence is told at once; lost after the grace; its ranks end by themselves",
    ),
    Fault(
        name="link healed late", ends=STOPPED, strike=_on("h3", "cut"), mend=_on("h3", "heal"),
        mend_at="late", said=("h3",),
        promise="a host that comes back after the grace does no work twice and holds no orphan",
    ),
    Fault(
        name="slow link", policies=("stop",), ends=GOES_ON, strike=_on("h2", "slow", "10mbit"),
        mend=lambda trial: trial.testbed.slow("h2", None), mend_at="end", loses=False,
        promise="slower, but no false alarm",
    ),
    Fault(
        name="disk full on a host", policies=("stop",), ends={"": RunStatus.FAILED},
        strike=_on(FILLED, "fill"), mend=_on(FILLED, "free"), mend_at="end",
        said=("No space left on device", f"on {FILLED}"),
        promise="ends with host and reason, keeps the last checkpoint; goes on when there is space",
    ),
    Fault(
        name="Spark worker lost", on_spark=True, policies=("stop",), ends=GOES_ON,
        strike=_kill_spark("h2", "org.apache.spark"), moment=spark_reads, wait_s=0.0,
        anew=ON_SPARK, loses=False, warns=True, said=("h2: the Spark worker there is lost",),
        promise="told with its host; the others do its work, and the data are the same",
    ),
    Fault(
        name="Spark master lost", on_spark=True, policies=("stop",), ends=GOES_ON,
        strike=_kill_spark("h1", "spark.deploy.master.Master"), moment=spark_reads, wait_s=0.0,
        anew=ON_SPARK, loses=False, warns=True, said=("h1: the Spark master there is lost",),
        promise="told; the workers go on without it, and the data are the same",
    ),
    Fault(  # `wait`: should the data be ready before the host is back, the training waits for it
        name="host of a Spark worker cut", on_spark=True, policies=("wait",), ends=GOES_ON,
        strike=_on("h3", "cut"), mend=_on("h3", "heal"), mend_at="late",
        moment=spark_reads, wait_s=0.0, anew=ON_SPARK, loses=False, warns=True,
        said=("h3: the Spark worker there is lost",),
        promise="told after the grace; the others do its work, nothing is left on it",
    ),
    Fault(
        name="controller kill -9 during Spark", on_spark=True, policies=("stop",),
        ends={"": RunStatus.LOST}, strike=_kill_run_process, moment=spark_reads,
        wait_s=0.0, anew=ON_SPARK,
        promise="master, workers and driver end within the grace; resume prepares the data anew",
    ),
    Fault(
        name="controller kill -9", hosts=False, policies=("stop",), ends={"": RunStatus.LOST},
        strike=_kill_run_process,
        promise="the ranks end within the grace; resume goes on, nothing runs twice",
    ),
    Fault(
        name="key revoked mid-run", policies=("stop",), ends=GOES_ON, strike=revoke_key,
        mend=_try_without_key, mend_at="end", loses=False,
        promise="the run keeps its connections; a new one is refused, host and key named",
    ),
    Fault(
        name="two runs on the same hosts", hosts=False, policies=("stop",), ends=GOES_ON,
        strike=_start_another, mend=_end_of_other, mend_at="end", loses=False,
        promise="both end well, neither touches the other's processes",
    ),
)  # fmt: skip
