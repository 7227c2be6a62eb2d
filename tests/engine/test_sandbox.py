"""What earlier drills have left: their own is removed, a stranger's is not even believed."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine import sandbox
from engine.errors import EnvironmentProblem
from hosts.testbed_host import start_time

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of a drill whose process is gone."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    place = tmp_path / f"{sandbox.PREFIX}{gone.pid}-abc"
    (place / "testbed").mkdir(parents=True)
    place.chmod(0o700)
    return place


@pytest.fixture
def victim(left: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that the state file there names as a host's."""
    with subprocess.Popen(["sleep", "60"]) as process:
        host = {"name": "h1", "options": {}, "pid": process.pid,
                "started": start_time(process.pid)}  # fmt: skip
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        state = {"net": "10.1.2", "prefix": "tx", "user": "aiok", "boot": boot, "hosts": [host]}
        (left / "testbed" / "testbed.json").write_text(json.dumps(state))
        yield process
        process.kill()


def give_away(place: Path) -> None:
    os.chown(place, 65534, 65534)


def link(place: Path) -> None:
    place.symlink_to(place.rename(place.with_name("elsewhere")))


def open_up(place: Path) -> None:
    place.chmod(0o777)


@needs_root
@pytest.mark.parametrize("spoil", [give_away, link, open_up])
def test_what_a_stranger_may_have_left_is_not_touched(
    spoil: Callable[[Path], None], left: Path, victim: subprocess.Popen[bytes]
) -> None:
    spoil(left)
    sandbox._remove_leftovers()
    assert (left / "testbed" / "testbed.json").exists()
    assert victim.poll() is None


@needs_root
def test_ones_own_is_removed_with_its_hosts(left: Path, victim: subprocess.Popen[bytes]) -> None:
    sandbox._remove_leftovers()
    assert not left.exists()
    assert victim.wait(10) == -9


@needs_root
def test_a_damaged_state_of_ones_own_is_told(left: Path) -> None:
    (left / "testbed" / "testbed.json").write_text("{")
    with pytest.raises(EnvironmentProblem, match="an earlier drill has left do not go"):
        sandbox._remove_leftovers()
    assert left.exists()


def test_a_drill_that_goes_on_is_left_alone(left: Path) -> None:
    place = left.rename(left.with_name(f"{sandbox.PREFIX}{os.getpid()}-abc"))
    sandbox._remove_leftovers()
    assert place.exists()
