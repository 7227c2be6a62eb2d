"""The app on recorded runs: real events, store and engine; nothing is started or ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from textual.pilot import Pilot

from aiok_tui.app import AiokApp
from aiok_tui.screens.base import Turn
from engine import api
from engine import events as ev
from engine.plan import Estimate, Plan, PlannedValue, Step
from engine.programs import registry
from engine.store import EventLog, exclusive, open_run_folder
from tests.testbed import own_testbed  # noqa: F401
from tests.tui import recorded
from tests.tui.recorded_hosts import RecordedHosts, write_inventory

ON_HOSTS = ("meet_host", "check_hosts", "hosts_up", "hosts_down", "Monitor")

STEPS = tuple(
    Step(id=s["id"], kind=s["kind"], title=s["title"],
         estimate=Estimate(minutes=number / 2, memory_gib=1.0 + number, disk_gib=0.25))
    for number, s in enumerate(recorded.STEPS)
)  # fmt: skip
VALUES = (
    PlannedValue(
        key="train.ranks", value=2, origin="advisor", reason="one rank for each of 2 cores"
    ),
    PlannedValue(key="model.profile", value="tiny", origin="recipe"),
    PlannedValue(key="seed", value=7, origin="built-in"),
)


class RecordedEngine:
    """engine.api, but what would touch processes is written down in `asked`."""

    def __init__(self, no_ssh: bool = True) -> None:
        self.no_ssh = no_ssh
        self.asked: list[tuple[Any, ...]] = []
        self.problems: tuple[str, ...] = ()
        self.hosts = RecordedHosts(self.asked)

    def __getattr__(self, name: str) -> Any:
        recorded_one = name in ON_HOSTS and self.no_ssh
        return getattr(self.hosts if recorded_one else api, name)

    def runs(self) -> list[api.RunSummary]:
        """The list, with a time left that does not grow with the calendar."""
        return [replace(run, eta_s=run.eta_s and 23.0) for run in api.runs()]

    def plan(self, recipe: str) -> Plan:
        """A plan that is the same on every machine."""
        self.asked.append(("plan", Path(recipe).name))
        return Plan(recipe=Path(recipe).stem, model="dlrm", steps=STEPS, values=VALUES,
                    environments=("etl", "torch"), facts={}, problems=self.problems)  # fmt: skip

    def start(self, recipe: str) -> str:
        """The run that was "started" is a recorded one."""
        self.asked.append(("start", Path(recipe).read_text(encoding="utf-8")))
        return "live-1"

    def stop(self, run: str, kill: bool = False) -> bool:
        """Says so in the journal, as the run process would."""
        self.asked.append(("stop", run, kill))
        log = EventLog(open_run_folder(run).events)
        log.append(ev.StopRequested(t=recorded.T0 + 61))
        log.close()
        return True

    def resume(self, run: str) -> str:
        """Nothing but the note."""
        self.asked.append(("resume", run))
        return run


class Stage:
    """An app under test: no threads, a clock that stands still, reads when `turn` says so."""

    def __init__(self, app: AiokApp, engine: RecordedEngine) -> None:
        self.app, self.engine, self.now = app, engine, 0.0

    async def turn(self, pilot: Pilot[None], turns: int = 3) -> None:
        """Let the app read and draw, as its thread and its timer would."""
        for _ in range(turns):
            self.now += 5.0
            while self.app.feed.step(self.now):
                pass
            self.app.draw(Turn())
            await pilot.pause()

    def text(self) -> str:
        """What is on the screen."""
        return screen_text(self.app)


def screen_text(app: AiokApp) -> str:
    """All lines of the screen as the compositor has them."""
    width, height = app.size
    lines = app.screen._compositor.render_strips(app.size)
    assert len(lines) in (0, height)  # 0: a new screen is not laid out yet
    assert all(line.cell_length == width for line in lines)
    return "\n".join(line.text.rstrip() for line in lines)


@pytest.fixture(autouse=True)
def _fixed_surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("NO_COLOR", "AIOK_ASCII", "TEXTUAL_THEME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def runs(aiok_home: Path) -> Iterator[Path]:
    """A home with a live, a failed, a stopped and a finished run."""
    folder = aiok_home / "runs"
    with ExitStack() as locks:
        for number, (name, kind) in enumerate(
            (("live-1", "running"), ("bad-1", "failed"), ("half-1", "stopped"), ("quick-1", "done"))
        ):
            made = recorded.record(folder / name, kind)
            made.plan.write_text("{}", encoding="utf-8")
            recorded.set_time(made.plan, recorded.T0 - number)
            if kind == "running":
                assert locks.enter_context(exclusive(made.lock))
        yield folder


@pytest.fixture
def stage(runs: Path) -> Callable[..., Stage]:
    """Makes an app on the recorded runs."""

    def make(run: str | None = None, on_hosts: bool = False, **answers: str) -> Stage:
        if answers:
            api.save_draft(answers)
        engine = RecordedEngine(no_ssh=not on_hosts)
        app = AiokApp(run, engine=lambda: engine, clock=lambda: recorded.T0 + 60.0,
                      background=False)  # type: ignore[arg-type,return-value]  # fmt: skip
        app.animation_level = "none"
        return Stage(app, engine)

    return make


@pytest.fixture
def inventory(runs: Path) -> None:
    """A cluster of three hosts and one outside of it."""
    write_inventory(runs.parent)


def draft() -> Mapping[str, str]:
    """The wizard's answers as kept."""
    return api.load_draft()


PROGRAM = {
    "name": "churn-gbt", "title": "Churn", "summary": "boosted trees", "command": ["true"],
    "parameters": [{"name": "depth", "type": "int", "bounds": {"min": 1, "max": 9}}],
    "metrics": [{"name": "seconds", "source": "wall_clock", "strategy": "store"},
                {"name": "auc", "objective": "maximize"}],
}  # fmt: skip


@pytest.fixture
def program(aiok_home: Path, tmp_path: Path) -> Path:
    """A registered program of the user's."""
    path = tmp_path / "churn.yaml"
    path.write_text(yaml.safe_dump(PROGRAM))
    registry.register(path)
    return path
