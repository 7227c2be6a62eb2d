"""Compiled modules travel beside their wheels and are what Python uses on a host."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from hosts.compiled import NAME, archive_of, compile_wheels
from hosts.local import LocalTransport
from hosts.provision import (
    Lock,
    ProvisionError,
    collect_wheels,
    environment_folder,
    install,
    local_python,
    remove,
)
from tests.hosts.test_provision import _offline as only_what_is_given
from tests.hosts.test_provision import make_wheel, write_lock

__all__ = ["only_what_is_given"]


@pytest.fixture
def lock(tmp_path: Path) -> Lock:
    return write_lock(
        tmp_path / "small.txt", {"alpha==1.0": make_wheel(tmp_path / "source", "alpha")}
    )


def installed(lock: Lock, wheels: list[Path], home: Path) -> tuple[Path, list[str]]:
    """The environment of a lock on a host without anything, and the phases of the work."""
    folder, phases = environment_folder(home, lock), list[str]()
    install(LocalTransport(), lock, wheels, folder, local_python(),
            lambda phase, *_: phases.append(phase))  # fmt: skip
    return folder / "lib/python3.11/site-packages", phases


def test_a_host_takes_what_was_compiled_here(lock: Lock, tmp_path: Path) -> None:
    (wheel,) = collect_wheels(lock, tmp_path / "home", [tmp_path / "source"])
    archive = archive_of(wheel)
    assert archive is not None
    with zipfile.ZipFile(archive) as file:
        assert file.namelist() == ["__pycache__/alpha.cpython-311.pyc"]
        compiled = file.read("__pycache__/alpha.cpython-311.pyc")
    library, phases = installed(lock, [wheel], tmp_path / "host")
    assert (library / "__pycache__/alpha.cpython-311.pyc").read_bytes() == compiled
    assert "compile" not in phases
    # Python neither compiles again nor names the place where it was compiled
    python = str(library.parents[2] / "bin" / "python")
    said = subprocess.run(
        [python, "-v", "-c", "import alpha; print(alpha.__file__)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.strip() == str(library / "alpha.py")
    assert "# wrote" not in said.stderr
    assert f"matches {library}/alpha.py" in said.stderr


def test_tracebacks_name_the_file_of_the_environment(tmp_path: Path) -> None:
    digest = make_wheel(tmp_path / "source", "broken", code="def go():\n    return 1 / 0\n")
    lock = write_lock(tmp_path / "small.txt", {"broken==1.0": digest})
    wheels = collect_wheels(lock, tmp_path / "home", [tmp_path / "source"])
    library, _ = installed(lock, wheels, tmp_path / "host")
    python = str(library.parents[2] / "bin" / "python")
    said = subprocess.run(
        [python, "-c", "import broken; broken.go()"], capture_output=True, text=True, check=False
    )
    assert f'File "{library}/broken.py", line 2, in go' in said.stderr
    assert "return 1 / 0" in said.stderr


def test_without_an_archive_the_host_compiles(lock: Lock, tmp_path: Path) -> None:
    (wheel,) = collect_wheels(lock, tmp_path / "home", [tmp_path / "source"])
    wheel.with_name(NAME).unlink()
    library, phases = installed(lock, [wheel], tmp_path / "host")
    assert "compile" in phases
    assert (library / "__pycache__/alpha.cpython-311.pyc").exists()


def test_a_damaged_archive_on_a_host_is_replaced(lock: Lock, tmp_path: Path) -> None:
    (wheel,) = collect_wheels(lock, tmp_path / "home", [tmp_path / "source"])
    there = tmp_path / "host" / "wheels" / wheel.parent.name / NAME
    there.parent.mkdir(parents=True)
    archive = archive_of(wheel)
    assert archive is not None
    there.write_bytes(b"x" * archive.stat().st_size)  # of the right size
    with pytest.raises(ProvisionError, match="is damaged"):
        installed(lock, [wheel], tmp_path / "host")
    library, _ = installed(lock, [wheel], tmp_path / "host")
    assert (library / "alpha.py").exists()


def test_what_does_not_parse_or_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    source = tmp_path / "source"
    make_wheel(source, "odd", code="print 'of another Python'\n")
    wheel = next(source.glob("odd-*.whl"))
    compile_wheels([wheel], lambda phase, done, total: None, 1)
    archive = archive_of(wheel)
    assert archive is not None and zipfile.ZipFile(archive).namelist() == []
    bad = tmp_path / "bad" / "bad-1.0-py3-none-any.whl"
    bad.parent.mkdir()
    bad.write_bytes(b"no archive")
    compile_wheels([bad], lambda phase, done, total: None, 1)
    assert archive_of(bad) is None
    assert [path.name for path in bad.parent.parent.glob(".incoming-*")] == []


def test_wheels_are_unpacked_once_for_all_environments(lock: Lock, tmp_path: Path) -> None:
    wheels = collect_wheels(lock, tmp_path / "home", [tmp_path / "source"])
    more = write_lock(tmp_path / "more.txt", {
        "alpha==1.0": make_wheel(tmp_path / "source", "alpha"),
        "beta==1.0": make_wheel(tmp_path / "source", "beta"),
    })  # fmt: skip
    first, _ = installed(lock, wheels, tmp_path / "host")
    both = collect_wheels(more, tmp_path / "home", [tmp_path / "source"])
    second, _ = installed(more, both, tmp_path / "host")
    assert first != second
    assert (first / "alpha.py").samefile(second / "alpha.py")
    folder = environment_folder(tmp_path / "host", lock)
    remove(LocalTransport(), folder, local_python())
    assert not folder.exists()
    assert not list((tmp_path / "host" / "wheels" / "unpacked").rglob("*.py"))
    assert (second / "alpha.py").stat().st_nlink == 1  # nothing else holds the space
    again, _ = installed(lock, wheels, tmp_path / "host")
    assert (again / "alpha.py").read_text() == (second / "alpha.py").read_text()
