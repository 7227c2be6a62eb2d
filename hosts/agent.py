"""The file that is copied to hosts: it supervises one job, samples the machine and relays both.

    agent.py start FOLDER          start the job of FOLDER/job.json under a supervisor of its own;
                                   without argv: watch the processes of a job that others started
    agent.py attach FOLDER OFFSETS relay what the job says to stdout; heartbeats come on stdin
    agent.py sweep FOLDER JOB ...  end everything that belongs to a job, or to several
    agent.py watch                 a sample of the machine each second, as a JSON line, until stdin
                                   ends or WATCH_S have passed without a byte on it

Standard library only, Python >= 3.8, so that it runs on a bare host. The supervisor lives in a
session of its own and survives a lost connection: a new `attach` takes over where the old one
ended. When no heartbeat came for `grace_s` it ends the job.

FOLDER holds job.json ({"id", "argv", "env", "cwd", "grace_s", "sample_s", "cores"}), output.log
(stdout and stderr of the job), messages/ (JSON lines of the ranks), supervisor.jsonl (start,
samples, end), heartbeat, stop, kill, end and stacks (written by attach).
"""

import contextlib
import glob
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from typing import IO, Any, Dict, Iterator, List, Optional, Tuple

TAG = "AIOK_JOB"
KILL_AFTER_S = 3.0
STACK_S, STACK_BYTES = 2.0, 1 << 15  # a stack is written in less
WATCH_S = 15.0
CHUNK = 1 << 16
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


# --- processes of a job -------------------------------------------------------------------------


def start_time(pid):  # type: (int) -> Optional[int]
    """Clock ticks from boot to the start of a process; None when it is gone or a zombie."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] == b"Z" else int(fields[19])


def environment_of(pid):  # type: (int) -> List[bytes]
    """The environment a process was started with; [] when it may not be read."""
    try:
        with open("/proc/%d/environ" % pid, "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []


def tagged(*jobs):  # type: (*str) -> List[int]
    """The pids of all processes that carry the tag of one of the jobs, this one apart."""
    wanted = {("%s=%s" % (TAG, job)).encode() for job in jobs}
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            if not wanted.isdisjoint(environment_of(int(entry))):
                if start_time(int(entry)) is not None:
                    found.append(int(entry))
    return found


def send(pids, number):  # type: (List[int], int) -> None
    """Signal each process; those already gone are fine."""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def sweep(*jobs, patience_s=KILL_AFTER_S):  # type: (*str, float) -> int
    """TERM, wait, KILL all that carries a tag of these; how many there were."""
    first = tagged(*jobs)
    if not first:
        return 0
    send(first, signal.SIGTERM)
    send(first, signal.SIGCONT)  # a stopped process does not see TERM
    end = time.monotonic() + patience_s
    while time.monotonic() < end and tagged(*jobs):
        time.sleep(0.05)
    end = time.monotonic() + 10
    while time.monotonic() < end:
        left = tagged(*jobs)
        if not left:
            break
        send(left, signal.SIGKILL)
        time.sleep(0.05)
    return len(first)


def ranks(job):  # type: (str) -> Dict[int, int]
    """pid -> rank of the ranks of an mpirun job: they, not the launcher, know how to stop well."""
    found = {}
    for pid in tagged(job):
        numbers = [e[9:] for e in environment_of(pid) if e.startswith(b"PMI_RANK=")]
        if numbers:
            found[pid] = int(numbers[0])
    return found


def stack_of(pid, path):  # type: (int, str) -> Tuple[str, str]
    """State letter of a rank, and the Python stacks it writes to a file when it is asked to; ""
    when it cannot: a stopped process sees no signal."""
    state, text = "?", b""
    with contextlib.suppress(OSError):
        with open("/proc/%d/status" % pid) as file:
            status = dict(line.split(":\t", 1) for line in file if ":\t" in line)
        state, before = status["State"][0], os.path.getsize(path)
        listens = int(status["SigCgt"], 16) >> (signal.SIGUSR2 - 1) & 1
        if state in "TtZ" or not listens:  # SIGUSR2 would end one that does not listen
            return state, ""
        os.kill(pid, signal.SIGUSR2)
        end, last = time.monotonic() + STACK_S, None
        while time.monotonic() < end and (text != last or not text):
            time.sleep(0.1)
            with open(path, "rb") as stacks:
                stacks.seek(before)
                last, text = text, stacks.read(STACK_BYTES)
    return state, text.decode("utf-8", "replace")


# --- samples ------------------------------------------------------------------------------------


class Sampler:
    """Differences of /proc counters between two calls."""

    def __init__(self, job=None):  # type: (Optional[str]) -> None
        self.job = job
        self.before = self._counters()

    def _counters(self):  # type: () -> Dict[str, Any]
        return {
            "t": time.monotonic(),
            "cpu": self._cpu(),
            "disk": self._disk(),
            "net": self._net(),
            "job": self._job(),
        }

    @staticmethod
    def _cpu():  # type: () -> List[Tuple[int, int]]
        cores = []
        with open("/proc/stat") as file:
            for line in file:
                if line.startswith("cpu") and line[3].isdigit():
                    ticks = [int(word) for word in line.split()[1:9]]
                    cores.append((sum(ticks) - ticks[3] - ticks[4], sum(ticks)))
        return cores

    @staticmethod
    def _disk():  # type: () -> Tuple[int, int]
        read = written = 0
        try:
            with open("/proc/diskstats") as file:
                for line in file:
                    words = line.split()
                    if os.path.exists("/sys/block/%s/device" % words[2]):  # no partitions, no loops
                        read, written = read + int(words[5]), written + int(words[9])
        except OSError:
            pass
        return read * 512, written * 512

    @staticmethod
    def _net():  # type: () -> Tuple[int, int]
        received = sent = 0
        try:
            with open("/proc/net/dev") as file:
                for line in file.read().splitlines()[2:]:
                    name, _, rest = line.partition(":")
                    if name.strip() != "lo":
                        words = rest.split()
                        received, sent = received + int(words[0]), sent + int(words[8])
        except OSError:
            pass
        return received, sent

    def _job(self):  # type: () -> Dict[Tuple[int, int], Tuple[int, int]]
        """(pid, start) -> (CPU ticks, resident bytes) of each process of the job."""
        found = {}
        for pid in tagged(self.job) if self.job else []:
            with contextlib.suppress(OSError, IndexError, ValueError):
                with open("/proc/%d/stat" % pid, "rb") as file:
                    words = file.read().rpartition(b")")[2].split()
                found[(pid, int(words[19]))] = (
                    int(words[11]) + int(words[12]),
                    int(words[21]) * PAGE,
                )
        return found

    def sample(self):  # type: () -> Dict[str, Any]
        """Rates since the last call: percent per core, MiB/s; memory in GiB."""
        old, new = self.before, self._counters()
        self.before = new
        span = max(1e-3, new["t"] - old["t"])
        cpu = [
            round(100.0 * (busy - was) / max(1, total - total_was), 1)
            for (busy, total), (was, total_was) in zip(new["cpu"], old["cpu"])
        ]
        memory = meminfo()
        rates = [
            round((after - before) / span / 2**20, 3)
            for key in ("disk", "net")
            for after, before in zip(new[key], old[key])
        ]
        # a process that is new has used all of its ticks since the last call
        ticks = sum(now[0] - old["job"].get(key, (0, 0))[0] for key, now in new["job"].items())
        sample = {
            "t": time.time(),
            "cpu": cpu,
            "memory_used_gib": round((memory["MemTotal"] - memory["MemAvailable"]) / 2**20, 3),
            "memory_total_gib": round(memory["MemTotal"] / 2**20, 3),
            "disk_read_mib_s": rates[0],
            "disk_write_mib_s": rates[1],
            "net_rx_mib_s": rates[2],
            "net_tx_mib_s": rates[3],
            "load1": os.getloadavg()[0],
        }  # type: Dict[str, Any]
        if self.job is not None:
            resident = sum(rss for _, rss in new["job"].values())
            sample["job_cpu"] = round(100.0 * ticks / TICK / span, 1)
            sample["job_cpu_s"] = round(ticks / TICK, 3)
            sample["job_memory_gib"] = round(resident / 2**30, 3)
        return sample


def meminfo():  # type: () -> Dict[str, int]
    """/proc/meminfo in KiB."""
    with open("/proc/meminfo") as file:
        return {line.split(":")[0]: int(line.split()[1]) for line in file}


def oom_kills():  # type: () -> int
    """How many processes the kernel has killed for want of memory since the host was started."""
    with contextlib.suppress(OSError, ValueError):
        with open("/proc/vmstat") as file:
            for line in file:
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return 0


# --- the supervisor -----------------------------------------------------------------------------


class Supervisor:
    """Owns one job from its start to the last sweep."""

    def __init__(self, folder):  # type: (str) -> None
        self.folder = folder
        with open(os.path.join(folder, "job.json")) as file:
            self.job = json.load(file)  # type: Dict[str, Any]
        self.journal = open(os.path.join(folder, "supervisor.jsonl"), "ab", buffering=0)
        self.beat_seen = self._beat()
        self.beat_at = time.monotonic()
        self.stop_sent = False
        self.torn = False  # the last line of the journal has no end

    def say(self, **fields):  # type: (Any) -> None
        """Append one line to the journal of this job; a full disk must not end the watch, and what
        it tore must not take the next line with it."""
        line = b"\n" * self.torn + json.dumps(fields).encode() + b"\n"
        with contextlib.suppress(OSError):
            self.torn = self.journal.write(line) < len(line)

    def _beat(self):  # type: () -> int
        try:
            return os.stat(os.path.join(self.folder, "heartbeat")).st_mtime_ns
        except OSError:
            return 0

    def silent_s(self):  # type: () -> float
        """Seconds, on a clock nobody sets, since the heartbeat last moved."""
        beat = self._beat()
        if beat != self.beat_seen:
            self.beat_seen, self.beat_at = beat, time.monotonic()
        return time.monotonic() - self.beat_at

    def launch(self):  # type: () -> subprocess.Popen[bytes]
        """Start the job: own process group, tag in the environment, output into a file."""
        env = dict(os.environ)
        env.pop("AIOK_SUPERVISES", None)
        env.update(self.job["env"])
        env[TAG] = self.job["id"]
        env["AIOK_MESSAGES"] = os.path.join(self.folder, "messages")
        with open(os.path.join(self.folder, "output.log"), "ab", buffering=0) as output:
            return subprocess.Popen(
                self.job["argv"], env=env, cwd=self.job.get("cwd") or self.folder,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip

    def run(self):  # type: () -> None
        """Watch until the job ends, is asked to stop, or nobody asks after it any more."""
        sampler, starved = Sampler(self.job["id"]), oom_kills()
        child = None
        try:
            if self.job.get("cores"):
                os.sched_setaffinity(0, self.job["cores"])  # what is started inherits it
            if self.job["argv"]:
                child = self.launch()
        except OSError as error:
            self.say(k="end", code=127, why="cannot start %s: %s" % (self.job["argv"][0], error))
            return
        self.say(k="start", pid=child.pid if child else 0, t=time.time())
        why, due = "", time.monotonic()
        while not self._over(child):
            if self.silent_s() > self.job["grace_s"]:
                why = "no heartbeat for %g s" % self.job["grace_s"]
                sweep(self.job["id"])
                break
            self._obey(child)
            if time.monotonic() >= due:
                self.say(k="sample", **sampler.sample())
                due = max(due + self.job.get("sample_s", 1.0), time.monotonic())
            time.sleep(0.05)
        code = child.wait() if child else 0
        orphans = sweep(self.job["id"])
        starved = oom_kills() - starved
        # of the child and all that was waited for below it; nothing where ranks are only watched
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.say(
            k="end", code=code, why=why, swept=orphans, t=time.time(), oom_kills=starved,
            cpu_s=round(used.ru_utime + used.ru_stime, 3),
            largest_gib=round(used.ru_maxrss / 2.0**20, 6),
        )  # fmt: skip

    def _over(self, child):  # type: (Optional[subprocess.Popen[bytes]]) -> bool
        """Whether the job has ended; one that is only watched ends when it is told to."""
        if child is not None:
            return child.poll() is not None
        return os.path.exists(os.path.join(self.folder, "end"))

    def _obey(self, child):  # type: (Optional[subprocess.Popen[bytes]]) -> None
        """A file `stop` asks for a graceful end, `kill` for a quick one, `stacks` for stacks."""
        if os.path.exists(os.path.join(self.folder, "kill")):
            sweep(self.job["id"], patience_s=0.5)
        elif os.path.exists(os.path.join(self.folder, "stacks")):
            os.unlink(os.path.join(self.folder, "stacks"))
            for pid, rank in ranks(self.job["id"]).items():
                path = os.path.join(self.folder, "messages", "rank-%04d.stack" % rank)
                state, text = stack_of(pid, path)
                self.say(k="stack", rank=rank, pid=pid, state=state, text=text)
        elif not self.stop_sent and os.path.exists(os.path.join(self.folder, "stop")):
            self.stop_sent = True
            send(list(ranks(self.job["id"])) or ([child.pid] if child else []), signal.SIGTERM)


def start(folder):  # type: (str) -> int
    """Fork the supervisor into a session of its own and say its pid."""
    os.makedirs(os.path.join(folder, "messages"), exist_ok=True)
    touch(os.path.join(folder, "heartbeat"))
    read_end, write_end = os.pipe()
    if os.fork() == 0:
        os.setsid()
        pid = os.fork()
        if pid:
            os.write(write_end, str(pid).encode())
            os._exit(0)
        os.close(read_end)
        os.close(write_end)
        try:
            sign(folder)
        except OSError as error:
            sys.stderr.write("%s: %s\n" % (error.filename or folder, error.strerror))
            sys.stderr.flush()
            os._exit(1)
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        Supervisor(folder).run()
        os._exit(0)
    os.close(write_end)
    os.wait()
    pid = int(os.read(read_end, 32))
    while not os.path.exists(os.path.join(folder, "supervisor.pid")):
        if start_time(pid) is None:  # it has said why
            return 1
        time.sleep(0.01)
    print(json.dumps({"pid": pid}))
    return 0


def sign(folder):  # type: (str) -> None
    """Note this process as the supervisor, at one stroke: who read half would take it for dead."""
    path = os.path.join(folder, "supervisor.pid")
    with open(path + ".new", "w") as file:
        json.dump([os.getpid(), start_time(os.getpid())], file)
    os.replace(path + ".new", path)


def supervisor_of(folder):  # type: (str) -> Optional[int]
    """The pid of the living supervisor of a job folder."""
    try:
        with open(os.path.join(folder, "supervisor.pid")) as file:
            pid, started = json.load(file)
    except (OSError, ValueError):
        return None
    return pid if start_time(pid) == started else None


# --- the relay ----------------------------------------------------------------------------------


def touch(path):  # type: (str) -> None
    """Create a file or move its time."""
    with open(path, "ab"):
        os.utime(path)


class Relay:
    """Tails the files of a job folder to stdout, from the offsets the other side has."""

    def __init__(self, folder, offsets):  # type: (str, Dict[str, int]) -> None
        self.folder, self.offsets = folder, offsets
        self.final = False
        self.ended = False

    def names(self):  # type: () -> Iterator[str]
        """output.log and the rank files first, the journal last: its `end` closes the relay."""
        yield "output.log"
        for path in sorted(glob.glob(os.path.join(self.folder, "messages", "*.jsonl"))):
            yield "messages/" + os.path.basename(path)
        yield "supervisor.jsonl"

    def pump(self):  # type: () -> bool
        """Send whatever is new, whole lines only; True when there was something."""
        moved = False
        for name in list(self.names()):
            if self._pump_file(name):
                moved = True
                if name == "supervisor.jsonl" and self.ended:
                    break
        return moved

    def _pump_file(self, name):  # type: (str) -> bool
        offset = self.offsets.get(name, 0)
        try:
            with open(os.path.join(self.folder, name), "rb") as file:
                file.seek(offset)
                data = file.read(CHUNK)
        except OSError:
            return False
        cut = data.rfind(b"\n") + 1
        if not cut and (len(data) == CHUNK or self.final):
            cut = len(data)  # one monstrous line, or a last one without its end
        if not cut:
            return False
        if name == "supervisor.jsonl" and b'"k": "end"' in data[:cut]:
            if not self.final:
                self.final = True  # once more over the other files, torn tails too
                return True
            if self._behind():
                return False
            self.ended = True
        self.offsets[name] = offset + cut
        text = data[:cut].decode("utf-8", "replace")
        say({"file": name, "offset": offset + cut, "data": text})
        return True

    def _behind(self):  # type: () -> bool
        """Whether another file still has lines to send before the end may be told."""
        for name in self.names():
            if name == "supervisor.jsonl":
                continue
            with contextlib.suppress(OSError):
                path = os.path.join(self.folder, name)
                with open(path, "rb") as file:
                    file.seek(self.offsets.get(name, 0))
                    if file.read(1):
                        return True
        return False


def say(frame):  # type: (Dict[str, Any]) -> None
    """One frame a line on stdout."""
    os.write(1, (json.dumps(frame) + "\n").encode())


def attach(folder, offsets):  # type: (str, Dict[str, int]) -> int
    """Relay until the job has ended or the other side is gone."""
    relay = Relay(folder, offsets)
    job = os.path.basename(os.path.abspath(folder))
    last_beat_out = 0.0
    while not relay.ended:
        ready, _, _ = select.select([0], [], [], 0.05)
        if ready:
            data = os.read(0, 4096)
            if not data:
                return 0
            touch(os.path.join(folder, "heartbeat"))
            for word in (b"stop", b"kill", b"end", b"stacks"):
                if word in data:
                    touch(os.path.join(folder, word.decode()))
        alive = supervisor_of(folder) is not None
        moved = relay.pump()
        if not alive and not moved and not relay.ended:
            swept = sweep(job)
            say({"file": "supervisor.jsonl", "offset": 0, "data": json.dumps(
                {"k": "end", "code": -9, "why": "the supervisor was killed", "swept": swept}
            ) + "\n"})  # fmt: skip
            return 0
        if time.monotonic() - last_beat_out > 1.0:
            last_beat_out = time.monotonic()
            say({"beat": time.time()})
    return 0


# --- without a job ------------------------------------------------------------------------------


def watch():  # type: () -> int
    """Say how the machine does, once a second, while somebody asks. Nothing is written here."""
    sampler = Sampler()
    beat = time.monotonic()
    due = beat + 1.0
    while time.monotonic() - beat < WATCH_S:
        ready, _, _ = select.select([0], [], [], max(0.0, due - time.monotonic()))
        if ready:
            if not os.read(0, 4096):
                return 0
            beat = time.monotonic()
        if time.monotonic() >= due:
            try:
                say(sampler.sample())
            except OSError:  # nobody reads any more
                return 0
            due = max(due + 1.0, time.monotonic())
    return 0


def main(argv, stdout):  # type: (List[str], IO[str]) -> int
    """The command line of this file."""
    if argv[1:2] == ["start"] and len(argv) == 3:
        return start(argv[2])
    if argv[1:2] == ["attach"] and len(argv) == 4:
        return attach(argv[2], json.loads(argv[3]))
    if argv[1:2] == ["sweep"] and len(argv) >= 4 and len(argv) % 2 == 0:
        supervisors = [supervisor_of(folder) for folder in argv[2::2]]
        send([pid for pid in supervisors if pid], signal.SIGKILL)
        stdout.write(json.dumps({"swept": sweep(*argv[3::2])}) + "\n")
        return 0
    if argv[1:] == ["watch"]:
        return watch()
    stdout.write(__doc__ or "")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv, sys.stdout))
