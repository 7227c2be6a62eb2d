"""Which hosts a step over a cluster works on."""

from __future__ import annotations

from pathlib import PurePosixPath
from types import SimpleNamespace
from typing import Any, cast

import pytest

from engine import clusters
from engine.steps import over_hosts
from engine.steps.context import Context
from hosts.fake import FakeTransport
from hosts.site import Site


def test_a_host_that_is_newer_than_the_plan_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []

    class Transport(FakeTransport):
        def close(self) -> None:
            closed.append(self.host)

    sites = [
        Site(name=name, transport=Transport(name), home=PurePosixPath("/aiok"), python="python3",
             address="10.0.0.1", slots=1)
        for name in ("h1", "h2", "new")
    ]  # fmt: skip
    monkeypatch.setattr(clusters, "connect", lambda *_, **__: sites)
    context: Any = SimpleNamespace(
        cluster="lab", without=(), cluster_hosts=lambda: {"h1": None, "h2": None}
    )
    assert [site.name for site in over_hosts.connect(cast(Context, context))] == ["h1", "h2"]
    assert closed == ["new"]
