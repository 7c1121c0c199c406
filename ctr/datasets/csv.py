"""Any CSV or Parquet file with a label column, categorical columns and, where there are any, dense ones.

Every categorical value is taken as text; a blank one is a value of its own. Dense columns are taken as they are, blank
as 0: scale them beforehand. Columns that are not named are ignored. The rows should be in order of time: the last test.

One rule for both kinds of file. A null of Parquet and an empty text are blank. NaN is blank in a dense column, an error
in the label, and a value like any other in a categorical column. A label may be True or False. Text is UTF-8 without
NUL characters. Dense numbers, integers of any size too, are rounded to float32; an infinite one is an error. In
a categorical column of Parquet, dates, times, decimals and other numbers are read as Arrow writes them. Nested columns
are an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import types

from ctr.datasets.columns import FLOAT, LABEL, TEXT, ColumnType, also
from ctr.datasets.lines import BLOCK_BYTES
from ctr.datasets.schema import Block, Columns, Dataset, Field, Inputs, Reading
from ctr.datasets.text import no_valid_row, read_header, read_tables, shown
from ctr.errors import ArgumentError, DataError

BATCH_ROWS = 1 << 16
_TRUTHS = {
    word: str(int(value)) for value in (False, True) for word in (f"{value}", f"{value}".lower(), f"{value}".upper())
}
TRUTH = also(LABEL, "0 or 1, or False or True", {"0.0": "0", "1.0": "1", **_TRUTHS})
NUMBER = also(FLOAT, FLOAT.expected, {"nan": None, "NaN": None, "NAN": None, **_TRUTHS})
USUAL_DELIMITERS = (",", ";", "\t", "|")


def make(label: str, categorical: Sequence[str], dense: Sequence[str] = (), delimiter: str = ",") -> Dataset:
    """The format of one's own file.

    Args:
        label: name of the column that holds 0 or 1.
        categorical: names of the columns whose values become one-hot features, in model order.
        dense: names of the columns that hold numbers.
        delimiter: one character; of a CSV file. A backslash and a t stand for a tab.
    """
    delimiter = {r"\t": "\t"}.get(delimiter, delimiter)
    names = [label, *categorical, *dense]
    if not categorical:
        raise ValueError("dataset.categorical is empty; name at least one column")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"named more than once in dataset.label, categorical and dense: {', '.join(repeated)}")
    if len(delimiter.encode()) != 1 or delimiter in '"\r\n':
        raise ValueError(f"dataset.delimiter={delimiter!r}; expected one ASCII character such as , or \\t")

    columns = {label: TRUTH, **dict.fromkeys(categorical, TEXT), **dict.fromkeys(dense, NUMBER)}

    def read(paths: Sequence[Path], reading: Reading) -> Iterator[Block]:
        (path,) = paths
        optional = label if reading.to_predict else None
        tables = _parquet(path, columns, reading, optional) if _is_parquet(path) else _csv(path, reading, optional)
        for table in tables:
            yield Block(table[label].to_numpy() if label in table else None, *derive(table))

    def derive(table: Columns) -> tuple[list[pa.Array], np.ndarray]:
        numbers = [table[name].fill_null(0).to_numpy() for name in dense]
        rows = len(table[categorical[0]])
        fields = [table[name] for name in categorical]
        return fields, np.stack(numbers, axis=1) if numbers else np.empty((rows, 0), np.float32)

    def _csv(path: Path, reading: Reading, optional: str | None) -> Iterator[dict[str, pa.Array]]:
        expected = f"a header with the columns {', '.join(names)}, separated by {delimiter!r}"
        header = read_header(path, delimiter, expected)
        if twice := sorted(name for name, count in Counter(header).items() if count > 1):
            raise DataError(path, 1, f"more than one column is called {_listed(twice)}; expected {expected}")
        _check_names(path, [name for name in names if name != optional], header, _other_delimiter(header, delimiter))
        of_header = {name: columns.get(name) for name in header}
        for table in read_tables(path, of_header, delimiter, reading, header=True, quoted=True):
            yield table.columns

    return Dataset(
        name="csv",
        fields=tuple(Field(name, "text") for name in categorical),
        dense=tuple(dense),
        read=read,
        locate=_locate,
        where="wherever it is: this is the format for one's own",
        modules=("ctr.datasets.csv",),
        options={"label": label, "categorical": list(categorical), "dense": list(dense), "delimiter": delimiter},
        inputs=Inputs(
            columns={name: type_ for name, type_ in columns.items() if name != label},
            derive=derive,
            label=label,
            delimiter=delimiter,
        ),
    )


def _locate(raw: Path) -> list[Path]:
    if raw.is_dir():
        raise ArgumentError(f"{raw}: is a folder; name the CSV or Parquet file with dataset.raw")
    return [raw]


def _check_names(path: Path, names: Sequence[str], found: Sequence[str], hint: str = "") -> None:
    if missing := [name for name in names if name not in found]:
        raise ArgumentError(f"{path}: no column {', '.join(missing)}; the columns are {_listed(found)}{hint}")


def _listed(names: Sequence[str]) -> str:
    text = ", ".join(names)
    return text if len(text) <= 500 else f"{text[:500]}..."


def _other_delimiter(header: Sequence[str], delimiter: str) -> str:
    """What to add to a message on a header that has hardly a column, but another usual delimiter."""
    others = [other for other in USUAL_DELIMITERS if other != delimiter and any(other in name for name in header)]
    if len(header) > 1 or not others:
        return ""
    shown = others[0].replace("\t", r"\t")
    return f"; if they are separated by {shown}: \"dataset.delimiter='{shown}'\""


def _is_parquet(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PAR1"
    except OSError as error:
        raise DataError(path, None, f"cannot be read: {error.strerror}") from None


def _parquet(
    path: Path, columns: Mapping[str, ColumnType], reading: Reading, optional: str | None
) -> Iterator[dict[str, pa.Array]]:
    """The columns that have a type, block by block; rows that are not of it are bad rows. One may be absent."""
    with path.open("rb") as file:
        while piece := file.read(BLOCK_BYTES):
            reading.advance(path, 0, piece)
    first = kept = 0
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            rows, found = file.metadata.num_rows, file.schema_arrow.names
            columns = {name: type_ for name, type_ in columns.items() if name != optional or name in found}
            _check_names(path, list(columns), found)
            if twice := [name for name in columns if found.count(name) > 1]:
                raise DataError(path, None, f"more than one column is called {_listed(twice)}")
            for batch in file.iter_batches(BATCH_ROWS, columns=list(columns)):
                table = _checked(path, batch, columns, first, reading)
                first, kept = first + len(batch), kept + len(next(iter(table.values())))
                yield table
                reading.advance(path, path.stat().st_size * first // max(rows, first, 1), b"")
    except UnicodeDecodeError:
        raise DataError(path, None, "not a sound Parquet file: a column's name is not UTF-8") from None
    except (pa.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(path, None, f"not a sound Parquet file: {reason}") from None
    if first != rows:
        raise DataError(path, None, f"not a sound Parquet file: {first:,} rows in it instead of {rows:,}")
    if kept == 0:
        raise no_valid_row(path, reading)


def _checked(
    path: Path, batch: pa.RecordBatch, expected: Mapping[str, ColumnType], first: int, reading: Reading
) -> dict[str, pa.Array]:
    columns: dict[str, tuple[pa.Array, ColumnType]] = {}
    typed: dict[str, pa.Array] = {}
    bad = np.zeros(len(batch), bool)
    earliest, problem = len(batch), ""
    for name, type_ in expected.items():
        try:
            values, type_ = columns[name] = _readable(batch[name], type_)
        except pa.ArrowException:
            raise DataError(path, None, f"column {name} is of type {batch[name].type}, which does not fit") from None
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
        return typed
    reading.skip(int(bad.sum()), DataError(path, None, f"row {first + earliest + 1:,}: {problem}"))
    return {name: type_.parse(values.filter(pa.array(~bad))) for name, (values, type_) in columns.items()}


def _readable(values: pa.Array, type_: ColumnType) -> tuple[pa.Array, ColumnType]:
    """A column of Parquet as the text that it is in a CSV file, or as the numbers that it holds, and the type of it."""
    if isinstance(values, pa.DictionaryArray):
        values = values.dictionary_decode()
    if type_ in _OF_NUMBERS and any(is_(values.type) for is_ in _NUMBERS):
        return pc.cast(values, pa.float64() if type_ is TRUTH else pa.float32(), safe=False), _OF_NUMBERS[type_]
    is_text = any(is_(values.type) for is_ in _TEXTS)
    texts = pc.cast(pc.cast(values, pa.string()) if type_ is TEXT and not is_text else values, pa.binary())
    texts = texts.fill_null(b"")  # Arrow may keep bytes behind a null
    return pc.if_else(pc.equal(pc.binary_length(texts), 0), pa.scalar(None, pa.binary()), texts), type_


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
}
