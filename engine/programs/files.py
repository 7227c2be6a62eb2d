"""What of a user's program goes to the hosts of a cluster: every file of its folder, and its data.

All that would keep them from going there is said before the run.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from engine.errors import InputError
from engine.facts import MOST_FILES
from engine.programs.schema import Known
from engine.store import remove_tree

MOST_GIB = 1.0  # of a program's folder: what is larger is data
LEFT_OUT = (".git", "__pycache__")  # of its folder


def missing_folder(folder: Path, cwd: str) -> Path | None:
    """Where a program with its file in `folder` is to run, when that is not there. What a
    placeholder stands for is only known of a trial."""
    place = folder if "{" in cwd else folder / cwd
    return None if place.is_dir() else place


def check_folder(known: Known) -> None:
    """InputError when the folder that a program runs in is gone from this machine."""
    if place := missing_folder(known.folder, known.program.cwd):
        raise InputError(
            f"there is no folder {place}, in which {known.program.name} runs",
            todo="bring it back, or name the place of its file now: aiok register FILE",
        )


def check(known: Known, data: Path | None) -> float:
    """GiB that each host gets; InputError with everything that cannot be sent."""
    problems = list(_relative_problems(known))
    files, bad = _look(known.folder, LEFT_OUT, limit=MOST_FILES)
    size = sum(map(_size, files))
    if len(files) > MOST_FILES or size > MOST_GIB * 2**30:
        more = len(files) > MOST_FILES
        what = f"more than {MOST_FILES:,} files" if more else f"{size / 2**30:.1f} GiB"
        raise InputError(
            f"the folder of {known.program.name}, {known.folder}, holds {what}",
            why=f"every host gets a copy of it, at most {MOST_GIB:g} GiB",
            todo="give the program a folder of its own; name large data as dataset.path",
        )
    problems += bad
    if data is not None and inside(known, data) is None:
        files_of_data, bad = _look(data) if data.is_dir() else ([data], [*_problem(data)])
        problems += bad
        size += 0 if bad else sum(map(_size, files_of_data))
    if problems:
        raise InputError(
            "\n".join(problems), why=f"{known.program.name} is to run on other hosts",
            todo="mend that, or run it here: cluster=localhost",
        )  # fmt: skip
    return size / 2**30


def inside(known: Known, data: Path) -> Path | None:
    """Where data lie in the program's folder; None when they lie elsewhere."""
    folder, place = (Path(os.path.normpath(path)) for path in (known.folder, data))
    return place.relative_to(folder) if place.is_relative_to(folder) else None


def keep(known: Known, place: Path) -> Path:
    """The program's files as they are now, copied to a folder that appears whole, once."""
    if not place.is_dir():
        scratch = place.with_name(f".{place.name}.{os.getpid()}")
        remove_tree(scratch)
        for path in _look(known.folder, LEFT_OUT)[0]:
            target = scratch / path.relative_to(known.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
        scratch.rename(place)
    return place


def absolute_paths(known: Known) -> list[str]:
    """Places of this machine that the program's file names, in the order of the file."""
    named = (word for word in _paths(known) if word.startswith("/") and os.path.exists(word))
    return list(dict.fromkeys(named))


def _relative_problems(known: Known) -> Iterator[str]:
    """Places that the file names from its own folder on, and that lie outside of it."""
    base = os.path.normpath(known.folder / known.program.cwd)
    for word in _paths(known):
        place = os.path.normpath(os.path.join(base, word))
        outside = not Path(place).is_relative_to(known.folder)
        if not word.startswith("/") and outside and os.path.exists(place):
            yield f"{known.file} names {word}, outside of its folder: put it in there"


def _paths(known: Known) -> list[str]:
    """What may be paths among the words of the file: whole, or after a `=`."""
    program = known.program
    words = [*program.command, *program.env.values(), program.cwd]
    found = [part for word in words for part in (word, word.partition("=")[2])]
    return [part for part in found if part and "{" not in part]


def _look(
    root: Path, left_out: Sequence[str] = (), limit: int | None = None
) -> tuple[list[Path], list[str]]:
    """All files below a folder (a few more than `limit` at most), and what cannot be sent."""
    files: list[Path] = []
    problems: list[str] = []

    def unreadable(error: OSError) -> None:
        problems.append(f"{error.filename} cannot be read: {error.strerror}")

    for folder, folders, names in os.walk(root, onerror=unreadable):
        folders[:] = sorted(name for name in folders if name not in left_out)
        links = (path for name in folders if (path := Path(folder, name)).is_symlink())
        problems += [f"{path} is a link to a folder: put the folder itself there" for path in links]
        for path in (Path(folder, name) for name in sorted(names)):
            problems += (bad := list(_problem(path)))
            files += [] if bad else [path]
        if limit is not None and len(files) > limit:
            break
    return files, problems


def _problem(path: Path) -> Iterator[str]:
    """Why a file cannot be sent."""
    if not path.is_file():
        yield f"{path} is {'a link to nothing' if path.is_symlink() else 'no file'}: remove it"
        return
    try:
        path.open("rb").close()
    except OSError as error:
        yield f"{path} cannot be read: {error.strerror}"


def _size(path: Path) -> int:
    return path.stat().st_size
