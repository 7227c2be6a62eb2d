"""kill -9 of workers, agents and the engine of a search: no trial lost, none doubled.

32 trials at a time of a training that only sleeps (bench/fake_training.py), under the real engine
and agents, in a home of its own. At random moments a random process of the run is killed; when it
was the run process, the run is resumed. Then the journal is judged, line by line.

`hosts`: the same on hosts of the testbed (root), with a user's program (bench/fake_program.py), and
hosts that crash and come back beside it.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from bench import fake_program, fake_training
from bench.sandbox import Sandbox
from engine import api
from engine import events as ev
from engine.environments import environment_folder
from engine.hpo.trials import TrialState
from engine.plan import FILES, RESULT, Plan, PlannedValue, Step
from engine.processes import processes_of
from engine.programs import registry
from engine.state import RunStatus
from engine.store import (
    EventLog,
    RunFolder,
    cache_folder,
    create_run_folder,
    home,
    is_locked,
    make_folder,
    open_run_folder,
)
from hosts.local import LocalTransport
from hosts.probe import probe
from hosts.testbed import Testbed
from models import catalog
from models.settings import resolve

ENVIRONMENTS = ("app",)
ROOT = Path(__file__).resolve().parents[1]
KILLS, ENGINE_KILLS, TRIALS, SLOTS, SEED = 500, 25, 400, 32, 20261125
LIMIT_S, BURST = 1500.0, 4
HOSTS, NET, PREFIX = 3, "10.201.23", "aioksf"
HOST_KILLS, HOST_ENGINE_KILLS, HOST_TRIALS, HOST_SLOTS = 500, 25, 400, 32
LEDGER = Path("etl-fake", "ended")  # in the cache: what the fake training brought to its end
Fault = tuple[int, Callable[[], object]]
"""What happens beside the kills, after so many of them."""
SPACE = [
    {"name": "learning_rate", "type": "double", "bounds": {"min": 1e-3, "max": 0.1},
     "transformation": "log"},
    {"name": "embedding_size", "type": "int", "grid": [2.0, 4.0, 8.0, 16.0]},
]  # fmt: skip


@contextlib.contextmanager
def fake_home(place: Path) -> Iterator[Path]:
    """An AIOK_HOME whose torch environment is this Python, and whose models only sleep."""
    before = os.environ.get("AIOK_HOME")
    os.environ["AIOK_HOME"] = str(place)
    try:
        python = environment_folder("torch") / "bin" / "python"
        make_folder(python.parent)
        python.symlink_to(sys.executable)
        code = make_folder(home() / "code" / "fake" / "models")
        for name in ("__init__", "messages", "worker"):
            shutil.copyfile(ROOT / "models" / f"{name}.py", code / f"{name}.py")
        shutil.copyfile(Path(fake_training.__file__), code / "train.py")
        shutil.copyfile(ROOT / "hosts" / "agent.py", code.parent / "agent.py")
        yield place
    finally:
        for run in api.runs():
            api.stop(run.id, kill=True)
            api.wait_for_end(run.id, 30)
        os.environ.pop("AIOK_HOME")
        if before is not None:
            os.environ["AIOK_HOME"] = before


def new_run(trials: int, slots: int, pause_s: float, retries: int = 3, **search: Any) -> RunFolder:
    """A run with a search alone: its data are there, nothing comes after it."""
    data = make_folder(cache_folder() / "etl-fake")
    (data / "pause_s").write_text(str(pause_s))
    (data / FILES).write_text("{}")
    (data / RESULT).write_text("{}")
    part = {"trials": trials, "parallel": slots, "optimizer": "random", "pruner": "none",
            "parameters": SPACE, "retries": retries, **search}  # fmt: skip
    model = catalog.load("dlrm")
    values = {"cluster": "localhost", "train.checkpoint_s": 1.0, "faults.grace_s": 20.0,
              "faults.hang_s": 60.0, "faults.policy": "stop", "faults.restarts": 3}  # fmt: skip
    own = {
        "model": "dlrm",
        "settings": resolve(model.settings, model.profiles["tiny"])[0],
        "search": part, "seed": 7, "goal": {"metric": "auc", "target": None, "minutes": None},
    }  # fmt: skip
    steps = (
        Step(id="etl", kind="etl", title="prepared data", identity="etl-fake"),
        Step(id="search", kind="search", title="search", worker="train", environment="torch",
             needs=("etl",), settings=own, identity=f"search-fake-{time.time_ns()}"),
    )  # fmt: skip
    facts = probe(LocalTransport(), sys.executable, str(home()))
    planned = tuple(PlannedValue(key=k, value=v, origin="built-in") for k, v in values.items())
    plan = Plan(recipe="fake", model="dlrm", steps=steps, values=planned, environments=("torch",),
                facts={"localhost": asdict(replace(facts, isa=[]))}, code="fake")  # fmt: skip
    folder = create_run_folder("fake")
    folder.recipe.write_text("{}\n")
    folder.plan.write_text(plan.to_json())
    log = EventLog(folder.events)
    told = [{"id": s.id, "kind": s.kind, "title": s.title, "host": s.host} for s in steps]
    log.append(ev.RunCreated(t=time.time(), run=folder.id, recipe="fake", steps=told))
    log.close()
    return folder


@dataclass
class Kills:
    """What was killed, by role."""

    roles: Counter[str] = field(default_factory=Counter)
    engine_at: set[int] = field(default_factory=set)
    resumes: int = 0

    @property
    def count(self) -> int:
        """All of them."""
        return sum(self.roles.values())


def disturb(
    run: str, kills: int, engine_kills: int, dice: random.Random, limit_s: float,
    faults: Sequence[Fault] = (), absent: Callable[[], Sequence[str]] = list, pause_s: float = 0.1,
) -> Kills:  # fmt: skip
    """Kill processes of a started run at random moments until it has ended by itself; `faults`
    happen beside that, `absent` tells the hosts that are down then. Kills are at most `pause_s`
    apart."""
    done = Kills(engine_at=set(dice.sample(range(2, kills), engine_kills)))
    end, lock, due = time.monotonic() + limit_s, open_run_folder(run).lock, list(faults)
    while time.monotonic() < end:
        if not is_locked(lock):
            if api.state(run).status in (RunStatus.DONE, RunStatus.FAILED):
                return done
            done.resumes += 1
            api.resume(run, without=absent(), all_hosts=True)
        elif due and done.count >= due[0][0]:
            due.pop(0)[1]()
        elif done.count < kills:
            _kill_some(run, done, kills, dice)
        time.sleep(dice.uniform(0.0, pause_s))
    raise TimeoutError(f"{run} has not ended after {limit_s:g} s; killed: {done.roles}")


def _kill_some(run: str, done: Kills, most: int, dice: random.Random) -> None:
    """The run process when it is its turn, in the middle of the work; else some of the others."""
    candidates = processes_of(run)
    others = [process for process in candidates if process.role != "runner"]
    if done.count in done.engine_at:
        engine = [process for process in candidates if process.role == "runner"]
        at_work = any(process.role in ("rank", "worker") for process in others)
        victims = engine if at_work else []
    else:
        until = min((n for n in done.engine_at if n > done.count), default=most) - done.count
        victims = dice.sample(others, min(len(others), until, dice.randint(1, BURST)))
    for victim in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim.pid, signal.SIGKILL)
            done.roles[victim.role] += 1


def _broken_leases(events: Sequence[ev.Event], trials: int) -> list[str]:
    """What the journal says of leases and ends that must not be."""
    broken, tokens = [], []
    ends: dict[int, list[str]] = {}
    for event in events:
        if isinstance(event, ev.TrialStarted):
            tokens.append(event.token)
            if ends.setdefault(event.trial, []):
                broken.append(f"trial {event.trial} was started after its end")
        elif isinstance(event, ev.TrialEnded) and event.state != TrialState.INTERRUPTED:
            ends.setdefault(event.trial, []).append(event.state)
    if sorted(ends) != list(range(trials)):
        broken.append(f"trials {sorted(set(range(trials)) ^ set(ends))} are lost or too many")
    broken += [f"trial {n} ended {len(e)} times" for n, e in ends.items() if len(e) != 1]
    if tokens != sorted(set(tokens)):
        broken.append("a token did not rise")
    return broken


def verdict(
    run: str, trials: int, auc: Callable[[Mapping[str, Any]], float] = fake_training.auc
) -> list[str]:
    """Everything that was promised and is not so, [] when all of it is; `auc`: what a trial should
    have come to."""
    state = api.state(run)
    events, _ = api.events_since(run, 0)
    broken = [] if state.status is RunStatus.DONE else [f"the run is {state.status}"]
    broken += _broken_leases(events, trials)
    finished = [t for t in state.trials.values() if t.state is TrialState.FINISHED]
    for trial in finished:
        if trial.values != {"auc": auc(trial.assignment)}:
            broken.append(f"trial {trial.number} has the values of another one")
    best = max((t.values["auc"] for t in finished), default=None)
    result = state.result("search")
    if best is None or result.get("values") != {"auc": best}:
        broken.append(f"the best is {result.get('values')}, not {best}")
    else:
        (made,) = open_run_folder(run).artifacts("search").rglob("model.json")
        if json.loads(made.read_text())["auc"] != best:
            broken.append("the output is not that of the best trial")
    if (ledger := cache_folder() / LEDGER).exists():
        counts = Counter(ledger.read_text().split())
        broken += [f"{name} was run to its end twice" for name, n in counts.items() if n > 1]
    end = time.monotonic() + 20
    while (left := processes_of(run)) and time.monotonic() < end:
        time.sleep(0.1)
    broken += [f"left running: {left}"] if left else []
    return broken


def measure() -> list[dict[str, Any]]:
    """500 kills, 25 of them of the engine."""
    dice = random.Random(SEED)
    with tempfile.TemporaryDirectory(prefix="aiok-search-") as place, fake_home(Path(place)):
        run = new_run(TRIALS, SLOTS, pause_s=0.3, retries=5)
        api.resume(run.id)
        done = disturb(run.id, KILLS, ENGINE_KILLS, dice, LIMIT_S)
        broken = verdict(run.id, TRIALS)
        return [_row("kill -9 survived by a search", run.id, done, KILLS, broken, SLOTS)]


def start_on_hosts(
    place: Path, cluster: str, trials: int, slots: int, pause_s: float, grace_s: float = 8.0
) -> str:
    """A started run whose trials count (bench/fake_program.py) on the hosts of a cluster."""
    folder = make_folder(place / fake_program.NAME)
    shutil.copy(fake_program.__file__, folder)
    file = {**fake_program.FILE, "env": {"PAUSE_S": str(pause_s)}}
    (folder / "program.yaml").write_text(yaml.safe_dump(file), encoding="utf-8")
    registry.register(folder / "program.yaml")
    search = {"optimizer": "random", "pruner": "none", "trials": trials, "parallel": slots,
              "retries": 5}  # fmt: skip
    faults = {"policy": "shrink", "grace_s": grace_s}
    recipe = {"model": {"name": fake_program.NAME}, "cluster": cluster, "search": search,
              "faults": faults}  # fmt: skip
    (place / "counted.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return api.start(str(place / "counted.yaml"))


def crash_at_work(testbed: Testbed, host: str, run: str) -> None:
    """Crash a host as soon as a trial runs there, and wait until the run has told of the loss."""
    while api.state(run).status.is_live:
        if any("models.program" in process.command for process in testbed.processes(host)):
            break
        time.sleep(0.05)
    offset = api.events_since(run, 0)[1]
    testbed.crash(host)
    told = False
    while api.state(run).status.is_live and not told:
        events, offset = api.events_since(run, offset)
        told = any(isinstance(e, ev.TrialEnded) and e.what.startswith(host) for e in events)
        time.sleep(0.1)


def absent_from(testbed: Testbed) -> list[str]:
    """The hosts that are down."""
    return [host.name for host in testbed.hosts() if not host.running]


def hosts() -> list[dict[str, Any]]:
    """500 kills, 25 of them of the engine, while each of three hosts crashes and comes back."""
    dice = random.Random(SEED)
    with tempfile.TemporaryDirectory(prefix="aiok-search-") as name:
        place = Path(name)
        os.environ["AIOK_HOME"] = str(place)
        with Sandbox(place, HOSTS, NET, PREFIX) as testbed:
            run = start_on_hosts(place, "lab", HOST_TRIALS, HOST_SLOTS, pause_s=0.2)
            faults: list[Fault] = []
            for number in range(HOSTS):
                host, part = f"h{number + 1}", HOST_KILLS // HOSTS
                faults.append((number * part + 5, partial(crash_at_work, testbed, host, run)))
                faults.append(((number + 1) * part, partial(testbed.boot, host)))
            try:
                done = disturb(run, HOST_KILLS, HOST_ENGINE_KILLS, dice, LIMIT_S, faults,
                               lambda: absent_from(testbed), pause_s=0.5)  # fmt: skip
                broken = verdict(run, HOST_TRIALS, fake_program.auc)
            finally:
                for host in absent_from(testbed):
                    testbed.boot(host)
        what = f"kill -9 survived by a search on {HOSTS} hosts, each of which crashes once"
        return [_row(what, run, done, HOST_KILLS, broken, HOST_SLOTS)]


def _row(
    name: str, run: str, done: Kills, kills: int, broken: Sequence[str], slots: int
) -> dict[str, Any]:
    trials = api.state(run).trials
    states = Counter(str(trial.state) for trial in trials.values())
    data = f"{len(trials)} trials that sleep, {slots} at a time, seed {SEED}; killed: " + ", ".join(
        f"{count} {role}" for role, count in sorted(done.roles.items())
    )
    return {
        "name": name, "value": done.count, "unit": f"of {kills}",
        "goal": f"{kills}; every trial one end, none lost, none doubled, the best is right",
        "met": done.count == kills and not broken, "data": data,
        "note": "; ".join([", ".join(f"{n} {state}" for state, n in states.items()), *broken]),
    }  # fmt: skip
