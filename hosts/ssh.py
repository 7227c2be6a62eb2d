"""A host reached by SSH as a plain user: one connection, one kept channel for commands.

paramiko's own defaults are not used: host keys come from aiok's file alone and an unknown or a
changed one ends the connection; neither the user's agent nor the default keys are tried unless the
inventory says so. A dead link is noticed by TCP itself (TCP_USER_TIMEOUT), since paramiko's
keepalive does not count missing answers.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shlex
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from pathlib import Path, PurePosixPath
from typing import Any

import paramiko

from hosts import program
from hosts.inventory import HostEntry
from hosts.login import (
    CONNECT_S,
    Password,
    PinnedOnly,
    check_pinned,
    credentials,
    explain,
    fingerprint,
    known_name,
    login_problem,
    nothing_to_offer,
)
from hosts.transport import Channel, Completed, HostProblem, NoAnswer, Transport

KEEPALIVE_S = 2
ANSWER_S = 60.0  # until a host has started a program
DEAD_LINK_MS = 6000  # what was sent must be acknowledged within this time
SERVER = Path(__file__).with_name("command_server.py")


class SshChannel(Channel):
    """A command with a channel of its own; its stderr is thrown away on the host."""

    def __init__(self, host: str, channel: paramiko.Channel, first: bytes) -> None:
        self._host, self._channel = host, channel
        self._rest, self._closed = first, False

    def write(self, data: bytes) -> None:
        if self._closed:
            raise NoAnswer(self._host, "the agent is gone")
        try:
            self._channel.sendall(data)
        except (OSError, EOFError):
            raise NoAnswer(self._host, "the agent is gone") from None

    def lines(self) -> Iterator[bytes]:
        while True:
            line, newline, rest = self._rest.partition(b"\n")
            if newline:
                self._rest = rest
                yield line + newline
                continue
            data = self._receive()
            if not data:
                if self._rest:
                    yield self._rest
                    self._rest = b""
                return
            self._rest += data

    def first_line(self, patience_s: float) -> bytes:
        """The next line, b"" when there is none within the time."""
        self._channel.settimeout(patience_s)
        try:
            return next(self.lines(), b"")
        finally:
            self._channel.settimeout(None)

    @property
    def is_over(self) -> bool:
        """Whether the command has ended, or the connection."""
        return bool(self._channel.eof_received or self._channel.closed)

    def _receive(self) -> bytes:
        try:
            return self._channel.recv(1 << 16)
        except OSError:
            return b""

    def close(self) -> None:
        self._closed = True
        with contextlib.suppress(OSError, EOFError):
            self._channel.shutdown_write()
        with contextlib.suppress(OSError, EOFError):
            self._channel.close()


class _Commands:
    """The kept channel: requests by id, answers from a reader thread."""

    def __init__(self, host: str, channel: SshChannel) -> None:
        self._host, self._channel = host, channel
        self._numbers = itertools.count()
        self._waiting: dict[int, Future[dict[str, Any]]] = {}
        self._lock = threading.Lock()
        self.alive = True
        threading.Thread(target=self._read, name=f"commands of {host}", daemon=True).start()

    def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """The answer to one request; HostProblem when the connection ends before it comes."""
        number, future = next(self._numbers), Future[dict[str, Any]]()
        line = (json.dumps({**request, "id": number}) + "\n").encode()
        with self._lock:
            if not self.alive:
                return {"bye": True}
            self._waiting[number] = future
            self._channel.write(line)
        try:
            return future.result(timeout_s)
        except Late:
            raise NoAnswer(self._host, f"no answer for {timeout_s:g} s") from None

    def _read(self) -> None:
        with contextlib.suppress(ValueError):  # what is no JSON comes from a foreign program
            for line in self._channel.lines():
                found = json.loads(line)
                if "bye" in found:
                    self._dismiss(lambda future: future.set_result({"bye": True}))
                    return
                with self._lock:
                    future = self._waiting.pop(found["id"], None)
                if future is not None:
                    future.set_result(found)
        self._dismiss(lambda future: future.set_exception(_lost(self._host)))

    def _dismiss(self, tell: Callable[[Future[dict[str, Any]]], None]) -> None:
        """No more answers will come: tell those who wait."""
        with self._lock:
            self.alive = False
            left = list(self._waiting.values())
            self._waiting.clear()
        for future in left:
            tell(future)

    def close(self) -> None:
        """End the program on the host."""
        self._channel.close()


def _lost(host: str) -> NoAnswer:
    return NoAnswer(host, "the connection was lost", "the host or the network went away")


class SshTransport(Transport):
    """One host. The connection opens at the first call, and again when it was lost.

    `identity` is aiok's own key for the host, tried before the user's; `password` asks a person
    and is called at most once. Every call may be made from any thread.
    """

    def __init__(
        self,
        entry: HostEntry,
        known_hosts: Path,
        *,
        password: Password | None = None,
        identity: Path | None = None,
        jump: SshTransport | None = None,
    ) -> None:
        self.host, self.entry = entry.name, entry
        self._known_hosts, self._ask, self._identity = known_hosts, password, identity
        self._jump = jump
        self._typed: str | None = None
        self._client: paramiko.SSHClient | None = None
        self._commands: _Commands | None = None
        self._no_python = False
        self._lock = threading.RLock()

    # --- the connection ---

    def connection(self) -> paramiko.Transport:
        """The open connection; HostProblem says why there is none."""
        with self._lock:
            transport = self._client.get_transport() if self._client else None
            if transport is None or not transport.is_active():
                self._let_go()
                self._client = self._connect()
                transport = self._client.get_transport()
            assert transport is not None
            return transport

    def _connect(self) -> paramiko.SSHClient:
        problem: HostProblem | None = None
        for way in credentials(self.entry, self._identity, self._type):
            client = paramiko.SSHClient()
            client.set_missing_host_key_policy(PinnedOnly())
            if self._known_hosts.exists():
                client.load_host_keys(str(self._known_hosts))
            try:
                client.connect(
                    self.entry.address, self.entry.port, self.entry.user,
                    timeout=CONNECT_S, banner_timeout=CONNECT_S, auth_timeout=CONNECT_S,
                    allow_agent=False, look_for_keys=False, sock=socket_to(self.entry, self._jump),
                    **way.words,
                )  # fmt: skip
            except (paramiko.SSHException, OSError, ValueError) as error:
                client.close()
                problem = login_problem(self.entry, error, way)
                if problem is None:  # no other way to log in would help
                    raise explain(self.entry, error) from None
                continue
            self._keep_alive(client)
            return client
        if problem is None or (self.entry.password and self._typed is None):
            problem = nothing_to_offer(self.entry)
        raise problem

    def _type(self) -> str | None:
        """The password, asked for once."""
        if self._typed is None and self._ask is not None:
            self._typed = self._ask(self.entry)
        return self._typed

    @staticmethod
    def _keep_alive(client: paramiko.SSHClient) -> None:
        transport = client.get_transport()
        assert transport is not None
        transport.set_keepalive(KEEPALIVE_S)
        if isinstance(transport.sock, socket.socket):  # a jump's channel is none
            for option, value in (
                (socket.TCP_USER_TIMEOUT, DEAD_LINK_MS),
                (socket.TCP_NODELAY, 1),
            ):
                transport.sock.setsockopt(socket.IPPROTO_TCP, option, value)

    def _let_go(self) -> None:
        if self._commands is not None:
            self._commands.close()
            self._commands = None
        if self._client is not None:
            self._client.close()
            self._client = None

    def close(self) -> None:
        with self._lock:
            self._let_go()
            if self._jump is not None:
                self._jump.close()

    # --- commands ---

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout_s: float = 60.0,
    ) -> Completed:
        request = {
            "argv": list(argv),
            "env": dict(env or {}),
            "stdin": base64.b64encode(stdin).decode("ascii"),
            "timeout_s": timeout_s,
        }
        said: Mapping[str, Any] = {"bye": True}
        while "bye" in said:  # it had left before it read the request: nothing was run
            commands = self._server()
            if commands is None:
                return self._run_plainly(argv, env or {}, stdin, timeout_s)
            said = commands.ask(request, timeout_s + CONNECT_S)
        if "code" in said:
            return Completed(int(said["code"]), _text(said["stdout"]), _text(said["stderr"]))
        raise self._refused(argv[0], said, timeout_s)

    def _refused(self, program: str, said: Mapping[str, Any], timeout_s: float) -> HostProblem:
        if "late" in said:
            return HostProblem(self.host, f"{program} took longer than {timeout_s:g} s")
        if "denied" in said:
            return HostProblem(self.host, f"{program} may not be run")
        if "failed" in said:
            return HostProblem(self.host, f"{program} could not be run", str(said["failed"]))
        return HostProblem(self.host, f"there is no program {program}")

    def _server(self) -> _Commands | None:
        """The command server of this connection; None where the host has no python3."""
        with self._lock:
            transport = self.connection()
            if self._commands is not None and self._commands.alive:
                return self._commands
            if self._no_python:
                return None
            python = self.entry.python or "python3"
            channel = self._open(_shell_line(program.command(python), {}), transport)
            with contextlib.suppress(HostProblem):  # gone at once: it has said nothing
                channel.write(program.sent(SERVER))
            if b"ready" not in next(channel.lines(), b""):
                channel.close()
                if not transport.is_active():
                    raise _lost(self.host)
                self._no_python = True
                return None
            self._commands = _Commands(self.host, channel)
            return self._commands

    def _open(self, line: str, transport: paramiko.Transport) -> SshChannel:
        try:
            channel = transport.open_session(timeout=CONNECT_S)
            channel.exec_command(line + " 2>/dev/null")
        except (paramiko.SSHException, EOFError, OSError) as error:
            kind = HostProblem if isinstance(error, paramiko.ChannelException) else NoAnswer
            raise kind(
                self.host, "no channel could be opened", str(error) or type(error).__name__
            ) from None
        return SshChannel(self.host, channel, b"")

    def _run_plainly(
        self, argv: Sequence[str], env: Mapping[str, str], stdin: bytes, timeout_s: float
    ) -> Completed:
        """A channel for this one command: slower, needs nothing but a shell."""
        done = self._exec(argv, env, stdin, timeout_s)
        if done.code == 127 and not self._has(argv[0]):
            raise HostProblem(self.host, f"there is no program {argv[0]}")
        return done

    def _has(self, program: str) -> bool:
        """Whether a host without python3 has a program: 127 may be the program's own exit code."""
        asked = ["/bin/sh", "-c", 'command -v -- "$1"', "sh", program]
        return self._exec(asked, {}, b"", CONNECT_S).code == 0

    def _exec(
        self, argv: Sequence[str], env: Mapping[str, str], stdin: bytes, timeout_s: float
    ) -> Completed:
        try:
            channel = self.connection().open_session(timeout=CONNECT_S)
            channel.settimeout(timeout_s)
            channel.exec_command(_shell_line(argv, env))
            with contextlib.suppress(OSError):  # it does not read all of its input
                channel.sendall(stdin)
                channel.shutdown_write()
            out = channel.makefile("rb").read()
            err = channel.makefile_stderr("rb").read()
            code = channel.recv_exit_status()
        except TimeoutError:
            raise HostProblem(self.host, f"{argv[0]} took longer than {timeout_s:g} s") from None
        except (paramiko.SSHException, EOFError, OSError):
            raise _lost(self.host) from None
        return Completed(code, out.decode(errors="replace"), err.decode(errors="replace"))

    def start(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> Channel:
        # A channel tells of a missing program only by its end: an empty line says that it is there.
        there = f"command -v -- {shlex.quote(argv[0])} >/dev/null && echo && "
        transport = self.connection()
        channel = self._open(there + _shell_line(argv, env or {}), transport)
        if not channel.first_line(ANSWER_S):
            silent = not channel.is_over
            channel.close()
            if not transport.is_active():
                raise _lost(self.host)
            if silent:
                raise NoAnswer(self.host, f"no answer for {ANSWER_S:g} s")
            raise HostProblem(self.host, f"there is no program {argv[0]}")
        return channel

    # --- files ---

    def put(self, source: Path, target: str) -> None:
        place = PurePosixPath(target)
        scratch = f"{place.parent}/.{place.name}.{os.getpid()}.{threading.get_ident()}"
        with self._files(f"cannot copy {source} to {target}") as sftp:
            made = self.run(["mkdir", "-p", str(place.parent)])
            if made.code:
                raise OSError(made.stderr.strip())
            sftp.put(str(source), scratch, confirm=True)
            sftp.chmod(scratch, source.stat().st_mode & 0o777)
            sftp.posix_rename(scratch, target)
            self._count(source.stat().st_size)

    def get(self, source: str, target: Path) -> None:
        with self._files(f"cannot copy {source} to {target}") as sftp:
            sftp.stat(source)  # first: a missing file leaves no trace here
            target.parent.mkdir(parents=True, exist_ok=True)
            scratch = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}")
            try:
                sftp.get(source, str(scratch))
                self._count(scratch.stat().st_size)
                os.replace(scratch, target)
            finally:
                scratch.unlink(missing_ok=True)

    def _count(self, size: int) -> None:
        with self._lock:
            self.moved_bytes += size

    @contextlib.contextmanager
    def _files(self, what: str) -> Iterator[paramiko.SFTPClient]:
        """A file channel; whatever goes wrong becomes a HostProblem that begins with `what`."""
        transport = self.connection()
        try:
            sftp = paramiko.SFTPClient.from_transport(transport)
            assert sftp is not None
            with sftp:
                yield sftp
        except (paramiko.SSHException, EOFError, OSError) as error:
            why = getattr(error, "strerror", None) or str(error) or "the connection was lost"
            if why == "Failure":  # all that SFTP 3 says of a full disk
                why = "the host refused to write: is its disk full?"
            lost = not isinstance(error, OSError) or not transport.is_active()
            raise (NoAnswer if lost else HostProblem)(self.host, what, why) from None


def _text(data: str) -> str:
    return base64.b64decode(data).decode(errors="replace")


def _shell_line(argv: Sequence[str], env: Mapping[str, str]) -> str:
    """One command line for the login shell of the host: the only place where words are quoted."""
    words = ["env", *(f"{key}={value}" for key, value in env.items()), *argv] if env else argv
    return f"exec {shlex.join(words)}"


def socket_to(entry: HostEntry, jump: SshTransport | None) -> Any:
    """The way through a jump host, None where there is none; HostProblem names both hosts."""
    if jump is None:
        return None
    name, place = jump.host, (entry.address, entry.port)
    try:
        return jump.connection().open_channel(
            "direct-tcpip", place, ("127.0.0.1", 0), timeout=CONNECT_S
        )
    except HostProblem as problem:
        what = f"its jump host {name}: {problem.what}"
        raise type(problem)(entry.name, what, problem.why, problem.todo) from None
    except paramiko.SSHException as error:
        why = getattr(error, "text", "") or str(error)
        todo = f"check the address and port of {entry.name} as {name} sees it"
        what = f"its jump host {name} cannot reach it"
        raise NoAnswer(entry.name, what, why, todo) from None


# --- the first meeting ----------------------------------------------------------------------------


def scan_host_key(
    entry: HostEntry, known_hosts: Path, jump: SshTransport | None = None
) -> tuple[str, str]:
    """What a host shows before any login: its fingerprint, and its line for known_hosts.

    HostProblem when it does not answer, or another key of it is pinned.
    """
    try:
        sock = socket_to(entry, jump) or socket.create_connection(
            (entry.address, entry.port), CONNECT_S
        )
        with contextlib.closing(paramiko.Transport(sock)) as transport:
            transport.banner_timeout = CONNECT_S
            transport.start_client(timeout=CONNECT_S)
            key = transport.get_remote_server_key()
    except (paramiko.SSHException, OSError) as error:
        raise explain(entry, error) from None
    check_pinned(entry, key, known_hosts)
    line = f"{known_name(entry.address, entry.port)} {key.get_name()} {key.get_base64()}"
    return fingerprint(key), line
