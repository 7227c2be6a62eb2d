"""A field for a password: masked, and out of reach of messages and clipboard."""

from __future__ import annotations

from textual.message import Message
from textual.widgets import Input


class SecretInput(Input):
    """Says with Finished that enter was pressed; `take` gives the text, once."""

    class Finished(Message):
        """Enter, after something was typed."""

    def __init__(self) -> None:
        super().__init__(password=True, compact=True, select_on_focus=False)
        self.disable_messages(Input.Changed, Input.Submitted, Input.Blurred)  # they hold the text

    def take(self) -> str:
        """What was typed; the field forgets it."""
        text, self.value = self.value, ""
        return text

    async def action_submit(self) -> None:
        """Say that it is typed, not what."""
        if self.value:
            self.post_message(self.Finished())

    def action_cut(self) -> None:
        """A password does not go to the clipboard."""

    def action_copy(self) -> None:
        """A password does not go to the clipboard."""
