"""Training over hosts that are lost before it starts and after it has ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from threading import Event
from typing import Any

import pytest

from engine import clusters
from engine import events as ev
from engine.errors import HostAway
from engine.plan import Step
from engine.steps import over_hosts, train_over_hosts
from engine.steps.train_over_hosts import ClusterListener, ClusterTraining
from hosts.fake import FakeTransport
from hosts.site import Site
from hosts.transport import Completed, NoAnswer
from models.messages import Saved
from tests.engine.test_recovery import STEP, Lab, Labs, labs  # noqa: F401

GONE = NoAnswer("h1", "the connection was lost")


def site_of(transport: FakeTransport) -> Site:
    return Site(
        name="h1", transport=transport, home=PurePosixPath("/a"), python="python3",
        address="10.0.0.1",
    )  # fmt: skip


def train(lab: Lab, monkeypatch: pytest.MonkeyPatch, cleared: Sequence[Exception | None]) -> Any:
    """Train with ranks that are only said to run; how each of the two clean-ups ends."""
    site, ends = site_of(FakeTransport("h1")), iter(cleared)

    def clear(_training: ClusterTraining) -> None:
        if (problem := next(ends)) is not None:
            raise problem

    monkeypatch.setattr(over_hosts, "connect", lambda _context: [site])
    monkeypatch.setattr(ClusterTraining, "clear", clear)
    monkeypatch.setattr(ClusterTraining, "send", lambda *_words: None)
    etl = Step(id="etl", kind="etl", title="prepare data", identity="etl-0")
    lab.context.plan = replace(lab.context.plan, steps=(etl, STEP))
    return train_over_hosts.train_over_hosts(
        lab.context, STEP, {}, Path("checkpoints"), Path("output")
    )


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


class Hanging(FakeTransport):
    """A host that `answers`, or says nothing until its connection is closed."""

    def __init__(self, answers: bool) -> None:
        super().__init__("h1")
        self.asked, self.closed = 0, Event()
        self.answer("", self._listing if answers else self._hang)

    def _listing(self, _argv: Sequence[str], _stdin: bytes) -> Completed:
        return Completed(0, "{}", "")

    def _hang(self, _argv: Sequence[str], _stdin: bytes) -> Completed:
        self.asked += 1
        assert self.closed.wait(30), "nobody has closed the connection"
        raise GONE

    def close(self) -> None:
        self.closed.set()


@pytest.mark.parametrize("answers", [True, False])
def test_a_host_that_hangs_keeps_no_loss_from_being_told(
    labs: Labs,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    answers: bool,
) -> None:
    """Checkpoints come while all answer; else none is asked for after the one that hangs."""
    monkeypatch.setattr(train_over_hosts, "LAST_FETCH_S", 30.0 if answers else 0.1)
    lab, h1 = labs("wait"), Hanging(answers)
    listener = ClusterListener(lab.context, STEP, [site_of(h1)], tmp_path)
    for step in (1, 2):
        listener.message(Saved(step=step, path=f"/kept/step-{step}"), 0)
    listener.give_up()
    listener.close()
    assert [saved.step_count for saved in lab.told(ev.CheckpointSaved)] == [1, 2] * answers
    assert h1.asked == (not answers)
    assert [note.level for note in lab.told(ev.Noted)] == ["warning"] * (not answers)
