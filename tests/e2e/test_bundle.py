"""`aiok bundle`: one file from which a machine without internet installs aiok and environments."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from engine import bundle, environments
from engine.errors import EnvironmentProblem
from hosts.lockfile import Lock
from hosts.provision import collect_wheels, missing_wheels
from hosts.wheels import BUNDLED
from tests.e2e.conftest import ROOT, TEST_HOME
from tests.hosts.test_provision import make_wheel, write_lock

pytestmark = pytest.mark.slow


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lock:
    """An environment of one wheel, in a home that has the app's wheels, too."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "wheels").mkdir()
    for folder in (TEST_HOME / "wheels").iterdir():
        if folder.is_dir():
            (home / "wheels" / folder.name).symlink_to(folder)
    digest = make_wheel(tmp_path / "made", "alpha")
    (home / "wheels" / digest).mkdir()
    wheel = tmp_path / "made" / "alpha-1.0-py3-none-any.whl"
    wheel.rename(home / "wheels" / digest / wheel.name)
    monkeypatch.setenv("AIOK_HOME", str(home))
    lock = write_lock(tmp_path / "small.txt", {"alpha==1.0": digest})
    monkeypatch.setattr(environments, "lock_of", lambda name: lock)
    return lock


def test_a_bundle_installs_the_app_without_any_index(small: Lock, tmp_path: Path) -> None:
    made = bundle.make(tmp_path / "aiok.tar", ["small"], lambda phase, done, total: None)
    assert made == tmp_path / "aiok.tar"
    assert [path.name for path in tmp_path.glob("*.tar*")] == ["aiok.tar"]
    with tarfile.open(made) as tar:
        tar.extractall(tmp_path / "there", filter="data")
    checkout = tmp_path / "there" / "aiok"
    offline = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull, "HOME": str(tmp_path)}
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "AIOK_", "PYTHON"))}
    said = subprocess.run(
        [str(checkout / "scripts" / "aiok"), "--version"], env={**kept, **offline},
        capture_output=True, text=True, timeout=85, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("aiok ")


def test_environments_find_their_wheels_in_the_bundle(
    small: Lock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bundle.make(tmp_path / "aiok.tar", ["small"], lambda phase, done, total: None)
    with tarfile.open(made) as tar:
        tar.extractall(tmp_path / "there", filter="data")
    assert BUNDLED.relative_to(ROOT).as_posix() == "bundle/wheels"
    monkeypatch.setattr("hosts.wheels.BUNDLED", tmp_path / "there" / "aiok" / "bundle" / "wheels")
    bare = tmp_path / "bare"
    assert missing_wheels(small, bare) == []
    (wheel,) = collect_wheels(small, bare)
    assert wheel.is_relative_to(tmp_path / "there")


def test_a_bundle_never_replaces_what_is_no_file(small: Lock, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Exception, match="not a file"):
        bundle.make(tmp_path / "pipe", ["small"], lambda phase, done, total: None)
    assert (tmp_path / "pipe").is_fifo()


def test_a_bundle_that_cannot_be_written_is_told_before_wheels_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[object] = []
    monkeypatch.setattr(bundle, "_wheels", lambda *asked: fetched.append(asked) or [])
    with pytest.raises(EnvironmentProblem, match="cannot write"):
        bundle.make(tmp_path / "no" / "x.tar", ["etl"], lambda phase, done, total: None)
    assert not fetched
