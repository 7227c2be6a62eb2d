"""What every optimizer promises: random, grid, Optuna, and SigOpt in its own environment."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median

import pytest

from engine.environments import environment_folder, install_here
from engine.errors import EnvironmentProblem, InputError
from engine.hpo import optimizers
from engine.hpo.optimizer import Optimizer
from engine.hpo.sigopt_search import SigoptSearch
from engine.hpo.space import LinearConstraint, Parameter, Space, Type
from engine.hpo.study import Budget, Objective, Strategy, Study
from engine.hpo.trials import TrialState
from models.settings import Scalar

ROOT = Path(__file__).resolve().parents[2]
TEST_HOME = Path(os.environ.get("AIOK_TEST_HOME") or ROOT / ".test-envs").absolute()

Make = Callable[[str, Study], Optimizer]
FINISHED, PRUNED, FAILED = TrialState.FINISHED, TrialState.PRUNED, TrialState.FAILED

LOSS = Objective(name="loss", maximize=False)
X = Parameter(name="x", type=Type.DOUBLE, low=0, high=1)
Y = Parameter(name="y", type=Type.DOUBLE, low=0, high=1)
LINE = Space(parameters=(X,))
SQUARE = Space(parameters=(X, Y))
MIXED = Space(
    parameters=(
        Parameter(
            name="the 'kind'\n\x1b[31m", type=Type.CATEGORICAL, default="",
            choices=("", "a b\n\u202e", "0", 0, True),
        ),
        Parameter(name="rate", type=Type.DOUBLE, low=1e-6, high=1e2, log=True, default=1e-3),
        Parameter(name="width", type=Type.INT, low=1, high=1000, log=True, default=8),
        Parameter(name="batch", type=Type.INT, choices=(32, 64, 1024), default=64),
        Parameter(name="decay", type=Type.DOUBLE, low=0, high=0.7, step=0.1, default=0.1),
        Parameter(name="layers", type=Type.INT, low=-3, high=9, step=3, default=0),
        Parameter(name="fixed", type=Type.INT, low=5, high=5, default=5),
        Parameter(
            name="momentum", type=Type.DOUBLE, low=-1, high=1,
            condition={"the 'kind'\n\x1b[31m": ("a b\n\u202e", True)},
        ),
        Parameter(name="early", type=Type.DOUBLE, low=0, high=1, default=0.2),
        Parameter(name="late", type=Type.DOUBLE, low=0, high=1, default=0.2),
    ),
    constraints=(LinearConstraint(weights={"early": 1, "late": 2}, low=0.1, high=1.2),),
)  # fmt: skip
FINITE = Space(
    parameters=(
        Parameter(name="kind", type=Type.CATEGORICAL, choices=("a", "b"), default="b"),
        Parameter(name="rows", type=Type.INT, low=1, high=2, default=1),
        Parameter(name="columns", type=Type.INT, low=1, high=2, default=2),
        Parameter(name="half", type=Type.DOUBLE, low=0, high=0.5, step=0.5, default=0.0,
                  condition={"kind": ("b",)}),
    ),
    constraints=(LinearConstraint(weights={"rows": 1, "columns": 1}, high=3),),
)  # fmt: skip
POINTS = 9  # of FINITE: 3 of rows and columns, with a, b and 0, b and 0.5

every = pytest.mark.parametrize("name", optimizers.NAMES)
continuous = pytest.mark.parametrize("name", ["optuna", "sigopt", "random"])
learning = pytest.mark.parametrize("name", ["optuna", "sigopt"])


@pytest.fixture(scope="session")
def sigopt_environment() -> None:
    """The product's own environment for SigOpt, installed once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIOK_HOME", str(TEST_HOME))
        install_here("sigopt", lambda phase, done, total: None, [], False)


@pytest.fixture
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    made: list[Optimizer] = []

    def one(name: str, study: Study) -> Optimizer:
        if name in optimizers.ENVIRONMENTS:
            request.getfixturevalue("sigopt_environment")
            monkeypatch.setenv("AIOK_HOME", str(TEST_HOME))
        made.append(optimizers.make(name, study))
        return made[-1]

    yield one
    for optimizer in made:
        optimizer.close()


def study_of(name: str, seed: int = 1, **others: object) -> Study:
    """A study of the space that shows all a space may have (a grid: all that can be listed)."""
    space = FINITE if name == "grid" else MIXED
    return Study(space=space, objectives=(LOSS,), seed=seed, **others)  # type: ignore[arg-type]


def asked(optimizer: Optimizer, number: int) -> dict[str, Scalar]:
    assignment = optimizer.ask(number)
    assert assignment is not None
    return assignment


Values = Callable[[Mapping[str, Scalar]], dict[str, float] | None]  # None: the trial failed


def tell(
    optimizer: Optimizer, number: int, assignment: Mapping[str, Scalar], values: Values
) -> None:
    found = values(assignment)
    optimizer.tell(number, assignment, FAILED if found is None else FINISHED, found or {})


def tell_sampled(optimizer: Optimizer, space: Space, trials: int, values: Values) -> None:
    """Tell so many random trials."""
    draw = random.Random(5)
    for number in range(trials):
        tell(optimizer, number, space.sample(draw), values)


def tried(
    optimizer: Optimizer, space: Space, sampled: int, trials: int, values: Values
) -> list[dict[str, Scalar]]:
    """What is asked for, one after the other, after so many random trials."""
    tell_sampled(optimizer, space, sampled, values)
    found = []
    for number in range(sampled, sampled + trials):
        found.append(asked(optimizer, number))
        tell(optimizer, number, found[-1], values)
    return found


@every
def test_assignments_are_of_the_space_and_their_parameters_types(name: str, make: Make) -> None:
    study = study_of(name)
    optimizer = make(name, study)
    if name != "grid":
        tell_sampled(optimizer, study.space, 24, lambda a: {"loss": float(a["rate"])})
    for number in range(24, 29):
        assignment = asked(optimizer, number)
        checked = study.space.check(assignment)
        assert list(map(repr, checked.items())) == list(map(repr, assignment.items()))
        optimizer.tell(number, assignment, FINISHED, {"loss": float(number)})


@every
def test_eight_asks_without_a_word_differ_from_each_other_and_from_what_runs(
    name: str, make: Make
) -> None:
    study = study_of(name)
    optimizer = make(name, study)
    default = study.space.default()
    assert default is not None
    optimizer.pending(0, default)
    count = 6 if name == "grid" else 8
    seen = [default, *(asked(optimizer, number) for number in range(1, count + 1))]
    assert len({repr(sorted(a.items())) for a in seen}) == count + 1


@learning
def test_eight_parallel_asks_of_a_model_differ(name: str, make: Make) -> None:
    optimizer = make(name, Study(space=SQUARE, objectives=(LOSS,)))
    tell_sampled(optimizer, SQUARE, 20, lambda a: {"loss": abs(float(a["x"]) - 0.5)})
    seen = [asked(optimizer, number) for number in range(20, 28)]
    nearest = min(
        math.dist(list(map(float, a.values())), list(map(float, b.values())))
        for n, a in enumerate(seen) for b in seen[:n]
    )  # fmt: skip
    assert nearest > 1e-3


@every
def test_a_restart_goes_on_as_if_it_had_not_been(name: str, make: Make) -> None:
    """Four trials at a time that end in another order; then all again, told by number."""
    study = study_of(name, seed=11)
    ends = {1: (FAILED, {}), 4: (PRUNED, {"loss": 0.5}), 7: (PRUNED, {}), 2: (FINISHED, {})}
    first = make(name, study)
    steps = 3 if name == "grid" else 24
    history: dict[int, tuple[dict[str, Scalar], TrialState, dict[str, float]]] = {}
    running: dict[int, dict[str, Scalar]] = {}
    if name != "grid":
        draw = random.Random(2)
        for number in range(steps - 4):
            running[number] = study.space.sample(draw)
            first.pending(number, running[number])
    for number in range(steps - 4 if name != "grid" else 0, steps):
        running[number] = asked(first, number)
    for number in sorted(running, key=lambda n: (n * 7) % steps)[:-2]:
        state, values = ends.get(number, (FINISHED, {"loss": (number * 5 % 9) / 9}))
        history[number] = (running.pop(number), state, values)
        first.tell(number, *history[number])
    again = make(name, study)
    for number in sorted(history):
        again.tell(number, *history[number])
    for number, assignment in running.items():
        again.pending(number, assignment)
    for number in range(steps, steps + 3):
        assert asked(again, number) == asked(first, number)


@every
def test_a_finite_space_is_visited_once_also_over_a_restart(name: str, make: Make) -> None:
    study = Study(space=FINITE, objectives=(LOSS,), seed=4)
    seen: list[dict[str, Scalar]] = []
    for _ in range(2):  # the second one is told what the first one did
        optimizer = make(name, study)
        for number, assignment in enumerate(seen):
            optimizer.tell(number, assignment, FINISHED if number else FAILED, {"loss": 1.0})
        while len(seen) < POINTS and (len(seen) != 3 or number == 2):
            number = len(seen)
            seen.append(asked(optimizer, number))
    assert sorted(map(repr, seen)) == sorted(map(repr, FINITE.points()))
    assert len(seen) == POINTS
    assert optimizer.ask(POINTS) is None
    assert optimizer.ask(POINTS + 1) is None


@learning
@pytest.mark.parametrize("maximize", [False, True])
def test_it_learns_where_values_are_good(name: str, make: Make, maximize: bool) -> None:
    score = Objective(name="score", maximize=maximize)
    optimizer = make(name, Study(space=SQUARE, objectives=(score,), seed=2))
    sign = -1 if maximize else 1

    def distance(assignment: Mapping[str, Scalar]) -> float:
        return math.dist((float(assignment["x"]), float(assignment["y"])), (0.8, 0.2))

    near = tried(optimizer, SQUARE, 30, 6, lambda a: {"score": sign * distance(a) ** 2})
    if name == "sigopt":  # it goes to the best and looks elsewhere by turns
        assert min(map(distance, near)) < 0.02  # one of six random points: 1 %
    else:
        assert median(map(distance, near)) < 0.3  # of six random points: 0.5


def test_optuna_keeps_away_from_where_trials_fail(make: Make) -> None:
    """Values are best beside the failures: one who forgets these goes there."""
    optimizer = make("optuna", Study(space=LINE, objectives=(LOSS,), seed=3))
    near = tried(
        optimizer, LINE, 40, 8, lambda a: {"loss": float(a["x"])} if float(a["x"]) > 0.5 else None
    )
    assert sum(float(a["x"]) > 0.4 for a in near) >= 6, near


@learning
def test_it_keeps_the_threshold_of_a_constraint(name: str, make: Make) -> None:
    limit = Objective(name="x", maximize=True, strategy=Strategy.CONSTRAINT, threshold=0.6)
    stored = Objective(name="note", maximize=True, strategy=Strategy.STORE)
    optimizer = make(name, Study(space=LINE, objectives=(LOSS, limit, stored), seed=3))
    near = tried(optimizer, LINE, 30, 6, lambda a: {"loss": float(a["x"]), "x": float(a["x"])})
    assert any(0.6 <= float(a["x"]) < 0.65 for a in near), near  # the best is 0.6


@learning
def test_two_metrics_are_traded_off(name: str, make: Make) -> None:
    """On the front of (x, (1 - x)^2 + y) y is 0."""
    objectives = (LOSS, Objective(name="cost", maximize=False, threshold=2.0))
    study = Study(space=SQUARE, objectives=objectives, seed=1, budget=Budget(trials=60))
    near = tried(
        make(name, study), SQUARE, 40, 6,
        lambda a: {"loss": float(a["x"]), "cost": (1 - float(a["x"])) ** 2 + float(a["y"])},
    )  # fmt: skip
    assert sum(float(a["y"]) < 0.3 for a in near) >= 4, near


@continuous
@pytest.mark.parametrize("value", [1e308, -1e308, 5e-324, math.inf, -math.inf, math.nan], ids=str)
def test_hostile_values_do_not_stop_it(name: str, make: Make, value: float) -> None:
    optimizer = make(name, Study(space=SQUARE, objectives=(LOSS,)))
    tell_sampled(
        optimizer, SQUARE, 20,
        lambda a: {"loss": value if float(a["x"]) < 0.3 else 1.0, "unknown": math.nan},
    )  # fmt: skip
    SQUARE.check(asked(optimizer, 20))


@every
def test_a_trial_that_says_nonsense_is_refused(name: str, make: Make) -> None:
    optimizer = make(name, Study(space=FINITE, objectives=(LOSS,)))
    point = next(FINITE.points())
    other = {**point, "rows": 2}
    optimizer.pending(0, point)
    optimizer.pending(0, point)
    with pytest.raises(ValueError, match="another assignment"):
        optimizer.tell(0, other, FINISHED, {"loss": 1.0})
    with pytest.raises(ValueError, match="that is no end"):
        optimizer.tell(0, point, TrialState.INTERRUPTED, {})
    with pytest.raises(ValueError, match="rows is 3, outside of"):
        optimizer.tell(1, {**point, "rows": 3}, FINISHED, {"loss": 1.0})
    with pytest.raises(ValueError, match="half is not active here"):
        optimizer.pending(1, {**point, "half": 0.0})
    optimizer.tell(0, point, FINISHED, {"loss": 1.0})
    with pytest.raises(ValueError, match="has ended before"):
        optimizer.tell(0, point, FAILED, {})
    assert asked(optimizer, 1) != point


def _space(*parameters: Parameter, weights: dict[str, float] | None = None) -> Space:
    constraints = (LinearConstraint(weights=weights, high=0.5),) if weights else ()
    return Space(parameters=parameters, constraints=constraints)


LOG = Parameter(name="log", type=Type.DOUBLE, low=0.1, high=1, log=True)
KIND = Parameter(name="kind", type=Type.CATEGORICAL, choices=("a", "b"))
UNDER = Parameter(
    name="under", type=Type.CATEGORICAL, choices=("c", "d"), condition={"kind": ("a",)}
)
DEEP = Parameter(name="deep", type=Type.DOUBLE, low=0, high=1, condition={"under": ("c",)})
THREE = tuple(Objective(name=name, maximize=True) for name in ("a", "b", "c"))


@pytest.mark.parametrize(
    ("name", "study", "words"),
    [
        ("grid", Study(space=LINE, objectives=(LOSS,)), "x is continuous"),
        (
            "grid",
            Study(
                space=_space(Parameter(name="n", type=Type.INT, low=0, high=2_000_000)),
                objectives=(LOSS,),
            ),
            "n has more than 1,000,000 values",
        ),
        ("sigopt", Study(space=LINE, objectives=THREE), "optimizes 2 metrics at most"),
        ("sigopt", Study(space=_space(KIND, UNDER, DEEP), objectives=(LOSS,)), "under has a cond"),
        (
            "sigopt",
            Study(space=_space(X, LOG, weights={"x": 1, "log": 1}), objectives=(LOSS,)),
            "not x, log",
        ),
        (
            "optuna",
            Study(space=_space(LOG, weights={"log": 4.999_999_9}), objectives=(LOSS,)),
            "no point of 10,000 drawn",
        ),
    ],
)
def test_what_an_optimizer_cannot_do_is_said_in_one_sentence(
    name: str, study: Study, words: str, make: Make
) -> None:
    with pytest.raises(InputError, match=f"the optimizer {name} cannot do this search: .*{words}"):
        make(name, study)


def test_an_unknown_name_and_a_missing_environment_are_said(aiok_home: Path) -> None:
    study = Study(space=LINE, objectives=(LOSS,))
    with pytest.raises(InputError, match="no optimizer optima") as unknown:
        optimizers.make("optima", study)
    assert "optuna" in unknown.value.todo
    with pytest.raises(EnvironmentProblem) as missing:
        optimizers.make("sigopt", study)
    assert missing.value.todo == "run aiok env install sigopt"


def test_optuna_searches_three_metrics(make: Make) -> None:
    optimizer = make("optuna", Study(space=SQUARE, objectives=THREE))
    tell_sampled(
        optimizer, SQUARE, 15, lambda a: {"a": float(a["x"]), "b": float(a["y"]), "c": 0.0}
    )
    SQUARE.check(asked(optimizer, 15))


def test_conditions_of_conditions_work_where_they_can(make: Make) -> None:
    space = _space(KIND, UNDER, DEEP)
    optimizer = make("optuna", Study(space=space, objectives=(LOSS,)))
    depths = set()
    for number in range(30):
        assignment = asked(optimizer, number)
        space.check(assignment)
        depths.add(len(assignment))
        optimizer.tell(number, assignment, FINISHED, {"loss": float(number % 3)})
    assert depths == {1, 2, 3}


def test_sigopt_takes_a_parent_without_other_parameters(make: Make) -> None:
    space = _space(
        KIND, Parameter(name="z", type=Type.INT, low=1, high=9, condition={"kind": ("a",)})
    )
    optimizer = make("sigopt", Study(space=space, objectives=(LOSS,)))
    tell_sampled(optimizer, space, 9, lambda a: {"loss": float(a.get("z", 5))})
    space.check(asked(optimizer, 9))


def test_a_sigopt_process_that_dies_is_said_and_replaced(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study(space=LINE, objectives=(LOSS,))
    whole = asked(make("sigopt", study), 0)
    python = environment_folder("sigopt") / "bin" / "python"
    broken = SigoptSearch(study, python)
    monkeypatch.setattr("engine.hpo.sigopt_search.SERVER", Path("/nonexistent/server.py"))
    lost = SigoptSearch(study, python)
    with pytest.raises(EnvironmentProblem, match="gave no answer") as problem:
        lost.ask(0)
    assert "No such file" in problem.value.why
    assert asked(broken, 0) == whole
    broken.close()
    assert broken.ask(1) is not None  # a new one starts
    broken.close()
