"""Columns of one's own log with several values in a row, such as tags: text with separators, or lists of Arrow.

A parsed cell is a list of at least one text. Blanks beside other values are left out; a cell without any other value is
a list of one null, the blank value. Values that are there twice count twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from ctr.datasets.columns import TEXT, ColumnType

MOST = 4096  # values in a cell: those of a batch are in memory together

_LISTS = (types.is_list, types.is_large_list, types.is_fixed_size_list)


def is_list(type_: pa.DataType) -> bool:
    """Whether it is a list of values, not of lists or structures."""
    return any(is_(type_) for is_ in _LISTS) and not types.is_nested(type_.value_type)


def parse(specs: Sequence[str]) -> dict[str, str | None]:
    """``["tags:|", "history"]`` -> the separator of each column by its name, None where it holds lists.

    The text behind the last colon is the separator, which may itself be a colon (``tags::``).

    Raises:
        ValueError: no name, or a column twice.
    """
    found: dict[str, str | None] = {}
    for spec in specs:
        match = re.fullmatch(r"(?P<name>.+):(?P<separator>[^:]+|:)|(?P<alone>[^:]+)", spec, re.DOTALL)
        if match is None or "\0" in spec:
            raise ValueError(
                f"dataset.multi: {spec}; expected a column, a colon and what separates its values ('tags:|'), or the "
                "name of a column of lists alone"
            )
        name, separator = match["name"] or match["alone"], match["separator"]
        if name in found:
            raise ValueError(f"dataset.multi: {name} is there twice")
        found[name] = separator and separator.replace(r"\t", "\t")
    return found


def list_type(name: str, separator: str | None) -> ColumnType:
    """The type of a multi-valued column: text with separators, or a list array of binary texts, null where blank."""

    def split(values: pa.Array) -> pa.Array:
        if is_list(values.type):
            return values
        if separator is None:
            if values.null_count == len(values):
                return pa.nulls(len(values), pa.list_(pa.binary()))
            raise ValueError("text")
        return pc.split_pattern(values, separator.encode())

    def parsed(values: pa.Array) -> pa.Array:
        lists = _without_blanks(split(values))
        if len(lists) and pc.max(pc.list_value_length(lists)).as_py() > MOST:
            raise ValueError("too many values")
        return with_values(lists, TEXT.parse(lists.flatten()))

    def invalid(values: pa.Array) -> np.ndarray:
        if separator is None and not is_list(values.type):
            return values.is_valid().to_numpy(zero_copy_only=False)
        lists = _without_blanks(split(values))
        wrong = lengths_of(lists) > MOST
        rows = np.repeat(np.arange(len(lists)), lengths_of(lists))
        wrong[rows[TEXT.invalid(lists.flatten())]] = True
        return wrong

    remedy = f"; of text dataset.multi says what separates the values: dataset.multi=['{name}:|']"
    expected = f"a list{remedy}" if separator is None else f"at most {MOST:,} values, each {TEXT.expected}"
    return ColumnType(expected, parsed, invalid, lists=True)


def texts_of(values: pa.Array, text: Callable[[pa.Array], pa.Array]) -> pa.Array:
    """A list array of binary texts of any list array; ``text`` gives those of single values, null where blank."""
    if not types.is_list(values.type):
        values = pc.cast(values, pa.list_(values.type.value_type))
    return with_values(values, pc.cast(text(values.flatten()), pa.binary()))


def with_values(lists: pa.Array, values: pa.Array) -> pa.Array:
    """A list array of the same lengths with other values, one behind the other; a null is an empty list."""
    offsets = np.concatenate([[0], np.cumsum(lengths_of(lists))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)


def lengths_of(lists: pa.Array) -> np.ndarray:
    """int64 [n], how many values each list has."""
    return pc.list_value_length(lists).fill_null(0).to_numpy().astype(np.int64)


def _without_blanks(lists: pa.Array) -> pa.Array:
    """Lists without blanks, but for one in those that would be empty."""
    lengths, values = lengths_of(lists), lists.flatten()
    there = pc.greater(pc.binary_length(values), 0).fill_null(False).to_numpy(zero_copy_only=False)
    rows = np.repeat(np.arange(len(lists)), lengths)[there]
    left = np.bincount(rows, minlength=len(lists))
    if (left == lengths).all() and left.all():
        return with_values(lists, values)
    offsets = np.concatenate([[0], np.cumsum(np.maximum(left, 1))])
    places = np.full(offsets[-1], -1)
    before = np.concatenate([[0], np.cumsum(left)])[:-1]
    places[np.arange(len(rows)) + (offsets[:-1] - before)[rows]] = np.flatnonzero(there)
    taken = values.take(pa.array(places, mask=places < 0))
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), taken)
