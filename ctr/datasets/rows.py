"""Rows on disk: one Arrow IPC file, written in blocks and memory-mapped.

Columns: ids fixed_size_list<int32>[F] (where a field is multi-valued fixed_size_list<list<int32>>[F]), dense
fixed_size_list<float32>[K] (absent where K = 0), label uint8, weight float32 (absent where each row counts 1). Reading
touches only the pages asked for, at tens of millions of rows per second; any Arrow tool opens the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from ctr.datasets.checked import CheckedReader, CheckedWriter, Checksum
from ctr.datasets.ragged import Ids, Ragged, joined, mapped
from ctr.errors import DataError

Columns = tuple[Any, ...]  # ids (an array, or `Ragged`), and arrays: dense, label, and weight if there is one


class RowSource(Protocol):
    """Where rows come from: `Rows`, or `MappedRows` over them."""

    def __getitem__(self, rows: slice) -> Columns:
        """ids int32 [n, F] (`Ragged` where a field is multi-valued), dense float32 [n, K], label uint8 [n] of
        consecutive rows, and their weight float32 [n] unless each row counts 1."""
        ...

    def positives(self, rows: slice) -> int:
        """How many of some consecutive rows have label 1."""
        ...

    def weight(self, rows: slice) -> float | None:
        """The sum of the weights of some consecutive rows; None where each row counts 1."""
        ...


class RowWriter(CheckedWriter):
    """Appends blocks of rows to a new file; a context manager that completes it.

    Attributes:
        largest: float32 [K], the largest absolute value in each dense column so far.
    """

    def __init__(
        self, path: Path, num_fields: int, num_dense: int, weighted: bool = False, ragged: bool = False
    ) -> None:
        self.largest = np.zeros(num_dense, np.float32)
        self._schema = _schema(num_fields, num_dense, weighted, ragged)
        super().__init__(path, self._schema)

    def write(self, ids: Ids, dense: np.ndarray, label: np.ndarray, weight: np.ndarray | None = None) -> None:
        """Appends ids int32 [n, F] (`Ragged` of a ragged file), dense float32 [n, K], label uint8 [n], weight float32
        [n] of a weighted file."""
        columns = {"ids": self._lists("ids", ids), "label": pa.array(label)}
        if weight is not None:
            columns["weight"] = pa.array(weight)
        if dense.shape[1]:
            self.largest = np.fmax(self.largest, np.abs(dense).max(axis=0, initial=0))
            columns["dense"] = self._lists("dense", dense)
        self.write_batch(pa.record_batch(columns, schema=self._schema))

    def _lists(self, name: str, values: Ids) -> pa.Array:
        if isinstance(values, Ragged):
            each = pa.ListArray.from_arrays(pa.array(values.offsets.astype(np.int32)), pa.array(values.values))
        else:
            each = pa.array(values.ravel())
        return pa.FixedSizeListArray.from_arrays(each, type=self._schema.field(name).type)


class Rows:
    """Memory-mapped prepared rows. Of a file larger than memory only the block that is being read is held.

    Args:
        path: the file.
        blocks: its checksums; each block is checked when it is first read.
        num_fields, num_dense: F and K.

    Attributes:
        starts: int64 [blocks + 1], the first row of each block, and the number of rows.

    Raises:
        DataError: no such file, or not the one that the checksums and columns are of. Reading raises it as well.
    """

    def __init__(self, path: Path, blocks: Sequence[Checksum], num_fields: int, num_dense: int) -> None:
        self.file = CheckedReader(path, blocks)
        self._weighted = "weight" in self.file.schema.names
        schemas = [_schema(num_fields, num_dense, self._weighted, ragged) for ragged in (False, True)]
        if self.file.schema not in schemas:
            raise DataError(path, None, f"no rows of {num_fields} fields and {num_dense} dense columns")
        self._blocks: list[Columns | None] = [None] * len(self.file)
        self.starts = np.cumsum([0, *(block.rows for block in blocks[: len(self.file)])])
        ragged = Ragged(np.empty(0, np.int32), np.zeros(1, np.int32), num_fields)
        self._none: Columns = (
            np.empty((0, num_fields), np.int32) if self.file.schema == schemas[0] else ragged,
            np.empty((0, num_dense), np.float32),
            np.empty(0, np.uint8),
            *([np.empty(0, np.float32)] if self._weighted else []),
        )

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, rows: slice) -> Columns:
        """ids int32 [n, F] (`Ragged` where a field is multi-valued), dense float32 [n, K], label uint8 [n] of
        consecutive rows, and their weight float32 [n] if they have one, without a copy where they lie in one block.

        Raises:
            DataError: they are not as they were written.
        """
        parts = list(self._parts(rows))
        if len(parts) == 1:
            return parts[0]
        return tuple(joined(columns) for columns in zip(*parts or [self._none], strict=True))

    def positives(self, rows: slice) -> int:
        """How many of some consecutive rows have label 1; of blocks read before it reads no other column."""
        return sum(int(columns[2].sum()) for columns in self._parts(rows))

    def weight(self, rows: slice) -> float | None:
        """The sum of the weights of some consecutive rows; None where each row counts 1."""
        return sum(float(part[3].sum(dtype=np.float64)) for part in self._parts(rows)) if self._weighted else None

    def _parts(self, rows: slice) -> Iterator[Columns]:
        """Consecutive rows as they lie in the blocks."""
        start, stop, _ = rows.indices(len(self))
        block = int(np.searchsorted(self.starts, start, side="right")) - 1
        while start < stop:
            first = int(self.starts[block])
            end = min(stop, int(self.starts[block + 1]))
            yield tuple(column[start - first : end - first] for column in self._columns(block))
            start, block = end, block + 1

    def _columns(self, block: int) -> Columns:
        self.file.enter(block)
        columns = self._blocks[block]
        if columns is None:
            batch = self.file.batch(block)
            dense = _matrix(batch["dense"]) if "dense" in batch.schema.names else np.empty((len(batch), 0), np.float32)
            more = [batch[name].to_numpy() for name in ("label", "weight") if name in batch.schema.names]
            columns = self._blocks[block] = (_ids(batch["ids"]), dense, *more)
        return columns


class MappedRows:
    """Rows with other ids.

    Args:
        rows: the rows. If their ids are mapped already, both mappings become one look-up.
        places: int32 [N], the new id of each old one.
    """

    def __init__(self, rows: RowSource, places: np.ndarray) -> None:
        self.rows: RowSource = rows.rows if isinstance(rows, MappedRows) else rows
        self.places: np.ndarray = places[rows.places] if isinstance(rows, MappedRows) else places

    def __getitem__(self, rows: slice) -> Columns:
        ids, *others = self.rows[rows]
        return mapped(ids, self.places), *others

    def positives(self, rows: slice) -> int:
        return self.rows.positives(rows)

    def weight(self, rows: slice) -> float | None:
        return self.rows.weight(rows)


def _schema(num_fields: int, num_dense: int, weighted: bool, ragged: bool) -> pa.Schema:
    columns = {"ids": pa.list_(pa.list_(pa.int32()) if ragged else pa.int32(), num_fields), "label": pa.uint8()}
    if num_dense:  # Arrow divides by the length of a list
        columns["dense"] = pa.list_(pa.float32(), num_dense)
    if weighted:
        columns["weight"] = pa.float32()
    return pa.schema(columns)


def _ids(lists: pa.Array) -> Ids:
    if not pa.types.is_list(lists.type.value_type):
        return _matrix(lists)
    each = lists.flatten()
    return Ragged(each.values.to_numpy(), each.offsets.to_numpy(), lists.type.list_size)


def _matrix(lists: pa.Array) -> np.ndarray:
    return lists.flatten().to_numpy().reshape(len(lists), lists.type.list_size)
