"""The program that runs commands on a host for one connection: it is sent to `python3 -` there.

One JSON request a line on stdin, {"id", "argv", "env", "stdin" (base64), "timeout_s"}; one JSON
answer a line on stdout, {"id", "code", "stdout", "stderr" (base64)} or one of {"id", "missing"},
{"id", "denied"}, {"id", "late"}, {"id", "failed"}. Commands run side by side. When stdin ends, the
caller is gone: what still runs is ended. Nothing asked for IDLE_S: {"bye"}, and nothing is read any
more, so that a connection that was cut leaves no process behind. Starting a process costs a few
milliseconds where a new SSH channel costs tens, since sshd forks and logs in for each.

Standard library only, Python >= 3.8: it runs on a bare host.
"""

import base64
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from typing import Any, Dict, Iterator, Set

IDLE_S = 30.0
RUNNING = set()  # type: Set[subprocess.Popen[bytes]]
LOCK = threading.Lock()


def answer(request):  # type: (Dict[str, Any]) -> Dict[str, Any]
    """Run one command to its end."""
    env = dict(os.environ)
    env.update(request["env"])
    try:
        process = subprocess.Popen(
            request["argv"], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
    except FileNotFoundError:
        return {"missing": True}
    except PermissionError:
        return {"denied": True}
    except OSError as error:
        return {"code": 126, "stdout": "", "stderr": encoded(str(error).encode())}
    with LOCK:
        RUNNING.add(process)
    try:
        out, err = process.communicate(base64.b64decode(request["stdin"]), request["timeout_s"])
    except subprocess.TimeoutExpired:
        kill(process)
        process.communicate()
        return {"late": True}
    finally:
        with LOCK:
            RUNNING.discard(process)
    return {"code": process.returncode, "stdout": encoded(out), "stderr": encoded(err)}


def encoded(data):  # type: (bytes) -> str
    """Any bytes as text that JSON can hold."""
    return base64.b64encode(data).decode("ascii")


def kill(process):  # type: (subprocess.Popen[bytes]) -> None
    """End a command and what it started in its session."""
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)


def say(line):  # type: (Dict[str, Any]) -> None
    """One line to the caller; the whole of it, since answers come from many threads."""
    data = (json.dumps(line) + "\n").encode()
    with LOCK:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def requests():  # type: () -> Iterator[Dict[str, Any]]
    """What is asked, until stdin ends or nothing is asked and nothing runs for IDLE_S."""
    rest = b""
    while True:
        ready, _, _ = select.select([0], [], [], IDLE_S)
        if not ready:
            with LOCK:
                busy = bool(RUNNING)
            if busy:
                continue
            say({"bye": True})
            return
        data = os.read(0, 1 << 16)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield json.loads(line)


def serve():  # type: () -> None
    """Answer, then leave nothing running."""
    say({"ready": sys.version_info[:2]})
    for request in requests():

        def work(request=request):  # type: (Dict[str, Any]) -> None
            try:
                result = answer(request)
            except Exception as error:  # whoever asked waits for an answer, whatever went wrong
                result = {"failed": "%s: %s" % (type(error).__name__, error)}
            with contextlib.suppress(OSError):
                say(dict(result, id=request["id"]))

        try:
            threading.Thread(target=work, daemon=True).start()
        except RuntimeError as error:  # no more threads for this user
            say({"id": request["id"], "failed": str(error)})
    with LOCK:
        for process in RUNNING:
            kill(process)


serve()
