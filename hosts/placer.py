"""The program that places aiok's things on a host and takes them away again: `python -c` there.

    placer.py place     put what stdin describes where it is not yet; prints what was changed
    placer.py remove    take away everything the ledger of a home lists; prints what was removed

stdin is one JSON object: {"home": folder, "items": [...]}. An item is {"kind": "folder", "path",
"mode"}, {"kind": "file", "path", "mode", "text"}, {"kind": "line", "path", "text"} (a line of a
file that others use too) or {"kind": "tree", "path"} (a folder that something else fills).

Each thing is written into HOME/ledger.jsonl before it is made, so that whatever happens afterwards
`remove` finds it; it removes nothing that is not listed there. Folders that held nothing but ours
go too, and files and folders that were there before get back their content and their times.
Standard library only, Python >= 3.8.
"""

import json
import os
import shutil
import sys
from typing import Any, Dict, List, Optional

LEDGER = "ledger.jsonl"


class Ledger:
    """What was placed on this host, in order. Times are nanoseconds."""

    def __init__(self, home):  # type: (str) -> None
        self.path = os.path.join(home, LEDGER)
        self.entries = []  # type: List[Dict[str, Any]]
        try:
            with open(self.path, encoding="utf-8") as file:
                lines = file.read().splitlines()
        except OSError:
            lines = []
        for line in lines:
            try:
                self.entries.append(json.loads(line))
            except ValueError:
                continue  # torn by a power cut: nothing was made after it

    def has(self, path):  # type: (str) -> bool
        """Whether a path is listed."""
        return any(entry["path"] == path for entry in self.entries)

    def add(self, **entry):  # type: (Any) -> None
        """List one more thing, on disk before this returns."""
        self.entries.append(entry)
        with open(self.path, "ab") as file:
            file.write((json.dumps(entry) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())


def times(path):  # type: (str) -> List[int]
    """Access and change time of a path."""
    status = os.stat(path)
    return [status.st_atime_ns, status.st_mtime_ns]


def make_home(home):  # type: (str) -> Ledger
    """The home and its ledger; folders above it that had to be made are listed in it."""
    made, above = [], home
    while not os.path.isdir(above):
        made.append(above)
        above = os.path.dirname(above)
    kept = times(above)
    for path in reversed(made):
        os.mkdir(path, 0o700 if path == home else 0o755)
    ledger = Ledger(home)
    if made:
        ledger.add(kind="kept", path=above, times=kept)
        for path in reversed(made):
            ledger.add(kind="folder", path=path)
    return ledger


def place(item, ledger):  # type: (Dict[str, Any], Ledger) -> bool
    """Make one thing unless it is as it should be."""
    kind, path = item["kind"], item["path"]
    if kind == "line":
        return place_line(path, item["text"], ledger)
    if kind == "tree":
        if not ledger.has(path):
            ledger.add(kind="tree", path=path)
        return False
    if kind == "folder":
        if os.path.isdir(path):
            return False
        list_parents(path, ledger)
        os.makedirs(path, mode=item["mode"])
        return True
    try:
        with open(path, encoding="utf-8") as file:
            same = file.read() == item["text"]
        if same and os.stat(path).st_mode & 0o777 == item["mode"]:
            return False
    except OSError:
        pass
    if not ledger.has(path):
        ledger.add(kind="file", path=path)
    write_file(path, item["text"], item["mode"])
    return True


def list_parents(path, ledger):  # type: (str, Ledger) -> None
    """List the folders that will be made for a path, and the times of the one above them."""
    missing, above = [], path
    while not os.path.isdir(above):
        missing.append(above)
        above = os.path.dirname(above)
    if not ledger.has(above):
        ledger.add(kind="kept", path=above, times=times(above))
    for folder in reversed(missing):
        ledger.add(kind="folder", path=folder)


def write_file(path, text, mode):  # type: (str, str, int) -> None
    """Replace a file as a whole."""
    scratch = "%s.%d" % (path, os.getpid())
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        os.fchmod(file.fileno(), mode)
    os.replace(scratch, path)


def place_line(path, line, ledger):  # type: (str, str, Ledger) -> bool
    """Add a line to a file of the user's, once."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            before = file.read()  # type: Optional[str]
    except FileNotFoundError:
        before = None
    if before is not None and line in before.splitlines():
        return False
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        list_parents(folder, ledger)
        os.makedirs(folder, mode=0o700)
    elif not ledger.has(folder):
        ledger.add(kind="kept", path=folder, times=times(folder))
    if not any(entry["path"] == path and entry["text"] == line for entry in ledger.entries
               if entry["kind"] == "line"):  # fmt: skip
        known = {"times": times(path)} if before is not None else {}
        bare = bool(before) and not str(before).endswith("\n")
        ledger.add(kind="line", path=path, text=line, new=before is None, bare=bare, **known)
    with open(path, "a", encoding="utf-8", errors="surrogateescape") as file:
        if before and not before.endswith("\n"):
            file.write("\n")
        file.write(line + "\n")
        if before is None:
            os.fchmod(file.fileno(), 0o600)
    return True


def remove(home):  # type: (str) -> List[str]
    """Undo the ledger from its end; the paths that went."""
    ledger = Ledger(home)
    gone = []  # type: List[str]
    above = []  # the folders that the home made necessary: last of all
    for entry in reversed(ledger.entries):
        if entry["kind"] == "folder" and (home + "/").startswith(entry["path"] + "/"):
            above.append(entry["path"])
        elif undo(entry):
            gone.append(entry["path"])
    if home in above:
        clear_tree(home)
        gone.append(home)
    elif os.path.exists(ledger.path):
        os.unlink(ledger.path)
    gone += [path for path in above if path != home and remove_if_empty(path)]
    for entry in reversed(ledger.entries):
        if entry["kind"] == "kept" and os.path.exists(entry["path"]):
            os.utime(entry["path"], ns=tuple(entry["times"]))
    return gone


def undo(entry):  # type: (Dict[str, Any]) -> bool
    """Take one thing away; whether it was there."""
    kind, path = entry["kind"], entry["path"]
    if kind == "line":
        return remove_line(entry)
    if kind == "folder":
        return remove_if_empty(path)
    if kind == "tree" and os.path.isdir(path):
        clear_tree(path)
        return True
    if kind == "file" and os.path.exists(path):
        os.unlink(path)
        return True
    return False


def clear_tree(path):  # type: (str) -> None
    """Delete a folder, read-only folders in it too."""
    for folder, _, _ in os.walk(path):
        os.chmod(folder, 0o700)
    shutil.rmtree(path)


def remove_if_empty(path):  # type: (str) -> bool
    """A folder made by us stays when somebody else uses it by now."""
    if os.path.isdir(path) and not os.listdir(path):
        os.rmdir(path)
        return True
    return False


def remove_line(entry):  # type: (Dict[str, Any]) -> bool
    """Take a line out of the user's file; the file goes when it was made for that line."""
    path = entry["path"]
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().split("\n")
    except OSError:
        return False
    if entry["text"] not in lines:
        return False
    last = lines[-2:] == [entry["text"], ""]
    lines.remove(entry["text"])
    if entry["new"] and lines in ([""], []):
        os.unlink(path)
        return True
    text = "\n".join(lines)
    if entry["bare"] and last:
        text = text[:-1]  # the line's end that the file did not have
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    if "times" in entry:
        os.utime(path, ns=tuple(entry["times"]))
    return True


def main(verb):  # type: (str) -> None
    """Do what one order says and tell it as one JSON line."""
    order = json.load(sys.stdin)
    home = order["home"]
    try:
        if verb == "remove":
            said = {"removed": remove(home)}  # type: Dict[str, Any]
        else:
            ledger = make_home(home)
            said = {"changed": [i["path"] for i in order["items"] if place(i, ledger)]}
    except OSError as error:
        said = {"problem": error.strerror or str(error), "path": error.filename or home}
    print(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1])
