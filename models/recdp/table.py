"""Any CSV, TSV or parquet table, through the names of its columns. Needs numpy and pyarrow.

Text files have a header line; .csv is separated by commas, .tsv and .txt by TABs; fields may be
quoted. All text is read as bytes and converted here, so that a bad cell is found with its line.
Meaning of the roles: label 0/1 or true/false; numeric any number (empty, null, NaN = missing);
categorical any text, whole number or truth value, compared as text (empty, null = missing).
"""

from __future__ import annotations

import contextlib
import gzip
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from models.recdp.chunk import Chunk, CodedColumn
from models.recdp.problems import DataProblem, Problems, describe_bytes, describe_text
from models.recdp.sources import LONGEST_LINE, Columns, Dataset, Unit
from models.settings import nearest
from models.worker import InputProblem

Array = NDArray[Any]
CHUNK_ROWS = 131_072
_CONTROL = "[\\x00-\\x1f\\x7f]"


def row_groups(path: Path) -> int:
    """Number of row groups of a parquet file; InputProblem when it is not one."""
    try:
        groups = pq.ParquetFile(path).metadata.num_row_groups
    except (pa.ArrowInvalid, OSError) as error:
        raise InputProblem(
            f"{path}: {_first_line(error)}", "it is not a whole parquet file"
        ) from None
    if not groups:
        raise InputProblem(f"{path}: the file holds no rows")
    return int(groups)


def check_columns(dataset: Dataset) -> None:
    """InputProblem when a named column is absent from a file; names the nearest one there."""
    assert dataset.columns is not None
    for path in dataset.files:
        present = _names(path)
        missing = [name for name in dataset.columns.names() if name not in present]
        double = [name for name in dataset.columns.names() if present.count(name) > 1]
        if missing:
            hints = "; ".join(f"{name}: {nearest(name, present)}" for name in missing)
            raise InputProblem(f"{path}: no column {', '.join(missing)}", hints,
                               "correct the names in dataset.columns")  # fmt: skip
        if double:
            raise InputProblem(f"{path}: more than one column is called {', '.join(double)}")


def _names(path: Path) -> list[str]:
    if path.name.lower().endswith(".parquet"):
        row_groups(path)
        return list(pq.ParquetFile(path).schema_arrow.names)
    try:
        with _open_text(path) as file:
            head = file.readline(LONGEST_LINE)
        if not head.strip():
            raise InputProblem(f"{path}: the first line is empty", "it must name the columns")
        table = pacsv.read_csv(io.BytesIO(head), parse_options=_parse_options(path, None))
        return list(table.schema.names)
    except (OSError, EOFError, pa.ArrowException, UnicodeDecodeError) as error:
        raise InputProblem(
            f"{path}: {_first_line(error)}", "the header line cannot be read",
            "write the table as text in UTF-8",
        ) from None  # fmt: skip


def _open_text(path: Path) -> Any:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _parse_options(path: Path, handler: Any) -> Any:
    name = path.name.lower().removesuffix(".gz")
    return pacsv.ParseOptions(
        delimiter="," if name.endswith(".csv") else "\t", newlines_in_values=False,
        ignore_empty_lines=False, invalid_row_handler=handler,
    )  # fmt: skip


def read_table(dataset: Dataset, unit: Unit, problems: Problems) -> Iterator[tuple[Chunk, int]]:
    """The chunks of one file or row group, each with its number of rows read, bad ones too."""
    assert dataset.columns is not None
    ragged: list[int] = []
    if unit.file.lower().endswith(".parquet"):
        batches = _parquet_batches(dataset.columns, unit, problems)
        header = 0
    else:
        batches = _csv_batches(dataset.columns, unit, problems, ragged)
        header = 1
    before = header
    for batch in batches:
        converter = _Converter(batch, dataset.columns, problems, before, ragged)
        yield converter.chunk(), len(batch) + (header if before == header else 0)
        before += len(batch)


def _parquet_batches(columns: Columns, unit: Unit, problems: Problems) -> Iterator[Any]:
    try:
        file = pq.ParquetFile(unit.file)
        yield from file.iter_batches(
            CHUNK_ROWS, list(range(unit.start, unit.stop)), columns.names(), use_threads=False
        )
    except (pa.ArrowInvalid, OSError) as error:
        problems.add(DataProblem(found=_first_line(error), expected="a whole parquet file"))


def _csv_batches(
    columns: Columns, unit: Unit, problems: Problems, lines: list[int]
) -> Iterator[Any]:
    """Batches of about CHUNK_ROWS rows, all columns binary.

    Ragged rows are reported and left out; their line numbers are appended to `lines`.
    """

    def ragged(row: Any) -> str:
        lines.append(row.number)
        problems.add(DataProblem(
            line=row.number, column="",
            found=f"{row.actual_columns} column{'s' if row.actual_columns > 1 else ''}: "
            f"{describe_text(row.text)}" if row.text else "an empty line",
            expected=f"{row.expected_columns} columns",
        ))  # fmt: skip
        return "skip"

    path = Path(unit.file)
    names = columns.names()
    convert = pacsv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.binary()), include_columns=names, null_values=[""],
        strings_can_be_null=True, quoted_strings_can_be_null=True, check_utf8=False,
    )  # fmt: skip
    read = pacsv.ReadOptions(use_threads=False, block_size=8 << 20)
    kept: list[Any] = []
    try:
        with (
            _open_text(path) as file,
            pacsv.open_csv(file, read, _parse_options(path, ragged), convert) as reader,
        ):
            for batch in reader:
                kept.append(batch)
                if sum(map(len, kept)) >= CHUNK_ROWS:
                    yield _joined(kept)
                    kept = []
    except (EOFError, gzip.BadGzipFile) as error:
        problems.add(DataProblem(
            found=f"a gz file that is cut short or damaged ({_first_line(error)})",
            expected="a whole gz file",
        ))  # fmt: skip
    except (pa.ArrowInvalid, OSError) as error:
        problems.add(DataProblem(found=_first_line(error), expected="a table of text"))
    if kept:
        yield _joined(kept)


def _joined(batches: list[Any]) -> Any:
    return (
        pa.Table.from_batches(batches).combine_chunks().to_batches()[0]
        if any(map(len, batches))
        else batches[0]
    )


@dataclass
class _Converter:
    """Turns one batch into a chunk. `before`: good lines of the unit before the batch's first
    row; `ragged`: the line numbers of rows that were left out."""

    batch: Any
    columns: Columns
    problems: Problems
    before: int
    ragged: list[int]
    at: tuple[str, Any] = ("", None)  # the column at work and its type

    def chunk(self) -> Chunk:
        """All good rows; a row with a bad cell is reported and left out."""
        bad = np.zeros(len(self.batch), bool)
        label = np.zeros(len(self.batch), np.uint8)
        numeric = np.zeros((len(self.batch), len(self.columns.numeric)), np.float64)
        empty = CodedColumn(np.zeros(len(self.batch), np.uint8), pa.array([], pa.string()))
        columns = [empty] * len(self.columns.categorical)
        time = np.zeros(len(self.batch))
        with self._typed("0 or 1, true or false", bad):
            if self.columns.label is not None:
                label = self._label(self.columns.label, bad)
        with self._typed("numbers", bad):
            for index, name in enumerate(self.columns.numeric):
                numeric[:, index] = self._numeric(name, bad)
        with self._typed("text or whole numbers", bad):
            columns = [self._categorical(name, bad) for name in self.columns.categorical]
        with self._typed("numbers or times", bad):
            if self.columns.time is not None:
                time = self._time(self.columns.time, bad)
        if bad.any():
            good = ~bad
            columns = [CodedColumn(column.codes[good], column.values) for column in columns]
            label, numeric = label[good], numeric[good]
            time = time[good]
        return Chunk(label, numeric, columns, None if self.columns.time is None else time)

    def _column(self, name: str) -> Any:
        values = self.batch.column(self.batch.schema.get_field_index(name))
        self.at = name, values.type
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        plain = pa.types.is_large_string(values.type) or pa.types.is_null(values.type)
        return values.cast(pa.string()) if plain else values

    @contextlib.contextmanager
    def _typed(self, expected: str, bad: Array) -> Iterator[None]:
        """What Arrow cannot convert is a problem of the column: no row of the batch is good."""
        try:
            yield
        except (pa.ArrowException, UnicodeDecodeError):
            name, kind = self.at
            self.problems.add(DataProblem(
                column=describe_text(name)[1:-1], found=f"values of the type {kind}",
                expected=expected,
            ))  # fmt: skip
            bad[:] = True

    def _report(self, name: str, values: Any, wrong: Array, bad: Array, expected: str) -> None:
        """Mark rows as bad and describe the first of them."""
        rows = np.flatnonzero(wrong)
        shown = rows[: self.problems.room()]
        for row in shown:
            value = values[int(row)].as_py()
            found = describe_bytes(value) if isinstance(value, bytes) else describe_text(str(value))
            self.problems.add(DataProblem(
                line=self._line(int(row)), column=describe_text(name)[1:-1],
                found="nothing" if value is None else found, expected=expected,
            ))  # fmt: skip
        self.problems.total += len(rows) - len(shown)
        bad |= wrong

    def _line(self, row: int) -> int:
        line = self.before + row + 1
        for left_out in self.ragged:
            line += left_out <= line
        return line

    def _text(self, name: str, values: Any, bad: Array) -> Any:
        """Binary cells as text; cells that are not UTF-8 are reported and made null."""
        if not (pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type)):
            return values
        try:
            return values.cast(pa.string())
        except pa.ArrowInvalid:
            wrong = np.array([not _is_utf8(value) for value in values.to_pylist()])
            self._report(name, values, wrong, bad, "text in UTF-8")
            return pc.if_else(pa.array(wrong), None, values).cast(pa.string())

    def _label(self, name: str, bad: Array) -> Array:
        values = self._column(name)
        text = self._text(name, values, bad)
        if not pa.types.is_string(text.type):
            if pa.types.is_boolean(text.type):
                text = text.cast(pa.int8())
            elif pa.types.is_floating(text.type) or pa.types.is_decimal(text.type):
                text = text.cast(pa.float64())
            elif not pa.types.is_integer(text.type):
                raise pa.ArrowTypeError(f"{text.type} is no type of a label")
            number = pc.fill_null(text, 2).to_numpy(zero_copy_only=False)
            yes, no = number == 1, number == 0
        else:
            lower = pc.utf8_lower(pc.fill_null(text, ""))
            yes, no = (
                pc.is_in(lower, pa.array(words)).to_numpy(zero_copy_only=False)
                for words in (["1", "true", "1.0"], ["0", "false", "0.0"])
            )
        self._report(name, values, ~(yes | no) & ~bad, bad, "0 or 1, true or false")
        return yes.astype(np.uint8)

    def _numeric(self, name: str, bad: Array) -> Array:
        values = self._column(name)
        text = self._text(name, values, bad)
        try:
            number = text.cast(pa.float64())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            number = pa.array([_number(value) for value in text.to_pylist()], pa.float64())
            wrong = (number.is_null().to_numpy(zero_copy_only=False)
                     & ~text.is_null().to_numpy(zero_copy_only=False) & ~bad)  # fmt: skip
            self._report(name, values, wrong, bad, "a number, or nothing")
        result = pc.fill_null(number, np.nan).to_numpy(zero_copy_only=False)
        self._report(name, values, np.isinf(result) & ~bad, bad, "a finite number, or nothing")
        return np.asarray(result)

    def _categorical(self, name: str, bad: Array) -> CodedColumn:
        values = self._column(name)
        text = self._text(name, values, bad)
        if pa.types.is_floating(text.type):
            number = pc.fill_null(text, 0.0).to_numpy(zero_copy_only=False)
            whole = np.where(np.isfinite(number), number, 0.5) % 1 == 0
            known = ~np.isnan(number)
            self._report(name, values, ~whole & known & ~bad, bad, "text or whole numbers")
            absent = ~known | text.is_null().to_numpy(zero_copy_only=False)
            text = pa.array(np.where(whole, number, 0).astype(np.int64), mask=absent)
        encoded = text.cast(pa.string()).dictionary_encode()
        distinct = encoded.dictionary
        codes = pc.fill_null(encoded.indices, len(distinct)).to_numpy(zero_copy_only=False)
        controls = pc.match_substring_regex(distinct, _CONTROL).to_numpy(zero_copy_only=False)
        if controls.any():
            wrong = np.append(controls, False)[codes]
            self._report(name, values, wrong & ~bad, bad, "text without control bytes")
        empty = pc.equal(distinct, "").to_numpy(zero_copy_only=False)
        if empty.any():  # an empty string in parquet is missing, as it is in text
            codes = np.where(np.append(empty, False)[codes], len(distinct), codes)
        return CodedColumn(codes, distinct)

    def _time(self, name: str, bad: Array) -> Array:
        """Numbers as they are, dates and times as microseconds: float64 [n]."""
        values = self._column(name)
        text = self._text(name, values, bad)
        try:
            number = _moments(text) if pa.types.is_temporal(text.type) else text.cast(pa.float64())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            try:
                number = _moments(text)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                number = pa.array([_moment(value) for value in text.to_pylist()], pa.float64())
        result = pc.fill_null(number, np.nan).to_numpy(zero_copy_only=False)
        self._report(name, values, np.isnan(result) & ~bad, bad, "a number or an ISO 8601 time")
        return np.asarray(result)


def _is_utf8(value: bytes | None) -> bool:
    try:
        (value or b"").decode()
    except UnicodeDecodeError:
        return False
    return True


def _number(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None


def _moments(values: Any) -> Any:
    moments = values.cast(pa.timestamp("us"), safe=False)
    return moments.cast(pa.int64()).cast(pa.float64(), safe=False)


def _moment(value: Any) -> float | None:
    number = _number(value)
    if number is None and isinstance(value, str):
        try:
            return float(_moments(pa.array([value]))[0].as_py())
        except pa.ArrowInvalid:
            return None
    return number
