"""Rows on disk: one Arrow IPC file, written in blocks and memory-mapped.

Columns: ids fixed_size_list<int32>[F], dense fixed_size_list<float32>[K] (absent where K = 0), label uint8. Reading
touches only the pages asked for, at tens of millions of rows per second; any Arrow tool opens the file.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

Columns = tuple[np.ndarray, np.ndarray, np.ndarray]


class RowSource(Protocol):
    """Where rows come from: `Rows`, or `MappedRows` over them."""

    def __getitem__(self, rows: slice) -> Columns:
        """ids int32 [n, F], dense float32 [n, K], label uint8 [n] of consecutive rows."""
        ...


class RowWriter:
    """Appends blocks of rows to a new file; a context manager that completes it."""

    def __init__(self, path: Path, num_fields: int, num_dense: int) -> None:
        columns = {"ids": pa.list_(pa.int32(), num_fields), "label": pa.uint8()}
        if num_dense:  # Arrow divides by the length of a list
            columns["dense"] = pa.list_(pa.float32(), num_dense)
        self._schema = pa.schema(columns)
        self._writer = pa.ipc.new_file(str(path), self._schema)

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, ids: np.ndarray, dense: np.ndarray, label: np.ndarray) -> None:
        """Appends ids int32 [n, F], dense float32 [n, K], label uint8 [n]."""
        columns = {"ids": self._lists("ids", ids), "label": pa.array(label)}
        if dense.shape[1]:
            columns["dense"] = self._lists("dense", dense)
        self._writer.write_batch(pa.record_batch(columns, schema=self._schema))

    def _lists(self, name: str, values: np.ndarray) -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), type=self._schema.field(name).type)


class Rows:
    """Memory-mapped prepared rows. Of a file larger than memory only the block that is being read is held.

    Raises:
        OSError, ValueError: no such file, or not one of rows.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        reader = pa.ipc.open_file(pa.py_buffer(self._map))
        self._last = -1  # the block read last
        self._blocks: list[Columns] = []
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            dense = np.empty((batch.num_rows, 0), np.float32)
            if "dense" in batch.schema.names:
                dense = _matrix(batch["dense"])
            self._blocks.append((_matrix(batch["ids"]), dense, batch["label"].to_numpy()))
        self._starts = np.cumsum([0, *(len(label) for _, _, label in self._blocks)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, rows: slice) -> Columns:
        """ids int32 [n, F], dense float32 [n, K], label uint8 [n] of consecutive rows, without a copy where they
        lie in one block."""
        parts = list(self._parts(rows))
        if len(parts) == 1:
            return parts[0]
        ids, dense, label = zip(*parts or [_cut(self._blocks[0], 0, 0)], strict=True)
        return np.concatenate(ids), np.concatenate(dense), np.concatenate(label)

    def positives(self, rows: slice) -> int:
        """How many of some consecutive rows have label 1; reads no other column."""
        return sum(int(label.sum()) for _, _, label in self._parts(rows))

    def _parts(self, rows: slice) -> Iterator[Columns]:
        """Consecutive rows as they lie in the blocks."""
        start, stop, _ = rows.indices(len(self))
        block = int(np.searchsorted(self._starts, start, side="right")) - 1
        while start < stop:
            first = int(self._starts[block])
            end = min(stop, int(self._starts[block + 1]))
            self._enter(block)
            yield _cut(self._blocks[block], start - first, end - first)
            start, block = end, block + 1

    def _enter(self, block: int) -> None:
        """Hands the pages of the block before back: they would count as the process's own until memory is short."""
        if block != self._last and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(
                mmap.MADV_DONTNEED
            )  # all: those that are still wanted are read again from the file's cache
        self._last = block


class MappedRows:
    """Rows with other ids.

    Args:
        rows: the rows.
        places: int32 [N], the new id of each old one.
    """

    def __init__(self, rows: RowSource, places: np.ndarray) -> None:
        self.rows, self.places = rows, places

    def __getitem__(self, rows: slice) -> Columns:
        ids, dense, label = self.rows[rows]
        return self.places[ids], dense, label


def _matrix(lists: pa.Array) -> np.ndarray:
    return lists.flatten().to_numpy().reshape(len(lists), lists.type.list_size)


def _cut(columns: Columns, start: int, stop: int) -> Columns:
    ids, dense, label = columns
    return ids[start:stop], dense[start:stop], label[start:stop]
