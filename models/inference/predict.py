"""Scores raw rows with a bundle: python -m models.inference.predict spec.json

Rows are read, encoded and scored a chunk at a time, so memory does not grow with their number.
The CSV has one line a row, in the order of the input, and appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc

from models import cpu, ipex
from models.inference import bundle
from models.inference.encode import Encoder, Rows
from models.inference.scoring import Array, Score, stream
from models.messages import Messenger, Note, Progress
from models.metrics import ScoreHistogram, auc
from models.worker import InputProblem, StopFlag, WorkFailed, run

EXACT_ROWS = 5_000_000  # labels and logits of so many rows are kept for the exact AUC


def work(spec: dict[str, Any], messenger: Messenger, stop: StopFlag) -> dict[str, Any]:
    """Write spec["output"] and return rows, speed, unseen values and, with labels, the AUC."""
    start = time.perf_counter()
    folder, output, threads = Path(spec["bundle"]), Path(spec["output"]), int(spec["threads"])
    cpu.prepare(threads, True)
    content = bundle.read(folder)
    dataset = {**spec["dataset"], "columns": content["columns"]}
    if dataset.get("format") != content["format"]:
        raise InputProblem(
            f"the rows are {dataset.get('format')}, the model was trained on {content['format']}",
            todo="give rows in the format of the training data",
        )
    encoder = Encoder(dataset, folder, content)
    score = load(folder, content, threads)
    tally = Tally(content["categorical"])
    scratch = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with _writing(output):
            file = scratch.open("wb")
        with file:
            _write(file, output, tally, _scored(encoder, score, spec, stop), messenger,
                   encoder.dataset.bytes)  # fmt: skip
        with _writing(output):
            scratch.replace(output)
    finally:
        scratch.unlink(missing_ok=True)
    seconds = time.perf_counter() - start
    for note in tally.notes():
        messenger.send(note)
    return {"rows": tally.rows, "seconds": seconds, "rows_per_second": tally.rows / seconds,
            **tally.to_json()}  # fmt: skip


def load(folder: Path, content: dict[str, Any], threads: int) -> Score:
    """The scores of a bundle, in the form that was kept, for `threads` callers at a time."""
    extension = ipex.load(content["form"] == ipex.FORM)
    serving = import_module(bundle.serving_module(str(content["model"])))
    network, model = serving.load_network(folder)
    if content["form"] == "torch":
        eager: Score = serving.eager(network)
        return eager
    for form in serving.forms(network, model, extension):
        if form.name == content["form"]:
            loaded: Score = form.load(folder, threads)
            return loaded
    raise InputProblem(f"{folder} has the form {content['form']}, which this aiok does not know",
                       todo="export the model again")  # fmt: skip


class Tally:
    """Counts over all rows: rows, missing and unseen values, and what the AUC needs."""

    def __init__(self, columns: list[str]) -> None:
        self.columns = columns
        self.rows = 0
        self.missing = np.zeros(len(columns), np.int64)
        self.unseen = np.zeros(len(columns), np.int64)
        self._labelled = True
        self._exact: list[tuple[Array, Array]] = []
        self._histogram = ScoreHistogram()

    def add(self, rows: Rows, logits: Array) -> None:
        """Count the rows of a chunk with their logits [n]."""
        self.rows += len(logits)
        self.missing += rows.missing
        self.unseen += rows.unseen
        if rows.label is None or not self._labelled:
            self._labelled = False
            self._exact.clear()
            return
        self._histogram.add(rows.label, logits)
        if self.rows <= EXACT_ROWS:
            self._exact.append((rows.label, logits))
        else:
            self._exact.clear()

    def to_json(self) -> dict[str, Any]:
        """`missing` and `unseen` by column, `auc` (null without labels or with one class only)."""
        return {
            "missing": dict(zip(self.columns, self.missing.tolist(), strict=True)),
            "unseen": dict(zip(self.columns, self.unseen.tolist(), strict=True)),
            "auc": self._auc(),
        }

    def _auc(self) -> float | None:
        if not self._labelled or not self.rows:
            return None
        if self._exact:
            labels, logits = (np.concatenate(part) for part in zip(*self._exact, strict=True))
            found = auc(labels, logits)
        else:
            found = self._histogram.auc()
        return found if math.isfinite(found) else None

    def notes(self) -> Iterator[Note]:
        """A warning for each column in which most values are unknown to the model."""
        for column, unseen in zip(self.columns, self.unseen.tolist(), strict=True):
            if self.rows and unseen > self.rows / 2:
                yield Note(level="warning", text=f"{column}: {unseen:,} of {self.rows:,} rows hold"
                           " a value that the model has no id for")  # fmt: skip


@contextlib.contextmanager
def _writing(output: Path) -> Iterator[None]:
    """Says of what the system refuses that it was the writing."""
    try:
        yield
    except OSError as error:
        raise WorkFailed(f"cannot write {output}: {error.strerror or error}",
                         todo="check the folder and the room on the disk") from None  # fmt: skip


def _write(
    file: BinaryIO, output: Path, tally: Tally, scored: Iterator[tuple[Rows, Array]],
    messenger: Messenger, total: int,
) -> None:  # fmt: skip
    """All lines of the CSV; tells how many of the `total` bytes of input are done."""
    done = 0
    with _writing(output):
        file.write(b"row,probability\n")
    for rows, logits in scored:
        with _writing(output):
            _append(file, tally.rows, logits)
        tally.add(rows, logits)
        done += rows.bytes
        messenger.send(Progress(phase="score", done=done, total=total, unit="bytes"))
    with _writing(output):
        file.flush()
        os.fsync(file.fileno())


def _scored(
    encoder: Encoder, score: Score, spec: dict[str, Any], stop: StopFlag
) -> Iterator[tuple[Rows, Array]]:
    """Chunks with their logits. The next chunk is read while the last batches are scored."""
    size = int(spec["batch_size"])
    chunks: deque[Rows] = deque()

    def batches() -> Iterator[tuple[Array, Array]]:
        for rows in encoder.rows():
            stop.check()
            chunks.append(rows)
            for at in range(0, len(rows.ids), size):
                yield rows.numeric[at : at + size], rows.ids[at : at + size]

    parts: list[Array] = []
    ready = 0
    for logits in stream(score, batches(), int(spec["threads"])):
        parts.append(logits)
        ready += len(logits)
        while chunks and ready >= len(chunks[0].ids):
            rows = chunks.popleft()
            whole = np.concatenate(parts)
            yield rows, whole[: len(rows.ids)]
            parts = [whole[len(rows.ids) :]]
            ready -= len(rows.ids)


def _append(file: BinaryIO, before: int, logits: Array) -> None:
    """Lines `row,probability`; rows count from 1 through all files."""
    probabilities = 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))
    table = pa.table({
        "row": np.arange(before + 1, before + 1 + len(logits)),
        "probability": probabilities.astype(np.float32),
    })  # fmt: skip
    pc.write_csv(table, file, pc.WriteOptions(include_header=False))


if __name__ == "__main__":
    sys.exit(run(work))
