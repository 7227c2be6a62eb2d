"""Bad data: one clear error with file, line, column, what was found and what was expected."""

from __future__ import annotations

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
from collections import namedtuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.dlrm import etl
from models.messages import Note
from models.recdp import session, sources
from models.recdp.check import check
from models.recdp.criteo import CriteoReader
from models.recdp.problems import LISTED, describe_bytes
from models.worker import BAD_INPUT, InputProblem, StopFlag, Stopped, WorkFailed
from tests.models.recdp_reference import SAMPLE

pytestmark = pytest.mark.environment("etl")

FIELDS = ["1", *(str(n) for n in range(13)), *(f"{n:08x}" for n in range(26))]
GOOD = "\t".join(FIELDS)


def line(column: int, value: str) -> str:
    return "\t".join([*FIELDS[:column], value, *FIELDS[column + 1 :]])


def text(*lines: str) -> bytes:
    return "".join(f"{one}\n" for one in lines).encode("utf-8", "surrogateescape")


CASES = {
    "39 columns": (text(GOOD, "\t".join(FIELDS[:39])), "line 2: found 39 columns", "40 columns"),
    "41 columns": (text(GOOD, GOOD + "\t1"), "line 2: found 41 columns", "40 columns"),
    "empty line": (text(GOOD, "", GOOD), "line 2: found an empty line", "40 columns"),
    "no hex": (text(GOOD, GOOD, line(15, "0000000g")), "line 3, column C2: found '0000000g'",
               "8 hex digits, or nothing"),
    "short hex": (text(line(14, "abc")), "line 1, column C1: found 'abc'", "8 hex digits"),
    "long hex": (text(line(14, "000000000")), "column C1: found '000000000'", "8 hex digits"),
    "label 2": (text(GOOD, line(0, "2")), "line 2, column label: found '2'", "0 or 1"),
    "no label": (text(line(0, "")), "line 1, column label: found ''", "0 or 1"),
    "letters in an int": (text(line(3, "12a")), "line 1, column I3: found '12a'", "whole number"),
    "a lone minus": (text(line(3, "-")), "column I3: found '-'", "whole number"),
    "a fraction": (text(line(13, "1.5")), "column I13: found '1.5'", "whole number"),
    "too large": (text(line(1, "2147483648")), "column I1: found '2147483648'", "2147483647"),
    "far too large": (text(line(1, "9" * 30)), "column I1", "2147483647"),
    "NUL": (text(line(2, "1\0")), r"column I2: found '1\x00'", "whole number"),
    "control bytes": (text(line(20, "\x1b[31mabc")), r"column C7: found '\x1b[31mabc'", "hex"),
    "CR LF": (text(GOOD + "\r", GOOD + "\r"), r"line 1, column C26: found '00000019\r'",
              "lines ended by LF, not CR LF"),
    "no UTF-8": (text(line(39, "\udcff\udcfe345678")), r"column C26: found '\xff\xfe345678'",
                 "hex"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_line(name):
    content, place, expected = CASES[name]
    reader = CriteoReader()
    rows = reader.read(content)
    assert reader.problems.total >= 1
    shown = str(reader.problems.listed[0])
    assert place in shown and expected in shown
    assert shown.isprintable() and len(shown) < 300
    assert len(rows.label) == content.count(b"\n") - len({p.line for p in reader.problems.listed})


def test_errors_through_the_engine(prepare, tmp_path, monkeypatch):
    """Line numbers are those of the file, over byte ranges; ten are listed, all are counted."""
    monkeypatch.setattr(sources, "CHUNK_BYTES", 5_000)
    bad = [line(14, f"z{n}") for n in range(30)]
    (tmp_path / "a.tsv").write_bytes(text(*[GOOD] * 100, *bad, *[GOOD] * 100))
    with pytest.raises(InputProblem) as caught:
        prepare([tmp_path / "a.tsv"])
    lines = caught.value.what.splitlines()
    assert len(lines) == LISTED + 1 and lines[-1] == "and 20 more"
    for number, shown in enumerate(lines[:-1]):
        assert f"a.tsv, line {101 + number}, column C1: found 'z{number}'" in shown
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_bad_files(prepare, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "LONGEST_LINE", 5_000)
    packed = gzip.compress(text(*[line(1, str(n)) for n in range(500)]))
    cases = {
        "missing.tsv": (None, "no such file"),
        "empty.tsv": (b"", "the file is empty"),
        "photo.jpg": (b"x", "not a data file"),
        "short.tsv.gz": (packed[: len(packed) // 2], "cut short"),
        "broken.tsv.gz": (packed[:40] + b"xxxxxxxx" + packed[48:], "damaged gz data"),
        "nothing.tsv.gz": (gzip.compress(b""), "holds no rows"),
        "monster.tsv": (text(GOOD) + b"0" * 20_000, "a line of more than 5,000 bytes: '0000"),
        "table.parquet": (b"PAR1", "criteo format is text"),
    }
    for name, (content, expected) in cases.items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputProblem, match=expected) as caught:
            prepare([path], name=f"out-{name}")
        assert name in caught.value.what


def labelled(*labels):
    return text(*(line(0, str(label)) for label in labels))


@pytest.mark.parametrize(("labels", "said"), [
    ([0] * 200, "train: 140 rows with label 0, 0 with 1\nvalid: 20 rows with label 0, 0 with 1\n"
     "test: 40 rows with label 0, 0 with 1"),
    ([1] * 200, "test: 0 rows with label 0, 40 with 1"),
    ([0, 1] * 70 + [1] * 20 + [0, 1] * 20, "valid: 0 rows with label 0, 20 with 1"),
    ([1], "valid: 0 rows with label 0, 0 with 1"),
], ids=["all 0", "all 1", "valid all 1", "one row"])  # fmt: skip
def test_a_split_without_both_labels_is_refused(prepare, tmp_path, labels, said):
    (tmp_path / "a.tsv").write_bytes(labelled(*labels))
    with pytest.raises(InputProblem) as caught:
        prepare([tmp_path / "a.tsv"])
    assert said in caught.value.what
    assert ("train" in caught.value.what) == (len(set(labels)) == 1)
    assert "both labels" in caught.value.why and "split.by" in caught.value.todo


@pytest.mark.parametrize(("labels", "said"), [([0] * 3, "label 0"), ([1], "label 1"), ([0, 1], "")])
def test_check_warns_of_a_label_with_one_class(tmp_path, recorder, labels, said):
    (tmp_path / "a.tsv").write_bytes(labelled(*labels))
    spec = {"dataset": {"format": "criteo", "paths": [str(tmp_path / "a.tsv")]}}
    assert check(spec, recorder, StopFlag())["rows"] == len(labels)
    warnings = [m.text for m in recorder.messages if isinstance(m, Note)]
    assert len(warnings) == bool(said) and all(said in text for text in warnings)


def test_disk_too_small_says_how_much(prepare, tmp_path, monkeypatch):
    (tmp_path / "a.tsv").write_bytes(text(GOOD))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(etl.shutil, "disk_usage", lambda _: usage(1, 1, 10))
    with pytest.raises(InputProblem, match=r"0\.00 GB free, about .* needed") as caught:
        prepare([tmp_path / "a.tsv"])
    assert "free some space" in caught.value.todo


def test_a_connect_server_that_does_not_answer_is_told_soon(prepare, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "REGISTER_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"sc://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(WorkFailed, match=f"the Spark Connect server at {address}") as caught:
            prepare([SAMPLE], engine="spark", address=address)
    assert caught.value.why == "it did not answer within 1 s"


def test_worker_ends_with_exit_code_2(tmp_path):
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({
        "dataset": {"format": "criteo", "paths": [str(tmp_path / "none.tsv")]}, "cores": 1,
        "work": str(tmp_path), "output": str(tmp_path), "memory_gib": 1,
    }))  # fmt: skip
    done = subprocess.run([sys.executable, "-m", "models.dlrm.etl", str(spec)], capture_output=True,
                          text=True, env={**os.environ, "PYTHONPATH": os.getcwd()})  # fmt: skip
    assert done.returncode == BAD_INPUT
    problem = json.loads(done.stdout.splitlines()[-1])
    assert problem["bad_input"] and "none.tsv: no such file" in problem["what"]


def test_stop_ends_the_tasks(prepare, tmp_path, monkeypatch):
    """A stop request while the engine works: the tasks end, nothing is half-written."""
    (tmp_path / "a.tsv").write_bytes(text(*[GOOD] * 2000))
    monkeypatch.setattr(sources, "CHUNK_BYTES", 2_000)
    monkeypatch.setattr(StopFlag, "requested", True, raising=False)
    flag = StopFlag.__init__

    def asked(self):
        flag(self)
        self.requested = True

    monkeypatch.setattr(StopFlag, "__init__", asked)
    with pytest.raises(Stopped):
        prepare([tmp_path / "a.tsv"])
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert signal.getsignal(signal.SIGTERM) is not None


@given(st.lists(
    st.lists(st.one_of(st.just(b""), st.binary(max_size=12).map(
        lambda b: b.replace(b"\t", b"").replace(b"\n", b""))), min_size=38, max_size=42),
    max_size=4))  # fmt: skip
def test_any_bytes_are_read_or_refused(lines):
    """A line is either a row with the values Python reads from it, or a problem. Never both."""
    content = b"".join(b"\t".join(fields) + b"\n" for fields in lines)
    reader = CriteoReader()
    rows = reader.read(content)
    assert reader.lines == len(lines)
    assert len(rows.label) + len({p.line for p in reader.problems.listed}) >= min(1, len(lines))
    assert (reader.problems.total == 0) == (len(rows.label) == len(lines))


@given(st.integers(-(2**31), 2**31 - 1), st.integers(0, 2**32 - 1), st.booleans())
def test_every_value_in_range_is_read_exactly(number, key, upper):
    digits = f"{key:08X}" if upper else f"{key:08x}"
    rows = CriteoReader().read(text(line(1, str(number))) + text(line(39, digits)))
    assert rows.ints[0, 0] == number
    assert rows.keys[1, 25] == key


@given(st.binary(max_size=500))
def test_described_values_are_printable_and_short(value):
    shown = describe_bytes(value)
    assert shown.isprintable() and shown.isascii() and len(shown) <= 80
