"""The rules of the house that a program can check."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("aiok_tui", "engine", "hosts", "models")
LIGHT = (
    "models.api",
    "models.catalog",
    "models.messages",
    "models.settings",
    "models.worker",
    *sorted(
        f"models.{path.parent.name}.{path.stem}"
        for path in (ROOT / "models").glob("*/*.py")
        if path.stem in ("spec", "settings")
    ),
)
HEAVY = ("torch", "numpy", "pandas", "pyarrow", "pyspark", "pysail", "openvino", "optuna")
FRONT = ("textual", "rich")


def tracked(*patterns: str) -> list[Path]:
    """Files of the repository, new ones that are not ignored included."""
    argv = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


SOURCES = tracked("*.py")


def modules_after(statement: str, path: Path = ROOT) -> set[str]:
    """The top-level modules a fresh Python holds after a statement."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={"PYTHONPATH": str(path), "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_the_engine_is_light() -> None:
    assert not modules_after("import engine.api, engine.run") & {*HEAVY, *FRONT}


def test_help_imports_nothing_heavy() -> None:
    shown = "import sys\nsys.argv = ['aiok', '--help']\nfrom aiok_tui.cli import main\n"
    shown += "import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()):\n"
    shown += "    with contextlib.suppress(SystemExit):\n        main()"
    assert not modules_after(shown) & {*HEAVY, "textual", "pydantic", "yaml", "jinja2"}


@pytest.mark.parametrize("module", LIGHT)
def test_the_light_half_of_models_is_standard_library_only(module: str) -> None:
    others = modules_after(f"import {module}") - modules_after("") - {"models"}
    assert others <= set(sys.stdlib_module_names)


@pytest.mark.parametrize("name", ["installer", "agent"])
def test_what_is_copied_to_hosts_is_standard_library_only(name: str) -> None:
    path = ROOT / "hosts" / f"{name}.py"
    code = f"import runpy; runpy.run_path({str(path)!r})"
    assert modules_after(code) - modules_after("import runpy") <= set(sys.stdlib_module_names)


def test_the_testbed_runs_before_anything_is_installed() -> None:
    others = modules_after("import hosts.testbed") - modules_after("") - {"hosts"}
    assert others <= set(sys.stdlib_module_names)


def test_import_contracts_hold() -> None:
    code = "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports; "
    code += "sys.exit(lint_imports())"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_every_init_is_empty() -> None:
    full = [p for p in SOURCES if p.name == "__init__.py" and p.read_text().strip()]
    assert not full


def test_no_drawer_for_everything() -> None:
    bad = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}
    assert not [p for p in SOURCES if p.stem in bad]


def test_files_and_functions_are_short() -> None:
    too_long, functions, long_ones = [], 0, 0
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > 600:
            too_long.append(f"{path.relative_to(ROOT)}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                functions += 1
                long_ones += lines > 50
                if lines > 80:
                    too_long.append(f"{path.relative_to(ROOT)}: {node.name} has {lines} lines")
    assert not too_long
    assert long_ones <= 0.03 * functions


def test_public_functions_have_docstrings() -> None:
    bare = []
    for path in SOURCES:
        if path.relative_to(ROOT).parts[0] not in PACKAGES:
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            public = isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"
            if public and not ast.get_docstring(node):
                bare.append(f"{path.relative_to(ROOT)}: {node.name}")
    assert not bare


FORBIDDEN_CALLS = {"pickle.load", "pickle.loads", "torch.load", "os.system", "eval", "exec"}


def test_nothing_dangerous_is_called() -> None:
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            shell = any(
                k.arg == "shell" and isinstance(k.value, ast.Constant) and k.value.value
                for k in node.keywords
            )
            if shell or ast.unparse(node.func) in FORBIDDEN_CALLS:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not found


# Folders of somebody's machine, and hosts of package registries (spelled so that this file passes).
SOMEBODYS_PLACE = re.compile(r"(?<![\w.}>*)-])/(?:work|root|home/(?!user\b)\w+|opt|Users)/\w")
REGISTRY = re.compile(
    r"(?:py" + r"pi|test\.py" + r"pi)\.org|pythonhosted\.org|download\.py" + r"torch\.org|"
    r"\w+\.jfrog\.io|conda\.an" + r"aconda\.org",
    re.I,
)


def test_no_machine_path_and_no_registry_host_is_written_down() -> None:
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if SOMEBODYS_PLACE.search(line) or REGISTRY.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert not found


def captions(text: str) -> dict[str, str]:
    """Folder -> caption of the README's tree; deeper lines are inside the folder above them."""
    found: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in re.finditer(r"^( *)([\w./-]+/) {2,}(\S.*)$", text, re.M):
        above = [(depth, name) for depth, name in above if depth < len(line[1])]
        path = "".join(name for _, name in above) + line[2]
        above.append((len(line[1]), line[2]))
        found[path] = line[3]
    return found


def test_the_readme_shows_the_tree_with_a_caption_for_each_folder() -> None:
    shown = captions((ROOT / "README.md").read_text(encoding="utf-8"))
    folders = {path.relative_to(ROOT).parts[0] + "/" for path in tracked() if path.parent != ROOT}
    visible = {folder for folder in folders if not folder.startswith(".")}
    assert visible <= set(shown), f"without a caption: {sorted(visible - set(shown))}"
    gone = sorted(name for name in shown if not (ROOT / name).is_dir())
    assert not gone, f"in the tree, but not in the repository: {gone}"


def test_the_readme_begins_with_the_two_commands() -> None:
    head = "\n".join((ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:25])
    assert "./scripts/aiok run quickstart" in head
    assert "./scripts/test" in head


def test_scripts_can_be_run() -> None:
    for name in ("aiok", "test", "check", "bench", "lock", "testbed"):
        path = ROOT / "scripts" / name
        assert path.stat().st_mode & 0o111, name
        subprocess.run(["/bin/bash", "-n", path], check=True)
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    assert (ROOT / "scripts" / "aiok").read_text().count("\n") < 60
