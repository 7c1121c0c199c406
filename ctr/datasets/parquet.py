"""One's own Parquet files, by the same rules as CSV files; and the types of one's own columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import types

from ctr.datasets.columns import FLOAT, LABEL, TEXT, ColumnType, also, not_negative, required
from ctr.datasets.lines import BLOCK_BYTES
from ctr.datasets.multi import is_list, texts_of
from ctr.datasets.schema import Reading
from ctr.datasets.text import Table, no_valid_row, shown
from ctr.errors import ArgumentError, DataError

BATCH_ROWS = 1 << 16
EXACT = 2.0**53  # whole floats below it are integers without doubt
_TRUTHS = {
    word: str(int(value)) for value in (False, True) for word in (f"{value}", f"{value}".lower(), f"{value}".upper())
}
TRUTH = also(LABEL, "0 or 1, or False or True", {"0.0": "0", "1.0": "1", **_TRUTHS})
NUMBER = also(FLOAT, FLOAT.expected, {"nan": None, "NaN": None, "NAN": None, **_TRUTHS})
WEIGHT = not_negative(required(FLOAT))


def is_parquet(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PAR1"
    except OSError as error:
        raise DataError(path, None, f"cannot be read: {error.strerror}") from None


def misplaced(path: Path, number: int, problem: str) -> DataError:
    """What is wrong with a row of a file: that of a Parquet file has a number, that of a text its line."""
    if is_parquet(path):
        return DataError(path, None, f"row {number:,}: {problem}")
    return DataError(path, number, problem)


def check_names(path: Path, names: Sequence[str], found: Sequence[str], hint: str = "") -> None:
    if missing := [name for name in names if name not in found]:
        raise ArgumentError(f"{path}: no column {', '.join(missing)}; the columns are {listed(found)}{hint}")


def listed(names: Sequence[str]) -> str:
    text = ", ".join(names)
    return text if len(text) <= 500 else f"{text[:500]}..."


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except UnicodeDecodeError:
        raise DataError(path, None, "not a sound Parquet file: a column's name is not UTF-8") from None
    except (pa.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(path, None, f"not a sound Parquet file: {reason}") from None


def column_names(path: Path) -> list[str]:
    """The names of all columns of a Parquet file.

    Raises:
        DataError: it is damaged.
    """
    with _opened(path) as file:
        return list(file.schema_arrow.names)


def list_columns(path: Path) -> list[str]:
    """The names of the columns of a Parquet file that hold lists of values; none of another file."""
    if not is_parquet(path):
        return []
    with _opened(path) as file:
        return [field.name for field in file.schema_arrow if is_list(field.type)]


def read_parquet(path: Path, columns: Mapping[str, ColumnType], reading: Reading) -> Iterator[Table]:
    """The columns that have a type, block by block; rows that are not of it are bad rows.

    The ``lines`` of the tables are row numbers from 1.
    """
    with path.open("rb") as file:
        while piece := file.read(BLOCK_BYTES):
            reading.advance(path, 0, piece)
    first = kept = 0
    with _opened(path) as parquet:
        rows, found = parquet.metadata.num_rows, parquet.schema_arrow.names
        check_names(path, list(columns), found)
        if twice := [name for name in columns if found.count(name) > 1]:
            raise DataError(path, None, f"more than one column is called {listed(twice)}")
        for batch in parquet.iter_batches(BATCH_ROWS, columns=list(columns)):
            table = _checked(path, batch, columns, first, reading)
            first, kept = first + len(batch), kept + len(table)
            yield table
            reading.advance(path, path.stat().st_size * first // max(rows, first, 1), b"")
    if first != rows:
        raise DataError(path, None, f"not a sound Parquet file: {first:,} rows in it instead of {rows:,}")
    if kept == 0:
        raise no_valid_row(path, reading.first_skipped)


def _checked(
    path: Path, batch: pa.RecordBatch, expected: Mapping[str, ColumnType], first: int, reading: Reading
) -> Table:
    columns: dict[str, tuple[pa.Array, ColumnType]] = {}
    typed: dict[str, pa.Array] = {}
    bad = np.zeros(len(batch), bool)
    earliest, problem = len(batch), ""
    for name, type_ in expected.items():
        try:
            values, type_ = columns[name] = _readable(batch[name], type_)
        except pa.ArrowException:
            several = f"; if it is to have several values: dataset.multi=[{name}]" if is_list(batch[name].type) else ""
            problem = f"column {name} is of type {batch[name].type}, which does not fit{several}"
            raise DataError(path, None, problem) from None
        try:
            typed[name] = type_.parse(values)
            continue
        except ValueError:
            wrong = type_.invalid(values)
        assert wrong.any(), name
        if wrong[:earliest].any():
            earliest = int(np.argmax(wrong))
            value = (values if values.type == pa.binary() else batch[name])[earliest].as_py()
            problem = f"column {name} is {shown(value)}; expected {type_.expected}"
        bad |= wrong
    if not problem:
        return Table(typed, range(first + 1, first + len(batch) + 1))
    reading.skip(int(bad.sum()), DataError(path, None, f"row {first + earliest + 1:,}: {problem}"))
    kept = {name: type_.parse(values.filter(pa.array(~bad))) for name, (values, type_) in columns.items()}
    return Table(kept, first + 1 + np.flatnonzero(~bad))


def _readable(values: pa.Array, type_: ColumnType) -> tuple[pa.Array, ColumnType]:
    """A column of Parquet as the text that it is in a CSV file, or as the numbers that it holds, and the type of it."""
    if isinstance(values, pa.DictionaryArray):
        values = values.dictionary_decode()
    if type_.lists and is_list(values.type):
        return texts_of(values, lambda each: _readable(each, TEXT)[0]), type_
    if type_ in _OF_NUMBERS and any(is_(values.type) for is_ in _NUMBERS):
        return pc.cast(values, pa.float64() if type_ is TRUTH else pa.float32(), safe=False), _OF_NUMBERS[type_]
    if type_ not in _OF_NUMBERS and not is_text(values.type):  # a category, or a time
        if types.is_floating(values.type) and type_ is not TEXT and not type_.lists:
            values = pc.cast(values, pa.decimal128(38, 6))  # 1714521600.5, never 1.7e9
        values = as_text(values)
    texts = pc.cast(values, pa.binary())
    texts = texts.fill_null(b"")  # Arrow may keep bytes behind a null
    return pc.if_else(pc.equal(pc.binary_length(texts), 0), pa.scalar(None, pa.binary()), texts), type_


def is_text(type_: pa.DataType) -> bool:
    return any(is_(type_) for is_ in _TEXTS)


def as_text(values: pa.Array) -> pa.Array:
    """Numbers, truths and times as text, by which the same value is the same category in a file and in a frame: a whole
    float is an integer, however large."""
    texts = pc.cast(values, pa.string())
    if not types.is_floating(values.type):
        return texts
    floats = values.to_numpy(zero_copy_only=False).astype(np.float64)  # null: NaN
    whole = (floats == np.floor(floats)) & (np.abs(floats) < EXACT)
    integers = pc.cast(pa.array(np.where(whole, floats, 0).astype(np.int64)), pa.string())
    return pc.if_else(pa.array(whole), integers, texts)


def _numeric(
    type_: ColumnType, wrong: Callable[[np.ndarray], np.ndarray], convert: Callable[[np.ndarray], pa.Array]
) -> ColumnType:
    """The same for a column that holds numbers."""

    def floats(values: pa.Array) -> np.ndarray:
        return values.to_numpy(zero_copy_only=False)  # null: nan

    def parse(values: pa.Array) -> pa.Array:
        if wrong(floats(values)).any():
            raise ValueError("number")
        return convert(floats(values))

    return ColumnType(type_.expected, parse, lambda values: wrong(floats(values)))


_NUMBERS = (types.is_integer, types.is_floating, types.is_decimal, types.is_boolean)
_TEXTS = (
    *(types.is_string, types.is_large_string, types.is_string_view),
    *(types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary),
)
_OF_NUMBERS = {
    TRUTH: _numeric(TRUTH, lambda floats: ~np.isin(floats, (0, 1)), lambda floats: pa.array(floats, pa.uint8())),
    NUMBER: _numeric(NUMBER, np.isinf, lambda floats: pa.array(floats, from_pandas=True)),  # nan: null
    WEIGHT: _numeric(WEIGHT, lambda floats: ~((floats >= 0) & np.isfinite(floats)), pa.array),
}
