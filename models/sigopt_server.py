"""Suggestions of SigOpt's local driver, for engine/hpo/sigopt_search.py; runs in `sigopt`.

One JSON line in for each suggestion: {"experiment": arguments of experiments().create,
"observations": [arguments of observations().create ...], "seed": int}; one out: {"assignments":
{...}}, {"failed": why its model could not be computed} or {"refused": what is wrong}.

The local driver keeps one experiment in memory, with one open suggestion and the state of its
model: an experiment of its own for each request makes the answer depend on the request alone.
https://github.com/sigopt/sigopt-python, https://github.com/sigopt/libsigopt
"""

from __future__ import annotations

import json
import os
import random
import sys
import types
from typing import Any

import numpy as np
from scipy.stats import qmc


class _Sequence:
    """What libsigopt takes from qmcpy, which comes as source only: a scrambled sequence."""

    engine: type[qmc.QMCEngine]

    def __init__(self, dimension: int, seed: int | None = None, **_options: Any) -> None:
        # Without a seed: from the seeded generator of this request, not from the system's.
        self._seed = int(np.random.randint(2**31)) if seed is None else seed
        self._dimension = dimension

    def gen_samples(self, n_min: int, n_max: int) -> np.ndarray[Any, Any]:
        """Points n_min to n_max of the unit cube, (n_max - n_min, dimension)."""
        sequence = self.engine(self._dimension, scramble=True, seed=self._seed)
        return sequence.fast_forward(n_min).random(n_max - n_min)


class Halton(_Sequence):
    """Of the weights of two metrics."""

    engine = qmc.Halton


class Sobol(_Sequence):
    """Not used by the local driver's default sampler."""

    engine = qmc.Sobol


def suggest(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to one request."""
    from libsigopt.aux.errors import SigoptComputeError
    from sigopt import Connection

    random.seed(request["seed"])
    np.random.seed(request["seed"])
    connection = Connection(driver="lite")
    try:
        experiment = connection.experiments().create(**request["experiment"])
        experiments = connection.experiments(experiment.id)
        for observation in request["observations"]:
            experiments.observations().create(**observation)
        return {"assignments": dict(experiments.suggestions().create().assignments)}
    except SigoptComputeError as error:
        return {"failed": str(error)}
    except ValueError as error:
        return {"refused": str(error)}


def main() -> None:
    """Answer until stdin ends."""
    module: Any = types.ModuleType("qmcpy")
    module.Halton, module.Sobol = Halton, Sobol
    sys.modules["qmcpy"] = module
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    for line in sys.stdin:
        print(json.dumps(suggest(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
