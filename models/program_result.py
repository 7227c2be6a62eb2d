"""What a user's program says: the result it ends with, and the metrics it streams meanwhile.

Nothing here trusts the text: sizes are capped, what is no finite number is never a score.
Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from models import pattern_search
from models.messages import Failure
from models.settings import nearest, shown
from models.worker import WorkFailed

MOST_BYTES = 1 << 20  # of a result file, and of the end of the output that is looked at
LONGEST_LINE = 1 << 16  # of a streamed line
SEARCH_S = 10  # of CPU time for the patterns in all of the output


def read_metrics(
    result: Mapping[str, Any], names: Sequence[str], output: str, streamed: Mapping[str, float],
    began_ns: int,
) -> dict[str, float]:  # fmt: skip
    """The metrics a program ended with, all finite.

    `result` is the spec's: `format`, `file` ("" = what it printed, whose end is `output`) and for
    a regular expression `patterns` by metric. A file older than `began_ns` is stale. WorkFailed
    with the class nan or no_metric says for every metric what is missing.
    """
    if not names:
        return {}
    kind = str(result["format"])
    if kind == "stream":
        said: dict[str, Any] = dict(streamed)
        place = "the stream of metrics"
    else:
        file = str(result["file"])
        text = _text_of(Path(file), began_ns) if file else output
        place = os.path.basename(file) or "its output"
        said = _parse(kind, text, names, result.get("patterns") or {}, place)
    missing, bad, values = [], [], {}
    for name in names:
        if name not in said:
            hint = f", it has {', '.join(map(str, list(said)[:8]))}: " if said else ""
            missing.append(
                f"{place} has no {name}" + (hint + nearest(name, list(said)) if hint else "")
            )
        elif isinstance(said[name], bool) or not isinstance(said[name], int | float):
            missing.append(f"{name} in {place} is {shown(said[name])}, no number")
        elif not is_finite(said[name]):
            bad.append(f"{name} is {shown(said[name])}")
        else:
            values[name] = float(said[name])
    if bad:
        raise WorkFailed("; ".join(bad + missing), failure=Failure.NAN)
    if missing:
        raise no_metric("; ".join(missing))
    return values


def no_metric(what: str) -> WorkFailed:
    """The failure of a program that ended well and did not say what it should."""
    return WorkFailed(
        what, todo="let the program write it, or mend `result` and `metrics` of its file",
        failure=Failure.NO_METRIC,
    )  # fmt: skip


def is_finite(number: float) -> bool:
    """Whether a number of any size is one that can be compared."""
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number of more than 308 digits
        return False


def _text_of(path: Path, began_ns: int) -> str:
    """The text of a fresh result file."""
    if not path.parent.is_dir():
        raise no_metric(f"the folder of its result is gone: {path.parent}")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe must not hold us
    except FileNotFoundError:
        raise no_metric(f"it wrote no {path.name}") from None
    except OSError as error:
        raise no_metric(f"cannot read its {path.name}: {error.strerror}") from None
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode):  # a folder cannot even be opened as a stream
        os.close(descriptor)
        raise no_metric(f"its {path.name} is not a file")
    with open(descriptor, "rb") as file:
        if facts.st_mtime_ns < began_ns:
            raise no_metric(f"its {path.name} is older than the start of this trial")
        if facts.st_size > MOST_BYTES:
            raise no_metric(f"its {path.name} has {facts.st_size:,} bytes, no result is so long")
        return file.read(MOST_BYTES).decode("utf-8", "replace")


def _parse(
    kind: str, text: str, names: Sequence[str], patterns: Mapping[str, str], place: str
) -> dict[str, Any]:
    """What a text says, by name; NO_METRIC when it has another form."""
    if kind == "json":
        return _json_object(text, place)
    if kind == "yaml":
        return _yaml_lines(text)
    if kind == "regex":
        return _matches(text, patterns)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise no_metric(f"{place} is empty")
    last = lines[-1]
    if kind == "last_line" and last.startswith("{"):
        return _json_object(last, f"the last line of {place}")
    number = _number(last)
    if number is None or (kind == "float" and len(lines) > 1):
        which = "the last line of " if kind == "last_line" else ""
        raise no_metric(f"{which}{place} is no number: {shown(last)}")
    if len(names) > 1:
        raise no_metric(f"{place} has one number for {', '.join(names)}")
    return {names[0]: number}


def _json_object(text: str, place: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise no_metric(f"{place} is no JSON: {str(error)[:100]}") from None
    if not isinstance(found, dict):
        raise no_metric(f"{place} is no JSON object of metrics, but {shown(found)}")
    return found


def _yaml_lines(text: str) -> dict[str, Any]:
    """The lines `name: number` at the left margin, which is all of YAML that a result needs."""
    found: dict[str, Any] = {}
    for line in text.splitlines():
        match = re.match(r"""(?:"([^"]+)"|'([^']+)'|([^\s#:'"][^:#]*?))\s*:\s+([^#]+)""", line)
        if match:
            value = match[4].strip()
            number = _number(value)
            found[match[1] or match[2] or match[3]] = value if number is None else number
    return found


def _matches(text: str, patterns: Mapping[str, str]) -> dict[str, Any]:
    """The last match of each metric's pattern: its first group, or all of it."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", pattern_search.__file__, str(SEARCH_S)],
        input=json.dumps({"text": text, "patterns": dict(patterns)}),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found: dict[str, Any] = {}
    answered = [json.loads(line) for line in done.stdout.splitlines()]
    for name, said in answered:
        if said is not None:
            number = _number(said)
            found[name] = said if number is None else number
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        late = next(name for name in patterns if name not in dict(answered))
        raise no_metric(f"the pattern of {late} takes longer than {SEARCH_S} s")
    done.check_returncode()
    return found


def _number(text: str) -> float | None:
    """A number as programs write it, NaN and .inf too; None for any other text."""
    with contextlib.suppress(ValueError):
        return float(text.strip().lower().replace(".nan", "nan").replace(".inf", "inf"))
    return None


class Stream:
    """Reads the JSON lines {"step": n, "metrics": {name: number}} that a program appends.

    `last` holds the newest value of each metric, NaN too; `spoiled` counts the lines that are none.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._offset, self._rest, self._skipping = path, 0, b"", False
        self.last: dict[str, float] = {}
        self.spoiled = 0

    def new(self, *, ended: bool = False) -> Iterator[tuple[int, dict[str, float]]]:
        """(step, metrics) of each whole line that has come since the last call, NaN too. `ended`:
        nobody writes any more, so the last line needs no end."""
        while chunk := self._chunk():
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            for line in lines:
                if self._skipping:
                    self._skipping = False
                elif line.strip():
                    yield from self._line(line)
            if len(self._rest) > LONGEST_LINE:
                self.spoiled += not self._skipping
                self._rest, self._skipping = b"", True
        if ended and self._rest.strip() and not self._skipping:
            last, self._rest = self._rest, b""
            yield from self._line(last)

    def _chunk(self) -> bytes:
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode):
                os.close(descriptor)
                return b""
            with open(descriptor, "rb") as file:
                if facts.st_size < self._offset:  # written anew
                    self._offset, self._rest = 0, b""
                file.seek(self._offset)
                data = file.read(LONGEST_LINE)
        except OSError:  # not written yet, or gone
            return b""
        self._offset += len(data)
        return data

    def _line(self, line: bytes) -> Iterator[tuple[int, dict[str, float]]]:
        try:
            said = json.loads(line)
            step, metrics = said["step"], said["metrics"]
            if isinstance(step, bool) or not isinstance(step, int) or step < 0:
                raise ValueError
            if not metrics or not all(type(value) in (int, float) for value in metrics.values()):
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self.spoiled += 1
            return
        values = {name: float(v) if is_finite(v) else math.nan for name, v in metrics.items()}
        self.last.update(values)
        yield step, values
