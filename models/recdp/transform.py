"""Numeric columns, from what the data holds to what the model reads. Needs numpy only.

criteo: log1p(max(x, 0)), missing = 0. Tables, decided by the training rows of each column:
- "log1p" when all values are whole and none is below 0: log1p(max(x, 0)), missing = 0;
- "standard" otherwise: (x - mean) / deviation, missing = 0 (the mean).
Values are rounded once, from float64 to float32, so every engine and machine gives the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
CRITEO = {"numeric": "log1p(max(x,0))", "categorical": "8 lower-case hex digits as text"}


@dataclass
class NumericStatistics:
    """Of each numeric column over some rows: whether all is whole, least value, count, sum and
    sum of squares of the values that are not missing."""

    whole: list[bool]
    least: list[float]
    count: list[int]
    total: list[float]
    squares: list[float]

    @classmethod
    def of(cls, numeric: Array) -> NumericStatistics:
        """Statistics of numeric [n, k]; float32 input is final (criteo) and is not looked at."""
        if numeric.dtype == np.float32:
            return cls([], [], [], [], [])
        known = ~np.isnan(numeric)
        values = np.where(known, numeric, 0.0)
        return cls(
            whole=[bool(b) for b in (values == np.floor(values)).all(axis=0)],
            least=[float(x) for x in np.where(known, numeric, np.inf).min(axis=0, initial=np.inf)],
            count=[int(n) for n in known.sum(axis=0)],
            total=[math.fsum(column) for column in values.T],
            squares=[math.fsum(column) for column in np.square(values).T],
        )

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> NumericStatistics:
        """The inverse of to_json."""
        return cls(**json.loads(text))


def decide_transform(columns: Sequence[str], parts: Iterable[NumericStatistics]) -> dict[str, Any]:
    """The transform of a table's numeric columns from its chunks' statistics, in their order."""
    everything = list(parts)
    chosen: dict[str, dict[str, Any]] = {}
    for index, name in enumerate(columns):
        count = sum(part.count[index] for part in everything)
        least = min((part.least[index] for part in everything), default=math.inf)
        if all(part.whole[index] for part in everything) and least >= 0:
            chosen[name] = {"kind": "log1p"}
            continue
        mean = math.fsum(part.total[index] for part in everything) / max(1, count)
        square = math.fsum(part.squares[index] for part in everything) / max(1, count)
        deviation = math.sqrt(max(0.0, square - mean * mean))
        chosen[name] = {"kind": "standard", "mean": mean, "deviation": deviation or 1.0}
    return {"numeric": "by column", "columns": chosen, "categorical": "text"}


def transform_numeric(
    numeric: Array, columns: Sequence[str], transform: Mapping[str, Any]
) -> Array:
    """numeric [n, k] as read -> float32 [n, k] as the model wants it. NaN = missing = 0.

    `transform` is that of the manifest. float32 input has been transformed when it was read.
    """
    if numeric.dtype == np.float32:
        return numeric
    result = np.empty(numeric.shape, np.float32)
    for index, name in enumerate(columns):
        values = numeric[:, index]
        rule = transform["columns"][name]
        if rule["kind"] == "log1p":
            values = np.log1p(np.maximum(values, 0.0))
        else:
            values = (values - rule["mean"]) / rule["deviation"]
        result[:, index] = np.where(np.isnan(values), 0.0, values)
    return result
