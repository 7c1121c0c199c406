"""Delimited text -> typed Arrow columns, strictly: every line is accounted for or named in an error.

Blocks of whole lines are tokenised by ``pyarrow.csv``; each column is then parsed by its ``ColumnType``. Only where
something fails are lines looked at one by one, a small slice at a time: strictness costs nothing on clean data, and
memory does not grow with the number of bad lines.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from ctr.datasets.columns import ColumnType
from ctr.datasets.lines import BYTE_ORDER_MARK, MAX_LINE_BYTES, first_line, line_blocks, too_long
from ctr.datasets.schema import Reading
from ctr.errors import CtrError, DataError

_TOKENISED_BYTES = 2 * MAX_LINE_BYTES  # at a time: they stay in the processor's cache, and any line fits
_SLICE_BYTES = 1 << 16  # looked at line by line at a time

csv.field_size_limit(_TOKENISED_BYTES)  # what is too long is told by the length of the line


@dataclass(frozen=True)
class Table:
    """Consecutive rows of a text file: column name -> typed array, and the line of each row."""

    columns: dict[str, pa.Array]
    lines: np.ndarray | range

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, name: str) -> pa.Array:
        return self.columns[name]


def read_header(path: Path, delimiter: str, expected: str) -> list[str]:
    """The column names in the first line of a file; quotes around them are taken off.

    Args:
        path: the file, compressed or not.
        delimiter: one character.
        expected: what the file should look like, for messages.
    """
    line = first_line(path, expected)
    try:
        (names,) = csv.reader([line.decode()], delimiter=delimiter)
    except (UnicodeDecodeError, csv.Error, ValueError):
        raise DataError(path, 1, f"not a line of column names; expected {expected}") from None
    return names


def no_valid_row(path: Path, first_skipped: str | None) -> DataError:
    reason = f"; the first problem: {first_skipped}" if first_skipped else ""
    return DataError(path, None, f"no valid row in it{reason}")


def shown(value: object) -> str:
    """A value in a message."""
    if value is None:
        return "blank"
    if isinstance(value, list) and len(value) > 10:
        return f"a list of {len(value):,} values"
    return repr(value[:40])[1:] if isinstance(value, bytes) else str(value)


def read_tables(
    path: Path,
    columns: Mapping[str, ColumnType | None],
    delimiter: str,
    reading: Reading,
    *,
    header: bool = False,
    quoted: bool = False,
    blanks: tuple[str, ...] = ("",),
) -> Iterator[Table]:
    """Reads a delimited text file (plain, gzip, bzip2 or zip, told apart by content), block by block.

    Args:
        path: the file.
        columns: name -> type of every column, in file order; None: the column must be there, its values are ignored.
        delimiter: one character.
        reading: says what to do with lines that are not as expected, and is kept up to date.
        header: the first line holds no values.
        quoted: values may stand in double quotes, which may then hold delimiters, but no line ends.
        blanks: values that mean that there is none.

    Yields:
        Blocks of consecutive rows.

    Raises:
        DataError: with file, line and what was expected: a missing, unreadable, empty, cut or damaged file; a line
            with the wrong number of columns or an invalid value; no valid line at all.
    """
    rows = 0
    parser = _Parser(path, columns, delimiter, reading, quoted, blanks)
    for line, count, text in line_blocks(path, reading, parser.layout):
        if line == 1:
            text = text.removeprefix(BYTE_ORDER_MARK)
            if header:
                line, count, text = 2, count - 1, text.partition(b"\n")[2]
        if not text:
            continue
        table = parser.parse(line, count, text)
        rows += len(table)
        yield table
    if rows == 0 and (reading.start, reading.stop) == (0, None):
        raise no_valid_row(path, reading.first_skipped)


def _joined(tables: list[Table]) -> Table:
    columns = {name: pa.concat_arrays([table[name] for table in tables]) for name in tables[0].columns}
    return Table(columns, np.concatenate([table.lines for table in tables]))


@dataclass(frozen=True)
class _Parser:
    path: Path
    columns: Mapping[str, ColumnType | None]
    delimiter: str
    reading: Reading
    quoted: bool
    blanks: tuple[str, ...]

    @property
    def layout(self) -> str:
        separator = {"\t": "tab", ",": "comma"}.get(self.delimiter, repr(self.delimiter))
        return f"{len(self.columns)} {separator}-separated columns per line"

    @property
    def types(self) -> dict[str, ColumnType]:
        return {name: type_ for name, type_ in self.columns.items() if type_ is not None}

    def parse(self, line: int, count: int, text: bytes) -> Table:
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n")
        try:
            return self._sound(line, count, text)
        except (pa.ArrowInvalid, ValueError):
            if len(text) <= _SLICE_BYTES:
                return self._without_bad_rows(line, text)
            return _joined(list(self._slice_by_slice(line, text)))

    def _sound(self, line: int, count: int, text: bytes) -> Table:
        """All of some lines; raises if anything is wrong with any of them."""
        if b"\r" in text:  # pyarrow would end a row there
            raise ValueError("carriage return")
        if len(self.columns) > 1 and (text.startswith(b"\n") or b"\n\n" in text):  # pyarrow would fill it with blanks
            raise ValueError("an empty line")
        return Table(self._typed(self._tokenise(text, count)), range(line, line + count))

    def _slice_by_slice(self, line: int, text: bytes) -> Iterator[Table]:
        start = 0
        while start < len(text):
            end = text.rfind(b"\n", start, start + _SLICE_BYTES) + 1 or text.find(b"\n", start) + 1 or len(text)
            piece = text[start:end]
            count = piece.count(b"\n") or 1  # the last line of a file may have no end
            try:
                yield self._sound(line, count, piece)
            except (pa.ArrowInvalid, ValueError):
                yield self._without_bad_rows(line, piece)
            start, line = end, line + count

    def _tokenise(self, text: bytes, rows: int) -> dict[str, pa.Array]:
        names = list(self.types)
        if text.startswith(BYTE_ORDER_MARK):  # pyarrow takes one off wherever it begins to read
            text = BYTE_ORDER_MARK + text
        table = pacsv.read_csv(
            pa.BufferReader(text),
            read_options=pacsv.ReadOptions(
                column_names=list(self.columns),
                block_size=_TOKENISED_BYTES,
                use_threads=len(text) > _TOKENISED_BYTES,
            ),
            parse_options=pacsv.ParseOptions(
                delimiter=self.delimiter, quote_char='"' if self.quoted else False, ignore_empty_lines=False
            ),
            convert_options=pacsv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.binary()),
                include_columns=names,
                null_values=list(self.blanks),
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
                check_utf8=False,
            ),
        )
        if table.num_rows != rows:
            raise ValueError("a quoted value goes on in the next line")
        return {name: table[name].combine_chunks() for name in names}

    def _typed(self, raw: dict[str, pa.Array]) -> dict[str, pa.Array]:
        return {name: type_.parse(raw[name]) for name, type_ in self.types.items()}

    def _without_bad_rows(self, first: int, text: bytes) -> Table:
        """Finds every bad line of a slice; raises at the first or leaves all of them out."""
        problems: dict[int, str] = {}
        lines = text.split(b"\n")
        if lines[-1] == b"":
            lines.pop()
        for index, line in enumerate(lines):
            if len(line) > MAX_LINE_BYTES:
                raise too_long(self.path, first + index, self.layout)
            if problem := self._layout_problem(line):
                problems[index] = problem
        kept = np.array([index for index in range(len(lines)) if index not in problems], np.int64)
        if len(kept):
            raw = self._tokenise(b"\n".join([lines[index] for index in kept]) + b"\n", len(kept))
        else:
            raw = {name: pa.array([], pa.binary()) for name in self.types}
        good = np.ones(len(kept), bool)
        typed = {}
        for name, type_ in self.types.items():
            try:
                typed[name] = type_.parse(raw[name])
                continue
            except ValueError:
                wrong = type_.invalid(raw[name])
            for row in np.flatnonzero(wrong):
                good[row] = False
                problem = f"column {name} is {shown(raw[name][int(row)].as_py())}; expected {type_.expected}"
                problems.setdefault(int(kept[row]), problem)
        if not problems:
            raise CtrError(f"{self.path}: lines from {first} on are refused without a bad line; a bug")
        earliest = min(problems)
        self.reading.skip(len(problems), DataError(self.path, first + earliest, problems[earliest]))
        if not good.all():
            typed = self._typed({name: values.filter(pa.array(good)) for name, values in raw.items()})
        return Table(typed, first + kept[good])

    def _layout_problem(self, line: bytes) -> str | None:
        """What is wrong with the columns of a line."""
        if b"\r" in line:
            return "a carriage return within the line"
        count = line.count(self.delimiter.encode()) + 1
        if self.quoted and b'"' in line:
            try:
                # Where a quoted value does not end, the line behind becomes part of the row.
                values, *behind = csv.reader([line.decode("latin-1") + "\n", "\n"], delimiter=self.delimiter)
            except csv.Error as error:
                return f"{error}; expected {self.layout}"
            if not behind:
                return f"a quoted value does not end on its line; expected {self.layout}"
            count = len(values)
        if count != len(self.columns):
            found = "an empty line" if not line else f"{count} column{'s' * (count > 1)}"
            return f"{found}; expected {self.layout}"
        return None
