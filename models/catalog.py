"""The list of built-in models: one line each."""

from __future__ import annotations

from importlib import import_module

from models.api import ModelSpec

MODELS: dict[str, str] = {
    "dlrm": "models.dlrm.spec",
}


def load(name: str) -> ModelSpec:
    """The spec of a built-in model; KeyError when the catalog has no such name."""
    spec = import_module(MODELS[name]).SPEC
    assert isinstance(spec, ModelSpec)
    return spec


def names() -> list[str]:
    """The names of all built-in models."""
    return list(MODELS)
