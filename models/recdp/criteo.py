"""The Criteo click log format, read strictly and without a Python loop over rows.

A line is label, 13 decimal ints, 26 categories of 8 hex digits, separated by TAB and ended by LF;
an int or a category may be empty (missing). The reader finds all TABs and LFs of a block of text,
loads the fields as words, and checks and converts all of them at once. Needs numpy only.
Source of the layout: the public description of the Criteo Display Advertising data.
"""

from __future__ import annotations

import binascii
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

Array = NDArray[Any]
TAB, LF, ZERO, MINUS = 9, 10, 48, 45
_PAD = 16  # bytes before the text, so that a word may begin before the first field
_ZEROS = np.frombuffer(b"00000000", "<u8")[0]
_HEX_DIGIT = np.isin(np.arange(256), np.frombuffer(b"0123456789abcdefABCDEF", np.uint8))
# what is kept of the 4 bytes before a number's end when it has 0, 1, 2, 3, 4 digits
_QUAD_MASKS = np.array([0, 0xFF000000, 0xFFFF0000, 0xFFFFFF00, 0xFFFFFFFF], np.uint32)


@dataclass
class CriteoRows:
    """Rows as arrays: label uint8 [n]; ints int64 [n, 13]; keys uint32 [n, 26] (the hex digits as
    a number); int_missing bool [n, 13], key_missing bool [n, 26], with 0 in the missing cells.
    In memory each column is one run (Fortran order)."""

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

        Problems carry line numbers counted from 1 at the first line this reader saw. Fastest when
        the words of the text fit the processor's cache.
        """
        columns = len(COLUMNS) - (not self.labelled)
        buffer, ends = _fields(text)
        lines = int(np.count_nonzero(buffer == LF))
        numbers = None
        if ends.size != lines * columns or (buffer[ends[columns - 1 :: columns]] != LF).any():
            text, numbers = self._keep_whole_lines(text, columns)
            buffer, ends = _fields(text)
        grid = np.ascontiguousarray(ends.reshape(-1, columns).T)
        rows = _Cells(buffer, grid, self.labelled).rows(self.problems, self.lines, numbers)
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
    tail = b"" if not text or text.endswith(b"\n") else b"\n"
    buffer = np.frombuffer(b"".join((bytes(_PAD), text, tail, bytes(8))), dtype=np.uint8)
    separators = (buffer - np.uint8(TAB)) < 2  # TAB or LF, which come one after the other
    return buffer, np.flatnonzero(separators)


class _Cells:
    """One block of whole lines: the end of each field [columns, rows] in a padded buffer."""

    def __init__(self, buffer: Array, ends: Array, labelled: bool) -> None:
        self.buffer, self.ends, self.labelled = buffer, ends, labelled
        self.starts = np.empty_like(ends)
        self.starts[0, :1] = _PAD
        self.starts[0, 1:] = ends[-1, :-1] + 1
        self.starts[1:] = ends[:-1] + 1

    def rows(self, problems: Problems, lines: int, numbers: list[int] | None) -> CriteoRows:
        """Convert all cells; bad ones are reported and their rows left out."""
        first = int(self.labelled)
        label, bad_label = self._label()
        ints, int_missing, bad_int = self._ints(first, first + 13)
        keys, key_missing, bad_key = self._keys(first + 13, first + 39)
        rows = CriteoRows(label, ints.T, int_missing.T, keys.T, key_missing.T)
        if not (bad_label.any() or bad_int.any() or bad_key.any()):
            return rows
        bad = np.concatenate((bad_label[None], bad_int, bad_key)).T
        shown = np.argwhere(bad)[: problems.room()]
        for row, column in shown:
            line = lines + (int(row) if numbers is None else numbers[row]) + 1
            problems.add(self._describe(int(row), int(column), line))
        problems.total += int(bad.sum()) - len(shown)
        good = ~bad.any(axis=1)
        return CriteoRows(label[good], *(
            cells[:, good].T for cells in (ints, int_missing, keys, key_missing)
        ))  # fmt: skip

    def _words(self, starts: Array, size: int) -> Array:
        """The `size` (4 or 8) bytes from each start on as one number, the first byte lowest."""
        raw = np.lib.stride_tricks.as_strided(  # bytes, not numbers: those would have to be aligned
            self.buffer[:size].view(f"V{size}"), (self.buffer.size - size + 1,), (1,),
            writeable=False,
        )  # fmt: skip
        return raw[starts].view(f"<u{size}")

    def _label(self) -> tuple[Array, Array]:
        rows = self.ends.shape[1]
        if not self.labelled:
            return np.zeros(rows, np.uint8), np.zeros(rows, bool)
        start = self.starts[0]
        value = self.buffer[start] - np.uint8(ZERO)
        return value, (self.ends[0] - start != 1) | (value > 1)

    def _ints(self, low: int, high: int) -> tuple[Array, Array, Array]:
        start, end = self.starts[low:high], self.ends[low:high]
        length = end - start
        missing = length == 0
        negative = self.buffer[start] == MINUS
        digits = length - negative
        value, bad = self._quads(end, digits)
        value, flat, flat_bad = value.astype(np.int64), end.ravel(), bad.reshape(-1)
        long = np.flatnonzero(digits > 4)
        for place in (4, 8):  # most numbers are short
            if not long.size:
                break
            upper, upper_bad = self._quads(flat[long] - place, digits.ravel()[long] - place)
            value.reshape(-1)[long] += upper * np.int64(10**place)
            flat_bad[long] |= upper_bad
            long = long[digits.ravel()[long] > 8]
        np.negative(value, out=value, where=negative)
        bad |= (digits > 10) | ((digits < 1) ^ missing)
        bad |= (value < INT_LOW) | (value > INT_HIGH)
        return value, missing, bad

    def _quads(self, end: Array, digits: Array) -> tuple[Array, Array]:
        """The decimal number of the last `digits` (4 at most) bytes before `end` as uint32, and
        where one of them is no digit. Two bytes, then two pairs are joined at a time."""
        word = self._words(end - 4, 4) ^ np.uint32(0x30303030)
        word &= _QUAD_MASKS.take(digits, mode="clip")
        above_nine = (word + np.uint32(0x76767676)) | word
        bad = (above_nine & np.uint32(0x80808080)) != 0
        word = (word * np.uint32(10) + (word >> np.uint32(8))) & np.uint32(0x00FF00FF)
        word = (word * np.uint32(100) + (word >> np.uint32(16))) & np.uint32(0x0000FFFF)
        return word, bad

    def _keys(self, low: int, high: int) -> tuple[Array, Array, Array]:
        start, end = self.starts[low:high], self.ends[low:high]
        length = end - start
        missing = length == 0
        empty = length != 8
        bad = empty ^ missing
        word = self._words(start, 8)
        np.copyto(word, _ZEROS, where=empty)
        try:
            raw = binascii.unhexlify(word.data)
        except binascii.Error:
            wrong = ~_HEX_DIGIT[word.view(np.uint8)].reshape(*word.shape, 8).all(axis=-1)
            bad |= wrong
            word[wrong] = _ZEROS
            raw = binascii.unhexlify(word.data)
        return np.frombuffer(raw, ">u4").astype(np.uint32).reshape(word.shape), missing, bad

    def _describe(self, row: int, column: int, line: int) -> DataProblem:
        """`column` counts with the label at 0, whether the lines have one or not."""
        place = column - (not self.labelled)
        cell = self.buffer[self.starts[place, row] : self.ends[place, row]].tobytes()
        last = place == len(self.ends) - 1
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
