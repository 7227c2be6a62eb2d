"""Passwords of hosts: threads that work on hosts ask, a person types, nothing is kept."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.clusters import HostEntry

Typed = Callable[[str | None], None]
"""Takes what was typed, None for nothing. Of several calls the first counts."""


class Passwords:
    """An engine.clusters.Password for threads; must not be called in the app's thread.

    One question is on the screen at a time. The answer goes straight to the thread that asked: it
    is in no message of the app's. After `close` every answer is None, and nobody waits.
    """

    def __init__(
        self,
        answer: Callable[[Callable[[], None]], None],
        show: Callable[[HostEntry, Typed], None],
    ) -> None:
        """`answer` hands a function over to the app's thread, where `show` asks the person."""
        self._answer, self._show = answer, show
        self._turn = threading.Lock()
        self._typed: Typed = lambda text: None
        self._closed = False

    def __call__(self, entry: HostEntry) -> str | None:
        """Ask for the password of a host and wait for it."""
        with self._turn:
            answer: Future[str | None] = Future()

            def typed(text: str | None) -> None:
                if not answer.done():
                    answer.set_result(text)

            self._typed = typed
            if self._closed:  # looked at after `typed` is in its place: `close` misses nobody
                return None
            self._answer(lambda: self._show(entry, typed))
            return answer.result()

    def close(self) -> None:
        """The app ends. In the app's thread, as all that is typed."""
        self._closed = True
        self._typed(None)
