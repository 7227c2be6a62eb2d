"""From raw files to training data in five phases: read, split, count, join, encode.

read    each task parses its units into chunk files: checked rows with chunk-local codes;
split   the driver numbers the rows and decides which of them train;
count   each task counts the values of its training rows, the engine adds the counts up by
        (column, value) and orders them: the dictionaries;
join    where a dictionary is too large to hand out, the engine joins it with the chunks' values;
encode  each task turns codes into ids and writes the blocks.
manifest.json comes last: a folder without it is not training data.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.messages import Messenger, Note
from models.recdp import criteo, tasks
from models.recdp.blocks import SPLITS, Block, Manifest
from models.recdp.dictionary import FOLDER, dictionary_path, write_dictionary
from models.recdp.jobs import Overdue, run_job
from models.recdp.planner import BROADCAST, LOOKUP, JoinPlan, plan_joins
from models.recdp.problems import collect, refuse
from models.recdp.reach import mark, refuse_blind, sight_task
from models.recdp.session import Session
from models.recdp.sources import Dataset, Unit
from models.recdp.split import Split
from models.recdp.tasks import ChunkPlace, EncodeJob, Partition
from models.recdp.transform import CRITEO, NumericStatistics, decide_transform
from models.worker import InputProblem, StopFlag

NO_CORES_S = 60.0  # until a person is told that an engine at an address does nothing


@dataclass
class Preparation:
    """One ETL from start to end, on an open session. `forced`: a plan for all joins (tests)."""

    dataset: Dataset
    units: list[Unit]
    split: Split
    min_count: int
    memory_gib: float
    work: Path
    output: Path
    session: Session
    messenger: Messenger
    stop: StopFlag
    forced: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    plans: list[JoinPlan] = field(default_factory=list)
    peak_rss_gib: float = 0.0

    @property
    def as_keys(self) -> bool:
        """Whether categories are numbers (criteo's hex digits) instead of text."""
        return self.dataset.format == "criteo"

    @property
    def categorical(self) -> tuple[str, ...]:
        """Names of the categorical columns."""
        columns = self.dataset.columns
        return criteo.CATEGORICAL if columns is None else columns.categorical

    @property
    def numeric(self) -> tuple[str, ...]:
        """Names of the numeric columns."""
        columns = self.dataset.columns
        return criteo.NUMERIC if columns is None else columns.numeric

    def run(self) -> Manifest:
        """All phases; returns the manifest, which is on disk by then."""
        for name in ("chunks", "done", "statistics"):
            (self.work / name).mkdir(parents=True, exist_ok=True)
        (self.output / FOLDER).mkdir(exist_ok=True)
        with self._phase("read"):
            self._check_sight()
            places = self._read(self.units)
        with self._phase("split"):
            partition = self._partition(places)
        with self._phase("count"):
            sizes = self._count(places, partition)
            transform = self._transform(places)
        self.plans = plan_joins(sizes, self.session.cores, self.memory_gib, self.forced)
        for plan in self.plans:
            if plan.plan != LOOKUP:
                self.messenger.send(Note(text=f"{plan.column}: {plan.plan} ({plan.reason})"))
        if any(plan.plan != LOOKUP for plan in self.plans):
            with self._phase("join"):
                self._join(places)
        with self._phase("encode"):
            blocks = self._encode(places, partition, transform)
        columns = self.dataset.columns
        manifest = Manifest(
            folder=self.output, label=criteo.LABEL if columns is None else str(columns.label),
            numeric=self.numeric, categorical=self.categorical,
            table_sizes=tuple(sizes[name] + 1 for name in self.categorical),
            splits=blocks, transform={**transform, "min_count": self.min_count},
        )  # fmt: skip
        manifest.save()
        return manifest

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        self.stop.check()
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 3)

    def _run(self, phase: str, function: tasks.TaskFunction, weights: list[int], unit: str) -> Any:
        """Run a task function over 0..n-1 and return its rows as an Arrow table."""
        frame = self._frame(function, len(weights), tasks.RESULT)
        return self._collect(phase, frame, weights, unit)

    def _frame(self, function: tasks.TaskFunction, count: int, schema: str) -> Any:
        numbers = self.session.spark.range(0, count, 1, self.session.spread(count))
        return numbers.mapInArrow(self.session.carry(function), schema)

    def _collect(self, phase: str, frame: Any, weights: list[int], unit: str) -> Any:
        return self._watch(phase, frame.toArrow, weights, unit)

    def _watch(
        self, phase: str, action: Any, weights: list[int], unit: str, overdue: Overdue | None = None
    ) -> Any:
        value, peak = run_job(
            action, phase, weights, unit, self.work, self.messenger, self.stop, overdue
        )
        self.peak_rss_gib = max(self.peak_rss_gib, peak)
        return value

    def _check_sight(self) -> None:
        """InputProblem when what runs at an address does not see our files; a task a core asks."""
        if not self.session.address:
            return
        marks = [mark(self.work), mark(self.output)]
        files = [str(path) for path in (*marks, *self.dataset.files)]
        cores = self.session.cores
        waits = Overdue(
            NO_CORES_S,
            f"{self.session.address} has not done this run's first task within {NO_CORES_S:g} s:"
            " its cores may all be taken, or no worker has the memory that an executor asks for;"
            " its own web page tells. The run goes on waiting",
            self.session.spark.interruptAll,
        )
        frame = self._frame(sight_task(files), cores, tasks.RESULT)
        table = self._watch("look for the files", frame.toArrow, [0] * cores, "", waits)
        for path in marks:
            path.unlink()
        refuse_blind(self.session.address, _by_number(table, cores))

    def _read(self, units: list[Unit]) -> list[ChunkPlace]:
        function = tasks.read_task(self.dataset, units, self.work)
        table = self._run("read", function, [unit.size for unit in units], "bytes")
        results = _by_number(table, len(units))
        lines: dict[str, int] = {}
        found = []
        for unit, result in zip(units, results, strict=True):
            first = lines.get(unit.file, 0)
            for problem in result["problems"]["listed"]:
                if problem["line"]:
                    problem["line"] += first
            found.append(result["problems"])
            lines[unit.file] = first + result["lines"]
        refuse(collect(found))
        empty = [file for file, count in lines.items() if not count]
        if empty:
            raise InputProblem(f"{empty[0]}: the file holds no rows")
        places, row = [], 0
        for unit, result in zip(units, results, strict=True):
            for sequence, rows in enumerate(result["rows"]):
                if rows:
                    places.append(ChunkPlace(unit.number, sequence, row, rows))
                row += rows
        return places

    def _partition(self, places: list[ChunkPlace]) -> Partition:
        rows = sum(place.rows for place in places)
        columns = self.dataset.columns
        borders = None
        if self.split.by == "time" and columns is not None and columns.time is not None:
            borders = self._time_borders(places, rows)
        return Partition(self.split, rows, borders)

    def _time_borders(self, places: list[ChunkPlace], rows: int) -> tuple[float, float]:
        """The last moments of train and of valid; rows of one moment stay together."""
        from pyspark.sql import functions as F

        frame = self._frame(tasks.time_task(places, self.work), len(places), "t double, k long")
        frame = frame.groupBy("t").agg(F.sum("k").alias("k")).orderBy("t")
        table = self._collect("split", frame, [0], "rows")
        moments = table.column("t").to_numpy()
        upto = np.cumsum(table.column("k").to_numpy())
        last = []
        for border in self.split.borders(rows):
            place = int(np.searchsorted(upto, border, side="left"))
            last.append(float(moments[place]) if border else -np.inf)
        return last[0], last[1]

    def _count(self, places: list[ChunkPlace], partition: Partition) -> dict[str, int]:
        """Make the dictionaries; returns the number of entries by column."""
        from pyspark.sql import functions as F

        kind = "long" if self.as_keys else "string"
        function = tasks.count_task(places, partition, self.work)
        frame = (
            self._frame(function, len(places), f"c int, v {kind}, k long")
            .groupBy("c", "v").agg(F.sum("k").alias("n"))
            .where(F.col("n") >= self.min_count)
            .orderBy("c", F.col("n").desc(), "v")
        )  # fmt: skip
        table = self._collect("count", frame, [place.rows for place in places], "rows")
        column = table.column("c").to_numpy()
        sizes = {}
        for index, name in enumerate(self.categorical):
            start, stop = np.searchsorted(column, [index, index + 1])
            part = table.slice(start, stop - start)
            write_dictionary(dictionary_path(self.output, name), _flat(part, "v"), _flat(part, "n"))
            sizes[name] = int(stop - start)
        return sizes

    def _transform(self, places: list[ChunkPlace]) -> dict[str, Any]:
        if self.as_keys:
            return dict(CRITEO)
        folder = self.work / "statistics"
        return decide_transform(self.numeric, (
            NumericStatistics.from_json((folder / f"{place.name}.json").read_text())
            for place in places
        ))  # fmt: skip

    def _join(self, places: list[ChunkPlace]) -> None:
        """Let the engine find the ids of the columns whose dictionaries are not handed out."""
        from pyspark.sql import functions as F

        kind = "long" if self.as_keys else "string"
        joined = None
        for plan in sorted({plan.plan for plan in self.plans} - {LOOKUP}):
            columns = [index for index, p in enumerate(self.plans) if p.plan == plan]
            values = self._frame(
                tasks.distinct_task(places, columns, self.work), len(places),
                f"n int, c int, v {kind}, code long",
            )  # fmt: skip
            dictionary = self._dictionary_frame(plan, columns)
            if plan == BROADCAST:
                dictionary = F.broadcast(dictionary)  # Sail chooses by itself and ignores hints
            else:
                dictionary = dictionary.hint("shuffle_hash")
            part = values.join(dictionary, ["c", "v"]).select("n", "c", "code", "id")
            joined = part if joined is None else joined.unionByName(part)
        assert joined is not None
        writer = joined.write.mode("overwrite").partitionBy("n")
        self._watch("join", lambda: writer.parquet(str(self.work / "joined")), [0], "rows")

    def _dictionary_frame(self, plan: str, columns: list[int]) -> Any:
        """The dictionaries of some columns as one frame (c, v, id)."""
        from models.recdp.dictionary import hex_number

        folder = self.work / f"dictionary {plan}"
        folder.mkdir(exist_ok=True)
        for index in columns:
            table = pq.read_table(dictionary_path(self.output, self.categorical[index]))
            value = _flat(table, "value")
            if self.as_keys:
                value = pa.array(hex_number(value), pa.int64())
            pq.write_table(
                pa.table({
                    "c": pa.array(np.full(len(table), index, np.int32)), "v": value,
                    "id": _flat(table, "id"),
                }),
                folder / f"{index:05d}.parquet",
            )  # fmt: skip
        return self.session.spark.read.parquet(str(folder))

    def _encode(
        self, places: list[ChunkPlace], partition: Partition, transform: dict[str, Any]
    ) -> dict[str, tuple[Block, ...]]:
        job = EncodeJob(
            self.categorical, tuple(plan.plan for plan in self.plans), self.as_keys, transform,
            self.numeric, self.work, self.output,
        )  # fmt: skip
        function = tasks.encode_task(job, places, partition)
        table = self._run("encode", function, [place.rows for place in places], "rows")
        blocks: dict[str, list[Block]] = {name: [] for name in SPLITS}
        for entry in _by_number(table, len(places)):
            for name, block in entry.items():
                blocks[name].append(Block.from_json(block))
        return {name: tuple(blocks[name]) for name in SPLITS}


def _flat(table: Any, name: str) -> Any:
    """A column as one Arrow array."""
    chunks = table.column(name).chunks
    return pa.concat_arrays(chunks) if chunks else pa.array([], table.schema.field(name).type)


def _by_number(table: Any, count: int) -> list[Any]:
    """The results of tasks 0..count-1 in their order."""
    rows = dict(
        zip(table.column("number").to_pylist(), table.column("result").to_pylist(), strict=True)
    )
    return [json.loads(rows[number]) for number in range(count)]


def clear_work(work: Path) -> None:
    """Free what an ETL left in its work folder."""
    for name in ("chunks", "done", "statistics", "joined", "spark"):
        shutil.rmtree(work / name, ignore_errors=True)
