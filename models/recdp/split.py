"""Which rows train, which validate, which test: a function of the global row number alone.

Data generator and ETL share it, so that both speak of the same test rows. Needs numpy only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.worker import InputProblem

TRAIN, VALID, TEST = 0, 1, 2


@dataclass(frozen=True)
class Split:
    """Parts of all rows. By time: the last rows are test, those before them valid."""

    by: str = "time"
    valid: float = 0.1
    test: float = 0.2
    seed: int = 0

    @classmethod
    def parse(cls, spec: Mapping[str, Any]) -> Split:
        """A split from spec.json; InputProblem when the parts leave nothing to train on."""
        split = cls(
            by=str(spec.get("by", "time")), valid=float(spec.get("valid", 0.1)),
            test=float(spec.get("test", 0.2)), seed=int(spec.get("seed", 0)),
        )  # fmt: skip
        if split.by not in ("time", "random"):
            raise InputProblem(f"split.by is {split.by!r}, expected time or random")
        if split.valid < 0 or split.test < 0 or split.valid + split.test >= 1:
            raise InputProblem(
                f"split: valid {split.valid:g} + test {split.test:g} leaves no rows to train on",
                todo="make the two add up to less than 1",
            )
        return split

    def borders(self, rows: int) -> tuple[int, int]:
        """By time: the first row of valid and the first row of test, of `rows` in all."""
        test = int(rows * self.test + 0.5)
        valid = min(int(rows * self.valid + 0.5), rows - test)
        return rows - test - valid, rows - test

    def parts(self, start: int, stop: int, rows: int) -> NDArray[np.uint8]:
        """The part (0 train, 1 valid, 2 test) of rows start..stop-1 of `rows`: uint8 [n]."""
        if self.by == "time":
            valid, test = self.borders(rows)
            number = np.arange(start, stop)
            return (number >= valid).astype(np.uint8) + (number >= test).astype(np.uint8)
        draw = hash_unit(np.arange(start, stop, dtype=np.uint64), self.seed)
        return (draw >= 1 - self.test - self.valid).astype(np.uint8) + (
            draw >= 1 - self.test
        ).astype(np.uint8)


def mix(number: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scatter 64-bit numbers one to one (the finalizer of SplitMix64, Steele et al. 2014)."""
    number = number + np.uint64(0x9E3779B97F4A7C15)
    number = (number ^ (number >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    number = (number ^ (number >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return number ^ (number >> np.uint64(31))


def hash_unit(number: NDArray[np.uint64], seed: int) -> NDArray[np.float64]:
    """A draw in [0, 1) for each number, fixed by the seed: float64 [n]."""
    salt = mix(np.array([seed], dtype=np.int64).view(np.uint64))[0]
    return (mix(number ^ salt) >> np.uint64(11)).astype(np.float64) * 2.0**-53
