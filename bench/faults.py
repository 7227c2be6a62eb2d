"""Faults on purpose: each must be noticed, end well, and leave the same model and no process.

`measure`: kill -9 at seeded random moments on this machine. `hosts`: the table of `aiok drill` on
hosts of the testbed (root), every fault under every policy that makes a difference to it.

The kills: twenty runs of the tiny recipe, half with one rank, half with two. In each, at a random
moment of ETL or training, one of run process, rank, launcher, ETL process or agent is killed; then
`resume`.
"""

from __future__ import annotations

import os
import random
import signal
import time
from typing import Any

from bench.sandbox import fresh_home
from engine import api, drill, faults
from engine import events as ev
from engine.processes import RunProcess, processes_of
from engine.state import RunState, RunStatus

ENVIRONMENTS = ("app", "etl", "torch")
TRIALS, SEED = 20, 20261123
LIMIT_S = 240.0


def finish(run: str) -> RunState:
    """Wait for the end of a run and of its processes."""
    state = api.wait_for_end(run, LIMIT_S)
    end = time.monotonic() + 30
    while processes_of(run) and time.monotonic() < end:
        time.sleep(0.1)
    return state


def plain(ranks: int) -> tuple[str, float, float]:
    """Weights hash, test AUC and seconds of an undisturbed run."""
    begun = time.monotonic()
    state = finish(api.start("tiny", [f"train.ranks={ranks}"]))
    assert state.status is RunStatus.DONE, state.problem
    seconds = time.monotonic() - begun
    return state.result("train")["weights_sha256"], state.result("evaluate")["auc"], seconds


def forget(kinds: tuple[str, ...]) -> None:
    """Drop cached outputs so that those steps run again."""
    from engine.store import cache_folder, remove_tree

    for path in cache_folder().iterdir():
        if path.name.split("-")[0] in kinds and path.is_dir():
            remove_tree(path)


def disturb(run: str, dice: random.Random) -> RunProcess | None:
    """Wait for a random moment of ETL or training, then kill a random process of the run."""
    step = dice.choice(["etl", "train", "train"])
    wait_s = dice.uniform(0.0, 6.0)
    offset, started, end = 0, False, time.monotonic() + 60
    while not started and time.monotonic() < end:
        events, offset = api.events_since(run, offset)
        started = any(isinstance(e, ev.StepStarted) and e.step == step for e in events)
        time.sleep(0.01)
    time.sleep(wait_s)
    candidates = processes_of(run)
    if not candidates:
        return None
    role = dice.choice(sorted({process.role for process in candidates}))
    victim = dice.choice([process for process in candidates if process.role == role])
    os.kill(victim.pid, signal.SIGKILL)
    return victim


def trial(number: int, expected: dict[int, tuple[str, float, float]]) -> dict[str, Any]:
    """One disturbed run, resumed until it is done; what was promised and what was seen."""
    dice = random.Random(SEED + number)
    ranks = 1 + number % 2
    forget(("etl", "train", "evaluate", "optimize"))
    run = api.start("tiny", [f"train.ranks={ranks}"])
    victim = disturb(run, dice)
    state = finish(run)
    left = len(processes_of(run))
    resumes = 0
    while state.status is not RunStatus.DONE and resumes < 3:
        api.resume(run)
        state = finish(run)
        resumes += 1
    weights, auc, _ = expected[ranks]
    same = state.result("train").get("weights_sha256") == weights
    drift = abs(state.result("evaluate").get("auc", 0.0) - auc)
    events, _ = api.events_since(run, 0)
    finished = [e.step for e in events if isinstance(e, ev.StepFinished) and e.identity]
    good = (
        state.status is RunStatus.DONE
        and left == 0
        and len(finished) == len(set(finished))
        and (same if ranks == 1 else drift <= 0.002)
    )
    role = victim.role if victim else "nothing"
    verdict = "kept" if good else f"BROKEN: {state.problem}"
    print(f"trial {number}: {role} killed, {ranks} rank(s), {resumes} resume(s), drift {drift:.5f}")
    print(f"  {verdict}", flush=True)
    return {"good": good, "left": left, "drift": drift, "role": role}


def hosts() -> list[dict[str, Any]]:
    """A row for each fault and policy of the drill: seconds to notice, and all that was judged."""
    rows = []
    for verdict in drill.drill(on_hosts=True):
        print(f"{verdict.fault}, {verdict.policy}: {verdict.broken or 'kept'}", flush=True)
        rows.append(_drilled(verdict))
    kept = sum(bool(row["met"]) for row in rows)
    summary = {
        "name": "promises kept", "value": kept, "unit": f"of {len(rows)}", "goal": f"{len(rows)}",
        "met": kept == len(rows), "data": DRILL_DATA,
    }  # fmt: skip
    return [summary, *rows]


DRILL_DATA = (
    f"tiny recipe on {faults.HOSTS} testbed hosts, a rank each, grace {faults.GRACE_S:g} s, hang_s "
    f"by default, checkpoint_s {faults.CHECKPOINT_S:g}"
)


def _drilled(verdict: drill.Verdict) -> dict[str, Any]:
    drift = "none" if verdict.drift is None else f"{verdict.drift:.4f}"
    seen = (
        f"{verdict.observation}; {verdict.orphans} orphans; AUC difference {drift}; "
        f"{verdict.lost_steps} steps ({verdict.lost_s:.1f} s) since the last checkpoint; "
        f"a checkpoint interval took up to {verdict.interval_s:.1f} s"
    )
    return {
        "name": f"{verdict.fault}, {verdict.policy}",
        "value": None if verdict.notice_s is None else round(verdict.notice_s, 1),
        "unit": "s to notice",
        "goal": f"<= {drill.NOTICE_S:g}; 0 orphans; AUC <= {drill.DRIFT}; "
                f"<= {verdict.interval_s:.1f} s of work lost",
        "met": verdict.kept, "data": DRILL_DATA,
        "note": "; ".join([seen, *verdict.broken]),
    }  # fmt: skip


def measure() -> list[dict[str, Any]]:
    """Promises kept of TRIALS, the largest AUC difference, and processes left behind."""
    with fresh_home():
        expected = {ranks: plain(ranks) for ranks in (1, 2)}
        outcomes = [trial(number, expected) for number in range(TRIALS)]
    data = f"tiny recipe, 20,000 generated rows, seed {SEED}; killed: " + ", ".join(
        sorted({o["role"] for o in outcomes})
    )
    kept = sum(o["good"] for o in outcomes)
    drift = max(o["drift"] for o in outcomes)
    left = sum(o["left"] for o in outcomes)
    return [
        {"name": "kills survived", "value": kept, "unit": f"of {TRIALS}", "goal": f"{TRIALS}",
         "met": kept == TRIALS, "data": data},
        {"name": "largest AUC difference", "value": round(drift, 6), "unit": "AUC",
         "goal": "<= 0.002", "met": drift <= 0.002, "data": data},
        {"name": "processes left behind", "value": left, "unit": "processes", "goal": "0",
         "met": left == 0, "data": data},
    ]  # fmt: skip
