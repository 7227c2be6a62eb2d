"""The drill's judgement: a promise counts as kept only when all that was promised was seen."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from bench import faults as bench_faults
from engine import drill, faults
from engine import events as ev
from engine.drill import Verdict
from engine.errors import AiokError, InputError
from engine.faults import FAULTS, Fault, Trial
from engine.recipe import Faults
from engine.sandbox import Sandbox
from engine.state import RunState, RunStatus, fold
from hosts.testbed import Testbed
from hosts.testbed_host import TestbedProblem
from models import pulse
from tests.engine.test_recovery import loss_at

FAULT = next(fault for fault in FAULTS if fault.name == "worker host crashed")
STEPS = [{"id": name, "kind": name, "title": name} for name in ("train", "evaluate")]


def journal(auc: float = 0.7, noticed: float = 1.0, what: str = "h2 was lost") -> list[ev.Event]:
    """A run that loses h2 after 100 s, waits, and goes on to its end."""
    return [
        ev.RunCreated(t=0, run="tiny-2", recipe="tiny", steps=STEPS),
        ev.RunStarted(t=0, pid=1, attempt=1),
        *(loss_at(step) for step in (97, 98, 99)),
        ev.CheckpointSaved(t=99, step="train", step_count=98),
        ev.WorkLost(t=100 + noticed, step="train", what=what, policy="wait", restart=1,
                    restarts=3, hosts=["h2"], steps_lost=1),
        ev.WorkRestarted(t=110, step="train", attempt=2),
        ev.StepFinished(t=120, step="evaluate", identity="e", seconds=1, result={"auc": auc}),
        ev.RunEnded(t=121, status="done", exit_code=0),
    ]  # fmt: skip


def judged(
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault = FAULT,
    policy: str = "wait",
    events: list[ev.Event] | None = None,
    left: tuple[str, ...] = (),
    ended: RunStatus | None = None,
    hosts: bool = True,
) -> Verdict:
    told = journal() if events is None else events
    monkeypatch.setattr(Trial, "events", lambda _self: told)
    sandbox = Sandbox(Path("nowhere"), Testbed(Path("/nowhere")) if hosts else None)
    trial = Trial(sandbox, policy, run="tiny-2", struck=100)
    final = fold(told)
    early = replace(final, status=ended) if ended else final
    return drill._judge(fault, trial, early, final, left, 0.7, 21.0)


def test_all_seen_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = judged(monkeypatch)
    assert verdict.broken == []
    assert verdict.notice_s == pytest.approx(1.0)
    assert (verdict.end, verdict.orphans, verdict.interval_s) == ("done", 0, 2.0)
    assert (verdict.lost_steps, verdict.lost_s) == (1, 1.0)
    assert verdict.observation == "h2 was lost; ended done, attempt 2"


@pytest.mark.parametrize(
    ("events", "broken"),
    [
        (journal(auc=0.7021), "AUC differs by 0.0021"),
        (journal(noticed=15.5), "noticed after 15.5 s"),
        (journal(what="a host was lost"), "'h2' was not told"),
        ([e for e in journal() if not isinstance(e, ev.CheckpointSaved)], ""),
        ([e for e in journal() if not isinstance(e, ev.WorkLost)], "nothing was told"),
    ],
)
def test_each_broken_promise_is_named(
    events: list[ev.Event], broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = judged(monkeypatch, events=events).broken
    assert (broken in found) if broken else not found


def test_orphans_and_a_wrong_end_break_it(monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = judged(monkeypatch, left=("h1: python -m models.train",))
    assert verdict.broken == ["left: h1: python -m models.train"]
    assert verdict.orphans == 1
    assert not verdict.kept
    stopped = judged(monkeypatch, ended=RunStatus.STOPPED)
    assert stopped.broken == ["ended stopped, not done: "]
    assert judged(monkeypatch, policy="stop", ended=RunStatus.STOPPED).broken == []


def test_on_this_machine_alone_a_lost_rank_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    killed = next(fault for fault in FAULTS if fault.name == "rank killed")
    for ended, kept in ((RunStatus.FAILED, True), (RunStatus.STOPPED, False)):
        verdict = judged(monkeypatch, killed, "stop", ended=ended, hosts=False)
        assert verdict.kept is kept
        assert judged(monkeypatch, killed, "stop", ended=ended).kept is not kept


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (ProcessLookupError(3, "No such process"), "[Errno 3] No such process"),
        (TestbedProblem("h2 is down: boot h2"), "h2 is down: boot h2"),
        (subprocess.TimeoutExpired(["mv"], 30), "Command '['mv']' timed out after 30 seconds"),
        (AiokError("no rank to strike"), "no rank to strike"),
    ],
)
def test_what_fails_in_a_drill_is_a_broken_promise_and_not_its_end(
    trouble: Exception, said: str, monkeypatch: pytest.MonkeyPatch, aiok_home: Path
) -> None:
    """Neither what strikes nor what is done after it ends the drill."""

    def fail(*_words: object, **_options: object) -> None:
        raise trouble

    (aiok_home / "runs" / "tiny-2").mkdir(parents=True)
    fault = replace(FAULTS[0], strike=fail, mend=fail, wait_s=0.0)
    monkeypatch.setattr(drill.api, "start", lambda *_words: "tiny-2")
    monkeypatch.setattr(drill.api, "stop", fail)
    monkeypatch.setattr(Trial, "events", lambda _self: journal())
    verdict = drill._tried(fault, Trial(Sandbox(aiok_home, None), "stop"), 0.7)
    assert verdict.broken == [said] * 3
    assert (verdict.kept, verdict.observation, verdict.end) == (False, said, "unknown")
    assert bench_faults._drilled(verdict)["met"] is False


def test_a_rank_that_hangs_is_drilled_with_the_default_which_keeps_the_promise() -> None:
    settings = Trial(Sandbox(Path("nowhere"), None), "stop").overrides()
    assert not [setting for setting in settings if "hang_s" in setting]
    assert Faults().hang_s + pulse.EVERY_S < drill.NOTICE_S


def test_keys_that_cannot_be_moved_are_no_assertion(monkeypatch: pytest.MonkeyPatch) -> None:
    testbed = Testbed(Path("/nowhere"))
    failed = subprocess.CompletedProcess(["mv"], 1, "", "mv: cannot stat")
    monkeypatch.setattr(testbed, "run_as_root", lambda *_words: failed)
    with pytest.raises(AiokError, match="authorized_keys cannot be renamed to revoked") as caught:
        faults.revoke_key(Trial(Sandbox(Path("nowhere"), testbed), "stop"))
    assert caught.value.why == "mv: cannot stat"


def test_a_warning_of_silence_is_when_a_rank_that_hangs_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = "rank 1 on h2: no progress for 10 s; all ranks are looked at"
    warned = journal(noticed=15.5)
    warned.insert(6, ev.Noted(t=111, step="train", text=text, level="warning"))
    verdict = judged(monkeypatch, events=warned)
    assert verdict.notice_s == pytest.approx(11.0)
    assert verdict.broken == []


def test_work_lost_beyond_a_checkpoint_interval_breaks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    events = journal()
    saved = ev.CheckpointSaved(t=83, step="train", step_count=82)
    events[2:6] = [loss_at(80), loss_at(82), saved, loss_at(98), loss_at(99)]
    (broken,) = judged(monkeypatch, events=events).broken
    assert broken == "17.0 s of work lost, a checkpoint interval took 3.0 s"


def test_a_false_alarm_breaks_the_promise_of_a_slow_link(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = next(fault for fault in FAULTS if fault.name == "slow link")
    assert judged(monkeypatch, slow, "stop").broken == ["work was lost"]


def spark_journal(*more: ev.Event) -> list[ev.Event]:
    """A run whose ETL goes on though h2 has lost its Spark worker."""
    return [
        ev.RunCreated(t=0, run="tiny-2", recipe="tiny", steps=STEPS),
        ev.RunStarted(t=1, pid=1, attempt=1),
        ev.Noted(t=99, step="train", text="rank 1 is slow", level="warning"),
        *more,
        ev.StepFinished(t=120, step="evaluate", identity="e", seconds=1, result={"auc": 0.7}),
        ev.RunEnded(t=121, status="done", exit_code=0),
    ]  # fmt: skip


def test_what_spark_survives_must_be_told_as_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    fault = next(fault for fault in FAULTS if fault.name == "Spark worker lost")
    text = "h2: the Spark worker there is lost (it was killed by signal 9); others do its work"
    warned = spark_journal(ev.Noted(t=102.5, step="train", text=text, level="warning"))
    kept = judged(monkeypatch, fault, "stop", warned)
    assert kept.broken == []
    assert kept.notice_s == pytest.approx(2.5)
    assert kept.observation == f"{text}; ended done"
    silent = judged(monkeypatch, fault, "stop", spark_journal())
    assert "nothing was told" in silent.broken
    other = spark_journal(ev.Noted(t=102.5, step="train", text="h1: lost", level="warning"))
    assert "nothing was told" in judged(monkeypatch, fault, "stop", other).broken
    lost = [*warned[:-2], ev.WorkLost(t=103, step="train", what="h2 was lost", policy="stop",
                                      restart=1, restarts=3), *warned[-2:]]  # fmt: skip
    assert judged(monkeypatch, fault, "stop", lost).broken == ["work was lost"]


def test_a_full_disk_must_be_told_with_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    fault = next(fault for fault in FAULTS if fault.name == "disk full on a host")
    for why, broken in (("No space left on device, on h1", []),
                        ("No space left on device", ["'on h1' was not told"])):  # fmt: skip
        failed = ev.StepFailed(t=101, step="train", what="the disk is full: /c", why=why)
        ended = ev.RunEnded(t=102, status="failed", exit_code=3)
        stopped = fold([*journal()[:6], failed, ended])
        events = [*journal()[:6], failed, ended, *journal()[7:]]
        monkeypatch.setattr(Trial, "events", lambda _self, events=events: events)
        trial = Trial(Sandbox(Path("nowhere"), None), "stop", run="tiny-2", struck=100)
        verdict = drill._judge(fault, trial, stopped, fold(journal()), (), 0.7, 2.0)
        assert verdict.broken == broken
        assert verdict.observation.startswith(f"the disk is full: /c; {why}; ended failed")


def test_the_rows_for_spark_are_the_generated_ones_in_their_order(aiok_home: Path) -> None:
    made = aiok_home / "cache" / "data-1"
    made.mkdir(parents=True)
    rows = [f"row {number}\n" for number in range(20)]
    (made / "part-00000.tsv").write_text("".join(rows))
    drill._write_files(Sandbox(aiok_home, None), "data-1")
    parts = sorted((aiok_home / faults.DATA).iterdir())
    assert len(parts) == drill.FILES
    assert all(part.stat().st_size for part in parts)
    assert "".join(part.read_text() for part in parts) == "".join(rows)
    settings = Trial(Sandbox(aiok_home, None), "wait").overrides(on_spark=True)
    assert {"etl.engine=spark", f"dataset.path={aiok_home / faults.DATA}"} <= set(settings)


def test_what_cannot_be_drilled_here_is_named_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, aiok_home: Path
) -> None:
    names = ["rank killed", "link cut", "Spark master lost"]
    here = drill.left_out(names, on_hosts=False)
    assert list(here) == ["link cut", "Spark master lost"]
    assert all("need root" in why for why in here.values())
    bare = replace(drill.api.host_facts(), java="")
    monkeypatch.setattr(drill.api, "host_facts", lambda: bare)
    monkeypatch.setattr(drill.java, "find_jdk", lambda: None)
    lacking = drill.left_out(names, on_hosts=True)
    assert lacking == {"Spark master lost": "Spark needs Java 17 or 21"}
    monkeypatch.setattr(drill.java, "find_jdk", lambda: Path("/jdk"))
    assert drill.left_out(names, on_hosts=True) == {}


def test_faults_are_chosen_by_name() -> None:
    assert drill.chosen([]) == list(FAULTS)
    assert [fault.name for fault in drill.chosen(["link cut", "rank killed"])] == [
        "rank killed",
        "link cut",
    ]
    with pytest.raises(InputError, match="there is no fault 'link cat'") as caught:
        drill.chosen(["link cat"])
    assert "link cut" in caught.value.todo
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


def test_a_policy_that_is_none_or_does_not_fit_is_told_before_the_sandbox() -> None:
    with pytest.raises(InputError, match="there is no policy 'stopp'") as caught:
        next(drill.drill(policies=["wait", "stopp"], on_hosts=False))
    assert caught.value.todo == "did you mean stop?"
    one = next(f for f in FAULTS if not f.hosts and set(f.policies) != set(faults.POLICIES))
    other = next(policy for policy in faults.POLICIES if policy not in one.policies)
    with pytest.raises(InputError, match=f"drilled under {other}") as caught:
        next(drill.drill([one.name], [other], on_hosts=False))
    assert caught.value.todo == f"{one.name}: {', '.join(one.policies)}"


def test_faults_of_hosts_need_hosts() -> None:
    with pytest.raises(InputError, match="need root"):
        next(drill.drill(["link cut"], on_hosts=False))


def test_a_run_that_is_not_there_any_more_has_no_auc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trial, "events", lambda _self: [])
    trial = Trial(Sandbox(Path("nowhere"), None), "stop", run="tiny-2", struck=100)
    lost = RunState(status=RunStatus.LOST)
    verdict = drill._judge(FAULT, trial, lost, lost, (), 0.7, 21.0)
    assert verdict.drift is None
    assert "resume ended lost: " in verdict.broken
    assert "noticed after 21.0 s" in verdict.broken
