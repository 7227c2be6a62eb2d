"""What hosts do at present, while a screen that shows it is open."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiok_tui.feed import Feed, Watching
    from engine.monitor import Reading


class LiveHosts:
    """Follows the hosts of the inventory between `begin` and `end`; any thread may call it."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._lock = threading.Lock()
        self._wanted = False
        self._monitor: Watching | None = None

    def begin(self) -> None:
        """A screen wants to know; nothing is connected before the next `follow`."""
        self._wanted = True

    def follow(self) -> None:
        """The inventory was read, or a host was looked at: follow all that are there now."""
        with self._lock:
            if self._wanted:
                self._monitor = self._monitor or self._feed.engine.Monitor()
                self._monitor.follow()

    def end(self) -> None:
        """Nobody looks any more: every connection ends, without waiting for it."""
        self._wanted = False
        with self._lock:
            if self._monitor is not None:
                self._monitor.close()
                self._monitor = None

    def readings(self) -> dict[str, Reading]:
        """What is known of each host now; {} while nobody looks."""
        monitor = self._monitor
        return {one.host: one for one in monitor.readings()} if monitor is not None else {}
