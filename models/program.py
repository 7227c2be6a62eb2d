"""`python -m models.program spec.json`: one trial of a user's own program, on a host.

The story: a clean trial folder, the command in a process group of its own, its output and its
streamed metrics relayed, its limits watched (time, memory, disk); then everything it started is
ended, and the result is read: values, or a failure with its class. The keys: models/README.md.
Standard library only; any Python 3.11 of a host runs it.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models import process_tree
from models.messages import FOLDER_VARIABLE, Failure, Messenger, Note, Scalar
from models.program_result import MOST_BYTES, Stream, no_metric, read_metrics
from models.worker import InputProblem, StopFlag, Stopped, WorkFailed, run

TICK_S, WATCH_S = 0.1, 0.5
OUTLIVES_S = 1.0  # that a child may end after the program
MOST_POINTS = 10_000  # of the streamed metrics, together
# Not for the program to see: how its worker is started
OURS = (FOLDER_VARIABLE, "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "KMP_BLOCKTIME")
REFUSES = 2  # the exit code of a program that does not like its arguments, as argparse has it
RESERVE_BYTES, RESERVE_SHARE = 1 << 30, 0.03  # of the disk; the less of both is kept free
MORE_DISK = "free disk space, or raise resources.disk_gb of the program's file"
NO_ROOM = re.compile(r"File too large|No space left on device|File size limit exceeded")
NO_MEMORY = re.compile(r"MemoryError|bad_alloc|OutOfMemoryError|[Cc]annot allocate memory")


class Output:
    """What the program prints: passed on to the log up to `most` bytes, then only its end."""

    def __init__(self, source: int, most: int) -> None:
        self._source, self._room, self._left_out = source, most, 0
        self._tail = bytearray()
        self._ended = False  # nobody holds its other end any more
        os.set_blocking(source, False)

    def wait(self, seconds: float) -> None:
        """Until there is something to take, at most so long."""
        if self._ended:
            time.sleep(seconds)
        else:
            select.select([self._source], [], [], seconds)

    def pump(self) -> None:
        """Take what is there."""
        for _ in range(256):  # a program that never pauses must not keep us from our watch
            try:
                data = os.read(self._source, 1 << 16)
            except BlockingIOError:
                return
            if not data:
                self._ended = True
                return
            self._tail += data
            if len(self._tail) > 2 * MOST_BYTES:
                del self._tail[:-MOST_BYTES]
            passed = data[: self._room]
            self._room -= len(passed)
            self._left_out += len(data) - len(passed)
            _log(passed)

    def close(self) -> None:
        """Take the rest; tell how much the log leaves out, and end it with the last lines."""
        self.pump()
        os.close(self._source)
        if self._left_out:
            _log(f"\n[{self._left_out:,} bytes of output are left out; the last ones:]\n".encode())
            _log(bytes(self._tail[-min(self._left_out, 4096) :]))

    def text(self) -> str:
        """The end of the output, at most MOST_BYTES."""
        return self._tail[-MOST_BYTES:].decode("utf-8", "replace")


def _log(data: bytes) -> None:
    with contextlib.suppress(OSError):  # a full disk must not end the trial through its log
        while data:
            data = data[os.write(1, data) :]


class Trial:
    """One start of the command, from its clean folder to its judged end."""

    def __init__(self, spec: Mapping[str, Any], messenger: Messenger) -> None:
        self.spec, self.messenger = spec, messenger
        self.folder = Path(spec["output"])
        self.stream = Stream(Path(spec["metrics_file"]))
        self.points = 0

    def prepare(self) -> int:
        """A folder without anything of an earlier start; the time (ns, of the disk's own clock)
        that all that is new is not older than."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.spec["checkpoints"]:
            Path(self.spec["checkpoints"]).mkdir(parents=True, exist_ok=True)
        params = Path(self.spec["params_file"])
        params.write_text(
            json.dumps(self.spec["params"], ensure_ascii=False, indent=1), encoding="utf-8"
        )
        for name in (self.spec["result"]["file"], self.spec["metrics_file"]):
            if name:
                Path(name).unlink(missing_ok=True)  # may lie elsewhere than in the folder
                Path(name).parent.mkdir(parents=True, exist_ok=True)
        return params.stat().st_mtime_ns

    def start(self, sink: int) -> subprocess.Popen[bytes]:
        """The command; InputProblem when there is no such program or folder."""
        env = {key: value for key, value in os.environ.items() if key not in OURS}
        env.update(self.spec["env"])
        largest = int(self.spec["disk_mib"]) << 20

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))

        argv, cwd = self.spec["argv"], self.spec["cwd"]
        try:
            return subprocess.Popen(
                argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink,
                start_new_session=True, preexec_fn=limit,  # safe: this process has one thread
            )  # fmt: skip
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            gone = not Path(cwd).is_dir()
            said = getattr(error, "strerror", None) or str(error)
            raise InputProblem(
                f"there is no folder {cwd}" if gone else f"cannot start {argv[0]}: {said}",
                todo="mend `cwd` of the program's file" if gone else "mend its `command`",
            ) from None

    def relay(self, *, ended: bool = False) -> WorkFailed | None:
        """Pass on what was streamed since the last time; the failure when a metric is no number."""
        for step, metrics in self.stream.new(ended=ended):
            for name, value in metrics.items():
                if math.isfinite(value):
                    self._pass_on(name, value, step)
                elif name in self.spec["metrics"]:
                    return WorkFailed(f"{name} is {value} at step {step}", failure=Failure.NAN)
        return None

    def _pass_on(self, name: str, value: float, step: int) -> None:
        self.points += 1
        if self.points <= MOST_POINTS:
            self.messenger.send(Scalar(name=name, value=value, split="valid", step=step, rows=0))
        elif self.points == MOST_POINTS + 1:
            self.note(f"more than {MOST_POINTS:,} streamed values: no more are shown")

    def note(self, text: str) -> None:
        """Something a person should read."""
        self.messenger.send(Note(text=text, level="warning"))

    def over_limits(self) -> WorkFailed | None:
        """The first limit the program breaks at this moment."""
        limit = float(self.spec["memory_gib"] or 0) * 2**30
        if limit:
            used = process_tree.memory_bytes(process_tree.descendants(os.getpid()), limit)
            if used > limit:
                return WorkFailed(
                    f"it used {used / 2**30:.2f} GiB of memory, {limit / 2**30:g} are allowed",
                    todo="raise resources.memory_gb of the program's file, or narrow the search",
                    failure=Failure.OUT_OF_MEMORY,
                )
        return self.over_disk() or self._disk_is_full()

    def over_disk(self) -> WorkFailed | None:
        """Whether its folders hold more than they may."""
        used = _bytes_below(self.folder)
        if self.spec["checkpoints"]:
            used += _bytes_below(Path(self.spec["checkpoints"]))
        limit = int(self.spec["disk_mib"])
        if used <= limit << 20:
            return None
        what = f"it filled its folder: {limit:,} MiB are allowed"
        return WorkFailed(what, todo=MORE_DISK, failure=Failure.CRASH)

    def _disk_is_full(self) -> WorkFailed | None:
        """Whether the disk is nearly full, wherever it wrote: the run's own files need room."""
        try:
            disk = os.statvfs(self.folder)
        except OSError:  # it deleted its folder: that is judged at its end
            return None
        free = disk.f_bavail * disk.f_frsize
        if free >= min(RESERVE_BYTES, RESERVE_SHARE * disk.f_blocks * disk.f_frsize):
            return None
        what = f"the disk of {self.folder} is nearly full: {free >> 20:,} MiB are left"
        return WorkFailed(what, todo=MORE_DISK, failure=Failure.CRASH)

    def judge(self, code: int, text: str, began_ns: int, kernel_kills: int) -> dict[str, float]:
        """The metrics of a program that ended by itself and whose output ended with `text`;
        WorkFailed with the class of its end."""
        if code:
            raise _crash(code, text, kernel_kills)
        if self.stream.spoiled:
            self.note(f"{self.stream.spoiled:,} streamed lines are not "
                       '{"step": n, "metrics": {name: number}}')  # fmt: skip
        if not self.folder.is_dir():
            raise no_metric("it deleted the folder of its trial")
        return read_metrics(
            self.spec["result"], self.spec["metrics"], text, self.stream.last, began_ns
        )


def _crash(code: int, text: str, kernel_kills: int) -> WorkFailed:
    """The class and the last lines of a program that did not end well."""
    lines = [line for line in text.splitlines() if line.strip()][-10:]
    why = "last lines of its output:\n       " + "\n       ".join(lines) if lines else ""
    how = f"it ended with exit code {code}"
    if code < 0:
        with contextlib.suppress(ValueError):
            how = f"it was killed by {signal.Signals(-code).name}"
    if code == -signal.SIGKILL and kernel_kills:
        return WorkFailed(f"{how}: the machine had no memory left", why,
                          failure=Failure.OUT_OF_MEMORY)  # fmt: skip
    if code == -signal.SIGXFSZ or NO_ROOM.search("\n".join(lines)):
        return WorkFailed(f"{how}: no room for its files", why, MORE_DISK, Failure.CRASH)
    if NO_MEMORY.search("\n".join(lines)):
        return WorkFailed(f"{how} for want of memory", why, failure=Failure.OUT_OF_MEMORY)
    if code == REFUSES:
        return WorkFailed(f"{how}: it refuses its arguments", why, failure=Failure.BAD_INPUT)
    return WorkFailed(how, why, failure=Failure.CRASH)


def _bytes_below(folder: Path) -> int:
    """Bytes on disk of all files below a folder; what is gone meanwhile counts as nothing."""
    total = 0
    for root, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(root, name)).st_blocks * 512
    return total


def run_program(spec: dict[str, Any], messenger: Messenger, stop: StopFlag) -> dict[str, Any]:
    """One trial as spec.json says; its metrics, seconds and CPU-seconds."""
    process_tree.adopt_orphans()
    trial = Trial(spec, messenger)
    try:
        return _run(trial, stop)
    except BaseException:
        shutil.rmtree(trial.folder, ignore_errors=True)  # only checkpoints outlive a failure
        raise


def _run(trial: Trial, stop: StopFlag) -> dict[str, Any]:
    """Start, follow, end, judge."""
    spec = trial.spec
    began_ns, kills = trial.prepare(), process_tree.oom_kills()
    read_end, write_end = os.pipe()
    started = time.monotonic()
    try:
        child = trial.start(write_end)
    finally:
        os.close(write_end)
    output, broken = Output(read_end, int(spec["log_mib"]) << 20), None
    try:
        broken = _follow(trial, child, output, stop, started)
    finally:
        seconds, stopped = time.monotonic() - started, child.poll() is None
        left = _end(trial, child, output)
    if stopped and stop.requested:
        raise Stopped
    broken = broken or trial.relay(ended=True) or trial.over_disk()
    if broken:
        raise broken
    if left and not child.returncode:
        raise WorkFailed(
            f"{left} of its processes outlived it", failure=Failure.CRASH,
            why="they might still write, into another trial too; they were ended",
            todo="let the program wait for what it starts",
        )  # fmt: skip
    kills = process_tree.oom_kills() - kills
    metrics = trial.judge(child.returncode, output.text(), began_ns, kills)
    metrics.update(dict.fromkeys(spec["clocked"], seconds))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "metrics": metrics, "seconds": round(seconds, 3),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 3),
        "peak_rss_gib": round(used.ru_maxrss / 2**20, 4),
    }  # fmt: skip


def _follow(
    trial: Trial, child: subprocess.Popen[bytes], output: Output, stop: StopFlag, started: float
) -> WorkFailed | None:
    """Until the command ends, is to stop, or breaks a limit: then why."""
    timeout_s, due = trial.spec["timeout_s"], started + WATCH_S
    while child.poll() is None and not stop.requested:
        if timeout_s and time.monotonic() - started > timeout_s:
            return WorkFailed(
                f"it was not done after {timeout_s:g} s", failure=Failure.TIMEOUT,
                todo="raise timeout_s of the program's file, or let it end",
            )  # fmt: skip
        if (began := time.monotonic()) >= due:
            if broken := trial.over_limits():
                return broken
            took = time.monotonic() - began  # long for a folder of very many files
            due = began + max(WATCH_S, 20 * took)
        output.pump()
        if broken := trial.relay():
            return broken
        process_tree.reap(child.pid)
        output.wait(TICK_S)
    return None


def _end(trial: Trial, child: subprocess.Popen[bytes], output: Output) -> int:
    """End the command and all that it started, and take its last words; how many outlived it."""
    done = child.poll() is not None
    grace_s = float(trial.spec["grace_s"])
    # a full pipe would keep it from ending: its output is taken meanwhile
    if done:  # what is about to end by itself, such as a tracker of resources, may
        process_tree.wait_for_all(os.getpid(), OUTLIVES_S, output.pump)
        grace_s = min(grace_s, OUTLIVES_S)
    left = process_tree.end_all(os.getpid(), grace_s, output.pump)
    child.wait()
    process_tree.reap(-1)
    output.close()
    return left if done else 0


if __name__ == "__main__":
    sys.exit(run(run_program))
