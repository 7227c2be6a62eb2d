"""The Arrow-batch functions that run inside the engine's tasks.

Each takes the numbers of its pieces of work from the batches, does the work on files below the
`work` and `output` folders, and yields small rows for the driver. A task repeats safely: files
appear whole under names of their own. Before each piece of work a task looks for the stop file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from models.recdp.blocks import SPLITS, write_block
from models.recdp.chunk import Chunk, load_chunk, read_chunks, save_chunk
from models.recdp.dictionary import Dictionary, dictionary_path
from models.recdp.planner import LOOKUP
from models.recdp.problems import Problems
from models.recdp.sources import Dataset, Unit
from models.recdp.split import TRAIN, Split
from models.recdp.transform import NumericStatistics, transform_numeric

Array = NDArray[Any]
Batches = Iterator[Any]
TaskFunction = Callable[[Batches], Batches]
STOP_FILE = "stop"
RESULT = "number int, result string"
_KEPT_DICTIONARIES: dict[str, Dictionary] = {}


class StopRequested(Exception):
    """A task found the stop file."""


@dataclass(frozen=True)
class ChunkPlace:
    """Where a parsed chunk stands: its file below `work`, and the global numbers of its rows."""

    unit: int
    sequence: int
    first_row: int
    rows: int

    @property
    def name(self) -> str:
        """Sorts in the order of the input."""
        return f"{self.unit:06d}-{self.sequence:05d}"


@dataclass(frozen=True)
class Partition:
    """How rows fall to the parts: by row number, or by the values of a time column."""

    split: Split
    rows: int
    time_borders: tuple[float, float] | None = None

    def parts(self, place: ChunkPlace, chunk: Chunk) -> Array:
        """0 train, 1 valid, 2 test for each row of a chunk: uint8 [n]."""
        if self.time_borders is None or chunk.time is None:
            return self.split.parts(place.first_row, place.first_row + place.rows, self.rows)
        valid, test = self.time_borders
        return (chunk.time > valid).astype(np.uint8) + (chunk.time > test).astype(np.uint8)


def chunk_path(work: Path, name: str) -> Path:
    """The file of a parsed chunk."""
    return work / "chunks" / f"{name}.chunk"


def _numbers(batches: Batches, work: Path) -> Iterator[int]:
    for batch in batches:
        for number in batch.column(0).to_pylist():
            if (work / STOP_FILE).exists():
                raise StopRequested
            yield number


def result(number: int, value: Any) -> Any:
    """A batch of one row of RESULT."""
    return pa.RecordBatch.from_arrays(
        [pa.array([number], pa.int32()), pa.array([json.dumps(value)])], ["number", "result"]
    )


def _finished(work: Path, phase: str, number: int) -> None:
    (work / "done" / f"{phase}-{number}").touch()


def read_task(dataset: Dataset, units: list[Unit], work: Path) -> TaskFunction:
    """Parse units into chunk files; yields for each unit its chunks' rows, lines and problems."""

    def run(batches: Batches) -> Batches:
        for number in _numbers(batches, work):
            problems = Problems()
            rows, lines = [], 0
            for sequence, (chunk, chunk_lines) in enumerate(
                read_chunks(dataset, units[number], problems)
            ):
                if (work / STOP_FILE).exists():
                    raise StopRequested
                name = ChunkPlace(number, sequence, 0, chunk.rows).name
                save_chunk(chunk_path(work, name), chunk)
                rows.append(chunk.rows)
                lines += chunk_lines
            _finished(work, "read", number)
            found = problems.to_json(units[number].file)
            yield result(number, {"rows": rows, "lines": lines, "problems": found})

    return run


def count_task(places: list[ChunkPlace], partition: Partition, work: Path) -> TaskFunction:
    """Count the values of the training rows: yields (c column number, v value, k count)."""

    def run(batches: Batches) -> Batches:
        for number in _numbers(batches, work):
            chunk = load_chunk(chunk_path(work, places[number].name))
            train = partition.parts(places[number], chunk) == TRAIN
            chosen = None if train.all() else train
            statistics = NumericStatistics.of(
                chunk.numeric if chosen is None else chunk.numeric[chosen]
            )
            (work / "statistics" / f"{places[number].name}.json").write_text(statistics.to_json())
            for index, column in enumerate(chunk.columns):
                values, counts = column.counts(chosen)
                if len(values):
                    yield _values_batch(index, values, counts)
            _finished(work, "count", number)

    return run


def _values_batch(index: int, values: Any, last: Array) -> Any:
    if isinstance(values, np.ndarray):
        values = pa.array(values, pa.int64())
    column = pa.array(np.full(len(values), index, np.int32))
    return pa.RecordBatch.from_arrays([column, values, pa.array(last, pa.int64())], ["c", "v", "k"])


def time_task(places: list[ChunkPlace], work: Path) -> TaskFunction:
    """The distinct moments of each chunk: yields (t float64, k count)."""

    def run(batches: Batches) -> Batches:
        for number in _numbers(batches, work):
            moments = load_chunk(chunk_path(work, places[number].name)).time
            assert moments is not None
            values, counts = np.unique(moments, return_counts=True)
            yield pa.RecordBatch.from_arrays([pa.array(values), pa.array(counts)], ["t", "k"])

    return run


def distinct_task(places: list[ChunkPlace], columns: list[int], work: Path) -> TaskFunction:
    """The distinct values of some columns: yields (n chunk, c column, v value, code)."""

    def run(batches: Batches) -> Batches:
        for number in _numbers(batches, work):
            chunk = load_chunk(chunk_path(work, places[number].name))
            for index in columns:
                values = chunk.columns[index].coded().values
                if not len(values):
                    continue
                batch = _values_batch(index, values, np.arange(len(values)))
                chunk_number = pa.array(np.full(len(values), number, np.int32))
                yield pa.RecordBatch.from_arrays(
                    [chunk_number, *batch.columns], ["n", "c", "v", "code"]
                )

    return run


@dataclass(frozen=True)
class EncodeJob:
    """What encoding needs: names, plan by column, transform, folders."""

    categorical: tuple[str, ...]
    plans: tuple[str, ...]
    as_keys: bool
    transform: dict[str, Any]
    numeric: tuple[str, ...]
    work: Path
    output: Path


def encode_task(job: EncodeJob, places: list[ChunkPlace], partition: Partition) -> TaskFunction:
    """Write the blocks of each chunk; yields their entries for the manifest by part."""

    def run(batches: Batches) -> Batches:
        for number in _numbers(batches, job.work):
            place = places[number]
            chunk = load_chunk(chunk_path(job.work, place.name))
            parts = partition.parts(place, chunk)
            ids = _ids(job, number, chunk)
            numeric = transform_numeric(chunk.numeric, job.numeric, job.transform)
            blocks = {}
            for part, name in enumerate(SPLITS):
                chosen = parts == part
                if not chosen.any():
                    continue
                rows: Any = slice(None) if chosen.all() else chosen
                block = write_block(
                    job.output, f"{name}-{place.name}", numeric[rows], ids[rows], chunk.label[rows]
                )
                blocks[name] = block.to_json()
            _finished(job.work, "encode", number)
            yield result(number, blocks)

    return run


def _ids(job: EncodeJob, number: int, chunk: Chunk) -> Array:
    """The ids of a chunk: int32 [rows, columns]."""
    ids = np.empty((chunk.rows, len(chunk.columns)), np.int32)
    joined = None
    for index, column in enumerate(chunk.columns):
        if job.plans[index] == LOOKUP:
            path = str(dictionary_path(job.output, job.categorical[index]))
            if path not in _KEPT_DICTIONARIES:
                _KEPT_DICTIONARIES[path] = Dictionary.load(Path(path), job.as_keys)
            ids[:, index] = column.ids(_KEPT_DICTIONARIES[path])
        else:
            if joined is None:
                joined = _read_joined(job.work, number)
            coded = column.coded()
            table = np.zeros(len(coded.values) + 1, np.int32)  # the last entry: missing -> 0
            chosen = joined[0] == index
            table[joined[1][chosen]] = joined[2][chosen]
            ids[:, index] = table[coded.codes]
    return ids


def _read_joined(work: Path, number: int) -> tuple[Array, Array, Array]:
    """Column, code and id of the values of one chunk that the joins found."""
    folder = work / "joined" / f"n={number}"
    files = sorted(folder.glob("[!._]*.parquet")) if folder.is_dir() else []
    tables = [pq.ParquetFile(file).read(["c", "code", "id"]) for file in files]
    if not tables:
        empty = np.empty(0, np.int64)
        return empty, empty, empty
    table = pa.concat_tables(tables)
    column, code, found = (table.column(name).to_numpy() for name in ("c", "code", "id"))
    return column, code, found
