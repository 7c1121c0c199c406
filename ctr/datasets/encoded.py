"""Blocks of a log with ids in place of values."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa

from ctr.datasets.encode import Encoder
from ctr.datasets.ragged import Ids
from ctr.datasets.schema import Block

T = TypeVar("T")


@dataclass(frozen=True)
class Encoded:
    """A `Block` with ids.

    Attributes:
        ids: int32 [n, F], ragged where a field is multi-valued.
        vocabulary: entries of the values that are in no block before, in order of their ids; None where ids are hashed.
        dense, label, weight, day, time, test: those of the block.
    """

    ids: Ids
    vocabulary: pa.RecordBatch | None
    dense: np.ndarray
    label: np.ndarray
    weight: np.ndarray | None
    day: np.ndarray | None
    time: np.ndarray | None
    test: bool


def encoded(blocks: Iterator[Block], encoder: Encoder) -> Iterator[Encoded]:
    """Encodes blocks one after the other."""
    for block in blocks:
        assert block.label is not None
        ids, new = encoder.encode(block.fields)
        entries = encoder.keys.vocabulary(new) if encoder.num_buckets is None else None
        yield Encoded(ids, entries, block.dense, block.label, block.weight, block.day, block.time, block.test)


def read_ahead(items: Iterator[T]) -> Iterator[T]:
    """Yields the same items; a thread makes the next one while the caller works on the current one."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(next, items, end)
        while (item := upcoming.result()) is not end:
            upcoming = pool.submit(next, items, end)
            yield item  # type: ignore[misc]
