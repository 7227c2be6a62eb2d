"""What the tests of the workers share: the research data, and a way to run a worker."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from models.messages import Message, Messenger
from models.worker import StopFlag


@pytest.fixture(autouse=True)
def _keep_denormals() -> Iterator[None]:
    """A worker flushes denormal numbers to zero for its whole process; here it is the tests'."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


class Recorder(Messenger):
    """Keeps what a worker says."""

    def __init__(self) -> None:
        self.rank = 0
        self.messages: list[Message] = []

    def send(self, message: Message) -> None:
        self.messages.append(message)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="session")
def criteo_10k() -> Path:
    """The first 10,000 rows of the Criteo log; research data, never in the repository."""
    checkout = Path(__file__).resolve().parents[2]
    folder = Path(os.environ.get("AIOK_TEST_DATA") or checkout.parent / "shared" / "data")
    path = folder / "ctr" / "criteo_kaggle_first10k.tsv.gz"
    if not path.exists():
        pytest.skip(f"research data absent: {path}")
    return path


@pytest.fixture
def prepare(tmp_path: Path, recorder: Recorder) -> Callable[..., tuple[dict[str, Any], Path]]:
    """Run the ETL worker in this process; returns its result and the output folder."""

    def call(paths: list[Path], **changes: Any) -> tuple[dict[str, Any], Path]:
        from models.dlrm import etl

        forced = changes.pop("forced", None)
        name = changes.pop("name", "out")
        output = tmp_path / name
        output.mkdir()
        spec = {
            "dataset": {"format": changes.pop("format", "criteo"), "paths": [str(p) for p in paths],
                        "columns": changes.pop("columns", None)},
            "split": {"by": "time", "valid": 0.1, "test": 0.2}, "engine": "sail", "address": None,
            "settings": {"min_count": 2}, "cores": 2, "memory_gib": 2,
            "work": str(tmp_path / f"{name}-work"), "output": str(output), **changes,
        }  # fmt: skip
        return etl.prepare(spec, recorder, StopFlag(), forced), output

    return call
