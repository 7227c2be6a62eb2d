"""Functions with a known optimum or front, and the loop that searches them with an optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from engine.hpo.front import hypervolume
from engine.hpo.optimizers import make
from engine.hpo.space import Parameter, Space, Type
from engine.hpo.study import Budget, Objective, Study
from engine.hpo.trials import TrialState
from models.settings import Scalar

Values = Callable[[Mapping[str, Scalar]], tuple[float, ...]]


@dataclass(frozen=True)
class Problem:
    """Losses over a space. With one loss, `best` is the least value there is; with two, the
    hypervolume of the true front below `reference`."""

    name: str
    space: Space
    values: Values
    best: float
    reference: tuple[float, ...] = ()


def _numbers(assignment: Mapping[str, Scalar]) -> list[float]:
    return [float(value) for value in assignment.values()]


def _reals(count: int, low: float = 0.0, high: float = 1.0) -> Space:
    return Space(
        parameters=tuple(
            Parameter(name=f"x{n}", type=Type.DOUBLE, low=low, high=high) for n in range(count)
        )
    )


def _branin(assignment: Mapping[str, Scalar]) -> tuple[float, ...]:
    u, v = _numbers(assignment)
    x, y = 15 * u - 5, 15 * v
    bend = y - 5.1 / (4 * math.pi**2) * x * x + 5 / math.pi * x - 6
    return (bend * bend + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10,)


_WEIGHTS = (1.0, 1.2, 3.0, 3.2)
_SCALES = (
    (10, 3, 17, 3.5, 1.7, 8),
    (0.05, 10, 17, 0.1, 8, 14),
    (3, 3.5, 1.7, 10, 17, 8),
    (17, 8, 0.05, 10, 0.1, 14),
)
_CENTRES = (
    (0.1312, 0.1696, 0.5569, 0.0124, 0.8283, 0.5886),
    (0.2329, 0.4135, 0.8307, 0.3736, 0.1004, 0.9991),
    (0.2348, 0.1451, 0.3522, 0.2883, 0.3047, 0.6650),
    (0.4047, 0.8828, 0.8732, 0.5743, 0.1091, 0.0381),
)


def _hartmann(assignment: Mapping[str, Scalar]) -> tuple[float, ...]:
    point = _numbers(assignment)
    exponents = (
        sum(s * (x - c) ** 2 for s, x, c in zip(scales, point, centres, strict=True))
        for scales, centres in zip(_SCALES, _CENTRES, strict=True)
    )
    return (-sum(w * math.exp(-e) for w, e in zip(_WEIGHTS, exponents, strict=True)),)


_TRAINING = Space(
    parameters=(
        Parameter(name="optimizer", type=Type.CATEGORICAL, choices=("adam", "sgd", "adagrad")),
        Parameter(name="rate", type=Type.DOUBLE, low=1e-5, high=1.0, log=True),
        Parameter(name="momentum", type=Type.DOUBLE, low=0, high=1,
                  condition={"optimizer": ("sgd",)}),
        Parameter(name="warmup", type=Type.INT, low=0, high=20, condition={"optimizer": ("adam",)}),
        Parameter(name="width", type=Type.INT, low=8, high=1024, log=True),
        Parameter(name="batch", type=Type.INT, choices=(32, 64, 128, 256, 512)),
    )
)  # fmt: skip


def _training(assignment: Mapping[str, Scalar]) -> tuple[float, ...]:
    """Like a training: each optimizer has a rate of its own, sgd with momentum 0.9 is best (0)."""
    kind = assignment["optimizer"]
    rate = {"adam": 1e-3, "sgd": 1e-1, "adagrad": 1e-2}[str(kind)]
    loss = 0.3 * abs(math.log10(float(assignment["rate"]) / rate))
    loss += {"adam": 0.02, "sgd": 0.0, "adagrad": 0.1}[str(kind)]
    if kind == "sgd":
        loss += (float(assignment["momentum"]) - 0.9) ** 2
    if kind == "adam":
        loss += 0.002 * abs(int(assignment["warmup"]) - 5)
    loss += 0.05 * math.log2(int(assignment["width"]) / 256) ** 2 / 4
    return (loss + 0.02 * abs(math.log2(int(assignment["batch"]) / 128)),)


def _zdt1(assignment: Mapping[str, Scalar]) -> tuple[float, ...]:
    first, *others = _numbers(assignment)
    g = 1 + 9 * sum(others) / len(others)
    return (first, g * (1 - math.sqrt(first / g)))


def _fonseca(assignment: Mapping[str, Scalar]) -> tuple[float, ...]:
    point, shift = _numbers(assignment), 1 / math.sqrt(3)
    return (
        1 - math.exp(-sum((x - shift) ** 2 for x in point)),
        1 - math.exp(-sum((x + shift) ** 2 for x in point)),
    )


_POINTS = 20_000  # of a true front
_ZDT1_END, _FONSECA_END = (1.0, 10.0), (1.0, 1.0)
_ZDT1_FRONT = ((n / _POINTS, 1 - math.sqrt(n / _POINTS)) for n in range(_POINTS + 1))
_FONSECA_FRONT = (
    _fonseca({str(axis): (2 * n / _POINTS - 1) / math.sqrt(3) for axis in range(3)})
    for n in range(_POINTS + 1)
)

ONE_METRIC = (
    Problem("Branin", _reals(2), _branin, 0.39788736),
    Problem("Hartmann-6", _reals(6), _hartmann, -3.32236801),
    Problem("mixed, conditional", _TRAINING, _training, 0.0),
)
TWO_METRICS = (
    Problem("ZDT1, 6 parameters", _reals(6), _zdt1, hypervolume(_ZDT1_FRONT, _ZDT1_END), _ZDT1_END),
    Problem(
        "Fonseca-Fleming, 3 parameters", _reals(3, -4, 4), _fonseca,
        hypervolume(_FONSECA_FRONT, _FONSECA_END), _FONSECA_END,
    ),
)  # fmt: skip


def search(problem: Problem, optimizer: str, seed: int, trials: int) -> float:
    """What is left to win after so many trials: the regret of the best value, or the part of the
    true front's hypervolume that is missing."""
    names = [f"loss{n}" for n in range(len(problem.reference) or 1)]
    objectives = tuple(Objective(name=name, maximize=False) for name in names)
    study = Study(
        space=problem.space, objectives=objectives, seed=seed, budget=Budget(trials=trials)
    )
    chosen, found = make(optimizer, study), []
    try:
        for number in range(trials):
            assignment = chosen.ask(number)
            assert assignment is not None
            found.append(problem.values(assignment))
            values = dict(zip(names, found[-1], strict=True))
            chosen.tell(number, assignment, TrialState.FINISHED, values)
    finally:
        chosen.close()
    if problem.reference:
        return 1 - hypervolume(found, problem.reference) / problem.best
    return min(value for (value,) in found) - problem.best
