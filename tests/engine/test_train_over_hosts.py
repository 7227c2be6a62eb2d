"""Training over hosts that are lost before it starts and after it has ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from engine import clusters
from engine.errors import HostAway
from engine.plan import Step
from engine.steps import over_hosts
from engine.steps.train_over_hosts import ClusterTraining, train_over_hosts
from hosts.fake import FakeTransport
from hosts.site import Site
from hosts.transport import NoAnswer
from tests.engine.test_recovery import STEP, Lab, Labs, labs  # noqa: F401

GONE = NoAnswer("h1", "the connection was lost")


def train(lab: Lab, monkeypatch: pytest.MonkeyPatch, cleared: Sequence[Exception | None]) -> Any:
    """Train with ranks that are only said to run; how each of the two clean-ups ends."""
    site = Site(
        name="h1", transport=FakeTransport("h1"), home=PurePosixPath("/a"), python="python3",
        address="10.0.0.1",
    )  # fmt: skip
    ends = iter(cleared)

    def clear(_training: ClusterTraining) -> None:
        if (problem := next(ends)) is not None:
            raise problem

    monkeypatch.setattr(over_hosts, "connect", lambda _context: [site])
    monkeypatch.setattr(ClusterTraining, "clear", clear)
    monkeypatch.setattr(ClusterTraining, "send", lambda *_words: None)
    etl = Step(id="etl", kind="etl", title="prepare data", identity="etl-0")
    lab.context.plan = replace(lab.context.plan, steps=(etl, STEP))
    return train_over_hosts(lab.context, STEP, {}, Path("checkpoints"), Path("output"))


def test_a_host_that_is_lost_between_sending_and_the_start_is_away(
    labs: Labs,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(*_words: object) -> dict[str, Any]:
        raise GONE

    monkeypatch.setattr(ClusterTraining, "run", run)
    with pytest.raises(HostAway, match="h1: the connection was lost"):
        train(labs("wait"), monkeypatch, [None])


def test_a_finished_training_is_kept_though_a_host_cannot_be_cleared(
    labs: Labs,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ClusterTraining, "run", lambda *_words: {"auc": 0.7})
    lab, away = labs("stop"), clusters.unreachable([GONE])
    assert train(lab, monkeypatch, [None, away]) == {"auc": 0.7}
    with pytest.raises(HostAway):  # at the beginning all must answer
        train(lab, monkeypatch, [away])
