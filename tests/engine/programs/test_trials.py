"""How a user's program may misbehave: real programs under the real agent, nothing of them left."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.clusters import local_site
from engine.code import deploy
from engine.errors import InputError, RunStopped
from engine.programs import check
from engine.programs.check import CheckOutcome, CheckTrial
from engine.programs.trial import worker_argv
from engine.work import Launch, Listener, run_worker, worker_environment, write_spec
from hosts import agent
from models.messages import Message, Scalar


@pytest.fixture(scope="module", autouse=True)
def _one_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One home for all: the workers' code is copied once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIOK_HOME", str(tmp_path_factory.mktemp("home")))
        yield


START = """
import json, os, signal, subprocess, sys, time
folder, params = os.environ["AIOK_TRIAL_DIR"], json.load(open(os.environ["AIOK_PARAMS"]))
def result(**values):
    with open(os.path.join(folder, "result.json"), "w") as file:
        json.dump(values, file)
def stream(step, **metrics):
    with open(os.environ["AIOK_METRICS"], "a") as file:
        file.write(json.dumps({"step": step, "metrics": metrics}) + "\\n")
"""


def prepare(folder: Path, script: str, seconds: float = 30.0, **fields: Any) -> CheckTrial:
    """A program of one parameter x and one metric auc."""
    data = {
        "name": "tried", "command": ["python3", "main.py", folder.name], "grace_s": 0.5,
        "parameters": [{"name": "x", "type": "double", "bounds": {"min": 0, "max": 2}}],
        "metrics": [{"name": "auc", "objective": "maximize"}],
        **fields,
    }  # fmt: skip
    (folder / "main.py").write_text(START + textwrap.dedent(script), encoding="utf-8")
    (folder / "program.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    return check.prepare(str(folder / "program.yaml"), None, seconds)


def processes_with(word: str) -> list[str]:
    """Command lines of all processes that hold a word."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                line = Path("/proc", entry, "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if word in line:
                found.append(line)
    return found


def tried(folder: Path, script: str, seconds: float = 30.0, **fields: Any) -> CheckOutcome:
    """What became of it; whatever that is, no process and no file of the trial is left."""
    trial = prepare(folder, script, seconds, **fields)
    outcome = check.run(trial)
    assert agent.tagged(trial.job) == []
    assert processes_with(folder.name) == []
    assert not trial.folder.exists()
    assert not (trial.folder.parents[1] / "jobs" / trial.job).exists()
    return outcome


def test_a_good_program_has_its_values_zero_too(tmp_path: Path) -> None:
    outcome = tried(tmp_path, "stream(3, auc=0.25); result(auc=0, other=params['x'])")
    assert (outcome.failure, outcome.metrics, outcome.streamed) == ("", {"auc": 0.0}, {"auc": 1})


def test_data_that_are_not_there_are_told_before(tmp_path: Path) -> None:
    prepare(tmp_path, "result(auc=0.5)")
    with pytest.raises(InputError, match="there is no such file or folder") as refused:
        check.prepare(str(tmp_path / "program.yaml"), tmp_path / "nowhere", 30.0)
    assert refused.value.exit_code == 2


# --- the ten ways -------------------------------------------------------------------------------


def test_exit_1(tmp_path: Path) -> None:
    outcome = tried(tmp_path, "result(auc=0.9); raise SystemExit('no such column')")
    assert (outcome.failure, outcome.metrics) == ("crash", {})
    assert outcome.what == "it ended with exit code 1"
    assert "no such column" in outcome.why


def test_it_hangs(tmp_path: Path) -> None:
    outcome = tried(tmp_path, "result(auc=0.9); time.sleep(1000)", timeout_s=0.7)
    assert (outcome.failure, outcome.what) == ("timeout", "it was not done after 0.7 s")


def test_it_prints_no_metric(tmp_path: Path) -> None:
    outcome = tried(tmp_path, "result(auroc=0.9)")
    assert outcome.failure == "no_metric"
    assert outcome.what == "result.json has no auc, it has auroc: did you mean auroc?"
    outcome = tried(tmp_path, "print('all done')")
    assert (outcome.failure, outcome.what) == ("no_metric", "it wrote no result.json")


def test_it_prints_nan(tmp_path: Path) -> None:
    outcome = tried(tmp_path, "result(auc=float('nan'))")
    assert (outcome.failure, outcome.what) == ("nan", "auc is nan")
    outcome = tried(tmp_path, "stream(4, auc=float('nan')); time.sleep(1000)")
    assert (outcome.failure, outcome.what) == ("nan", "auc is nan at step 4")


def test_it_forks_children_that_outlive_it(tmp_path: Path) -> None:
    """They leave its session and drop their environment: neither group nor tag finds them."""
    script = f"""
    subprocess.Popen(["env", "-i", "setsid", "sh", "-c",
        "trap '' TERM HUP; while :; do sleep 0.2; done # {tmp_path.name}"])
    result(auc=0.9)
    """
    outcome = tried(tmp_path, script)
    assert (outcome.failure, outcome.metrics) == ("crash", {})
    assert "processes outlived it" in outcome.what


def test_it_fills_the_disk(tmp_path: Path) -> None:
    many = "for n in range(1000): open(f'{folder}/{n}', 'wb').write(bytes(1 << 20))"
    outcome = tried(tmp_path, f"{many}\ntime.sleep(1000)", resources={"disk_gb": 0.02})
    assert outcome.failure == "crash"
    assert outcome.what == "it filled its folder: 20 MiB are allowed"
    elsewhere = "open('large', 'wb').write(bytes(50 << 20))"
    outcome = tried(tmp_path, elsewhere, resources={"disk_gb": 0.02})
    assert outcome.failure == "crash"
    assert outcome.what == "it ended with exit code 1: no room for its files"


def test_it_fills_the_disk_outside_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m", "none", place], check=True)
    try:
        monkeypatch.setenv("AIOK_HOME", str(place / "home"))
        script = f"""
        os.posix_fallocate(os.open("{place}/large", os.O_CREAT | os.O_WRONLY), 0, 240 << 20)
        for n in range(1000):
            open(f"{place}/{{n}}", "wb").write(bytes(1 << 20))
            time.sleep(0.2)
        """
        outcome = tried(tmp_path, script)
        left = os.statvfs(place)
    finally:
        subprocess.run(["umount", place], check=True)
    assert outcome.failure == "crash"
    assert "is nearly full: " in outcome.what
    assert left.f_bavail * left.f_frsize > 2 << 20


def test_it_ignores_sigterm(tmp_path: Path) -> None:
    script = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(0.05)"
    outcome = tried(tmp_path, script, timeout_s=0.7)
    assert (outcome.failure, outcome.what) == ("timeout", "it was not done after 0.7 s")


def test_it_writes_megabytes_of_output(tmp_path: Path) -> None:
    script = "for _ in range(200): sys.stdout.write('x' * 99_999 + '\\n')\nprint('the end')"
    outcome = tried(tmp_path, script, resources={"log_mb": 1})
    assert (outcome.failure, outcome.what) == ("no_metric", "it wrote no result.json")
    # All of it came through the relay, whose log keeps the last MiB: the cap, then the last words.
    assert "bytes of output are left out; the last ones:]" in outcome.output
    assert outcome.output.endswith("the end\n")
    left_out = int(outcome.output.rpartition("[")[2].partition(" ")[0].replace(",", ""))
    assert left_out == 200 * 100_000 + len("the end\n") - (1 << 20)


def test_control_characters(tmp_path: Path) -> None:
    script = "sys.stdout.buffer.write(b'auc: \\x1b]52;c;aGk=\\x07\\x9b2J\\xff0.9\\n'); sys.exit(3)"
    outcome = tried(tmp_path, script)
    assert outcome.failure == "crash"
    assert "auc: ]52;c;aGk=" in outcome.why
    outcome = tried(tmp_path, "result(**{'\\x1b[2Jauc': 1})")
    assert outcome.failure == "no_metric"
    assert not {"\x1b", "\x07", "\x9b"} & set(outcome.what + outcome.why)


def test_it_deletes_its_folder(tmp_path: Path) -> None:
    outcome = tried(tmp_path, "import shutil; result(auc=1); shutil.rmtree(folder)")
    assert (outcome.failure, outcome.what) == (
        "no_metric", "it deleted the folder of its trial",
    )  # fmt: skip


# --- more of the contract -----------------------------------------------------------------------


def test_a_program_that_is_not_there_and_one_that_refuses_its_arguments(tmp_path: Path) -> None:
    outcome = tried(tmp_path, "", command=["no-such-program"])
    assert (outcome.failure, outcome.what) == (
        "bad_input", "cannot start no-such-program: No such file or directory",
    )  # fmt: skip
    outcome = tried(tmp_path, "import argparse; argparse.ArgumentParser().parse_args()")
    assert outcome.failure == "bad_input"
    assert "unrecognized arguments" in outcome.why


def test_memory_above_the_limit_and_a_memory_error(tmp_path: Path) -> None:
    script = "held = b'x' * (300 << 20); time.sleep(1000)"
    outcome = tried(tmp_path, script, resources={"memory_gb": 0.2})
    assert outcome.failure == "out_of_memory"
    assert outcome.what.endswith("GiB of memory, 0.2 are allowed")
    assert tried(tmp_path, "raise MemoryError").failure == "out_of_memory"


def test_a_stale_result_is_never_a_score(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text('{"auc": 0.99}')
    os.utime(tmp_path / "old.json", (1, 1))
    script = "import shutil; shutil.copy2('old.json', os.path.join(folder, 'result.json'))"
    outcome = tried(tmp_path, script)
    assert outcome.failure == "no_metric"
    assert outcome.what == "its result.json is older than the start of this trial"


def test_values_reach_the_program_as_they_are(tmp_path: Path) -> None:
    word = "a 'q\" $HOME `x` ü\n\x1b{x}"
    parameters = [
        {"name": "zero", "type": "int", "bounds": {"min": 0, "max": 3}, "default": 0},
        {"name": "rate", "type": "double", "bounds": {"min": 0, "max": 3}, "default": 0.0},
        {"name": "none", "type": "categorical", "categorical_values": ["", "b"]},
        {"name": "word", "type": "categorical", "categorical_values": [word]},
        {"name": "no", "type": "categorical", "categorical_values": [False, True]},
        {"name": "off", "type": "flag"},
        {"name": "on", "type": "flag", "default": True},
    ]
    wanted = ["--zero=0", "--rate=0.0", "--none=", f"--word={word}", "--no=false", "--on"]
    script = f"""
    assert sys.argv[2:] == {wanted!r}, sys.argv
    assert list(params.values()) == [0, 0.0, "", {word!r}, False, False, True], params
    result(auc=1)
    """
    assert tried(tmp_path, script, parameters=parameters).metrics == {"auc": 1.0}
    script = f"""
    names = ["zero", "rate", "none", "word", "no", "off", "on"]
    said = [os.environ[name] for name in names]
    assert said == ["0", "0.0", "", {word!r}, "false", "false", "true"], said
    assert len(sys.argv) == 2 and "AIOK_MESSAGES" not in os.environ
    result(auc=1)
    """
    assert tried(tmp_path, script, parameters=parameters, args_style="env").metrics == {"auc": 1.0}


@pytest.mark.parametrize(
    ("result", "script"),
    [
        (
            {"format": "yaml"},
            "open(folder + '/result.yaml', 'w').write('# c\\nauc: 0.5 # best\\n')",
        ),
        ({"format": "float"}, "open(folder + '/result', 'w').write(' 5e-1\\n')"),
        ({"format": "last_line"}, "print('epoch 1'); print(0.5); print()"),
        ({"format": "last_line", "file": "m.txt"}, "open(folder + '/m.txt', 'w').write('9\\n.5')"),
        ({"format": "last_line"}, "print(json.dumps({'auc': 0.5}))"),
        ({"format": "regex"}, "print('AUC=0.1'); print('AUC=0.5 <- best')"),
        ({"format": "stream"}, "stream(1, auc=0.1); stream(2, auc=0.5)"),
    ],
)
def test_formats_of_a_result(tmp_path: Path, result: dict[str, str], script: str) -> None:
    metric = {"name": "auc", "objective": "maximize"}
    if result["format"] == "regex":
        metric["pattern"] = r"AUC=(\S+)"
    outcome = tried(tmp_path, script, result=result, metrics=[metric])
    assert (outcome.what, outcome.metrics) == ("", {"auc": 0.5})


def test_a_clock_metric_and_the_cores_of_a_trial(tmp_path: Path) -> None:
    metrics = [
        {"name": "auc", "objective": "maximize"}, {"name": "took", "source": "wall_clock"},
    ]  # fmt: skip
    begun = time.monotonic()
    outcome = tried(tmp_path, "time.sleep(0.3); result(auc=1)", metrics=metrics)
    assert 0.3 <= outcome.metrics["took"] <= time.monotonic() - begun


def test_a_trial_that_is_stopped_keeps_its_checkpoints(tmp_path: Path) -> None:
    script = """
    place = os.environ["AIOK_CHECKPOINTS"] + "/step"
    if os.path.exists(place):
        result(auc=float(open(place).read()))
        sys.exit()
    def save(*_):
        open(place, "w").write("0.75")
        sys.exit()
    signal.signal(signal.SIGTERM, save)
    stream(1, auc=0.5)
    time.sleep(1000)
    """
    trial = prepare(tmp_path, script, checkpoints=True)
    spec_file = write_spec(trial.folder / "spec.json", trial.spec)
    heard: list[Message] = []

    class Heard(Listener):
        def message(self, message: Message, rank: int) -> None:
            heard.append(message)

    def run(job: str) -> Any:
        launch = Launch(
            job=job, code=deploy().name, argv=worker_argv(sys.executable, spec_file),
            env=worker_environment(deploy()),
        )  # fmt: skip
        said = [Scalar(name="auc", value=0.5, split="valid", step=1, rows=0)]
        return run_worker([local_site()], launch, Heard(), lambda: int(heard == said))

    with pytest.raises(RunStopped):
        run(f"{trial.job}-1")
    assert not Path(trial.spec["output"]).exists()
    heard.clear()
    assert run(f"{trial.job}-2")["metrics"] == {"auc": 0.75}


def test_lines_that_are_no_metrics_are_told_and_harmless(tmp_path: Path) -> None:
    script = """
    with open(os.environ["AIOK_METRICS"], "w") as file:
        file.write('{"step": 1, "metrics": {"auc": 0.1}}\\n{"step": true}\\n[1]\\n')
        file.write("y" * 200_000 + '\\n{"step": 2, "metrics": {"auc": 0.2}}\\n{"torn')
    result(auc=1)
    """
    outcome = tried(tmp_path, script)
    assert (outcome.metrics, outcome.streamed) == ({"auc": 1.0}, {"auc": 2})
    assert [note.split(" ")[0] for note in outcome.notes] == ["4"]
