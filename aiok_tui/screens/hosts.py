"""The hosts of the inventory: how each stands, what it is, what aiok placed there."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, VerticalScroll

from aiok_tui.actions import HOSTS, bindings, hints
from aiok_tui.screens import hostparts, livehost
from aiok_tui.screens.base import FeedScreen, Turn
from aiok_tui.widgets.glyphs import state_cell
from aiok_tui.widgets.hints import Hints
from aiok_tui.widgets.linetable import Column, LineTable, Row
from aiok_tui.widgets.paint import Cell, Lines, spread

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiok_tui.hostboard import HostRow
    from engine.monitor import Reading

WIDE, VERY_WIDE = 100, 150
WELCOME: tuple[list[Cell], ...] = (
    [("No hosts yet.", "strong")],
    [],
    [
        ("Press ", "dim"),
        ("a", "accent"),
        (" to add one. By hand: ", "dim"),
        ("aiok hosts add USER@ADDRESS --cluster NAME", "plain"),
    ],
    [("The key of the host is shown, for you to compare, and pinned.", "dim")],
)


class HostsScreen(FeedScreen):
    """One row a host over the details of the one under the cursor."""

    area = HOSTS
    CSS_PATH = "hosts.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [*bindings(HOSTS)]

    def __init__(self) -> None:
        super().__init__()
        self.zoomed = False
        self._shown: tuple[object, ...] = ()
        self._new_host: dict[str, str] = {}  # answers of a host that is not added yet

    def compose(self) -> ComposeResult:
        """The list over what is known of one host."""
        yield Lines(id="top")
        yield LineTable(id="hosts")
        yield Lines(id="welcome")
        with Horizontal(id="details"):
            yield VerticalScroll(Lines(id="facts"), id="about", classes="panel")
            yield VerticalScroll(Lines(id="ledger"), id="placed", classes="panel")
        yield Hints(hints(HOSTS))

    def on_mount(self) -> None:
        """Read the inventory; hosts that nobody has looked at yet are looked at."""
        self.query_one("#placed").border_title = "placed by aiok"
        self.query_one("#welcome").display = False
        self.query_one("#details").display = False
        self.query_one("#hosts").focus()
        reading: list[Cell] = [(" hosts", "strong"), ("   reading the inventory", "dim")]
        self.query_one("#top", Lines).show([reading])
        self.aiok.host_work.live.begin()
        self.aiok.host_work.listing(self._look_at_new)

    def on_unmount(self) -> None:
        """Nobody looks at the live figures any more."""
        self.aiok.host_work.live.end()

    def _look_at_new(self) -> None:
        rows = self.aiok.board.rows.values()
        self.aiok.host_work.check([row.name for row in rows if row.report is None])

    def on_resize(self, _event: events.Resize) -> None:
        """Details where there is room for them."""
        self._shown = ()

    # --- drawing ---

    def draw(self, turn: Turn) -> None:
        """When something is known that was not, or an age has changed."""
        board = self.aiok.board
        cursor = self.query_one("#hosts", LineTable).cursor
        key = (board.version, cursor, self.size, self.zoomed, int(self.aiok.clock()))
        if turn.tables and board.listed and key != self._shown:
            self._shown = key
            self._draw(board.rows)

    def _draw(self, rows: dict[str, HostRow]) -> None:
        width, now = self.size.width, self.aiok.clock()
        ready = sum(row.status == "ready" for row in rows.values())
        bad = sum(bool(row.problems) for row in rows.values())
        said = f"{ready} of {len(rows)} ready" + (f"   {bad} with problems" if bad else "")
        top = spread([(" hosts", "strong"), (f"   {said}", "dim")], [self.clock_cell()], width - 1)
        self.query_one("#top", Lines).show([top])
        table = self.query_one("#hosts", LineTable)
        wide = width >= WIDE
        live = self.aiok.host_work.live.readings()
        columns = [Column("HOST", 14), Column("CLUSTER", 10), Column("STATE", 14),
                   *([Column("REACHED AS", 24)] if width >= VERY_WIDE else []),
                   *([Column(name, 6, right=True) for name in ("CPU", "MEM", "NET")]
                     if wide else []),
                   Column("HEARD", 10), Column("WHAT")]  # fmt: skip
        table.show(columns, [Row(row.name, _cells(row, live.get(row.name), width, now))
                             for row in rows.values()])  # fmt: skip
        welcome, details = self.query_one("#welcome", Lines), self.query_one("#details")
        welcome.display = not rows
        welcome.show(WELCOME)
        table.display = bool(rows) and not self.zoomed
        details.display = bool(rows) and (self.zoomed or self.size.height >= 20)
        self.set_class(self.zoomed, "-zoomed")
        row = rows.get(table.cursor or "")
        if row is not None and details.display:
            self._draw_details(row, live.get(row.name), now)

    def _draw_details(self, row: HostRow, live: Reading | None, now: float) -> None:
        width = self.size.width
        wide = width >= WIDE
        self.query_one("#placed").display = wide
        room = width // 2 - 5 if wide else width - 5
        about = self.query_one("#about")
        if about.border_title != row.name:
            about.border_title = row.name
        lines, placed = hostparts.detail_lines(row, room, now), hostparts.ledger_lines(row, room)
        if live is not None:
            lines[1:1] = livehost.lines(live, room)
        if not wide:
            lines += [[], [("placed by aiok", "accent")], *placed]
        self.query_one("#facts", Lines).show(lines)
        self.query_one("#ledger", Lines).show(placed)

    # --- the user ---

    def _row(self) -> HostRow | None:
        return self.aiok.board.rows.get(self.query_one("#hosts", LineTable).cursor or "")

    @on(LineTable.Highlighted, "#hosts")
    def _look_at(self) -> None:
        self.draw(Turn())

    @on(LineTable.Chosen, "#hosts")
    def _open(self) -> None:
        self.action_zoom()

    def action_zoom(self) -> None:
        """The details alone, or below the list."""
        self.zoomed = not self.zoomed
        self.draw(Turn())
        self.query_one("#about" if self.zoomed else "#hosts").focus()

    def action_new_host(self) -> None:
        """Ask where a host is, to add it."""
        from aiok_tui.screens.newhost import NewHostScreen

        self.aiok.push_screen(NewHostScreen(self._new_host, self._added))

    def _added(self, name: str) -> None:
        self._new_host.clear()
        self.aiok.say(f"{name} is added")
        if self.is_attached:
            self.draw(Turn())
            self.query_one("#hosts", LineTable).point(name)

    def action_check_host(self) -> None:
        """Look at the host under the cursor."""
        row = self._row()
        if row is not None:
            self.aiok.host_work.check([row.name])

    def action_check_hosts(self) -> None:
        """Read the inventory again and look at all hosts."""
        work = self.aiok.host_work
        work.listing(lambda: work.check(list(self.aiok.board.rows)))

    def _ask(self, title: str, text: str, name: str, act: Callable[[], None]) -> None:
        from aiok_tui.screens.confirm import ConfirmScreen

        self.aiok.push_screen(ConfirmScreen(title, text, name), lambda yes: act() if yes else None)

    def _free(self) -> HostRow | None:
        """The host under the cursor, unless its cluster is worked on."""
        row = self._row()
        if row is not None and (doing := self.aiok.host_work.busy(row.group)):
            self.aiok.say(f"{row.group} is {doing}: wait for its end")
            return None
        return row

    def action_hosts_up(self) -> None:
        """Make the cluster of the host ready, or the host where it is in none."""
        row = self._free()
        if row is not None:
            names = ", ".join(self.aiok.board.members(row.group))
            text = f"Code, environments and keys are put on {names}; down takes them away again."
            group = row.group
            self._ask(f"Make {group} ready?", text, "", lambda: self.aiok.host_work.up(group))

    def action_hosts_down(self) -> None:
        """Take everything of aiok off the cluster of the host."""
        row = self._free()
        if row is not None:
            names = ", ".join(self.aiok.board.members(row.group))
            text = f"Everything of aiok goes from {names}: environments, data, checkpoints, keys."
            group = row.group
            self._ask(f"Make {group} bare?", text, group, lambda: self.aiok.host_work.down(group))

    def action_remove_host(self) -> None:
        """Forget the host."""
        row = self._free()
        if row is not None:
            text = "Its line in the inventory and its pinned key go; the host is not touched."
            name = row.name
            self._ask(f"Forget {name}?", text, "", lambda: self.aiok.host_work.remove(name))

    def action_copy_line(self) -> None:
        """Copy the command line that looks at this host."""
        row = self._row()
        if row is not None:
            line = f"aiok hosts check {row.name}"
            self.aiok.copy_to_clipboard(line)
            self.aiok.say(f"copied: {line}")

    def action_leave(self) -> None:
        """Back to the list of runs; what is at work goes on."""
        if self.zoomed:
            self.action_zoom()
        else:
            self.app.pop_screen()


def _cells(row: HostRow, live: Reading | None, width: int, now: float) -> list[Cell]:
    problems = row.problems
    if row.doing:
        what: Cell = (hostparts.cut(row.phase), "accent")
    elif problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        what = (f"! {hostparts.cut(problems[0].what)}{more}", "bad")
    elif width < WIDE and live is not None and live.sample is not None:
        what = livehost.text(live)
    elif row.facts is not None:
        what = (hostparts.facts_text(row.facts, row.report), "dim")
    else:
        what = ("", "dim")
    place: list[Cell] = [(row.place, "dim")] if width >= VERY_WIDE else []
    figures = livehost.cells(live) if width >= WIDE else []
    return [(row.name, "plain"), (row.cluster, "dim"), state_cell(row.status), *place, *figures,
            livehost.heard(live) or (hostparts.age(row, now), "dim"), what]  # fmt: skip
