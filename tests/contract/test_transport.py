"""What every transport promises: the local one, SSH to a host of the testbed, and the fake."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from hosts.fake import FakeTransport
from hosts.local import LocalTransport
from hosts.transport import Completed, HostProblem, Transport
from tests.testbed import ssh_to

ECHO = ["python3", "-I", "-S", "-c", "import sys; sys.stdout.write(sys.stdin.read())"]
FAIL = ["python3", "-I", "-S", "-c", "import sys; sys.stderr.write('no'); sys.exit(7)"]
TALK = [
    "python3", "-I", "-S", "-u", "-c", "import sys\nfor line in sys.stdin: print(line, end='')"
]  # fmt: skip


def _fake() -> FakeTransport:
    fake = FakeTransport()

    def echo(_argv: Sequence[str], stdin: bytes) -> Completed:
        return Completed(0, stdin.decode(), "")

    fake.answer("sys.stdout.write", echo)
    fake.answer("sys.exit(7)", Completed(7, "", "no"))
    fake.answer("sleep 30", HostProblem("fake", "sleep took longer than 0.2 s"))
    fake.open_with("for line in sys.stdin", [b"one\n", b"two\n"])
    return fake


@pytest.fixture(params=["local", "ssh", "fake"])
def transport(request: pytest.FixtureRequest) -> Iterator[Transport]:
    if request.param == "ssh":
        testbed = request.getfixturevalue("testbeds")(1)
        with ssh_to(testbed, "h1") as made:
            yield made
    else:
        yield LocalTransport() if request.param == "local" else _fake()


@pytest.fixture
def folder(transport: Transport) -> Iterator[str]:
    """A folder for files on the host; it does not exist yet."""
    place = f"/tmp/aiok-contract-{uuid.uuid4().hex}"
    yield place
    if not isinstance(transport, FakeTransport):
        transport.run(["rm", "-rf", place])


def test_run_gives_code_stdout_and_stderr(transport: Transport) -> None:
    assert transport.run(ECHO, stdin=b"hello \xc3\xa9") == Completed(0, "hello \u00e9", "")
    assert transport.run(FAIL) == Completed(7, "", "no")


def test_missing_program_is_a_host_problem_that_names_it(transport: Transport) -> None:
    with pytest.raises(HostProblem, match="no-such-program"):
        transport.run(["no-such-program"])
    with pytest.raises(HostProblem, match="no-such-program"):
        transport.start(["no-such-program"])


def test_channel_carries_lines_both_ways_and_refuses_after_close(transport: Transport) -> None:
    channel = transport.start(TALK)
    channel.write(b"one\ntwo\n")
    lines = channel.lines()
    assert [next(lines), next(lines)] == [b"one\n", b"two\n"]
    channel.close()
    with pytest.raises(HostProblem):
        channel.write(b"three\n")


def test_files_go_there_and_back_unchanged(
    transport: Transport, tmp_path: Path, folder: str
) -> None:
    source, back = tmp_path / "source", tmp_path / "deep" / "back"
    source.write_bytes(bytes(range(256)) * 100)
    target = f"{folder}/host/file"
    transport.put(source, target)
    transport.get(target, back)
    assert back.read_bytes() == source.read_bytes()
    with pytest.raises(HostProblem):
        transport.get(f"{folder}/missing", tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_timeout_is_a_host_problem_and_the_next_command_works(transport: Transport) -> None:
    with pytest.raises(HostProblem, match=r"longer than 0\.2 s"):
        transport.run(["sleep", "30"], timeout_s=0.2)
    assert transport.run(ECHO, stdin=b"on") == Completed(0, "on", "")
