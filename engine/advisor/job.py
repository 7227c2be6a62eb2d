"""What the advisor looks at: the recipe, the data and the hosts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.advisor.costs import BYTES_PER_ROW, GZIP_FACTOR
from engine.advisor.layout import ClusterHost
from engine.facts import FileFacts
from engine.recipe import Recipe
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


def row_count(job: Job) -> int:
    """Rows of the data set: exact for generated data, a guess by size otherwise."""
    if job.recipe.dataset.generate:
        return job.recipe.dataset.generate.rows
    size = sum(
        f.size * (GZIP_FACTOR if f.path.suffix in (".gz", ".parquet") else 1.0) for f in job.files
    )
    return max(1, int(size / BYTES_PER_ROW[job.recipe.dataset.format]))
