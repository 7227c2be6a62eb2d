"""The optimizers by name. Each is imported when a search uses it."""

from __future__ import annotations

import random
from collections.abc import Iterable

from engine.environments import environment_folder
from engine.errors import EnvironmentProblem, InputError
from engine.hpo.optimizer import Optimizer
from engine.hpo.study import Study
from engine.plan import Step
from models.settings import nearest

NAMES = ("optuna", "sigopt", "random", "grid")
ENVIRONMENTS = {"sigopt": "sigopt"}  # that must be installed where the engine runs


def environments_for(steps: Iterable[Step]) -> list[str]:
    """What the optimizers of a plan's searches need where the engine runs."""
    wanted = (step.settings["search"]["optimizer"] for step in steps if step.kind == "search")
    return [ENVIRONMENTS[name] for name in wanted if name in ENVIRONMENTS]


def make(name: str, study: Study) -> Optimizer:
    """The optimizer of a study. InputError: there is none of that name, or it cannot search this;
    EnvironmentProblem: its environment is not installed."""
    try:
        if study.space.constraints:
            study.space.sample(random.Random(0))
        return _made(name, study)
    except ValueError as error:
        raise InputError(
            f"the optimizer {name} cannot do this search: {error}",
            todo=f"change the search, or take another optimizer of {', '.join(NAMES)}",
        ) from None


def _made(name: str, study: Study) -> Optimizer:
    if name == "optuna":
        from engine.hpo.optuna_search import OptunaSearch

        return OptunaSearch(study)
    if name == "sigopt":
        from engine.hpo.sigopt_search import SigoptSearch

        python = environment_folder(ENVIRONMENTS[name]) / "bin" / "python"
        if not python.exists():
            raise EnvironmentProblem(
                "the environment sigopt is not installed", todo="run aiok env install sigopt"
            )
        return SigoptSearch(study, python)
    if name == "random":
        from engine.hpo.random_search import RandomSearch

        return RandomSearch(study)
    if name == "grid":
        from engine.hpo.grid import GridSearch

        return GridSearch(study)
    raise InputError(f"there is no optimizer {name}", todo=nearest(name, list(NAMES)))
