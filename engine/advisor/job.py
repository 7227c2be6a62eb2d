"""What the advisor looks at: the recipe, the data and the hosts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from engine.advisor.layout import ClusterHost
from engine.facts import FileFacts
from engine.learned import NOTHING_LEARNED, Learned
from engine.recipe import Recipe
from engine.sample import DataFacts, look
from hosts.probe import HostFacts


@dataclass(frozen=True)
class Job:
    """What the advisor looks at."""

    name: str
    recipe: Recipe
    origins: Mapping[str, str]
    facts: HostFacts
    files: Sequence[FileFacts]
    missing_gib: Mapping[str, float]  # disk that environments not yet installed will take
    data_path: Path | None = None  # what dataset.path means
    cluster: Sequence[ClusterHost] = ()  # empty: this machine
    shared: str | None = None  # the folder that all hosts of the cluster see
    has_jdk: bool = False  # whether a Java runtime can be made here for hosts without one
    learned: Learned = NOTHING_LEARNED  # from earlier runs; without them the built-in prices hold

    @cached_property
    def data(self) -> DataFacts:
        """What is known of the data, at the price of a small sample of the files."""
        return look(self.recipe.dataset, self.files)
