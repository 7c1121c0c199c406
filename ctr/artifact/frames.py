"""Data frames and raw lines -> the typed columns that a dataset's reader would yield of them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from ctr.datasets.columns import FLOAT, HEX32, INTEGER, TEXT, ColumnType
from ctr.datasets.frame import arrow_of, as_binary
from ctr.datasets.multi import is_list, texts_of
from ctr.datasets.parquet import is_text
from ctr.datasets.schema import Columns, Dataset, Inputs
from ctr.datasets.text import shown
from ctr.errors import ArgumentError

_KINDS = {"hex32": HEX32, "integer": INTEGER, "text": TEXT}
FEW = 1 << 16  # rows
_NO_FRAME = "expected a pandas, Arrow or polars frame, a list of dicts, or a list of raw lines"


def inputs_of(dataset: Dataset) -> Inputs:
    """What a prediction needs: of a dataset that does not say it, fields and dense columns as its reader has them."""
    if dataset.inputs is not None:
        return dataset.inputs
    kinds = {field.name: _KINDS[field.kind] for field in dataset.read_fields}
    missing = np.nan if dataset.transforms else 0

    def derive(columns: Columns) -> tuple[list[pa.Array], np.ndarray]:
        dense = [columns[name].fill_null(missing).to_numpy() for name in dataset.dense]
        rows = len(next(iter(columns.values())))
        fields = [columns[name] for name in kinds]
        return fields, np.stack(dense, axis=1) if dense else np.empty((rows, 0), np.float32)

    return Inputs({**kinds, **dict.fromkeys(dataset.dense, FLOAT)}, derive)


def model_inputs(frame: Any, inputs: Inputs) -> tuple[list[pa.Array], np.ndarray]:
    """One typed array [n] per field, and dense float32 [n, K], of a frame or of raw lines.

    Args:
        frame: a pandas, Arrow or polars frame, a mapping of columns, or a list of dicts, with the columns of the raw
            log (others are ignored); or a list of raw lines. None, NaN and an empty text are blank, whole floats are
            integers.
        inputs: of the dataset.

    Raises:
        ArgumentError: none of these; a column that is missing or of another type; a value that cannot be: each named.
    """
    if isinstance(frame, str | bytes):
        raise ArgumentError(f"a single text; {_NO_FRAME}")
    if isinstance(frame, Sequence):
        if all(isinstance(row, str) for row in frame):
            frame = _of_lines(frame, inputs)
        elif all(isinstance(row, Mapping) for row in frame):
            frame = _of_dicts(frame, inputs.columns)
        else:
            raise ArgumentError(f"a {type(frame).__name__} of neither dicts nor texts; {_NO_FRAME}")
    elif hasattr(frame, "__arrow_c_stream__") and not type(frame).__module__.startswith("pandas"):
        frame = pa.table(frame)
    return inputs.derive(_typed({name: _column(frame, name) for name in inputs.columns}, inputs))


def _typed(columns: Mapping[str, pa.Array], inputs: Inputs) -> dict[str, pa.Array]:
    """Columns of a frame as their types parse them; of few rows those of one type together, which is faster."""
    lengths = {name: len(values) for name, values in columns.items()}
    rows = next(iter(lengths.values()))
    if set(lengths.values()) != {rows}:
        raise ArgumentError("columns of several lengths: " + ", ".join(f"{name} {n:,}" for name, n in lengths.items()))
    groups: dict[object, list[str]] = {}
    for name, type_ in inputs.columns.items():
        alike = (type_, columns[name].type) if rows <= FEW else name
        groups.setdefault(alike, []).append(name)
    typed: dict[str, pa.Array] = {}
    for names in groups.values():
        together = pa.concat_arrays([columns[name] for name in names])
        parsed = _parsed(names, together, inputs.columns[names[0]], inputs)
        typed |= {name: parsed.slice(i * rows, rows) for i, name in enumerate(names)}
    return typed


def _of_dicts(rows: Sequence[Mapping[str, Any]], names: Iterable[str]) -> dict[str, list[Any]]:
    for number, row in enumerate(rows):
        if missing := [name for name in names if name not in row]:
            raise ArgumentError(f"row {number}: no {', '.join(missing)}; a blank is None")
    return {name: [row[name] for row in rows] for name in names}


def _of_lines(lines: Sequence[str], inputs: Inputs) -> dict[str, list[str]]:
    """The texts in each column of raw lines; where the format has a header, the first line is one."""
    rows = [line.rstrip("\r\n").split(inputs.delimiter) for line in lines]
    if inputs.line is None:
        if not lines:
            raise ArgumentError("no lines; the first has to be the header")
        header, *rows = csv.reader(lines, delimiter=inputs.delimiter)
        layouts = [tuple(header)]
    else:
        layouts = [inputs.line, *([tuple(n for n in inputs.line if n != inputs.label)] if inputs.label else [])]
    names = next((names for names in layouts if rows and len(names) == len(rows[0])), layouts[0])
    for number, row in enumerate(rows):
        if len(row) != len(names):
            counts = " or ".join(str(len(names)) for names in layouts)
            raise ArgumentError(
                f"row {number}: {len(row)} columns; expected {counts}, separated by {inputs.delimiter!r}"
            )
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def _column(frame: Any, name: str) -> pa.Array:
    """A column of a frame as one Arrow array."""
    return arrow_of(name, _select(frame, name))


def _select(frame: Any, name: str) -> Any:
    if isinstance(frame, pa.Table | pa.RecordBatch):
        names = frame.schema.names
    elif isinstance(frame, Mapping) or hasattr(frame, "columns"):
        names = list(frame if isinstance(frame, Mapping) else frame.columns)
    else:
        raise ArgumentError(f"a {type(frame).__name__}; {_NO_FRAME}")
    if names.count(name) != 1:
        problem = "more than one column" if name in names else "no column"
        listed = ", ".join(map(str, names))
        raise ArgumentError(f"{problem} {name}; the columns are {listed[:500]}{'...' * (len(listed) > 500)}")
    return frame[name]


def _parsed(names: Sequence[str], values: pa.Array, type_: ColumnType, inputs: Inputs) -> pa.Array:
    """Typed values of some columns, one behind the other."""
    texts = _texts(names[0], values, type_)
    if any(inputs.blanks) and not is_list(texts.type):
        blanks = pa.array([blank.encode() for blank in inputs.blanks])
        texts = pc.if_else(pc.is_in(texts, value_set=blanks), pa.scalar(None, pa.binary()), texts)
    try:
        return type_.parse(texts)
    except ValueError:
        place = int(np.argmax(type_.invalid(texts)))
    column, row = divmod(place, len(values) // len(names))
    raise ArgumentError(f"column {names[column]}, row {row}: {shown(texts[place].as_py())}; expected {type_.expected}")


def _texts(name: str, values: pa.Array, type_: ColumnType) -> pa.Array:
    """Values as in a raw log, binary and null where blank."""
    if type_.lists and is_list(values.type):
        return texts_of(values, lambda each: as_binary(arrow_of(name, each)))
    if type_ is HEX32 and not (is_text(values.type) or types.is_null(values.type)):
        raise ArgumentError(
            f"column {name} is of type {values.type}; expected text: {type_.expected} (a number has lost its form: "
            "read the column as text)"
        )
    if types.is_nested(values.type):
        raise ArgumentError(f"column {name} is of type {values.type}; expected {type_.expected}")
    texts = as_binary(values)
    if texts.null_count:
        texts = texts.fill_null(b"")  # Arrow may keep bytes behind a null
    if len(texts) and pc.min(pc.binary_length(texts)).as_py() == 0:
        return pc.if_else(pc.equal(pc.binary_length(texts), 0), pa.scalar(None, pa.binary()), texts)
    return texts
