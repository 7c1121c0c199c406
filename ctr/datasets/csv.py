"""Any CSV or Parquet file with a label column, categorical columns and, where there are any, dense ones.

Every categorical value is taken as text; a blank one is a value of its own. Dense columns are taken as they are, blank
as 0: scale them beforehand. Columns that are not named are ignored. The rows should be in order of time: the last test.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ctr.datasets.columns import FLOAT, LABEL, TEXT
from ctr.datasets.lines import BLOCK_BYTES
from ctr.datasets.schema import Block, Dataset, Field, Reading
from ctr.datasets.text import read_header, read_tables
from ctr.errors import ArgumentError, DataError

BATCH_ROWS = 1 << 16
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

    def read(paths: Sequence[Path], reading: Reading) -> Iterator[Block]:
        (path,) = paths
        tables = _parquet(path, label, names, len(dense), reading) if _is_parquet(path) else _csv(path, reading)
        for columns in tables:
            numbers = [columns[name].fill_null(0).to_numpy() for name in dense]
            rows = len(columns[label])
            yield Block(
                label=columns[label].to_numpy(),
                fields=[columns[name] for name in categorical],
                dense=np.stack(numbers, axis=1) if numbers else np.empty((rows, 0), np.float32),
            )

    def _csv(path: Path, reading: Reading) -> Iterator[dict[str, pa.Array]]:
        expected = f"a header with the columns {', '.join(names)}, separated by {delimiter!r}"
        header = read_header(path, delimiter, expected)
        if twice := sorted({name for name in header if header.count(name) > 1}):
            raise DataError(path, 1, f"more than one column is called {', '.join(twice)}; expected {expected}")
        _check_names(path, names, header, _other_delimiter(header, delimiter))
        types = {label: LABEL, **dict.fromkeys(categorical, TEXT), **dict.fromkeys(dense, FLOAT)}
        columns = {name: types.get(name) for name in header}
        for table in read_tables(path, columns, delimiter, reading, header=True, quoted=True):
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
    )


def _locate(raw: Path) -> list[Path]:
    if raw.is_dir():
        raise ArgumentError(f"{raw}: is a folder; name the CSV or Parquet file with dataset.raw")
    return [raw]


def _check_names(path: Path, names: Sequence[str], found: Sequence[str], hint: str = "") -> None:
    if missing := [name for name in names if name not in found]:
        raise ArgumentError(f"{path}: no column {', '.join(missing)}; the columns are {', '.join(found)[:500]}{hint}")


def _other_delimiter(header: Sequence[str], delimiter: str) -> str:
    """What to add to a message on a header that has hardly a column, but another usual delimiter."""
    others = [other for other in USUAL_DELIMITERS if other != delimiter and any(other in name for name in header)]
    if len(header) > 1 or not others:
        return ""
    shown = others[0].replace("\t", r"\t")
    return f"; if they are separated by {shown}: \"dataset.delimiter='{shown}'\""


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _parquet(
    path: Path, label: str, names: Sequence[str], num_dense: int, reading: Reading
) -> Iterator[dict[str, pa.Array]]:
    """The named columns as label uint8, text and float32, block by block; rows that cannot be so are bad rows."""
    with path.open("rb") as file:
        while piece := file.read(BLOCK_BYTES):
            reading.advance(path, 0, piece)
    try:
        with pq.ParquetFile(path) as file:
            _check_names(path, names, file.schema_arrow.names)
            first = 0
            for batch in file.iter_batches(BATCH_ROWS, columns=list(names)):
                yield _checked(path, batch, label, names[len(names) - num_dense :], first, reading)
                first += len(batch)
                reading.advance(path, path.stat().st_size * first // file.metadata.num_rows, b"")
    except (pa.ArrowException, OSError) as error:
        raise DataError(path, None, f"not a sound Parquet file: {str(error).splitlines()[0]}") from None
    if first == 0:
        raise DataError(path, None, "no row in it")


def _checked(
    path: Path, batch: pa.RecordBatch, label: str, dense: Sequence[str], first: int, reading: Reading
) -> dict[str, pa.Array]:
    columns: dict[str, pa.Array] = {}
    bad = np.zeros(len(batch), bool)
    problem = ""
    for name in batch.schema.names:
        try:
            if name == label or name in dense:
                numbers = pc.cast(batch[name], pa.float64()).to_numpy(zero_copy_only=False)  # null: nan
                wrong = ~np.isin(numbers, (0, 1)) if name == label else np.abs(numbers) > np.finfo(np.float32).max
                type_ = pa.uint8() if name == label else pa.float32()
                columns[name] = pa.array(np.where(wrong, 0, np.nan_to_num(numbers)), type_)
            else:
                columns[name], wrong = pc.cast(batch[name], pa.string()), np.zeros(len(batch), bool)
        except pa.ArrowException:
            raise DataError(path, None, f"column {name} is of type {batch[name].type}, which does not fit") from None
        if wrong.any() and not problem:
            row = int(np.flatnonzero(wrong)[0])
            expected = "0 or 1" if name == label else "a finite number"
            problem = f"row {first + row + 1:,}: column {name} is {batch[name][row]}; expected {expected}"
        bad |= wrong
    if bad.any():
        reading.skip(int(bad.sum()), DataError(path, None, problem))
    return {name: values.filter(pa.array(~bad)) for name, values in columns.items()}
