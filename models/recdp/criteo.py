"""The Criteo click log format, read strictly and without a Python loop over rows.

A line is label, 13 decimal ints, 26 categories of 8 hex digits, separated by TAB and ended by LF;
an int or a category may be empty (missing). The reader finds all TABs and LFs of a block of text,
loads each field as one 64-bit word and checks and converts all words at once. Needs numpy only.
Source of the layout: the public description of the Criteo Display Advertising data.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.recdp.problems import DataProblem, Problems, describe_bytes

LABEL = "label"
NUMERIC = tuple(f"I{number}" for number in range(1, 14))
CATEGORICAL = tuple(f"C{number}" for number in range(1, 27))
COLUMNS = (LABEL, *NUMERIC, *CATEGORICAL)
INT_LOW, INT_HIGH = -(2**31), 2**31 - 1
BLOCK_BYTES = 1 << 20  # text handled at once: its words stay in the processor's cache

Array = NDArray[Any]
TAB, LF, ZERO, MINUS = 9, 10, 48, 45
_PAD = 16  # bytes before the text, so that a word may begin before the first field


@dataclass
class CriteoRows:
    """Rows as arrays: label uint8 [n]; ints int64 [n, 13]; keys uint32 [n, 26] (the hex digits as
    a number); int_missing bool [n, 13], key_missing bool [n, 26], with 0 in the missing cells."""

    label: Array
    ints: Array
    int_missing: Array
    keys: Array
    key_missing: Array


@dataclass
class CriteoReader:
    """Turns text blocks into rows; remembers line numbers and what was wrong.

    `labelled` False reads lines of 39 columns, without the label. Not thread-safe.
    """

    labelled: bool = True
    problems: Problems = field(default_factory=Problems)
    lines: int = 0

    def read(self, text: bytes) -> CriteoRows:
        """The rows of whole lines (the last may lack its LF); rows with a problem are left out.

        Problems carry line numbers counted from 1 at the first line this reader saw.
        """
        parts = []
        start = 0
        while start < len(text):
            stop = text.find(b"\n", min(start + BLOCK_BYTES, len(text))) + 1 or len(text)
            parts.append(self._block(text[start:stop]))
            start = stop
        if not parts:
            return _no_rows()
        if len(parts) == 1:
            return parts[0]
        return CriteoRows(*(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("label", "ints", "int_missing", "keys", "key_missing")
        ))  # fmt: skip

    def _block(self, text: bytes) -> CriteoRows:
        columns = len(COLUMNS) - (not self.labelled)
        buffer, ends = _fields(text)
        lines = int(np.count_nonzero(buffer[ends] == LF))
        whole = ends.size == lines * columns
        grid = ends.reshape(lines, columns) if whole else ends[:0].reshape(0, columns)
        if not whole or not (buffer[grid[:, -1]] == LF).all():
            text, numbers = self._keep_whole_lines(text, columns)
            buffer, ends = _fields(text)
            grid = ends.reshape(-1, columns)
        else:
            numbers = None
        starts = np.empty_like(ends)
        starts[:1] = _PAD
        starts[1:] = ends[:-1] + 1
        rows = _Cells(buffer, starts.reshape(grid.shape), grid, self.labelled).rows(
            self.problems, self.lines, numbers
        )
        self.lines += lines
        return rows

    def _keep_whole_lines(self, text: bytes, columns: int) -> tuple[bytes, list[int]]:
        """Report lines with a wrong number of columns; the others, with their numbers."""
        kept, numbers = [], []
        lines = text.split(b"\n")
        if lines[-1] == b"":
            lines.pop()
        for number, line in enumerate(lines):
            found = line.count(b"\t") + 1
            if found == columns:
                kept.append(line + b"\n")
                numbers.append(number)
                continue
            self.problems.add(DataProblem(
                line=self.lines + number + 1, column="",
                found=f"{found} column{'s' if found > 1 else ''}: {describe_bytes(line)}"
                if line else "an empty line",
                expected=f"{columns} columns separated by TAB",
            ))  # fmt: skip
        return b"".join(kept), numbers


def _fields(text: bytes) -> tuple[Array, Array]:
    """The text with padding before it as uint8, and the positions of all TABs and LFs in it."""
    tail = b"" if text.endswith(b"\n") or not text else b"\n"
    buffer = np.frombuffer(b"\0" * _PAD + text + tail + b"\0" * 8, dtype=np.uint8)
    separators = (buffer == TAB) | (buffer == LF)
    return buffer, np.flatnonzero(separators)


def _no_rows() -> CriteoRows:
    return CriteoRows(
        np.empty(0, np.uint8), np.empty((0, 13), np.int64), np.empty((0, 13), bool),
        np.empty((0, 26), np.uint32), np.empty((0, 26), bool),
    )  # fmt: skip


class _Cells:
    """One block of whole lines: field borders [rows, columns] in a padded buffer."""

    def __init__(self, buffer: Array, starts: Array, ends: Array, labelled: bool) -> None:
        self.buffer, self.starts, self.ends, self.labelled = buffer, starts, ends, labelled
        # words[i] = the 8 bytes from i on, the first one lowest
        self.words = np.lib.stride_tricks.as_strided(
            buffer[:8].view("<u8"), shape=(buffer.size - 7,), strides=(1,), writeable=False
        )

    def rows(self, problems: Problems, lines: int, numbers: list[int] | None) -> CriteoRows:
        """Convert all cells; bad ones are reported and their rows left out."""
        first = int(self.labelled)
        label, bad_label = self._label()
        ints, int_missing, bad_int = self._ints(first, first + 13)
        keys, key_missing, bad_key = self._keys(first + 13, first + 39)
        rows = CriteoRows(label, ints, int_missing, keys, key_missing)
        if not (bad_label.any() or bad_int.any() or bad_key.any()):
            return rows
        bad = np.concatenate((bad_label[:, None], bad_int, bad_key), axis=1)
        shown = np.argwhere(bad)[: problems.room()]
        for row, column in shown:
            line = lines + (int(row) if numbers is None else numbers[row]) + 1
            problems.add(self._describe(int(row), int(column), line))
        problems.total += int(bad.sum()) - len(shown)
        good = ~bad.any(axis=1)
        return CriteoRows(label[good], ints[good], int_missing[good], keys[good], key_missing[good])

    def _label(self) -> tuple[Array, Array]:
        rows = len(self.ends)
        if not self.labelled:
            return np.zeros(rows, np.uint8), np.zeros(rows, bool)
        start = self.starts[:, 0]
        value = self.buffer[start] - np.uint8(ZERO)
        return value, (self.ends[:, 0] - start != 1) | (value > 1)

    def _ints(self, low: int, high: int) -> tuple[Array, Array, Array]:
        start, end = self.starts[:, low:high], self.ends[:, low:high]
        missing = start == end
        negative = self.buffer[start] == MINUS
        digits = end - start - negative
        value, bad = self._number(end, np.minimum(digits, 8))
        long = digits > 8
        if long.any():
            upper, upper_bad = self._number(end[long] - 8, np.minimum(digits[long] - 8, 8))
            value[long] += upper * 100_000_000
            bad[long] |= upper_bad | (digits[long] > 10)
        value = np.where(negative, -value, value)
        bad |= (digits < 1) & ~missing
        bad |= (value < INT_LOW) | (value > INT_HIGH)
        return value, missing, bad

    def _number(self, end: Array, digits: Array) -> tuple[Array, Array]:
        """The decimal number of the last `digits` (0..8) bytes before `end`, and where one of
        them is no digit. Two bytes, two pairs, two quads are joined at a time."""
        shift = ((8 - digits) * 8).astype(np.uint64)
        empty = digits <= 0
        shift[empty] = 0
        word = self.words[end - 8] ^ np.uint64(0x3030303030303030)
        word = (word >> shift) << shift
        word[empty] = 0
        above_nine = (word + np.uint64(0x7676767676767676)) | word
        bad = (above_nine & np.uint64(0x8080808080808080)) != 0
        word = (word * np.uint64(10) + (word >> np.uint64(8))) & np.uint64(0x00FF00FF00FF00FF)
        word = (word * np.uint64(100) + (word >> np.uint64(16))) & np.uint64(0x0000FFFF0000FFFF)
        word = (word * np.uint64(10000) + (word >> np.uint64(32))) & np.uint64(0xFFFFFFFF)
        return word.view(np.int64), bad

    def _keys(self, low: int, high: int) -> tuple[Array, Array, Array]:
        start, end = self.starts[:, low:high], self.ends[:, low:high]
        length = end - start
        missing = length == 0
        word = self.words[start]
        letter = (word >> np.uint64(6)) & np.uint64(0x0101010101010101)
        nibble = (word & np.uint64(0x0F0F0F0F0F0F0F0F)) + letter * np.uint64(9)
        # write the digits back as lower-case text: it equals the text only if all were hex digits
        above_nine = ((nibble + np.uint64(0x7676767676767676)) >> np.uint64(7)) & np.uint64(
            0x0101010101010101
        )
        text = nibble + np.uint64(0x3030303030303030) + above_nine * np.uint64(39)
        bad = (text != (word | (letter << np.uint64(5)))) | (
            (nibble & np.uint64(0x1010101010101010)) != 0
        )
        bad |= length != 8
        bad &= ~missing
        nibble = ((nibble << np.uint64(4)) | (nibble >> np.uint64(8))) & np.uint64(
            0x00FF00FF00FF00FF
        )
        nibble = ((nibble << np.uint64(8)) | (nibble >> np.uint64(16))) & np.uint64(
            0x0000FFFF0000FFFF
        )
        key = ((nibble << np.uint64(16)) | (nibble >> np.uint64(32))).astype(np.uint32)
        key[missing] = 0
        return key, missing, bad

    def _describe(self, row: int, column: int, line: int) -> DataProblem:
        """`column` counts with the label at 0, whether the lines have one or not."""
        place = column - (not self.labelled)
        cell = self.buffer[self.starts[row, place] : self.ends[row, place]].tobytes()
        last = place == self.ends.shape[1] - 1
        if column == 0:
            expected = "0 or 1"
        elif column <= 13:
            expected = f"a whole number in {INT_LOW}..{INT_HIGH}, or nothing"
        else:
            expected = "8 hex digits, or nothing"
        if last and cell.endswith(b"\r"):
            expected = "lines ended by LF, not CR LF"
        return DataProblem(line=line, column=COLUMNS[column], found=describe_bytes(cell),
                           expected=expected)  # fmt: skip
