"""A data frame in memory as one's own log: a Parquet file, written chunk by chunk, for ``dataset=csv`` to read.

The reader then takes each value as `ctr.artifact.frames` does when the model predicts: NaN and None are blank, and a
column of whole floats, as pandas makes of integers with blanks, holds integers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import types

from ctr.datasets.multi import is_list, texts_of
from ctr.datasets.parquet import BATCH_ROWS, EXACT, as_text, is_text, listed
from ctr.errors import ArgumentError
from ctr.files import atomic_path


def write_log(frame: Any, path: Path | str, more: Mapping[str, np.ndarray] | None = None) -> None:
    """Writes the rows of a frame, in their order, as a Parquet file for ``dataset=csv dataset.raw=PATH``.

    Beside the frame it needs the memory of a few chunks of rows.

    Args:
        frame: a pandas, polars or Arrow frame of n rows.
        path: of the file; it appears when all is written.
        more: further columns by name, each [n]: labels, for example.

    Raises:
        ArgumentError: no such frame, no rows, or a column that a log cannot have: each by its name.
    """
    more = more or {}
    names, rows, part = _opened(frame)
    if repeated := sorted({str(name) for name, count in Counter([*names, *more]).items() if count > 1}):
        raise ArgumentError(f"more than one column is called {listed(repeated)}")
    if not rows:
        raise ArgumentError("the frame has no rows")

    def chunks(name: str) -> Iterator[pa.Array]:
        return (part(name, slice(start, start + BATCH_ROWS)) for start in range(0, rows, BATCH_ROWS))

    of_frame = {name: _type(name, chunks(name)) for name in names}
    columns = {**of_frame, **{name: pa.from_numpy_dtype(values.dtype) for name, values in more.items()}}
    schema = pa.schema(list(columns.items()))
    with atomic_path(Path(path)) as tmp, pq.ParquetWriter(tmp, schema) as writer:
        for start in range(0, rows, BATCH_ROWS):
            here = slice(start, start + BATCH_ROWS)
            arrays = [pc.cast(part(name, here), type_) for name, type_ in of_frame.items()]
            writer.write_batch(pa.record_batch([*arrays, *(pa.array(v[here]) for v in more.values())], schema=schema))


def _opened(frame: Any) -> tuple[list[str], int, Callable[[str, slice], pa.Array]]:
    """Column names, number of rows, and what reads some rows of a column as `_plain` has them."""
    if isinstance(frame, pa.RecordBatch):
        frame = pa.Table.from_batches([frame])
    elif hasattr(frame, "__arrow_c_stream__") and not type(frame).__module__.startswith("pandas"):
        frame = pa.table(frame)
    if isinstance(frame, pa.Table):
        return frame.schema.names, len(frame), lambda name, rows: _plain(name, frame[name][rows])
    if not (hasattr(frame, "iloc") and hasattr(frame, "columns")):
        raise ArgumentError(f"a {type(frame).__name__}; expected a pandas, polars or Arrow frame")
    if strange := [name for name in frame.columns if not isinstance(name, str)]:
        raise ArgumentError(f"column name {strange[0]!r} is not text; give the frame's columns names")
    return list(frame.columns), len(frame), lambda name, rows: _plain(name, frame[name].iloc[rows])


def _plain(name: str, values: Any) -> pa.Array:
    """Values without dictionaries, NaN as null, text in the form that Parquet has."""
    array = arrow_of(name, values)
    if is_list(array.type):
        return texts_of(array, lambda each: as_binary(arrow_of(name, each)))
    if types.is_nested(array.type):
        raise ArgumentError(
            f"column {name} is of type {array.type}; expected text, numbers, truths, times or lists of them"
        )
    if types.is_string_view(array.type) or types.is_null(array.type):
        array = pc.cast(array, pa.large_string())
    if types.is_floating(array.type):
        array = pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array)
    return array


def arrow_of(name: str, values: Any) -> pa.Array:
    """The values of a column as one Arrow array; categories of pandas and polars as their values.

    Raises:
        ArgumentError: values of several types.
    """
    try:
        array = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise ArgumentError(f"column {name}: values of several types: {str(error).splitlines()[0]}") from None
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    if not isinstance(array, pa.DictionaryArray):
        return array
    known = array.dictionary
    known = pc.cast(known, pa.large_string()) if types.is_string_view(known.type) else known  # none takes from views
    return known.take(array.indices)


def as_binary(values: pa.Array) -> pa.Array:
    """Values of a column as in a raw log, binary; NaN is null, a whole float an integer."""
    if is_text(values.type):
        return pc.cast(values, pa.binary())
    if types.is_null(values.type):
        return pa.nulls(len(values), pa.binary())
    texts = as_text(values)
    if types.is_floating(values.type):
        texts = pc.if_else(pc.is_nan(values), pa.scalar(None, pa.string()), texts)
    return pc.cast(texts, pa.binary())


def _type(name: str, chunks: Iterator[pa.Array]) -> pa.DataType:
    """The type of a whole column: integers where all its floats are whole."""
    found, whole = pa.schema([]), True
    for chunk in chunks:
        try:
            if chunk.null_count < len(chunk):  # a blank one says nothing
                found = pa.unify_schemas([found, pa.schema({name: chunk.type})], promote_options="permissive")
        except pa.ArrowException:
            raise ArgumentError(f"column {name}: values of several types: {found[0].type}, {chunk.type}") from None
        whole = whole and (not types.is_floating(chunk.type) or _whole(chunk))
    if not len(found):
        return pa.string()  # all blank
    return pa.int64() if whole and types.is_floating(found[0].type) else found[0].type


def _whole(floats: pa.Array) -> bool:
    numbers = floats.drop_null().to_numpy(zero_copy_only=False).astype(np.float64)
    return bool(((numbers == np.floor(numbers)) & (np.abs(numbers) < EXACT)).all())
