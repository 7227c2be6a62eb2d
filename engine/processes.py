"""Which processes on this machine belong to a run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from engine.store import open_run_folder


@dataclass(frozen=True)
class RunProcess:
    """A process of a run. `role` is runner, agent, rank, launcher or worker."""

    pid: int
    role: str
    command: str


def processes_of(run: str) -> list[RunProcess]:
    """Everything of a run that lives: its run process, agents, launchers, ranks and workers."""
    run_folder = open_run_folder(run)
    folder, tag = str(run_folder.path).encode(), run_folder.tag
    job, supervised = f"AIOK_JOB={tag}.".encode(), f"AIOK_SUPERVISES={tag}.".encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            environ = Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
            argv = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        role = ""
        if b"engine.run" in argv and folder in argv:
            role = "runner"
        elif any(entry.startswith(supervised) for entry in environ):
            role = "agent"
        elif any(entry.startswith(job) for entry in environ):
            role = _role(environ, argv)
        if role and argv != [b""]:
            command = b" ".join(argv).decode(errors="replace").strip()
            found.append(RunProcess(int(entry), role, command))
    runners = {process.pid for process in found if process.role == "runner"}
    # Between its fork and its exec, what the run process starts looks as that does.
    return [p for p in found if p.pid not in runners or _parent(p.pid) not in runners]


def _parent(pid: int) -> int:
    """The parent of a process; 0 when it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[1])


def _role(environ: list[bytes], argv: list[bytes]) -> str:
    if any(entry.startswith(b"PMI_RANK=") for entry in environ):
        return "rank"
    program = argv[0].rpartition(b"/")[2]
    return "launcher" if program in (b"mpiexec.hydra", b"hydra_pmi_proxy") else "worker"
