"""A job under the real agent: relay, heartbeat, stop, kill -9 of everything, no process left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from hosts import agent
from hosts.job import AGENT, Frame, Job, JobSpec
from hosts.local import LocalTransport
from hosts.transport import HostProblem

LIMIT_S = 30.0


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    """Starts jobs; whatever a test leaves is swept."""
    made: list[Job] = []

    def start(script: str, grace_s: float = 5.0, **env: str) -> Job:
        name = f"test-{os.getpid()}-{tmp_path.name}-{len(made)}"
        job = Job(LocalTransport(), sys.executable, str(AGENT), str(tmp_path / name))
        made.append(job)
        job.start(JobSpec(id=name, argv=["sh", "-c", script], env=env, grace_s=grace_s))
        return job

    yield start
    for job in made:
        job.sweep()
        job.close()


def follow(job: Job, until: Callable[[Frame], bool] = lambda f: f.kind == "end") -> list[Frame]:
    """Frames up to and with the first that `until` accepts."""
    frames: list[Frame] = []
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        job.beat()
        for frame in job.poll(0.1):
            frames.append(frame)
            if until(frame):
                return frames
    raise AssertionError(f"nothing in {LIMIT_S} s; so far {frames}")


def output(frames: list[Frame]) -> str:
    return "".join(f.data for f in frames if f.kind == "output")


def test_output_messages_and_exit_code_arrive(jobs: Callable[..., Job]) -> None:
    line = '{"kind": "progress", "rank": 0, "done": 1}'
    job = jobs(f"echo one; echo '{line}' >> $AIOK_MESSAGES/rank-0000.jsonl; printf two >&2; exit 3")
    frames = follow(job)
    assert output(frames) == "one\ntwo"
    assert [f.data for f in frames if f.kind == "message"] == [
        {"kind": "progress", "rank": 0, "done": 1}
    ]
    assert frames[-1].data["code"] == 3
    assert job.ended


def test_the_end_tells_what_the_job_and_its_children_have_used(jobs: Callable[..., Job]) -> None:
    burn = "import time; x = b'1' * (150 << 20)\nwhile time.process_time() < 0.6: pass"
    frames = follow(
        jobs('$PY -S -c "$BURN" & $PY -S -c "$BURN"; wait', PY=sys.executable, BURN=burn)
    )
    end = frames[-1].data
    assert 1.2 <= end["cpu_s"] < 2.5
    assert 150 / 1024 < end["largest_gib"] < 0.3
    sampled = sum(f.data["job_cpu_s"] for f in frames if f.kind == "sample")
    assert 0.0 <= sampled <= end["cpu_s"] + 0.05


def test_much_output_arrives_whole_and_in_order(jobs: Callable[..., Job]) -> None:
    frames = follow(jobs("seq 1 200000; head -c 300000 /dev/zero | tr '\\0' x"))
    text = output(frames)
    numbers, _, tail = text.rpartition("\n")
    assert numbers.split("\n") == [str(n) for n in range(1, 200001)]
    assert tail == "x" * 300000


def test_children_that_outlive_the_job_are_swept(jobs: Callable[..., Job]) -> None:
    job = jobs("setsid sleep 300 & (trap '' TERM; sleep 300) & sleep 0.3; exit 0")
    end = follow(job)[-1].data
    assert end["code"] == 0
    assert end["swept"] >= 2
    assert agent.tagged(job.id) == []


def test_silence_ends_the_job_within_its_grace(jobs: Callable[..., Job]) -> None:
    job = jobs("sleep 300", grace_s=1.0)
    frames: list[Frame] = []
    end = time.monotonic() + LIMIT_S
    while not job.ended and time.monotonic() < end:
        frames += job.poll(0.1)
    assert "no heartbeat" in frames[-1].data["why"]
    assert agent.tagged(job.id) == []


def test_stop_signals_the_ranks_and_not_their_launcher(jobs: Callable[..., Job]) -> None:
    loop = "while :; do sleep 0.05; done"
    rank = f"env PMI_RANK=0 sh -c 'trap \"echo rank saved; exit 4\" TERM; echo up; {loop}'"
    job = jobs(f"trap 'echo launcher hit' TERM; {rank}; echo launcher saw $?")
    follow(job, lambda f: f.kind == "output" and "up" in f.data)
    job.stop()
    text = output(follow(job))
    assert "rank saved" in text
    assert "launcher saw 4" in text
    assert "launcher hit" not in text


def test_kill_ends_what_ignores_term(jobs: Callable[..., Job]) -> None:
    job = jobs("trap '' TERM; echo up; while :; do sleep 0.1; done")
    follow(job, lambda f: f.kind == "output")
    job.kill()
    assert follow(job)[-1].data["code"] == -signal.SIGKILL
    assert agent.tagged(job.id) == []


def test_killed_supervisor_is_noticed_and_its_job_swept(jobs: Callable[..., Job]) -> None:
    job = jobs("echo up; sleep 300")
    follow(job, lambda f: f.kind == "output")
    pid = agent.supervisor_of(job.folder)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert "supervisor was killed" in follow(job)[-1].data["why"]
    assert agent.tagged(job.id) == []


def test_a_supervisor_signs_at_one_stroke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who attaches meanwhile must not read half of it: that would be a supervisor that is dead."""
    signed = tmp_path / "supervisor.pid"

    def write(value: object, file: IO[str]) -> None:
        file.write("[")
        file.flush()
        assert not signed.exists()
        file.seek(0)
        file.write(json.dumps(value))

    monkeypatch.setattr(agent.json, "dump", write)
    agent.sign(str(tmp_path))
    assert agent.supervisor_of(str(tmp_path)) == os.getpid()
    assert [path.name for path in tmp_path.iterdir()] == [signed.name]


def test_a_supervisor_that_cannot_sign_is_told_at_once(tmp_path: Path) -> None:
    """On a full disk nobody waits for its name."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path)]
    subprocess.run(mount, check=True)
    try:
        (tmp_path / "messages").mkdir()
        (tmp_path / "heartbeat").touch()
        with pytest.raises(OSError), (tmp_path / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(512))
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(AGENT), "start", str(tmp_path)],
            capture_output=True, text=True, timeout=LIMIT_S,
        )  # fmt: skip
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "No space left on device" in done.stderr


def test_a_cut_channel_is_taken_up_where_it_ended(jobs: Callable[..., Job]) -> None:
    job = jobs("for i in $(seq 1 40); do echo line $i; sleep 0.05; done", grace_s=20)
    frames = follow(job, lambda f: f.kind == "output" and "line 5" in f.data)
    job.close()
    with pytest.raises(HostProblem):
        for _ in range(100):
            frames += job.poll(0.05)
    job.attach()
    frames += follow(job)
    assert output(frames) == "".join(f"line {i}\n" for i in range(1, 41))


def test_missing_program_ends_with_its_name(jobs: Callable[..., Job], tmp_path: Path) -> None:
    job = Job(LocalTransport(), sys.executable, str(AGENT), str(tmp_path / "missing-program"))
    job.start(JobSpec(id="missing-program", argv=["no-such-program"]))
    end = follow(job)[-1].data
    assert end["code"] == 127
    assert "no-such-program" in end["why"]
    job.close()


def test_hostile_bytes_pass_as_data(jobs: Callable[..., Job]) -> None:
    frames = follow(jobs('printf \'\\033]52;c;aGk=\\007\\377\\n{"k": "end"}\\n\''))
    assert '{"k": "end"}' in output(frames)
    assert frames[-1].kind == "end"
    assert frames[-1].data["code"] == 0


def test_the_job_is_sampled(jobs: Callable[..., Job]) -> None:
    frames = follow(
        jobs("python3 -c 'import time; e = time.time() + 2.5\nwhile time.time() < e: pass'")
    )
    samples = [f.data for f in frames if f.kind == "sample"]
    assert len(samples) >= 2
    assert samples[-1]["job_cpu"] > 20
    assert 0 < samples[-1]["memory_used_gib"] < samples[-1]["memory_total_gib"]
    assert len(samples[-1]["cpu"]) >= len(os.sched_getaffinity(0))
