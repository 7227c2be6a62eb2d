"""All models a recipe may name: those that come with aiok, and the user's registered programs."""

from __future__ import annotations

from engine.plan import Plan
from engine.programs import registry
from engine.programs.model import spec_of
from models import catalog
from models.api import ModelSpec


def names() -> list[str]:
    """The names of all models, the built-in ones first."""
    return [*catalog.names(), *registry.names()]


def load(name: str) -> ModelSpec:
    """The spec of a model; KeyError when no model has this name, InputError when what is kept of a
    program is damaged."""
    if name in catalog.names():
        return catalog.load(name)
    if name not in registry.names():
        raise KeyError(name)
    return spec_of(registry.get(name).program)


def of_plan(plan: Plan) -> ModelSpec:
    """The model of a plan; a program is what it was when the run was planned."""
    for step in plan.steps:
        if "program" in step.settings:
            return spec_of(registry.planned(step.settings).program)
    return catalog.load(plan.model)


def is_program(name: str) -> bool:
    """Whether a model is a program of the user's."""
    return name not in catalog.names() and name in registry.names()
