"""Provisioning with small real wheels, the real pip and installer; nothing leaves the machine."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosts import compiled, installer, provision
from hosts.local import LocalChannel, LocalTransport
from hosts.provision import (
    Lock,
    ProvisionError,
    collect_wheels,
    environment_folder,
    install,
    is_installed,
    local_python,
    missing_wheels,
    remove,
)
from hosts.transport import Channel

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted([*ROOT.glob("models/environments/*.txt"), *ROOT.glob("locks/*.txt")])


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip finds only what a test gives it."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "AIOK_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")


def make_wheel(folder: Path, name: str, version: str = "1.0", code: str = "VALUE = 1\n") -> str:
    """Write a wheel of one module; returns its sha256."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(zipfile.ZipInfo(file), text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make_source(folder: Path, name: str, first: str = "") -> str:
    """Write a source package whose setup.py begins with `first`; returns its sha256."""
    folder.mkdir(parents=True, exist_ok=True)
    call = f"setup(name={name!r}, version='1.0', py_modules=[{name!r}])"
    setup = f"{first}\nfrom setuptools import setup\n{call}\n"
    path = folder / f"{name}-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for file, text in (
            ("setup.py", setup),
            (f"{name}.py", "VALUE = 2\n"),
            ("PKG-INFO", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"),
        ):
            entry = tarfile.TarInfo(f"{name}-1.0/{file}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_lock(path: Path, entries: Mapping[str, str], *options: str) -> Lock:
    """Write and read a lock; `entries` maps "name==version" to a sha256."""
    pins = [f"{pin} \\\n    --hash=sha256:{digest}" for pin, digest in entries.items()]
    path.write_text("\n".join(["# made for a test", *options, *pins]) + "\n")
    return Lock.read(path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "source"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def two(tmp_path: Path, source: Path) -> Lock:
    """A lock of two wheels that `source` has."""
    one, other = make_wheel(source, "alpha"), make_wheel(source, "beta", "2.5")
    return write_lock(tmp_path / "small.txt", {"alpha==1.0": one, "beta==2.5": other})


def leftovers(home: Path) -> list[Path]:
    """Half-made things; none may stay."""
    return [*home.glob("wheels/.incoming-*"), *home.glob("envs/.building-*")]


# --- locks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_every_shipped_lock_is_pinned_with_hashes(path: Path) -> None:
    lock = Lock.read(path)
    assert len(lock.packages) >= 5
    assert all(package.hashes and package.version for package in lock.packages)


def test_torch_is_the_cpu_build_and_nothing_phones_home() -> None:
    names = {p.name: p.version for p in Lock.read(ROOT / "models/environments/torch.txt").packages}
    assert names["torch"].endswith("+cpu")
    assert "openvino-telemetry" not in names
    assert not [name for name in names if name.startswith("nvidia")]


def test_ipex_fits_its_torch_and_leaves_out_what_only_a_gpu_loads() -> None:
    lock = Lock.read(ROOT / "models/environments/ipex.txt")
    names = {p.name: p.version for p in lock.packages}
    assert names["torch"] == names["intel-extension-for-pytorch"] == "2.8.0"
    assert "nvidia-cudnn-cu12" in names  # libtorch is linked to it
    assert not {"triton", "nvidia-cusolver-cu12", "openvino-telemetry"} & set(names)
    assert lock.large() is None


def test_worker_locks_agree_with_the_test_lock() -> None:
    tests = Lock.read(ROOT / "locks/test.txt")
    for path in ROOT.glob("models/environments/*.txt"):
        Lock.union("test", Lock.read(path), tests)
    Lock.union("app", Lock.read(ROOT / "locks/app.txt"), Lock.read(ROOT / "locks/dev.txt"))


pins = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True),
    st.tuples(st.integers(0, 99), st.binary(min_size=32, max_size=32)),
    min_size=1,
    max_size=6,
)


@given(pins, st.randoms(use_true_random=False))
def test_a_digest_is_of_what_is_pinned_whatever_the_order(
    tmp_path_factory: pytest.TempPathFactory, entries: dict[str, tuple[int, bytes]], random: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.txt"
    lines = {f"{name}=={n}": digest.hex() for name, (n, digest) in entries.items()}
    first = write_lock(path, lines)
    shuffled = sorted(lines.items(), key=lambda _: random.random())  # type: ignore[attr-defined]
    assert write_lock(path, dict(shuffled), "# another remark").digest == first.digest
    changed = {**lines, "zzz-added==1": "0" * 64}
    assert write_lock(path, changed).digest != first.digest


def test_an_unpinned_line_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "loose.txt"
    path.write_text("numpy>=2\n")
    with pytest.raises(ProvisionError, match="not pinned"):
        Lock.read(path)
    with pytest.raises(ProvisionError, match="cannot be read"):
        Lock.read(tmp_path / "absent.txt")


def test_locks_that_disagree_cannot_be_joined(tmp_path: Path) -> None:
    one = write_lock(tmp_path / "one.txt", {"alpha==1.0": "0" * 64})
    other = write_lock(tmp_path / "other.txt", {"alpha==2.0": "1" * 64})
    with pytest.raises(ProvisionError, match="alpha is locked to"):
        Lock.union("both", one, other)


# --- wheels --------------------------------------------------------------------------------------


def test_only_what_is_missing_is_fetched(two: Lock, source: Path, home: Path) -> None:
    seen: list[tuple[str, float, float]] = []
    wheels = collect_wheels(two, home, [source], progress=lambda *said: seen.append(said))
    assert [wheel.name.split("-")[0] for wheel in wheels] == ["alpha", "beta"]
    assert all(
        hashlib.sha256(wheel.read_bytes()).hexdigest() == wheel.parent.name for wheel in wheels
    )
    assert seen and all(0 <= done <= total == 2 for _, done, total in seen)
    wheels[1].unlink()
    before = wheels[0].stat().st_mtime_ns
    assert [package.name for package in missing_wheels(two, home)] == ["beta"]
    (source / "alpha-1.0-py3-none-any.whl").unlink()  # would fail if it were asked for
    assert collect_wheels(two, home, [source]) == wheels
    assert wheels[0].stat().st_mtime_ns == before
    assert not leftovers(home)


def test_a_wheel_with_another_hash_is_refused(tmp_path: Path, source: Path, home: Path) -> None:
    make_wheel(source, "alpha")
    lock = write_lock(tmp_path / "small.txt", {"alpha==1.0": "0" * 64})
    with pytest.raises(ProvisionError) as caught:
        collect_wheels(lock, home, [source])
    assert "alpha==1.0 has another hash" in caught.value.what
    assert str(source) in caught.value.why
    assert missing_wheels(lock, home) == list(lock.packages)
    assert not leftovers(home)


def test_no_source_at_all_is_one_sentence(two: Lock, home: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ProvisionError) as caught:
        collect_wheels(two, home, [tmp_path / "empty"])
    assert caught.value.what == "no configured source has alpha==1.0"
    assert "pip config list" in caught.value.todo
    with pytest.raises(ProvisionError, match="no folder of wheels"):
        collect_wheels(two, home, [tmp_path / "absent"])


def test_an_index_that_does_not_answer_is_named(
    two: Lock, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(ProvisionError) as caught:
        collect_wheels(two, home)
    assert caught.value.why == "127.0.0.1 cannot be reached"


def test_stock_torch_is_taken_only_when_accepted(tmp_path: Path, source: Path, home: Path) -> None:
    stock = make_wheel(source, "torch", "2.13.0")
    lock = write_lock(tmp_path / "torch.txt", {"torch==2.13.0+cpu": "0" * 64})
    large = write_lock(tmp_path / "torch-large.txt", {"torch==2.13.0": stock})
    with pytest.raises(ProvisionError) as caught:
        collect_wheels(lock, home, [source])
    assert caught.value.what == "no configured source has the CPU build torch==2.13.0+cpu"
    for way in ("extra-index-url", "PIP_FIND_LINKS", "--wheels", "--accept-large-torch"):
        assert way in caught.value.todo
    assert missing_wheels(large, home)  # nothing was fetched
    (wheel,) = collect_wheels(lock, home, [source], accept_large_torch=True)
    assert wheel.name == "torch-2.13.0-py3-none-any.whl"
    (tmp_path / "empty").mkdir()
    assert collect_wheels(lock, home, [tmp_path / "empty"]) == [wheel]  # accepted once


def test_the_cpu_build_wins_even_when_stock_is_accepted(
    tmp_path: Path, source: Path, home: Path
) -> None:
    cpu = make_wheel(source, "torch", "2.13.0+cpu", "CPU = True\n")
    stock = make_wheel(source, "torch", "2.13.0")
    lock = write_lock(tmp_path / "torch.txt", {"torch==2.13.0+cpu": cpu})
    write_lock(tmp_path / "torch-large.txt", {"torch==2.13.0": stock})
    (wheel,) = collect_wheels(lock, home, [source], accept_large_torch=True)
    assert wheel.parent.name == cpu


def test_the_stock_torch_of_another_environment_is_no_acceptance(
    tmp_path: Path, source: Path, home: Path
) -> None:
    older, stock = make_wheel(source, "torch", "2.8.0"), make_wheel(source, "torch", "2.13.0")
    ipex = write_lock(tmp_path / "ipex.txt", {"torch==2.8.0": older})
    lock = write_lock(tmp_path / "torch.txt", {"torch==2.13.0+cpu": "0" * 64})
    write_lock(tmp_path / "torch-large.txt", {"torch==2.13.0": stock})
    (wheel,) = collect_wheels(ipex, home, [source])  # whoever names this environment wants it
    assert wheel.parent.name == older
    with pytest.raises(ProvisionError, match="CPU build"):
        collect_wheels(lock, home, [source])


def test_source_only_packages_are_built_once(tmp_path: Path, source: Path, home: Path) -> None:
    digest = make_source(source, "gamma")
    lock = write_lock(tmp_path / "s.txt", {"gamma==1.0": digest}, "--no-binary gamma")
    (wheel,) = collect_wheels(lock, home, [source])
    assert wheel.suffix == ".whl"
    (source / "gamma-1.0.tar.gz").unlink()
    assert collect_wheels(lock, home, [source]) == [wheel]


def test_a_source_package_is_not_built_unless_the_lock_says_so(
    tmp_path: Path, source: Path, home: Path
) -> None:
    lock = write_lock(tmp_path / "s.txt", {"gamma==1.0": make_source(source, "gamma")})
    with pytest.raises(ProvisionError, match="no configured source has gamma"):
        collect_wheels(lock, home, [source])


COLLECT = """
import sys
from pathlib import Path
from hosts.provision import Lock, collect_wheels
lock, home, source = map(Path, sys.argv[1:])
print(len(collect_wheels(Lock.read(lock), home, [source])))
"""

INSTALL = """
import os, signal, sys
from pathlib import Path
from hosts.local import LocalTransport
from hosts.provision import Lock, collect_wheels, environment_folder, install, local_python
path, home, source = map(Path, sys.argv[1:4])
def report(phase, done, total):
    if phase == sys.argv[4]:
        os.kill(os.getpid(), signal.SIGKILL)
lock = Lock.read(path)
wheels = collect_wheels(lock, home, [source], progress=report)
folder = environment_folder(home, lock)
print(install(LocalTransport(), lock, wheels, folder, local_python(), report))
"""


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    """A process of its own that uses this checkout."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_two_collectors_at_once(two: Lock, source: Path, home: Path) -> None:
    both = [start(COLLECT, two.path, home, source) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in both] == ["2", "2"]
    assert len(list(home.glob("wheels/*/*.whl"))) == 2
    assert not leftovers(home)


def test_a_collector_killed_in_the_middle_leaves_nothing_that_counts(
    tmp_path: Path, source: Path, home: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    digest = make_source(source, "gamma", first=f"open({str(gate)!r}).read()")
    lock = write_lock(tmp_path / "s.txt", {"gamma==1.0": digest}, "--no-binary gamma")
    collector = start(COLLECT, lock.path, home, source)
    with gate.open("w"):  # opens when the build is under way
        collector.kill()
        collector.communicate()
        assert leftovers(home)
    assert missing_wheels(lock, home) == list(lock.packages)
    gate.unlink()
    gate.write_text("")
    assert len(collect_wheels(lock, home, [source])) == 1
    assert not leftovers(home)


# --- environments --------------------------------------------------------------------------------


def build(lock: Lock, home: Path, source: Path) -> Path:
    """Collect and install on this machine."""
    folder = environment_folder(home, lock)
    wheels = collect_wheels(lock, home, [source])
    assert install(LocalTransport(), lock, wheels, folder, local_python())
    return folder


def imported(folder: Path, name: str) -> str:
    """What the environment's Python finds as VALUE of a module."""
    code = f"import {name}; print({name}.VALUE, {name}.__cached__)"
    done = subprocess.run(
        [folder / "bin" / "python", "-I", "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_an_environment_is_whole_compiled_and_can_be_removed(
    two: Lock, home: Path, source: Path
) -> None:
    folder = build(two, home, source)
    assert folder == home / "envs" / f"small-{two.digest[:12]}"
    value, cached = imported(folder, "beta").split()
    assert value == "1"
    assert Path(cached).is_file()
    marker = json.loads((folder / installer.MARKER).read_text())
    assert marker["packages"] == {"alpha": "1.0", "beta": "2.5"}
    assert not leftovers(home)
    transport = LocalTransport()
    wheels = collect_wheels(two, home)
    assert is_installed(transport, folder)
    assert install(transport, two, wheels, folder, local_python()) is False
    remove(transport, folder, local_python())
    assert not is_installed(transport, folder)
    assert not folder.exists()


def test_another_home_gets_copies_by_hash(two: Lock, home: Path, source: Path) -> None:
    wheels = collect_wheels(two, home, [source])
    there = home.with_name("host")
    seen: list[str] = []
    folder = environment_folder(there, two)
    install(
        LocalTransport(), two, wheels, folder, local_python(), lambda phase, *_: seen.append(phase)
    )
    assert sorted(p.name for p in there.glob("wheels/*/*.whl")) == sorted(p.name for p in wheels)
    assert seen.count("copy") == 5  # two wheels, compiled, and the installer program
    assert imported(folder, "alpha").startswith("1 ")


@pytest.mark.parametrize("phase", ["check", "unpack"])
def test_killing_the_caller_leaves_nothing_that_counts(
    two: Lock, home: Path, source: Path, phase: str
) -> None:
    killed = start(INSTALL, two.path, home, source, phase)
    killed.communicate()
    folder = environment_folder(home, two)
    if killed.returncode == 0:
        assert phase == "unpack"  # so short that it was over before its first sign of life
        return
    assert killed.returncode == -signal.SIGKILL
    with (folder.parent / f".lock-{folder.name}").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the installer has noticed and is gone
    assert not (folder / installer.MARKER).exists() or imported(folder, "alpha")
    again = start(INSTALL, two.path, home, source, "none")
    assert again.communicate()[0].strip() in ("True", "False")
    assert imported(folder, "alpha").startswith("1 ")
    assert not leftovers(home)


def test_killing_who_compiles_beside_the_wheels_leaves_nothing_that_counts(
    two: Lock, home: Path, source: Path
) -> None:
    killed = start(INSTALL, two.path, home, source, "compile")
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert missing_wheels(two, home) == []
    assert list(home.glob(f"wheels/*/{compiled.NAME}")) == []
    again = start(INSTALL, two.path, home, source, "none")
    assert again.communicate()[0].strip() == "True"
    assert len(list(home.glob(f"wheels/*/{compiled.NAME}"))) == 2
    assert imported(environment_folder(home, two), "alpha").startswith("1 ")
    assert not leftovers(home)


class Watched(LocalTransport):
    """Remembers the process of the last channel."""

    pid = 0

    def start(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> Channel:
        channel = super().start(argv, env=env)
        assert isinstance(channel, LocalChannel)
        self.pid = channel._process.pid
        return channel


def test_killing_the_installer_leaves_nothing_that_counts(
    two: Lock, home: Path, source: Path
) -> None:
    transport = Watched()

    def kill(phase: str, done: float, total: float) -> None:
        if phase == "compile":
            os.kill(transport.pid, signal.SIGKILL)

    slow = write_modules(source, home, two.path)
    wheels, folder = uncompiled(slow, home, source), environment_folder(home, slow)
    with pytest.raises(ProvisionError, match="ended too early"):
        install(transport, slow, wheels, folder, local_python(), kill)
    assert not is_installed(transport, folder)
    assert install(transport, slow, wheels, folder, local_python())
    assert not leftovers(home)


def uncompiled(lock: Lock, home: Path, source: Path) -> list[Path]:
    """The wheels of a lock as they are where nothing could be compiled beside them."""
    wheels = collect_wheels(lock, home, [source])
    for wheel in wheels:
        wheel.with_name(compiled.NAME).unlink()
    return wheels


def write_modules(source: Path, home: Path, near: Path | None) -> Lock:
    """A lock of a wheel with enough modules that compiling takes more than one chunk."""
    digest = make_wheel(source, "many", code="VALUE = 3\n")
    path = source / "many-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "a") as archive:
        for number in range(3 * installer.CHUNK_FILES):
            archive.writestr(f"many_{number}.py", f"VALUE = {number}\n")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert near is not None
    return write_lock(near.with_name("many.txt"), {"many==1.0": digest})


def test_what_progress_raises_undoes_the_work(two: Lock, home: Path, source: Path) -> None:
    slow = write_modules(source, home, two.path)
    wheels, folder = uncompiled(slow, home, source), environment_folder(home, slow)

    def stop(phase: str, done: float, total: float) -> None:
        if phase == "compile":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        install(LocalTransport(), slow, wheels, folder, local_python(), stop)
    assert not is_installed(LocalTransport(), folder)
    assert not leftovers(home)


def test_two_installers_at_once(two: Lock, home: Path, source: Path) -> None:
    both = [start(INSTALL, two.path, home, source, "none") for _ in range(2)]
    said = sorted(process.communicate()[0].strip() for process in both)
    assert said == ["False", "True"]
    assert imported(environment_folder(home, two), "alpha").startswith("1 ")


def test_a_damaged_wheel_is_named_and_fetched_anew(two: Lock, home: Path, source: Path) -> None:
    wheels = collect_wheels(two, home, [source])
    data = bytearray(wheels[0].read_bytes())
    data[40] ^= 1
    wheels[0].write_bytes(data)
    folder = environment_folder(home, two)
    with pytest.raises(ProvisionError, match=r"alpha-1\.0-py3-none-any\.whl is damaged"):
        install(LocalTransport(), two, wheels, folder, local_python())
    assert not is_installed(LocalTransport(), folder)
    assert [package.name for package in missing_wheels(two, home)] == ["alpha"]
    build(two, home, source)


def test_too_small_a_disk_is_said_before_anything_is_built(
    two: Lock, home: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = collect_wheels(two, home, [source])
    monkeypatch.setattr(provision, "PYC_SHARE", 1e15)
    folder = environment_folder(home, two)
    with pytest.raises(ProvisionError, match="not enough disk space") as caught:
        install(LocalTransport(), two, wheels, folder, local_python())
    assert "GiB are needed" in caught.value.why
    assert not folder.exists()
    assert not leftovers(home)


def test_too_small_a_disk_for_the_wheels(two: Lock, home: Path, source: Path) -> None:
    assert two.path is not None
    two.path.write_text("# needs: 999999 GiB wheels, 1 GiB installed\n" + two.path.read_text())
    with pytest.raises(ProvisionError, match="not enough disk space for the wheels"):
        collect_wheels(Lock.read(two.path), home, [source])


@pytest.fixture
def other_python(tmp_path: Path) -> Iterator[Path]:
    """A program that is no CPython 3.11."""
    path = tmp_path / "python"
    path.write_text("#!/bin/sh\nexit 1\n")
    path.chmod(0o755)
    return path


def test_a_host_without_the_right_python(
    two: Lock, home: Path, source: Path, other_python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels, folder = collect_wheels(two, home, [source]), environment_folder(home, two)
    for python in (str(other_python), "no-such-python"):
        with pytest.raises(ProvisionError) as caught:
            install(LocalTransport(), two, wheels, folder, python)
        assert "does not run there" in caught.value.what
        assert "CPython 3.11" in caught.value.why
    monkeypatch.setattr(installer.platform, "python_version", lambda: "3.12.1")
    with pytest.raises(installer.Problem, match=r"is CPython 3\.12\.1"):
        installer.check_host({"folder": str(folder), "need": 0, "name": "small"})


def test_a_home_that_cannot_be_written(two: Lock, source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ProvisionError, match="cannot be written"):
        collect_wheels(two, tmp_path / "file" / "home", [source])
