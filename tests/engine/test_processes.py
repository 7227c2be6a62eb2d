"""Which processes count as a run's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from engine.processes import processes_of
from engine.store import create_run_folder

FORKED = r"import os, time; os.fork(); os.write(1, b'%d\n' % os.getpid()); time.sleep(60)"


def test_a_child_that_has_not_exec_ed_yet_is_no_second_run_process(aiok_home: Path) -> None:
    run = create_run_folder("forked")
    argv = [sys.executable, "-c", FORKED, "engine.run", str(run.path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, process_group=0) as parent:
        try:
            assert parent.stdout is not None
            pids = {int(parent.stdout.readline()) for _ in range(2)}
            found = [(process.pid, process.role) for process in processes_of(run.id)]
            parent.kill()
            parent.wait()
            (child,) = pids - {parent.pid}
            orphan = [(process.pid, process.role) for process in processes_of(run.id)]
        finally:
            os.killpg(parent.pid, signal.SIGKILL)
    assert found == [(parent.pid, "runner")]
    assert orphan == [(child, "runner")]
