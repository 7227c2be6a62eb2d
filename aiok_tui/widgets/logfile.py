"""Random access to the lines of a growing log file, in memory that does not grow with its lines.

One thread calls `refresh`, another reads; a lock is held for at most one chunk.
"""

from __future__ import annotations

import os
import threading
from array import array
from bisect import bisect_left
from collections import OrderedDict
from pathlib import Path
from typing import BinaryIO

from aiok_tui.widgets.glyphs import glyphs
from aiok_tui.widgets.paint import plain

STRIDE = 64  # lines to an index entry
CHUNK = 1 << 20  # bytes read while the lock is held
WIDTH = 1000  # characters shown of a line
PIECE = 1 << 16  # bytes of one line ever decoded
BLOCKS = 64  # index entries whose lines are kept decoded
HITS = 100_000  # places a search remembers


def shown(raw: bytes, length: int) -> str:
    """A line as a person reads it: what the last carriage return left, cut at WIDTH."""
    text = raw.rstrip(b"\r\n").rpartition(b"\r")[2].decode("utf-8", "replace")
    text = plain(text[: 2 * WIDTH])
    if len(text) > WIDTH or length > PIECE:
        return f"{text[:WIDTH]}{glyphs().cut} ({length:,} bytes)"
    return text


class LogFile:
    """The lines of a file, by number from 0. A file that shrank is read from its start again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.version = 0  # counts changes of anything a reader sees
        self._lock = threading.Lock()
        self._forget()
        self._needle = b""
        self._hits = array("Q")
        self._searched = (0, 0)  # (bytes, lines) the search has seen

    def _forget(self) -> None:
        self._starts = array("Q", [0])  # offsets of lines 0, STRIDE, 2 STRIDE, ...
        self._whole = 0  # lines that have ended
        self._read = 0  # bytes indexed
        self._end = 0  # offset after the last whole line
        self._blocks: OrderedDict[int, list[str]] = OrderedDict()
        self._hits, self._searched = array("Q"), (0, 0)

    # --- reading thread ---

    def refresh(self, budget: int = 16 * CHUNK) -> bool:
        """Index at most `budget` new bytes and go on with the search; True: there is more to do."""
        try:
            with open(self.path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                for _ in range(max(1, budget // CHUNK)):
                    with self._lock:
                        if size < self._read:
                            self._forget()
                            self.version += 1
                        if not (self._index(file) or self._search(file)):
                            return False
        except OSError:
            return False
        return True

    def _index(self, file: BinaryIO) -> bool:
        file.seek(self._read)
        data = file.read(CHUNK)
        if not data:
            return False
        at = data.find(b"\n")
        while at >= 0:
            self._whole += 1
            if self._whole % STRIDE == 0:
                self._starts.append(self._read + at + 1)
            self._end = self._read + at + 1
            at = data.find(b"\n", at + 1)
        self._read += len(data)
        self._blocks.pop((self.lines - 1) // STRIDE, None)
        self._blocks.pop(self._whole // STRIDE, None)
        self.version += 1
        return True

    def _search(self, file: BinaryIO) -> bool:
        begun, lines = self._searched
        if not self._needle or begun >= self._end or len(self._hits) >= HITS:
            return False
        file.seek(begun)
        data = file.read(min(CHUNK, self._end - begun))
        data = data[: data.rfind(b"\n") + 1] or data + file.readline()
        self._searched = (begun + len(data), lines + data.count(b"\n"))
        small, last = data.lower(), 0
        at = small.find(self._needle)
        while at >= 0 and len(self._hits) < HITS:
            lines += small.count(b"\n", last, at)
            self._hits.append(lines)
            last = small.find(b"\n", at)
            at = small.find(self._needle, last) if last >= 0 else -1
        self.version += 1
        return True

    # --- drawing thread ---

    @property
    def lines(self) -> int:
        """Lines so far, one that has not ended yet included."""
        return self._whole + (self._read > self._end)

    def line(self, number: int) -> str:
        """The text of a line; "" outside the file."""
        with self._lock:
            if not 0 <= number < self.lines:
                return ""
            block, place = divmod(number, STRIDE)
            if block not in self._blocks:
                self._blocks[block] = self._load(block)
                while len(self._blocks) > BLOCKS:
                    self._blocks.popitem(last=False)
            self._blocks.move_to_end(block)
            found = self._blocks[block]
            return found[place] if place < len(found) else ""

    def _load(self, block: int) -> list[str]:
        found: list[str] = []
        try:
            with open(self.path, "rb") as file:
                file.seek(self._starts[block])
                while len(found) < STRIDE and file.tell() < self._read:
                    found.append(_read_line(file, self._read))
        except OSError:
            return found
        return found

    # --- search ---

    def search(self, needle: str) -> None:
        """Look for a text, case of ASCII letters apart; "" ends the search."""
        with self._lock:
            self._needle = needle.encode().lower()
            self._hits, self._searched = array("Q"), (0, 0)
            self.version += 1

    @property
    def hits(self) -> int:
        """Lines found so far."""
        return len(self._hits)

    @property
    def searching(self) -> bool:
        """Whether part of the file was not looked at yet."""
        return bool(self._needle) and self._searched[0] < self._end and self.hits < HITS

    def hit(self, number: int) -> int:
        """The line of a hit, by its number from 0."""
        return int(self._hits[number])

    def hit_from(self, line: int) -> int:
        """The number of the first hit at or after a line; `hits` when there is none."""
        return bisect_left(self._hits, line)


def _read_line(file: BinaryIO, end: int) -> str:
    """The line at the file's place; leaves the place after it."""
    start = file.tell()
    raw = file.readline(min(PIECE, end - start))
    last, is_bar = raw, False
    while not last.endswith(b"\n") and file.tell() < end:
        last = file.readline(min(PIECE, end - file.tell()))
        if b"\r" in last.rstrip(b"\r\n"):  # a progress bar that went on and on: its last state
            raw, is_bar = last, True
    return shown(raw, len(raw) if is_bar else file.tell() - start)
