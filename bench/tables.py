"""Tables of four shapes with a planted signal: `python -m bench.tables spec.json`.

few_wide: three columns of very many ids; many_narrow: sixty columns of few values; heavy_tail: ids
by a power law, most of them seen once or twice; mixed: some of each, and never looked at while the
advisor's rules were set. The logit is a sum of effects of numbers and ids and of products of id
vectors, so that embeddings have something to learn. Needs numpy only.
Keys: shape, rows, seed, output. Writes output/table.tsv and truth: the Bayes AUC.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.messages import Messenger
from models.metrics import auc
from models.worker import InputProblem, StopFlag, run

Array = NDArray[Any]
CHUNK = 50_000
PAIRS, RANK = 4, 3  # columns whose vectors are multiplied in pairs, and their length
SLOPE, CROSS = 0.9, 0.6  # deviations of the summed effects and of the summed products
BASE = -1.0  # the logit of an ordinary row: about 30 % are positive


@dataclass(frozen=True)
class Shape:
    """Numeric columns, and for each id column how many ids there are; `tail`: the exponent of the
    power law their frequency follows."""

    numeric: int
    ids: tuple[int, ...]
    tail: float

    def columns(self) -> dict[str, Any]:
        """Recipe key dataset.columns."""
        return {
            "label": "clicked", "numeric": [f"n{i}" for i in range(self.numeric)],
            "categorical": [f"c{i}" for i in range(len(self.ids))],
        }  # fmt: skip


SHAPES = {
    "few_wide": Shape(4, (200_000, 100_000, 50_000), 0.6),
    "many_narrow": Shape(20, tuple(3 + 2 * (i % 20) for i in range(60)), 0.3),
    "heavy_tail": Shape(8, (1_000_000,) * 4 + (5_000,) * 4 + (50,) * 4, 1.05),
    "mixed": Shape(12, (300_000,) * 2 + (2_000,) * 6 + (20,) * 10, 0.85),
}


class World:
    """The effects behind a table: a function of shape and seed."""

    def __init__(self, shape: Shape, seed: int) -> None:
        self.shape, self.seed = shape, seed
        random = np.random.default_rng([seed, 1])
        self.line = random.standard_normal(shape.numeric)
        # rare ids matter less, as in click logs: the effect fades with the rank of the id
        self.effects = [
            random.standard_normal(n).astype(np.float32) / np.sqrt(1 + np.arange(n) / 100)
            for n in shape.ids
        ]
        self.vectors = [
            random.standard_normal((n, RANK)).astype(np.float32) for n in shape.ids[-PAIRS:]
        ]
        self.chances = [np.cumsum(_power(n, shape.tail)) for n in shape.ids]

    def draw(self, rows: int, chunk: int) -> tuple[Array, Array, Array, Array]:
        """Numbers [rows, numeric], ids [rows, columns], logits [rows], labels [rows]."""
        random = np.random.default_rng([self.seed, 2, chunk])
        numbers = random.standard_normal((rows, self.shape.numeric))
        ids = np.stack(
            [np.searchsorted(chances, random.random(rows) * chances[-1])
             for chances in self.chances], axis=1,
        )  # fmt: skip
        logit = numbers @ self.line
        for column, effects in enumerate(self.effects):
            logit += effects[ids[:, column]]
        crossed = np.zeros(rows)
        first = len(self.shape.ids) - len(self.vectors)
        found = [vectors[ids[:, first + i]] for i, vectors in enumerate(self.vectors)]
        for one, other in pairwise(found):
            crossed += (one * other).sum(axis=1)
        logit = BASE + SLOPE * logit / max(1e-9, logit.std()) + CROSS * crossed / crossed.std()
        return numbers, ids, logit, (random.random(rows) < 1 / (1 + np.exp(-logit))).astype(int)


def _power(count: int, tail: float) -> Array:
    chances: Array = np.arange(1, count + 1) ** -tail
    return chances / chances.sum()


def make(spec: dict[str, Any], messenger: Messenger, stop: StopFlag) -> dict[str, Any]:
    """The worker; the rows are in random order of time, so any split is like the others."""
    if spec["shape"] not in SHAPES:
        raise InputProblem(f"there is no shape {spec['shape']}", todo=f"valid: {list(SHAPES)}")
    shape, rows = SHAPES[spec["shape"]], int(spec["rows"])
    world = World(shape, int(spec["seed"]))
    columns = shape.columns()
    logits, labels = [], []
    with open(Path(spec["output"]) / "table.tsv", "w", encoding="utf-8") as file:
        file.write("\t".join(["clicked", *columns["numeric"], *columns["categorical"]]) + "\n")
        for chunk, start in enumerate(range(0, rows, CHUNK)):
            stop.check()
            numbers, ids, logit, label = world.draw(min(CHUNK, rows - start), chunk)
            for one, row, keys in zip(label.tolist(), numbers.tolist(), ids.tolist(), strict=True):
                cells = [f"{number:.4g}" for number in row] + [f"v{key}" for key in keys]
                file.write("\t".join([str(one), *cells]) + "\n")
            logits.append(logit)
            labels.append(label)
    return {"rows": rows, "bayes_auc": auc(np.concatenate(labels), np.concatenate(logits))}


if __name__ == "__main__":
    sys.exit(run(make))
