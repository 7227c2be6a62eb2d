"""Java for Spark on hosts that have none: a runtime cut from a JDK of this machine.

`jlink --add-modules ALL-MODULE-PATH` makes a folder that runs from any place (83 MB of OpenJDK 17).
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from hosts import folders
from hosts.site import Site
from hosts.transport import HostProblem

VERSIONS = (17, 21)  # what Spark 4.1 runs on
INSTALLED = Path("/usr/lib/jvm")
JLINK = ("--add-modules", "ALL-MODULE-PATH", "--strip-java-debug-attributes", "--no-header-files",
         "--no-man-pages", "--compress=2")  # fmt: skip
JLINK_LIMIT_S = 300
Progress = Callable[[int, int], None]
FIND = """
import os, shutil
home = os.environ.get("JAVA_HOME")
java = os.path.join(home, "bin", "java") if home else shutil.which("java") or ""
print(os.path.dirname(os.path.dirname(os.path.realpath(java))) if java else "")
"""


def version_of(line: str) -> int:
    """17 of `openjdk version "17.0.15" 2025-04-15`; 0 of anything else."""
    found = re.search(r'version "(\d+)', line)
    return int(found[1]) if found else 0


def is_fit(line: str) -> bool:
    """Whether Spark runs on the Java with that version line."""
    return version_of(line) in VERSIONS


def java_home(site: Site) -> str:
    """The folder of the Java that is installed on a host; HostProblem when there is none."""
    found = site.transport.run([site.python, "-I", "-S", "-c", FIND]).stdout.strip()
    if not found.startswith("/"):
        raise HostProblem(site.name, "there is no Java")
    return found


def find_jdk() -> Path | None:
    """A JDK of this machine that can make runtimes: JAVA_HOME, PATH, then /usr/lib/jvm."""
    places = [Path(home)] if (home := os.environ.get("JAVA_HOME")) else []
    if jlink := shutil.which("jlink"):
        places.append(Path(jlink).resolve().parent.parent)
    places += sorted(INSTALLED.iterdir()) if INSTALLED.is_dir() else []
    return next((place for place in places if _is_jdk(place)), None)


def _is_jdk(place: Path) -> bool:
    try:
        found = re.search(r'JAVA_VERSION="(\d+)', (place / "release").read_text(encoding="utf-8"))
    except OSError:
        return False
    complete = (place / "bin" / "jlink").exists() and (place / "jmods").is_dir()
    return complete and found is not None and int(found[1]) in VERSIONS


def is_missing(hosts: Sequence[str]) -> str:
    """What to do about hosts without Java, where none can be made for them."""
    return (
        f"{', '.join(hosts)}: there is no Java 17 or 21, which Apache Spark needs, and no JDK here "
        "to make one from; install OpenJDK there (Debian: apt-get install openjdk-17-jre-headless) "
        "or a JDK here (openjdk-17-jdk-headless), or set etl.engine=sail"
    )


def make_runtime(jdk: Path, home: Path) -> Path:
    """The runtime of a JDK below `home`, made once. HostProblem says what jlink complains of."""
    key = f"{(jdk / 'release').read_text(encoding='utf-8')}{platform.machine()}{JLINK}"
    target = home / "java" / hashlib.sha256(key.encode()).hexdigest()[:20]
    if target.is_dir():
        return target
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(scratch, ignore_errors=True)
    done = subprocess.run(
        [str(jdk / "bin" / "jlink"), *JLINK, "--output", str(scratch)],
        capture_output=True, text=True, timeout=JLINK_LIMIT_S, check=False,
    )  # fmt: skip
    if done.returncode:
        shutil.rmtree(scratch, ignore_errors=True)
        last = ((done.stdout + done.stderr).strip().splitlines() or ["no message"])[-1]
        raise HostProblem("localhost", f"jlink of {jdk} failed", last, "free space, or another JDK")
    try:
        scratch.rename(target)
    except OSError:  # another run was faster
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def place_of(site: Site) -> PurePosixPath:
    """Where runtimes lie on a host."""
    return site.home / "java"


def send_runtime(site: Site, runtime: Path, progress: Progress = lambda done, total: None) -> str:
    """Bring a runtime to a host; returns its folder there. HostProblem when it does not run."""
    target = place_of(site) / runtime.name
    folders.send_folder(site, runtime, target, progress)
    programs = [str(target / "lib" / name) for name in ("jspawnhelper", "jexec")]
    site.transport.run(["chmod", "-R", "u+x", str(target / "bin"), *programs])
    done = site.transport.run([str(target / "bin" / "java"), "-XX:-UsePerfData", "-version"])
    if done.code:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.code}"])[-1]
        raise HostProblem(
            site.name, "the Java runtime made here does not run there", last,
            "install OpenJDK 17 or 21 on the host (Debian: openjdk-17-jre-headless)",
        )  # fmt: skip
    return str(target)
