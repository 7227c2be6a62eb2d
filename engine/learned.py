"""What a step will take on a place, learned from what earlier runs took there.

An estimate is a sum of terms (start, rows, steps, ...), each at its built-in price. The factors of
the terms are fitted to earlier runs: least squares of the relative error with weights that fall
for outliers (Huber 1964), drawn towards one common factor, and that towards 1, so that a few runs
change little by little. The interval comes from how well the runs are told by the others that had
other terms, so it holds for settings that were never run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

# 90 % of runs lie between estimate / factor and estimate * factor before anything was learned.
BUILT_IN_WITHIN = {"cpu_s": 3.0, "minutes": 3.0, "memory_gib": 2.0, "disk_gib": 2.0,
                   "network_gib": 2.0}  # fmt: skip
OUTLIER = 0.3  # relative error above which a run counts less
PULL = 0.02  # of each term's factor towards the common one, in squared relative error
PULL_TO_1 = 0.25  # runs that the built-in price is worth
NOISE, NOISE_RUNS = 0.12, 2.0  # deviation (natural log) to expect from a fit, and what that weighs
LEAST_FACTOR = 0.02  # no term is free, or a step that is mostly that term would be
FOLDS = 8
LEAST_TERMS = 1e-9  # whatever is less was planned to take nothing
START = "start"  # the term that is there however short the training is
BY_EPOCHS = ("cpu_s", "minutes")
SHARE_DEVIATION = 0.4  # of the part of the epochs that is trained, before anything is known
UNLIKE_DEVIATION = 0.5  # of what trials of an unknown program take, before any are known
KEPT = 60  # runs of a step that are looked at, the last ones
Terms = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One step of an earlier run: its terms by quantity, and what it took.

    `group` names what is alike: place, model, kind of step, environment, profile. `share` is how
    much of what was planned was done by a training that may end early (`open`).
    """

    group: str
    terms: Mapping[str, Terms]
    actual: Mapping[str, float]
    share: float = 1.0
    open: bool = False


@dataclass(frozen=True)
class Forecast:
    """A figure, its 90 % interval (value / within .. value * within), and how many earlier runs it
    was learned from; 0: built-in."""

    value: float
    within: float
    runs: int = 0


@dataclass(frozen=True)
class Learned:
    """Forecasts from the records of earlier runs, the oldest first."""

    records: Sequence[Record] = field(default_factory=tuple)

    def share(self, group: str) -> tuple[float, float]:
        """Which part of the planned epochs a training of the group does that may end early, and
        the deviation of its logarithm."""
        known = [r.share for r in self.records if r.group == group and r.open][-KEPT:]
        mean = (sum(known) + 1.0) / (len(known) + 1.0)
        squares = sum(math.log(share / mean) ** 2 for share in known)
        return mean, math.sqrt((squares + SHARE_DEVIATION**2) / (len(known) + 1.0))

    def forecast(self, group: str, quantity: str, terms: Terms, is_open: bool = False) -> Forecast:
        """What a step with these terms is expected to take of a quantity."""
        ends_early, deviation = (1.0, 0.0)
        if is_open and quantity in BY_EPOCHS:
            ends_early, deviation = self.share(group)
            terms = _shortened(terms, ends_early)
        built_in = sum(terms.values())
        runs = list(self._runs(group, quantity, list(terms)))[-KEPT:]
        if not runs or built_in <= 0:
            return Forecast(built_in, _with_more(BUILT_IN_WITHIN[quantity], deviation))
        within = _with_more(_within(runs, BUILT_IN_WITHIN[quantity]), deviation)
        return Forecast(predict(fit(runs), terms), within, len(runs))

    def usual(self, group: str, quantity: str) -> Forecast | None:
        """What is usual in a group whose records have no terms: the median; None without any."""
        known = [r.actual.get(quantity, 0.0) for r in self.records if r.group == group]
        taken = [value for value in known if value > 0][-KEPT:]
        if not taken:
            return None
        middle, weight = median(taken), NOISE_RUNS + len(taken)
        squares = sum(math.log(value / middle) ** 2 for value in taken)
        deviation = math.sqrt((NOISE_RUNS * UNLIKE_DEVIATION**2 + squares) / weight)
        return Forecast(middle, math.exp(_student_95(weight) * deviation), len(taken))

    def _runs(self, group: str, quantity: str, names: Sequence[str]) -> Iterator[Run]:
        """What the records of a group tell about a quantity, in terms of these names."""
        for record in self.records:
            taken = record.actual.get(quantity, 0.0)
            if record.group != group or taken <= 0:
                continue
            known = record.terms.get(quantity, {})
            terms = {name: known.get(name, 0.0) for name in names}
            if quantity in BY_EPOCHS:
                terms = _shortened(terms, record.share)
            if sum(terms.values()) > LEAST_TERMS:
                yield Run(terms, taken)


def _shortened(terms: Terms, share: float) -> dict[str, float]:
    """The terms of a part of the epochs: all but the start shrink."""
    return {name: value if name == START else value * share for name, value in terms.items()}


def _with_more(within: float, deviation: float) -> float:
    """The factor of an interval with one more reason to be wrong, by its deviation."""
    return math.exp(math.hypot(math.log(within), 1.6449 * deviation))


NOTHING_LEARNED = Learned()


@dataclass(frozen=True)
class Run:
    """The terms of an earlier run and what it took."""

    terms: Terms
    taken: float


def predict(factors: Terms, terms: Terms) -> float:
    """The sum of the terms, each with its factor."""
    return sum(factors[name] * value for name, value in terms.items())


def fit(runs: Sequence[Run]) -> dict[str, float]:
    """A factor for each term of the runs, of which there is at least one."""
    names = list(runs[0].terms)
    ratios = [math.log(run.taken / sum(run.terms.values())) for run in runs]
    common = math.exp(median(ratios) * len(runs) / (len(runs) + PULL_TO_1))
    # rows of the least squares: what a factor of 1 of each term is of the run, after `common`
    rows = [[common * run.terms[name] / run.taken for name in names] for run in runs]
    factors = [1.0] * len(names)
    for _ in range(4):  # reweighted; four rounds are enough for weights that change little
        weights = [min(1.0, OUTLIER / max(1e-9, abs(_dot(row, factors) - 1.0))) for row in rows]
        factors = _least_squares(rows, weights)
    return {name: common * factor for name, factor in zip(names, factors, strict=True)}


def _dot(row: Sequence[float], factors: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(row, factors, strict=True))


def _least_squares(rows: Sequence[Sequence[float]], weights: Sequence[float]) -> list[float]:
    """Factors f that minimise sum of w (row . f - 1)^2 + PULL sum of (f - 1)^2, f >= LEAST_FACTOR.

    By coordinate descent, which keeps the bound exactly; convex, so it cannot get stuck.
    """
    count = len(rows[0])
    products = [[sum(w * row[i] * row[j] for w, row in zip(weights, rows, strict=True))
                 for j in range(count)] for i in range(count)]  # fmt: skip
    sums = [sum(w * row[i] for w, row in zip(weights, rows, strict=True)) for i in range(count)]
    factors = [1.0] * count
    for _ in range(100):
        before = list(factors)
        for i in range(count):
            others = sum(products[i][j] * factors[j] for j in range(count) if j != i)
            best = (sums[i] - others + PULL) / (products[i][i] + PULL)
            factors[i] = max(LEAST_FACTOR, best)
        if max(abs(a - b) for a, b in zip(factors, before, strict=True)) < 1e-6:
            break
    return factors


def _within(runs: Sequence[Run], built_in: float) -> float:
    """The factor of the 90 % interval: from errors of runs told by those with other terms.

    With runs of one kind only nothing is known about others: half of the built-in uncertainty.
    """
    kinds: dict[tuple[float, ...], list[Run]] = {}
    for run in runs:
        kinds.setdefault(tuple(round(v, 9) for v in run.terms.values()), []).append(run)
    if len(kinds) < 2:
        return math.sqrt(built_in)
    folds: list[list[Run]] = [[] for _ in range(min(FOLDS, len(kinds)))]
    for number, same in enumerate(kinds.values()):
        folds[number % len(folds)] += same
    errors = []
    for fold in folds:
        factors = fit([run for other in folds if other is not fold for run in other])
        errors += [math.log(run.taken / predict(factors, run.terms)) for run in fold]
    weight = NOISE_RUNS + len(kinds)
    squares = sum(error * error for error in errors) * len(kinds) / len(errors)
    deviation = math.sqrt((NOISE_RUNS * NOISE**2 + squares) / weight)
    return min(built_in**2, math.exp(_student_95(weight) * deviation))


def _student_95(freedom: float) -> float:
    """The 95 % point of Student's t, to 2 % from 2 degrees of freedom on (Cornish-Fisher)."""
    z = 1.6449
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
