"""Chunks of a log -> ids of the whole log, in order of first appearance.

A value's first place is the first chunk that it is in and its id there. The order of the first places is that of first
appearance: a value's id is the number of first places before its own.

Each partition of the values is looked at by itself: the values of all chunks in it, in order, give every value its
first place (`first_places`). Then, chunk by chunk, the values whose first place is in the chunk get the next ids
(`numbered`). Of the chunks before, only one bit for each of their values is kept: whether it is a first place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from ctr.datasets.chunk import PARTITIONS, Chunk, Values, memory_of
from ctr.datasets.encode import VALUE_BITS, Keys, hash_ids, key_index
from ctr.datasets.encoded import Encoded
from ctr.datasets.schema import Dataset

WORD = 64


@dataclass(frozen=True)
class Group:
    """Partitions that are looked at together.

    Attributes:
        values: of all chunks, in order.
        first, stop: numbers of the partitions.
        path: file of the first places, int64, of the values of these partitions in all chunks; None where ids are
            hashed and only counts are wanted.
    """

    values: Sequence[Values]
    first: int
    stop: int
    path: Path | None


@dataclass(frozen=True)
class Distinct:
    """The distinct values of some partitions.

    Attributes:
        per_field: int64 [F], their number in each field.
        hit: int32 [m], the buckets that they are in; none where ids are not hashed.
    """

    per_field: np.ndarray
    hit: np.ndarray


def groups(values: Sequence[Values], folder: Path | None, limit: int) -> list[Group]:
    """Takes as many partitions together as fit into memory.

    Args:
        values: of all chunks.
        folder: for files of first places; None where ids are hashed.
        limit: bytes of memory.
    """
    total, texts = (sum(getattr(some, name) for some in values) for name in ("count", "texts"))
    sizes = np.sum([np.diff(some.bounds) for some in values], axis=0) * (memory_of(total, texts) / max(total, 1))
    ends = np.cumsum([0, *sizes])
    found: list[Group] = []
    first = 0
    while first < PARTITIONS:
        stop = max(int(np.searchsorted(ends, ends[first] + limit, side="right")) - 1, first + 1)
        path = None if folder is None else folder / f"places-{len(found)}"
        found.append(Group(values, first, stop, path))
        first = stop
    return found


def starts(values: Sequence[Values]) -> np.ndarray:
    """int64 [chunks + 1]: the place of each chunk's first value, a multiple of `WORD`."""
    return np.cumsum([0, *(-(-some.count // WORD) * WORD for some in values)])


def first_places(dataset: Dataset, num_buckets: int | None, group: Group) -> Distinct:
    """Finds the distinct values of some partitions, and writes their first places."""
    most = sum(int(np.diff(some.bounds[[group.first, group.stop]])[0]) for some in group.values)
    keys, index = Keys(dataset.fields), key_index(1 << (2 * most).bit_length())  # it will not have to grow
    per_field = np.zeros(len(dataset.fields), np.int64)
    hits = [np.zeros(0, np.int32)]
    places = np.empty(most if group.path else 0, np.int64)  # of which the system gives what is written
    with open(group.path or "/dev/null", "wb") as file:  # noqa: PTH123
        for some, start in zip(group.values, starts(group.values).tolist(), strict=False):
            found, ids, texts = some.read(group.first, group.stop)
            _tell_texts_apart(keys, found, texts)
            known = index.count
            distinct, new = index.ids(found)
            per_field += np.bincount((new >> np.uint64(VALUE_BITS)).astype(np.int64), minlength=len(per_field))
            if num_buckets is not None:
                hits.append(np.unique(hash_ids(new, num_buckets)))
                continue
            places[known : index.count] = start + ids[distinct >= known].astype(np.int64)
            file.write(memoryview(places[distinct]))
    return Distinct(per_field, np.unique(np.concatenate(hits)))


def _tell_texts_apart(keys: Keys, found: np.ndarray, texts: pa.Array | None) -> None:
    """Replaces a chunk's own keys of texts, uint64 [n], by those that all chunks have in common."""
    if texts is None:
        return
    present = texts.is_valid().to_numpy(zero_copy_only=False)
    fields = (found >> np.uint64(VALUE_BITS)).astype(np.int64)
    for field in np.unique(fields[present]).tolist():
        places = np.flatnonzero(present & (fields == field))
        found[places] = keys.of_field(field, texts.take(pa.array(places)))


class _Marks:
    """Marked places, and how many of them are before a place; 2 bits a place."""

    def __init__(self, places: int) -> None:
        self._words = np.zeros(places // WORD, np.uint64)
        self._before = np.zeros(places // WORD, np.int64)
        self.count = 0

    def add(self, start: int, marked: np.ndarray) -> None:
        """Marks some of the places from ``start`` on, bool [n]; no later ones are marked yet."""
        bits = np.packbits(marked, bitorder="little")
        words = np.pad(bits, (0, -len(bits) % 8)).view("<u8")
        here = slice(start // WORD, start // WORD + len(words))
        counts = np.bitwise_count(words).astype(np.int64)
        self._words[here] = words
        self._before[here] = self.count + np.cumsum(counts) - counts
        self.count += int(counts.sum())

    def before(self, places: np.ndarray) -> np.ndarray:
        """int32 [n], how many marked places are before each place, int64 [n]."""
        word, bit = places // WORD, (places % WORD).astype(np.uint64)
        below = self._words[word] & ((np.uint64(1) << bit) - np.uint64(1))
        return (self._before[word] + np.bitwise_count(below)).astype(np.int32)


def numbered(dataset: Dataset, chunks: Sequence[Chunk], groups: Sequence[Group]) -> Iterator[Encoded]:
    """The blocks of all chunks, with ids of the whole log, and its vocabulary; removes chunks that have been read.

    Args:
        dataset: the raw format.
        chunks: in order.
        groups: all partitions, whose first places have been written.
    """
    begins = starts([chunk.values for chunk in chunks]).tolist()
    marks = _Marks(begins[-1])
    offsets = [0] * len(groups)
    for chunk, start in zip(chunks, begins, strict=False):
        found, ids, texts = chunk.values.read(0, PARTITIONS)
        bounds, read = chunk.values.bounds, []
        for number, group in enumerate(groups):
            assert group.path is not None
            size = int(bounds[group.stop] - bounds[group.first])
            read.append(np.fromfile(group.path, np.int64, size, offset=offsets[number]))
            offsets[number] += 8 * size
        order = np.argsort(ids)
        places, values, keys = np.concatenate(read)[order], found[order], Keys(dataset.fields)
        if texts is not None:
            keys.take(found, texts)
        is_new = places == np.arange(start, start + len(places))
        marks.add(start, is_new)
        new_ids = marks.before(places)
        first = 0
        for block, count in zip(chunk.read(), chunk.new, strict=True):
            here = slice(first, first + count)
            vocabulary = keys.vocabulary(values[here][is_new[here]])
            assert isinstance(block.ids, np.ndarray)  # fields of several values are read by one worker, without chunks
            yield replace(block, ids=new_ids[block.ids], vocabulary=vocabulary)
            first += count
        chunk.remove()
