"""The second pass of a preparation, over rows that have been read: in order of time, and with numbers transformed.

Sorting takes 28 bytes of memory a row, beside one chunk; rows of the same time stay in the order of the files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ctr.datasets.checked import CheckedWriter
from ctr.datasets.encode import Encoder
from ctr.datasets.ragged import Ragged, joined, side_by_side
from ctr.datasets.rows import Columns, Rows, RowWriter
from ctr.datasets.transforms import Transform, apply

CHUNK_ROWS = 1 << 18


def by_time(times: np.ndarray) -> np.ndarray | None:
    """The row numbers, int64 [n], in order of their times, int64 [n]; None if they are in order already."""
    return None if (times[1:] >= times[:-1]).all() else np.argsort(times, kind="stable")


def chunks(rows: Rows, order: np.ndarray | None, ranges: Sequence[tuple[int, int]]) -> Iterator[Columns]:
    """Some rows in another order (`by_time`), a chunk at a time.

    Args:
        rows: as they were read.
        order: int64 [n], their numbers in the new order; None: as they are.
        ranges: half-open, in the new order.
    """
    for first, last in ranges:
        for start in range(first, last, CHUNK_ROWS):
            here = slice(start, min(start + CHUNK_ROWS, last))
            yield rows[here] if order is None else _gathered(rows, order[here])


def arrange(
    rows: Rows,
    order: np.ndarray | None,
    transforms: Sequence[Transform],
    encoder: Encoder,
    writer: RowWriter,
    vocabulary: CheckedWriter | None,
    progress: Callable[[int, float], None] | None,
) -> None:
    """Writes all rows in their order, with their numbers transformed; buckets become the last fields.

    Args:
        rows: as they were read, of the first fields and with untransformed numbers.
        order: see `chunks`.
        transforms: fitted, one for each column of numbers; empty: numbers stay.
        encoder: has seen all other fields.
        writer: of the rows.
        vocabulary: takes the buckets; None where ids are hashed.
        progress: called with (rows so far, share done).
    """
    done = 0
    for ids, dense, label, *weight in chunks(rows, order, [(0, len(rows))]):
        if transforms:
            fields, dense = apply(transforms, dense)
            if fields:
                buckets, new = encoder.encode(fields, first=len(encoder.keys.fields) - len(fields))
                ids = side_by_side([ids, buckets])
                if vocabulary is not None:
                    vocabulary.write_batch(encoder.keys.vocabulary(new))
        writer.write(ids, dense, label, *weight)
        done += len(label)
        if progress is not None:
            progress(done, done / len(rows))


def _gathered(rows: Rows, wanted: np.ndarray) -> Columns:
    """Some rows in the given order; each block that they are in is visited once."""
    places = np.argsort(wanted, kind="stable")
    ascending = wanted[places]
    bounds = np.searchsorted(ascending, rows.starts)
    none, *others = rows[0:0]
    gathered = [np.empty((len(wanted), *column.shape[1:]), column.dtype) for column in others]
    ids = None if isinstance(none, Ragged) else np.empty((len(wanted), none.shape[1]), none.dtype)
    ragged: list[Ragged] = []
    for block in range(len(rows.starts) - 1):
        low, high = bounds[block], bounds[block + 1]
        if low == high:
            continue
        start = rows.starts[block]
        here, local = places[low:high], ascending[low:high] - start
        read, *columns = rows[start : ascending[high - 1] + 1]
        if ids is None:
            ragged.append(read.take(local))
        else:
            ids[here] = read[local]
        for target, column in zip(gathered, columns, strict=True):
            target[here] = column[local]
    return (joined(ragged).take(np.argsort(places)) if ids is None else ids), *gathered
