"""The question for the password of a host. What is typed goes to who asked, and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen

from aiok_tui.widgets.paint import Lines, wrap
from aiok_tui.widgets.secret import SecretInput

if TYPE_CHECKING:
    from aiok_tui.passwords import Typed
    from engine.clusters import HostEntry


class PasswordScreen(ModalScreen[None]):
    """Enter gives what is typed, escape gives no password. It closes without a result of its own:
    Textual sends results about in messages."""

    CSS_PATH = "password.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "give_up", show=False)]

    def __init__(self, entry: HostEntry, typed: Typed) -> None:
        super().__init__()
        self.entry, self._typed = entry, typed

    def compose(self) -> ComposeResult:
        """The question and its field."""
        with Vertical(id="box"):
            yield Lines(id="question")
            yield SecretInput()
            yield Lines(id="keys")

    def on_mount(self) -> None:
        """Say whose password is asked for."""
        entry, width = self.entry, max(20, min(64, self.app.size.width) - 6)
        title = wrap(f"Password of {entry.user} on {entry.name}", width, "strong")
        place = wrap(f"{entry.address} port {entry.port}; it is not stored.", width, "dim")
        self.query_one("#question", Lines).show([*title, [], *place])
        keys = [("enter", "accent"), (" log in   ", "dim"), ("esc", "accent"),
                (" no password", "dim")]  # fmt: skip
        self.query_one("#keys", Lines).show([keys])
        self.query_one(SecretInput).focus()

    @on(SecretInput.Finished)
    def _give(self) -> None:
        self._typed(self.query_one(SecretInput).take())
        self.dismiss()

    def action_give_up(self) -> None:
        """No password."""
        self.query_one(SecretInput).take()
        self._typed(None)
        self.dismiss()

    def on_unmount(self) -> None:
        """However it was closed, nobody waits for an answer any more."""
        self._typed(None)
