"""Raw rows as the network was trained on them: the readers of the ETL, the ids of its dictionaries.

Needs numpy and pyarrow.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.recdp.chunk import Chunk, Column, read_chunks
from models.recdp.criteo import COLUMNS
from models.recdp.dictionary import Dictionary, dictionary_path
from models.recdp.problems import Problems, collect, refuse
from models.recdp.sources import READ_BYTES, Columns, Dataset, Unit, plan_units
from models.recdp.table import check_columns
from models.recdp.transform import transform_numeric
from models.worker import InputProblem

Array = NDArray[Any]
FIRST_BYTES = 1 << 16  # where a file's first line ends
_TODO = "mend the file; nothing was written"


@dataclass
class Rows:
    """Consecutive rows of the input: numeric float32 [n, N], ids int32 [n, T], label uint8 [n] or
    None; for each categorical column how many rows hold no value, and one that has no id.
    `bytes` is how much of the input was read for them."""

    numeric: Array
    ids: Array
    label: Array | None
    missing: Array
    unseen: Array
    bytes: int


def encode(dictionary: Dictionary, column: Column) -> tuple[Array, int, int]:
    """Ids int32 [n] of a column's rows, the rows without a value, and those whose value has no id.

    0 is the id of both.
    """
    found = column.ids(dictionary)
    return found, column.missing, int(np.count_nonzero(found == 0)) - column.missing


class Encoder:
    """Turns the files of a dataset into rows for the network, in the order of the input."""

    def __init__(
        self, dataset: Mapping[str, Any], bundle: Path, content: Mapping[str, Any]
    ) -> None:
        """`bundle` is the folder and `content` what its bundle.json says."""
        self.dataset = Dataset.parse(dataset)
        self._needed = self.dataset
        if self.dataset.columns is not None:  # time only splits, and labels may be absent
            columns = replace(self.dataset.columns, time=None)
            self.dataset = replace(self.dataset, columns=columns)
            self._needed = replace(self.dataset, columns=replace(columns, label=None))
        self._labelled: dict[str, bool] = {}
        self._numeric, self._transform = content["numeric"], content["transform"]
        keys = self.dataset.format == "criteo"
        self._dictionaries = [
            Dictionary.load(dictionary_path(bundle, column), keys)
            for column in content["categorical"]
        ]

    def rows(self) -> Iterator[Rows]:
        """All rows, a chunk at a time; InputProblem names file, line and column of bad ones."""
        lines: dict[str, int] = {}
        for unit in plan_units(self._needed):
            dataset, labelled = self._for(unit)
            problems, left = Problems(), unit.size
            for chunk, count in read_chunks(dataset, unit, problems, labelled):
                self._refuse(problems, unit, lines.get(unit.file, 0))
                yield self._encode(chunk, labelled, left)
                lines[unit.file] = lines.get(unit.file, 0) + count
                left = 0
            self._refuse(problems, unit, 0)

    def _refuse(self, problems: Problems, unit: Unit, before: int) -> None:
        if problems.total:
            refuse(collect([problems.to_json(unit.file, before)]), _TODO)

    def _encode(self, chunk: Chunk, labelled: bool, read: int) -> Rows:
        encoded = [
            encode(dictionary, column)
            for dictionary, column in zip(self._dictionaries, chunk.columns, strict=True)
        ]
        ids = [found for found, _, _ in encoded]
        return Rows(
            numeric=np.ascontiguousarray(
                transform_numeric(chunk.numeric, self._numeric, self._transform)
            ),
            ids=np.stack(ids, axis=1) if ids else np.zeros((chunk.rows, 0), np.int32),
            label=chunk.label if labelled else None,
            missing=np.array([missing for _, missing, _ in encoded], dtype=np.int64),
            unseen=np.array([unseen for _, _, unseen in encoded], dtype=np.int64),
            bytes=read,
        )

    def _for(self, unit: Unit) -> tuple[Dataset, bool]:
        """The dataset as this unit's file has it, and whether its rows carry labels."""
        if unit.file not in self._labelled:
            self._labelled[unit.file] = self._has_labels(Path(unit.file))
        labelled = self._labelled[unit.file]
        return self.dataset if labelled else self._needed, labelled

    def _has_labels(self, path: Path) -> bool:
        columns = self.dataset.columns
        if columns is None:
            return _first_line(path).count(b"\t") + 1 != len(COLUMNS) - 1
        if columns.label is None:
            return False
        alone = Columns(label=columns.label, numeric=(), categorical=())
        try:
            check_columns(Dataset(format="table", files=(path,), columns=alone))
        except InputProblem:  # the other columns were found before: it is the label that is absent
            return False
        return True


def _first_line(path: Path) -> bytes:
    """The first line of a text file, or what there is of it in the first bytes."""
    with path.open("rb") as file:
        text = file.read(FIRST_BYTES)
    if path.name.lower().endswith(".gz"):
        try:
            text = zlib.decompressobj(wbits=31).decompress(text, READ_BYTES)
        except zlib.error:
            return b""  # the reader says what is wrong with it
    return text.split(b"\n", 1)[0]
