"""What the app knows of the user's hosts, and the work it does on them in the background.

`HostBoard` holds the latest of each host: threads that work on hosts write to it, the app's one
timer draws it. `HostWork` starts that work. A host that does not answer holds up nobody.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from aiok_tui.feed import Call, Feed, Jobs
from aiok_tui.livehosts import LiveHosts

if TYPE_CHECKING:
    from engine.api import HostFacts, HostReport, Outcome
    from engine.clusters import Inventory, Password
    from engine.host_jobs import HostKey

ADD, CHECK, UP, DOWN, REMOVE = "adding", "checking", "coming up", "going down", "removing"
HERE = ""  # progress of what is done on this machine for all hosts


class Problem(Protocol):
    """What is wrong, why, and what to do."""

    what: str
    why: str
    todo: str


@dataclass(frozen=True, kw_only=True)
class HostRow:
    """One host. `facts` and `at` are those of its last answer, `report` that of the last check.

    `failure` is what went wrong in the last up or down, `phase` how far the present one is.
    """

    name: str
    cluster: str
    place: str
    report: HostReport | None = None
    facts: HostFacts | None = None
    at: float | None = None
    doing: str = ""
    phase: str = ""
    failure: Problem | None = None

    @property
    def status(self) -> str:
        """How it stands, in a word."""
        return self.doing or (self.report.status.value if self.report is not None else "unknown")

    @property
    def problems(self) -> list[Problem]:
        """What keeps it from working."""
        found: list[Problem] = list(self.report.problems) if self.report is not None else []
        return [self.failure, *found] if self.failure is not None else found

    @property
    def group(self) -> str:
        """What up and down work on: its cluster, or the host alone."""
        return self.cluster or self.name


class HostBoard:
    """The latest of every host. Every call may be made from any thread; rows never change."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self.rows: dict[str, HostRow] = {}
        self.listed = False  # the inventory was read
        self.version = 0

    def _change(self, rows: dict[str, HostRow]) -> None:
        if rows != self.rows:
            self.rows = rows
            self.version += 1

    def _put(self, names: Sequence[str], **changes: Any) -> None:
        with self._lock:
            fresh = {name: replace(self.rows[name], **changes) for name in names
                     if name in self.rows}  # fmt: skip
            self._change({**self.rows, **fresh})

    def listing(self, known: Inventory) -> None:
        """Take over the inventory; what is known of its hosts stays."""
        rows = {}
        with self._lock:
            for name in known.hosts:
                entry = known.entry(name)
                fresh = HostRow(name=name, cluster=known.cluster_of(name) or "",
                                place=f"{entry.user}@{entry.address}:{entry.port}")  # fmt: skip
                old = self.rows.get(name)
                same = old is not None and old.place == fresh.place
                rows[name] = replace(old, cluster=fresh.cluster) if same and old else fresh
            self.listed = True
            self.version += 1
            self._change(rows)

    def begin(self, names: Sequence[str], doing: str) -> None:
        """Work on hosts begins."""
        self._put(names, doing=doing, phase="", **({} if doing == CHECK else {"failure": None}))

    def told(self, report: HostReport) -> None:
        """A host was looked at; one that did not answer keeps its last facts and their age."""
        changes: dict[str, Any] = {"report": report}
        if report.placed is not None:
            changes |= {"at": self._clock(), "facts": report.facts}
        row = self.rows.get(report.host)
        if row is not None and row.doing == CHECK:
            changes["doing"] = ""
        self._put([report.host], **changes)

    def progress(self, host: str, phase: str, done: float, total: float) -> None:
        """How far the work on a host is; HERE is what is done on this machine for all of them."""
        text = f"{phase} {100 * done / total:.0f} %" if total > 0 else phase
        names = [host] if host != HERE else [
            row.name for row in self.rows.values() if row.doing == UP
        ]  # fmt: skip
        self._put(names, phase=text)

    def came_to(self, outcomes: Sequence[Outcome]) -> None:
        """What an up or down came to."""
        for outcome in outcomes:
            self._put([outcome.host], failure=outcome.problem)

    def end(self, names: Sequence[str], doing: str) -> None:
        """Work on hosts is over, however it ended; other work on them goes on."""
        self._put([name for name in names if name in self.rows and self.rows[name].doing == doing],
                  doing="", phase="")  # fmt: skip

    def members(self, group: str) -> list[str]:
        """The hosts of a cluster, or the one host of that name."""
        found = [row.name for row in self.rows.values() if row.cluster == group]
        return found or [name for name in (group,) if name in self.rows]


class HostWork:
    """Starts what a user asks for. Belongs to the app's thread."""

    def __init__(
        self,
        feed: Feed,
        jobs: Jobs,
        board: HostBoard,
        failed: Callable[[Exception], None],
        password: Password,
        environments: Sequence[str] = ("torch",),
    ) -> None:
        """`environments` are what `up` installs, as on the command line."""
        self._feed, self._jobs, self.board, self._failed = feed, jobs, board, failed
        self._password, self._environments = password, environments
        self.live = LiveHosts(feed)

    def _start(
        self, names: Sequence[str], doing: str, work: Callable[[], Any],
        done: Callable[[Any], None] = lambda result: None,
    ) -> None:  # fmt: skip
        def over(then: Callable[[Any], None]) -> Callable[[Any], None]:
            def end(result: Any) -> None:
                self.board.end(names, doing)
                then(result)

            return end

        self.board.begin(names, doing)
        self._jobs.start(Call(doing, work, over(done), over(self._failed)))

    def listing(self, then: Callable[[], None] = lambda: None) -> None:
        """Read the inventory."""

        def read() -> None:
            known = self._feed.engine.inventory()
            self.board.listing(known)
            if known.hosts:
                self.live.follow()

        self._start((), "reading", read, lambda _: then())

    def check(self, names: Sequence[str]) -> None:
        """Look at hosts; those that are worked on already are left alone."""
        free = [name for name in names if name in self.board.rows and not self._busy(name)]
        if not free:
            return

        def work() -> None:
            engine = self._feed.engine
            for report in engine.check_hosts(free, self._password, told=self.board.told):
                self.board.told(report)
            self.live.follow()

        self._start(free, CHECK, work)

    def meet(
        self,
        answers: Mapping[str, str],
        shown: Callable[[HostKey], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """Fetch the key of a host that is to be added."""
        engine, password = self._feed.engine, self._password
        self._jobs.start(Call(ADD, lambda: engine.meet_host(answers, password), shown, failed))

    def add(self, answers: Mapping[str, str], key: HostKey, added: Callable[[str], None]) -> None:
        """Pin the key of a host, write it into the inventory, look at it."""
        engine = self._feed.engine

        def listed(name: str) -> None:
            self.check([name])
            added(name)

        def done(name: str) -> None:
            self.listing(lambda: listed(name))

        self._start((), ADD, lambda: engine.add_host(answers, key), done)

    def up(self, group: str) -> None:
        """Make a cluster, or one host, ready."""
        names = list(self._environments)

        def work() -> list[Outcome]:
            engine = self._feed.engine
            return engine.hosts_up(group, names, self.board.progress, self._password)

        self._change(group, UP, work)

    def down(self, group: str) -> None:
        """Make a cluster, or one host, bare."""
        self._change(group, DOWN, lambda: self._feed.engine.hosts_down(group, self._password))

    def _change(self, group: str, doing: str, work: Callable[[], list[Outcome]]) -> None:
        names = self.board.members(group)

        def done(outcomes: list[Outcome]) -> None:
            self.board.came_to(outcomes)
            self.check(names)

        self._start(names, doing, work, done)

    def remove(self, name: str) -> None:
        """Forget a host."""
        remove = self._feed.engine.remove_host
        self._start((name,), REMOVE, lambda: remove(name), lambda _: self.listing())

    def _busy(self, name: str) -> bool:
        return bool(self.board.rows[name].doing)

    def busy(self, group: str) -> str:
        """What is done with a group at present, "" when nothing is; a check is no hindrance."""
        doing = {self.board.rows[name].doing for name in self.board.members(group)}
        return next((text for text in (UP, DOWN, REMOVE) if text in doing), "")

    def broken_off(self) -> str:
        """What ends in the middle when the app ends, and how to complete it; "" when nothing."""
        rows = [row for row in self.board.rows.values() if row.doing in (UP, DOWN)]
        verbs = {UP: "up", DOWN: "down"}
        lines = dict.fromkeys(f"aiok hosts {verbs[row.doing]} {row.group}" for row in rows)
        return f"broken off; complete it with: {'; '.join(lines)}" if lines else ""
