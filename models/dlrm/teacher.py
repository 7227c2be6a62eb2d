"""The made-up world behind generated click logs: who clicks, and how ids come and go.

The click logit is a sum of
- a line and bumps over the logs of the ints, and products of pairs of them,
- an effect of every id, modest for rare ids,
- a factorization machine (Rendle 2010) over the vectors of frequent ids and a vector made of the
  ints: every id x id and id x int product, which no model without products can see.
Everything is a function of the seed. Needs numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.recdp.split import hash_unit

Array = NDArray[Any]

INTS, CATEGORIES = 13, 26
RANK = 2  # length of the interaction vectors
HEAD = 200  # ids below this number of a column have vectors
FADE = 30  # the size of what an id adds falls as 1 / sqrt(1 + number / FADE): rare ids matter less
FIRST_CHANGING = 48  # ids before this one live for ever
CHANGING = 0.2  # part of the other ids that are replaced by a new id at some moment
LARGEST_COLUMN = 1 << 20
MISSING_INT = (.45, 0, .22, .22, .03, .22, .04, 0, .04, .45, .04, .77, .22)  # fmt: skip
INT_CENTRE = (.6, 2.0, 1.6, 1.5, 6.5, 3.2, 1.6, 1.9, 3.6, .3, 1.0, .2, 1.5)  # fmt: skip
INT_SPREAD = (1.1, 1.7, 1.2, 1.0, 2.0, 1.4, 1.3, 1.1, 1.3, .5, 1.0, .8, 1.1)  # fmt: skip
INT_SHIFT = (0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1)  # subtracted, so that some ints are negative
MISSING_CATEGORY = {2: .03, 3: .03, 5: .12, 11: .03, 18: .44, 19: .44, 21: .76, 24: .44,
                    25: .44}  # fmt: skip
# ids by column; 0 = as many as rows / 2, at most LARGEST_COLUMN
CARDINALITY = (900, 500, 0, 0, 250, 14, 9000, 450, 3, 20000, 4500, 0, 3000, 26, 8000, 0, 10, 3500,
               1600, 4, 0, 14, 15, 30000, 70, 20000)  # fmt: skip
EXPONENT = (1.1, 1.0, 1.45, 1.5, .9, .8, 1.35, .9, .5, 1.45, 1.25, 1.5, 1.2, .7, 1.4, 1.45, .6, 1.2,
            1.2, .5, 1.5, .7, .7, 1.4, .8, 1.4)  # fmt: skip
CROSSED = (5, 13, 16, 22)  # columns with interaction vectors: few ids, seen often
BENT = (1, 4, 6, 7)  # ints that are seldom missing: their bumps and products count
PAIRS = ((0, 1), (2, 3))  # places in BENT that are multiplied
STRENGTH = {"line": 0.65, "bumps": 0.42, "effects": 0.85, "products": 0.32}  # logit deviations
INTERCEPT = -1.25
PILOT_ROWS = 20_000


@dataclass
class Rows:
    """A run of rows: ints int64 [n, 13], ids int64 [n, 26] (-1 where missing), int_missing bool
    [n, 13], logit float64 [n], label uint8 [n], and the parts of the logit that ids make:
    effects float32 [n, 26], vectors float32 [n, len(CROSSED), RANK]."""

    ints: Array
    int_missing: Array
    ids: Array
    logit: Array
    label: Array
    effects: Array
    vectors: Array
    numeric_part: Array
    numeric_vector: Array


def _float32(numbers: tuple[float, ...]) -> Array:
    return np.array(numbers, np.float32)


def _fade(count: int) -> Array:
    """Size of the effects of ids 0..count-1: float32."""
    size: Array = ((1 + np.arange(count) / FADE) ** -0.5).astype(np.float32)
    return size


class Teacher:
    """Draws rows and knows the true logit of each. Memory does not grow with the rows.

    Ids of a column are 0..2n-1: n that may be replaced, and the n ids they replace.
    """

    def __init__(self, seed: int, rows: int) -> None:
        self.seed, self.rows = seed, rows
        largest = min(LARGEST_COLUMN, max(1000, rows // 2))
        self.cardinality = [min(n, largest) if n else largest for n in CARDINALITY]
        random = np.random.default_rng([seed, 1])
        self.birth = [self._birth(column, n) for column, n in enumerate(self.cardinality)]
        self.effect = [self._effects(column, n) for column, n in enumerate(self.cardinality)]
        self.vector = [
            random.standard_normal((count, RANK), np.float32) * _fade(count)[:, None]
            for count in (min(self.cardinality[c], HEAD) for c in CROSSED)
        ]
        self.line = random.standard_normal(INTS)
        self.bump = random.choice((-1.0, 1.0), len(BENT))
        self.to_vector = random.standard_normal((len(BENT), RANK))
        self.centre, self.spread = np.zeros(INTS), np.ones(INTS)
        self.scale = dict.fromkeys(STRENGTH, 1.0)
        self.shift = 0.0
        self._calibrate()

    def draw(self, start: int, stop: int, stream: int) -> Rows:
        """Rows start..stop-1; the same `stream` (a chunk's number) gives the same rows."""
        random = np.random.default_rng([self.seed, 2, stream])
        count = stop - start
        ints, int_missing = self._ints(random, count)
        ids = self._ids(random, start, stop)
        numeric_part, numeric_vector = self._numeric(np.where(int_missing, 0, ints))
        effects, vectors = self.id_parts(ids)
        logit = self.logit(numeric_part, numeric_vector, effects, vectors)
        label = (random.random(count) < 1 / (1 + np.exp(-logit))).astype(np.uint8)
        return Rows(ints, int_missing, ids, logit, label, effects, vectors, numeric_part,
                    numeric_vector)  # fmt: skip

    def id_parts(self, ids: Array) -> tuple[Array, Array]:
        """What the ids [n, 26] add: effects float32 [n, 26], vectors float32 [n, crossed, RANK].

        A missing id adds nothing; an id past HEAD has no vector.
        """
        effects = np.empty(ids.shape, np.float32)
        for column, table in enumerate(self.effect):
            effects[:, column] = table[ids[:, column]]  # -1 reads the last entry, which is 0
        vectors = np.empty((len(ids), len(CROSSED), RANK), np.float32)
        for place, column in enumerate(CROSSED):
            number = ids[:, column]
            table = self.vector[place]
            known = (number >= 0) & (number < len(table))
            vectors[:, place] = table[np.where(known, number, 0)] * known[:, None]
        return effects, vectors

    def logit(
        self, numeric_part: Array, numeric_vector: Array, effects: Array, vectors: Array
    ) -> Array:
        """The click logit float64 [n] of its parts."""
        everything = vectors.sum(axis=1, dtype=np.float64) + numeric_vector
        squares = np.square(vectors).sum(axis=(1, 2), dtype=np.float64)
        squares += np.square(numeric_vector).sum(axis=1)
        products = (np.square(everything).sum(axis=1) - squares) / 2
        result: Array = (
            numeric_part
            + effects.sum(axis=1, dtype=np.float64) * self.scale["effects"]
            + products * self.scale["products"]
            + self.shift
        )
        return result

    def _birth(self, column: int, count: int) -> Array:
        """The moment in 0..1 at which each id takes over from its predecessor; 0 = always there."""
        number = np.arange(count, dtype=np.uint64)
        birth = hash_unit(number, self.seed * 64 + column).astype(np.float32)
        changes = hash_unit(number, self.seed * 64 + column + (1 << 40)) < CHANGING
        birth[~changes | (number < FIRST_CHANGING)] = 0
        return birth

    def _effects(self, column: int, count: int) -> Array:
        number = np.arange(2 * count, dtype=np.uint64)
        draw = hash_unit(number, self.seed * 64 + column + (1 << 41)).astype(np.float32)
        effects = (draw - 0.5) * np.float32(12**0.5)
        effects[:count] *= _fade(count)
        effects[count:] *= _fade(count)
        return np.append(effects, np.float32(0))

    def _ints(self, random: np.random.Generator, count: int) -> tuple[Array, Array]:
        common = random.standard_normal((count, 1), np.float32)
        normal = random.standard_normal((count, INTS), np.float32) * np.float32(0.85)
        normal += common * np.float32(0.5)
        values = np.exp(np.clip(normal * _float32(INT_SPREAD) + _float32(INT_CENTRE), -5, 17))
        ints = values.astype(np.int64) - np.array(INT_SHIFT)
        missing = random.random((count, INTS), np.float32) < _float32(MISSING_INT)
        return ints, missing

    def _ids(self, random: np.random.Generator, start: int, stop: int) -> Array:
        """Zipf ranks by the inverse of their (continuous) distribution; the mix drifts slowly."""
        count = stop - start
        moment = (np.arange(start, stop) / max(1, self.rows)).astype(np.float32)
        draw = random.random((CATEGORIES, count), np.float32)
        ids = np.empty((count, CATEGORIES), np.int64)
        for column, number in enumerate(self.cardinality):
            power = 1 - EXPONENT[column] * (1 + 0.06 * (float(moment[0]) - 0.5))
            span = np.float32((number + 1.0) ** power - 1)
            rank = (draw[column] * span + np.float32(1)) ** np.float32(1 / power)
            rank = np.minimum(rank.astype(np.int64) - 1, number - 1)
            if number > FIRST_CHANGING:
                rank += (moment < self.birth[column][rank]) * number
            ids[:, column] = rank
        for column, share in MISSING_CATEGORY.items():
            ids[random.random(count, np.float32) < share, column] = -1
        return ids

    def _numeric(self, ints: Array) -> tuple[Array, Array]:
        """The ints' own part of the logit float64 [n], and their vector float64 [n, RANK]."""
        z = (np.log1p(np.maximum(ints, 0)) - self.centre) / self.spread
        line = z @ self.line
        chosen = z[:, list(BENT)]
        bent = np.tanh(chosen)
        bumps = np.exp(-np.square(chosen)) @ self.bump
        for left, right in PAIRS:
            bumps = bumps + bent[:, left] * bent[:, right]
        part = line * self.scale["line"] + bumps * self.scale["bumps"]
        return part, bent @ self.to_vector / len(BENT) ** 0.5

    def _calibrate(self) -> None:
        """Scale each part of the logit to its strength on a sample of its own."""
        random = np.random.default_rng([self.seed, 3])
        ints, missing = self._ints(random, PILOT_ROWS)
        logs = np.log1p(np.maximum(np.where(missing, 0, ints), 0))
        self.centre, self.spread = logs.mean(axis=0), logs.std(axis=0) + 1e-3
        ints = np.where(missing, 0, ints)
        ids = self._ids(random, 0, PILOT_ROWS)
        effects, vectors = self.id_parts(ids)
        nothing, no_vector = np.zeros(PILOT_ROWS), np.zeros((PILOT_ROWS, RANK))
        parts = {"effects": self.logit(nothing, no_vector, effects, vectors[:, :0])}
        for name in ("line", "bumps"):
            self.scale = dict.fromkeys(STRENGTH, 0.0) | {name: 1.0}
            parts[name], _ = self._numeric(ints)
        self.scale = dict.fromkeys(STRENGTH, 0.0) | {"products": 1.0}
        _, numeric_vector = self._numeric(ints)
        parts["products"] = self.logit(nothing, numeric_vector, effects, vectors)
        self.scale = {name: STRENGTH[name] / float(parts[name].std()) for name in STRENGTH}
        self.shift = INTERCEPT - sum(
            float(parts[name].mean()) * scale for name, scale in self.scale.items()
        )
