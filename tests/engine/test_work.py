"""How a worker's end is judged: real processes under the real agent, no model needed."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from engine import work
from engine.clusters import local_site
from engine.code import deploy
from engine.errors import AiokError, HostAway, HostLost, InputError, RunStopped, StepFailed
from engine.work import Launch, Listener, run_worker
from hosts import agent
from hosts.fake import FakeTransport
from hosts.site import Site
from hosts.transport import NoAnswer, clean
from models.messages import Message, Note

ROOT = Path(__file__).resolve().parents[2]
SAY = "echo {line} >> $AIOK_MESSAGES/rank-{rank:04d}.jsonl; "


class Recorder(Listener):
    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.text = ""
        self.samples: list[Mapping[str, Any]] = []

    def message(self, message: Message, rank: int) -> None:
        self.messages.append(message)

    def output(self, text: str) -> None:
        self.text += text

    def sample(self, host: str, sample: Mapping[str, Any]) -> None:
        self.samples.append(sample)


def say(kind: str, rank: int = 0, **fields: object) -> str:
    line = shlex.quote(json.dumps({"kind": kind, "rank": rank, "t": 0, **fields}))
    return SAY.format(line=line, rank=rank)


def start(script: str, ranks: int = 1, recorder: Recorder | None = None, **options: Any) -> Any:
    launch = Launch(
        job=f"work-{os.getpid()}.x", code=deploy().name, argv=["sh", "-c", script], ranks=ranks
    )
    try:
        return run_worker([local_site()], launch, recorder or Recorder(), **options)
    finally:
        assert agent.tagged(launch.job) == []
        left = work.jobs_folder() / launch.job
        assert not left.exists() or (left / "job.json").exists()


pytestmark = pytest.mark.usefixtures("aiok_home")


def test_a_host_that_is_lost_before_the_start_may_answer_later() -> None:
    h1 = FakeTransport("h1")
    h1.answer("", NoAnswer("h1", "the connection was lost"))
    site = Site(name="h1", transport=h1, home=PurePosixPath("/a"), python="python3", address="")
    launch = Launch(job="work.x", code="c0", argv=["true"])
    with pytest.raises(HostAway, match="h1: the connection was lost") as caught:
        run_worker([site], launch, Recorder(), log="/the/log")
    assert caught.value.log == "/the/log"


def test_a_result_and_a_done_of_every_rank_is_success() -> None:
    script = say("result", values={"auc": 0.7}) + say("done") + say("done", rank=1) + "exit 9"
    assert start(script, ranks=2) == {"auc": 0.7}


def test_exit_code_0_without_done_is_a_failure_that_names_the_rank() -> None:
    with pytest.raises(StepFailed, match="rank 1 on localhost ended with exit code 0"):
        start(say("result", values={}) + say("done"), ranks=2)


def test_a_killed_worker_is_told_with_its_last_lines_and_log() -> None:
    with pytest.raises(StepFailed, match="killed by signal 9") as caught:
        start("seq 1 30; kill -9 $$", log="/the/log")
    assert "30" in caught.value.why
    assert "\n       21\n" in caught.value.why
    assert "\n       20\n" not in caught.value.why
    assert caught.value.log == "/the/log"


@pytest.mark.parametrize(
    ("said", "who"),
    [
        ("=   RANK 1 PID 77 RUNNING AT 10.0.0.2", "rank 1 on h2 ended"),
        ("nothing", "rank 0 on h1 and rank 1 on h2 ended"),
    ],
)
def test_of_ranks_that_all_ended_the_one_that_the_launcher_names_is_told(
    said: str, who: str
) -> None:
    script = f"echo; echo '{said}'; echo '=   KILLED BY SIGNAL: 9 (Killed)'; exit 9"
    launch = Launch(
        job=f"work-{os.getpid()}.x", code=deploy().name, argv=["sh", "-c", script], ranks=2,
        hosts=("h1", "h2"),
    )  # fmt: skip
    with pytest.raises(HostLost, match=f"^{who} without a word") as caught:
        run_worker([local_site()], launch, Recorder())
    assert "KILLED BY SIGNAL: 9" in caught.value.why


def test_bad_input_is_told_as_the_worker_said_it() -> None:
    problem = say("problem", what="a.tsv, line 3: no", why="y", todo="mend it", bad_input=True)
    with pytest.raises(InputError) as caught:
        start(problem + "exit 2")
    assert (caught.value.what, caught.value.todo) == ("a.tsv, line 3: no", "mend it")
    assert caught.value.exit_code == 2


def test_control_bytes_of_a_worker_never_reach_a_reader() -> None:
    evil = "\x1b]52;c;aGk=\x07\x9b2J evil"
    recorder = Recorder()
    script = say("note", text=evil) + say("problem", what=evil, todo=evil)
    with pytest.raises(AiokError) as caught:
        start(script + "printf '\\033[2J'; exit 1", recorder=recorder)
    assert "\x1b" not in str(caught.value)
    assert "\x9b" not in str(caught.value)
    assert "evil" in str(caught.value)
    assert clean(next(m for m in recorder.messages if isinstance(m, Note)).text) == (
        "]52;c;aGk=2J evil"
    )


def test_stop_is_obeyed_and_told_as_stopped() -> None:
    levels = iter([0] * 10 + [1] * 10_000)
    script = "trap 'exit 4' TERM; while :; do sleep 0.05; done"
    with pytest.raises(RunStopped):
        start(script, stop_level=lambda: next(levels))


def test_a_worker_that_ends_well_in_spite_of_a_stop_has_a_result() -> None:
    script = "trap '' TERM; sleep 1; " + say("result", values={"x": 1}) + say("done")
    assert start(script, stop_level=lambda: 1) == {"x": 1}


def test_kill_ends_a_worker_that_ignores_stop() -> None:
    levels = iter([1] * 5 + [2] * 10_000)
    with pytest.raises(RunStopped):
        start("trap '' TERM; while :; do sleep 0.1; done", stop_level=lambda: next(levels))


def test_a_missing_program_is_one_sentence() -> None:
    launch = Launch(job=f"work-{os.getpid()}.y", code=deploy().name, argv=["/no/such/python"])
    with pytest.raises(AiokError, match="cannot start /no/such/python"):
        run_worker([local_site()], launch, Listener())


def test_the_worker_entry_turns_every_end_into_a_message(tmp_path: Path) -> None:
    program = tmp_path / "w.py"
    program.write_text(
        "import sys; from models.worker import *\n"
        "def work(spec, messenger, stop):\n"
        "    if spec['how'] == 'crash': raise RuntimeError('boom')\n"
        "    if spec['how'] == 'bad': raise InputProblem('bad file', todo='mend')\n"
        "    return {'x': 1}\n"
        "sys.exit(run(work))\n"
    )
    spec = tmp_path / "spec.json"
    command = f"cd {ROOT}; PYTHONPATH={ROOT} {sys.executable} {program} {spec}"
    spec.write_text('{"how": "good"}')
    assert start(command) == {"x": 1}
    spec.write_text('{"how": "crash"}')
    with pytest.raises(StepFailed, match="RuntimeError: boom"):
        start(command)
    spec.write_text('{"how": "bad"}')
    with pytest.raises(InputError, match="bad file"):
        start(command)
    spec.write_text("[1")
    with pytest.raises(InputError, match=r"cannot read .*spec\.json"):
        start(command)
