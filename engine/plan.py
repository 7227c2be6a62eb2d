"""The plan: typed steps with their inputs, host, settings, identity and estimate.

It is shown before it runs, written to plan.json, and the run executes exactly that object.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine import strict_json
from engine.code import digest_of, files_of
from engine.errors import InputError
from engine.store import cache_folder
from models.api import ModelSpec, Worker

FILES, RESULT = "files.json", "result.json"  # of a finished output; the result is written last
TRAINING = ("train", "search")  # kinds of steps that make a trained model
LOCKS = Path(__file__).resolve().parents[1] / "models" / "environments"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a step is expected to take. `network_gib` travels between this machine and the hosts of
    the cluster, and among these; what is downloaded from elsewhere is not in it.

    `within` has for each figure the factor of its 90 % interval: figure / factor to figure *
    factor. `basis` is what it was made of, for those who learn from this run
    (engine.estimates.Basis); `runs` is how many earlier runs its CPU-seconds were learned from.
    """

    minutes: float
    memory_gib: float
    disk_gib: float
    network_gib: float = 0.0
    cpu_s: float = 0.0
    within: Mapping[str, float] = field(default_factory=dict)
    basis: Mapping[str, Any] = field(default_factory=dict)
    runs: int = 0


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step. `settings` are all the values that its output depends on, inputs apart.

    `identity` names the output in the cache ("" for steps that always run).
    """

    id: str
    kind: str
    title: str
    host: str = "localhost"
    worker: str = ""
    environment: str = ""
    needs: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    identity: str = ""
    estimate: Estimate = Estimate(minutes=0, memory_gib=0, disk_gib=0)

    @property
    def reuse(self) -> bool:
        """Whether a finished output lies in the cache."""
        return bool(self.identity) and is_whole(self.identity)


@dataclass(frozen=True, kw_only=True)
class PlannedValue:
    """A value of the finished recipe, where it comes from, and why."""

    key: str
    value: Any
    origin: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything a run needs to know; facts are those of the hosts."""

    recipe: str
    model: str
    steps: tuple[Step, ...]
    values: tuple[PlannedValue, ...]
    environments: tuple[str, ...]
    facts: Mapping[str, Mapping[str, Any]]
    data: tuple[Mapping[str, Any], ...] = ()
    code: str = ""
    problems: tuple[str, ...] = ()

    def step(self, step_id: str) -> Step:
        """The step of that id."""
        return next(step for step in self.steps if step.id == step_id)

    def of_kind(self, kind: str) -> Step | None:
        """The first step of a kind, None when the plan has none."""
        return next((step for step in self.steps if step.kind == kind), None)

    @property
    def training(self) -> Step:
        """The step whose output is the trained model."""
        return next(step for step in self.steps if step.kind in TRAINING)

    def value(self, key: str) -> Any:
        """A value of the finished recipe by its dotted key."""
        return next(v.value for v in self.values if v.key == key)

    def to_json(self) -> str:
        """The text of plan.json."""
        return strict_json.dumps(asdict(self), indent=1)


def from_json(text: str) -> Plan:
    """The plan of a plan.json; InputError when the file is damaged."""
    try:
        data = json.loads(text)
        steps = [
            Step(**{**s, "needs": tuple(s["needs"]), "estimate": Estimate(**s["estimate"])})
            for s in data.pop("steps")
        ]
        values = [PlannedValue(**v) for v in data.pop("values")]
        return Plan(
            **{
                **data,
                "steps": tuple(steps),
                "values": tuple(values),
                "environments": tuple(data["environments"]),
                "data": tuple(data["data"]),
                "problems": tuple(data["problems"]),
            }
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            "plan.json is damaged", why=str(error)[:200], todo="start a new run of the same recipe"
        ) from None


def read_plan(path: Path) -> Plan:
    """The plan of a run; InputError when the file is gone or damaged."""
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read {path}", why=str(error)[:200], todo="start a new run of the same recipe"
        ) from None


def is_whole(identity: str) -> bool:
    """Whether the cache holds the finished output of that identity, undamaged."""
    return read_result(identity) is not None


def read_result(identity: str) -> dict[str, Any] | None:
    """The result of a finished step; None when its output is not there or not whole.

    Whole: result.json is one JSON object, and every file that files.json lists has its size.
    """
    folder = cache_folder() / identity
    try:
        sizes = json.loads((folder / FILES).read_text(encoding="utf-8"))
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        whole = all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return None
    return result if whole and isinstance(result, dict) else None


def lock_digest(environment: str) -> str:
    """sha256 of an environment's lock file."""
    return hashlib.sha256((LOCKS / f"{environment}.txt").read_bytes()).hexdigest()


def identify(
    kind: str,
    worker: Worker,
    environment: str,
    spec: ModelSpec,
    settings: Mapping[str, Any],
    inputs: Sequence[str],
) -> str:
    """A step's identity: its inputs, settings, the files its entry imports, its lock."""
    package = f"models.{spec.name}"
    extra = tuple(f"{package}.{name}" for name in ("network", "task")) if worker.ranks else ()
    digest = hashlib.sha256(
        json.dumps(
            {
                "kind": kind,
                "settings": settings,
                "inputs": list(inputs),
                "code": digest_of(files_of(worker.module, extra)),
                "lock": lock_digest(environment) if environment else "",
            },
            sort_keys=True,
        ).encode()
    )
    return f"{kind}-{digest.hexdigest()[:20]}"
