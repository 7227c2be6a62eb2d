"""Click logs of any size in the Criteo format: `python -m models.dlrm.generator spec.json`.

Writes output/part-00000.tsv ..., truth.json (what a perfect model could reach on the test rows)
and truth.npy (true and ceiling logit of the test rows in order, float32 [n, 2]). Rows are drawn
in chunks with a random stream each, so memory is bounded and the number of cores changes nothing.

Bayes AUC: that of the true logit. Ceiling AUC: that of the true logit where an id absent from the
training rows has its column's mean effect (and interaction vector) instead of its own.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.dlrm.teacher import CATEGORIES, CROSSED, RANK, Rows, Teacher
from models.messages import Messenger, Progress
from models.metrics import ScoreHistogram, auc
from models.recdp.blocks import replace_file
from models.recdp.criteo import NUMERIC
from models.recdp.pool import in_processes
from models.recdp.split import TEST, TRAIN, Split
from models.worker import InputProblem, StopFlag, run

Array = NDArray[Any]
CHUNK_ROWS = 16384
PART_ROWS = 16 * CHUNK_ROWS
BYTES_A_ROW = 260
EXACT_AUC_ROWS = 20_000_000
RARE = 14  # an id seen at most this often in training is rare
CELL = 9  # bytes of a field in the matrix that text is made of: 8 and a separator


@dataclass(frozen=True)
class Job:
    """What a process needs to make any part of the data again."""

    seed: int
    rows: int
    split: Split
    output: str


@dataclass
class PartSummary:
    """What the driver learns from one part: bytes, positives, and what the training rows hold:
    ids and how often by column, sums of effects [26] and vectors, and rows."""

    size: int
    positives: int
    train_rows: int
    ids: list[tuple[Array, Array]]
    effect_sum: Array
    vector_sum: Array


_TEACHERS: dict[tuple[int, int], Teacher] = {}


def _teacher(job: Job) -> Teacher:
    key = (job.seed, job.rows)
    if key not in _TEACHERS:
        _TEACHERS[key] = Teacher(*key)
    return _TEACHERS[key]


def _chunks(job: Job, part: int) -> Iterator[tuple[int, Rows]]:
    stop = min(job.rows, (part + 1) * PART_ROWS)
    for start in range(part * PART_ROWS, stop, CHUNK_ROWS):
        end = min(stop, start + CHUNK_ROWS)
        yield start, _teacher(job).draw(start, end, start // CHUNK_ROWS)


def write_part(job: Job, part: int) -> PartSummary:
    """Draw one part and write its file; runs in any process."""
    path = Path(job.output) / f"part-{part:05d}.tsv"
    seen: list[list[Array]] = [[] for _ in range(CATEGORIES)]
    positives = train_rows = 0
    effect_sum, vector_sum = np.zeros(CATEGORIES), np.zeros((len(CROSSED), RANK))
    with path.with_suffix(".partial").open("wb") as file:
        for start, rows in _chunks(job, part):
            file.write(to_text(rows))
            positives += int(rows.label.sum())
            train = job.split.parts(start, start + len(rows.label), job.rows) == TRAIN
            train_rows += int(train.sum())
            effect_sum += rows.effects[train].sum(axis=0, dtype=np.float64)
            vector_sum += rows.vectors[train].sum(axis=0, dtype=np.float64)
            for column in range(CATEGORIES):
                seen[column].append(rows.ids[train, column])
        size = file.tell()
    path.with_suffix(".partial").replace(path)
    ids = []
    for pieces in seen:
        number, count = np.unique(np.concatenate(pieces), return_counts=True)
        known = number >= 0
        ids.append((number[known].astype(np.int32), np.minimum(count[known], 255).astype(np.uint8)))
    return PartSummary(size, positives, train_rows, ids, effect_sum, vector_sum)


@dataclass(frozen=True)
class TrainingView:
    """What the training rows know: how often each id was seen (at most 255), and mean effects."""

    seen: list[Array]
    mean_effect: Array
    mean_vector: Array


def judge_part(job: Job, part: int, view: TrainingView) -> tuple[Array, Array, int]:
    """The test rows of a part: labels [n], true and ceiling logit [n, 2], rows with a rare id."""
    labels, logits, rare_rows = [], [], 0
    teacher = _teacher(job)
    for start, rows in _chunks(job, part):
        test = job.split.parts(start, start + len(rows.label), job.rows) == TEST
        effects, vectors = rows.effects[test], rows.vectors[test]
        rare = np.zeros(len(effects), bool)
        for column in range(CATEGORIES):
            number = rows.ids[test, column]
            count = view.seen[column][number]
            rare |= (count <= RARE) & (number >= 0)
            absent = (count == 0) & (number >= 0)
            effects[absent, column] = view.mean_effect[column]
            if column in CROSSED:
                vectors[absent, CROSSED.index(column)] = view.mean_vector[CROSSED.index(column)]
        ceiling = teacher.logit(
            rows.numeric_part[test], rows.numeric_vector[test], effects, vectors
        )
        labels.append(rows.label[test])
        logits.append(np.stack((rows.logit[test], ceiling), axis=1).astype(np.float32))
        rare_rows += int(rare.sum())
    return np.concatenate(labels), np.concatenate(logits), rare_rows


def _digits(low: int, high: int, width: int, pad: str) -> Array:
    """The decimal text of low..high-1 as `width` bytes a number, filled up with `pad` in front."""
    text = "".join(str(number).rjust(width, pad) for number in range(low, high))
    return np.frombuffer(text.encode(), dtype=f"V{width}").view(f"<u{width}")


_SMALL_LOW = -99
_PLAIN = _digits(_SMALL_LOW, 10_000, 4, "\0")  # as it is, NUL in front
_FILLED = _digits(0, 10_000, 4, "0")  # the last four digits of a longer number
_HEX = np.frombuffer(bytes(range(256)).hex().encode(), dtype="<u2")


def hex_keys(ids: Array) -> Array:
    """The 32-bit key of each id [n, 26]: scattered, one to one within a column."""
    key = ids.astype(np.uint32) * np.uint32(0x9E3779B1)
    key += np.arange(1, CATEGORIES + 1, dtype=np.uint32) * np.uint32(0x7F4A7C15)
    key = (key ^ (key >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    key = (key ^ (key >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return key ^ (key >> np.uint32(16))


def to_text(rows: Rows) -> bytes:
    """The lines of these rows. Fields are laid out 8 bytes wide, then the filling NULs removed."""
    count = len(rows.label)
    columns = len(NUMERIC)
    line = np.empty((count, 2 + (columns + CATEGORIES) * CELL), np.uint8)
    line[:, 0] = rows.label + 48
    line[:, 1] = 9
    cells = line[:, 2:].reshape(count, columns + CATEGORIES, CELL)
    cells[:, :, 8] = 9
    cells[:, -1, 8] = 10
    large = rows.ints >= 10_000
    text = np.zeros((count, columns, 2), "<u4")
    text[:, :, 1] = _PLAIN[np.where(large, 0, rows.ints) - _SMALL_LOW]
    high, low = np.divmod(rows.ints[large], 10_000)
    text[:, :, 0][large] = _PLAIN[high - _SMALL_LOW]
    text[:, :, 1][large] = _FILLED[low]
    text[rows.int_missing] = 0
    cells[:, :columns, :8] = text.view(np.uint8).reshape(count, columns, 8)
    keys = hex_keys(rows.ids).astype(">u4").view(np.uint8).reshape(count, CATEGORIES, 4)
    digits = _HEX[keys]
    digits[rows.ids < 0] = 0
    cells[:, columns:, :8] = digits.view(np.uint8).reshape(count, CATEGORIES, 8)
    return line.tobytes().translate(None, b"\0")


def _parse(spec: dict[str, Any]) -> Job:
    rows = spec.get("rows")
    if not isinstance(rows, int) or isinstance(rows, bool) or rows < 1:
        raise InputProblem(f"rows is {rows!r}, expected a whole number of at least 1")
    if spec.get("settings"):
        raise InputProblem(f"the generator has no settings, found {', '.join(spec['settings'])}")
    job = Job(int(spec.get("seed", 0)), rows, Split.parse(spec.get("split") or {}), spec["output"])
    free = shutil.disk_usage(job.output).free
    if rows * BYTES_A_ROW > free:
        raise InputProblem(
            f"{job.output}: {free / 1e9:.1f} GB free, {rows * BYTES_A_ROW / 1e9:.1f} GB needed",
            f"{rows:,} rows take about {BYTES_A_ROW} bytes each",
            "free some space, or ask for fewer rows",
        )  # fmt: skip
    return job


class _View:
    """Adds up the parts in their order, so that the sums do not depend on the cores."""

    def __init__(self, job: Job) -> None:
        self.job = job
        # the last count of each column is read for missing ids, and stays 0
        self.seen = [np.zeros(2 * n + 1, np.uint8) for n in _teacher(job).cardinality]
        self.effect_sum = np.zeros(CATEGORIES)
        self.vector_sum = np.zeros((len(CROSSED), RANK))
        self.train_rows = 0

    def add(self, summary: PartSummary) -> None:
        """Take in one part."""
        for seen, (ids, count) in zip(self.seen, summary.ids, strict=True):
            seen[ids] = np.minimum(seen[ids].astype(np.uint16) + count, 255)
        self.effect_sum += summary.effect_sum
        self.vector_sum += summary.vector_sum
        self.train_rows += summary.train_rows

    def result(self) -> TrainingView:
        """What all parts together know."""
        rows = max(1, self.train_rows)
        return TrainingView(self.seen, self.effect_sum / rows, self.vector_sum / rows)


def generate(spec: dict[str, Any], messenger: Messenger, stop: StopFlag) -> dict[str, Any]:
    """The worker: see models/README.md for the keys and the result."""
    job = _parse(spec)
    parts = range(-(-job.rows // PART_ROWS))
    cores = max(1, int(spec.get("cores") or 1))
    joined = _View(job)
    size = positives = 0
    pieces = [(job, part) for part in parts]
    for part, summary in enumerate(in_processes(write_part, pieces, cores, stop)):
        joined.add(summary)
        size, positives = size + summary.size, positives + summary.positives
        done = min(job.rows, (part + 1) * PART_ROWS)
        messenger.send(Progress(phase="generate", done=done, total=job.rows))
    truth = _judge(job, cores, joined.result(), messenger, stop)
    rows = {"train": joined.train_rows, "test": truth.pop("rows")}
    rows["valid"] = job.rows - rows["train"] - rows["test"]
    bounds = {**truth, "positive_rate": positives / job.rows}
    content = {"rows": rows, "seed": job.seed, "split": dict(spec.get("split") or {}), **bounds}
    replace_file(Path(job.output) / "truth.json", json.dumps(content, indent=1).encode() + b"\n")
    return {
        "rows": job.rows, "bytes": size, **bounds,
        "files": [f"part-{part:05d}.tsv" for part in parts],
    }  # fmt: skip


def _judge(
    job: Job, cores: int, view: TrainingView, messenger: Messenger, stop: StopFlag
) -> dict[str, Any]:
    """Write truth.npy; returns test rows, Bayes and ceiling AUC and the share of rare rows."""
    first = job.split.borders(job.rows)[1] // PART_ROWS if job.split.by == "time" else 0
    parts = range(first, -(-job.rows // PART_ROWS))
    labels, logits, rare = [], [], 0
    pieces = [(job, part, view) for part in parts]
    judged = in_processes(judge_part, pieces, cores, stop)
    for number, (label, logit, rare_rows) in enumerate(judged):
        labels.append(label)
        logits.append(logit)
        rare += rare_rows
        messenger.send(Progress(phase="truth", done=number + 1, total=len(parts), unit="parts"))
    label, logit = np.concatenate(labels), np.concatenate(logits)
    np.save(Path(job.output) / "truth.npy", logit)
    return {
        "rows": len(label), "bayes_auc": _known(_auc(label, logit[:, 0])),
        "ceiling_auc": _known(_auc(label, logit[:, 1])), "rare_share": rare / max(1, len(label)),
    }  # fmt: skip


def _auc(label: Array, logit: Array) -> float:
    """Exact; by a histogram for so many rows that sorting them would take much memory."""
    if len(label) <= EXACT_AUC_ROWS:
        return auc(label, logit)
    histogram = ScoreHistogram()
    for start in range(0, len(label), EXACT_AUC_ROWS):
        histogram.add(label[start : start + EXACT_AUC_ROWS], logit[start : start + EXACT_AUC_ROWS])
    return histogram.auc()


def _known(value: float) -> float | None:
    """None instead of NaN, which JSON does not know: too few test rows to compare."""
    return None if value != value else value


if __name__ == "__main__":
    sys.exit(run(generate))
