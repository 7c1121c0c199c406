"""Ids of rows in which a field may have several: ``[n, F]`` lists of numbers, in place of a matrix.

A log without multi-valued fields never gets here: its ids are int32 arrays ``[n, F]``. The functions take both.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Ragged:
    """Lists of numbers, F to a row; none is empty.

    Attributes:
        values: [V], those of the first list of the first row, of the second list, ...
        offsets: int [n F + 1], where each list begins in them, and V.
        num_fields: F.
    """

    values: np.ndarray
    offsets: np.ndarray
    num_fields: int

    @classmethod
    def of(cls, lists: Sequence[Sequence[Sequence[int]]]) -> Ragged:
        """Of nested lists [n][F], n at least 1."""
        lengths = [len(one) for row in lists for one in row]
        values = np.array([value for row in lists for one in row for value in one], np.int32)
        return cls(values, np.cumsum([0, *lengths]), len(lists[0]))

    def __len__(self) -> int:
        return (len(self.offsets) - 1) // self.num_fields

    def __getitem__(self, rows: slice) -> Ragged:
        """Consecutive rows; their values are not copied."""
        start, stop, _ = rows.indices(len(self))
        offsets = self.offsets[start * self.num_fields : max(start, stop) * self.num_fields + 1]
        return Ragged(self.values[offsets[0] : offsets[-1]], offsets - offsets[0], self.num_fields)

    @property
    def lengths(self) -> np.ndarray:
        """int [n, F], how many numbers each list has."""
        return np.diff(self.offsets).reshape(-1, self.num_fields)

    @property
    def fields(self) -> np.ndarray:
        """int64 [V], the place of each value's list in its row."""
        lengths = self.lengths
        return np.repeat(np.tile(np.arange(self.num_fields), len(lengths)), lengths.ravel())

    def take(self, rows: np.ndarray) -> Ragged:
        """The rows of these numbers, int [m], in this order."""
        lengths = self.lengths[rows].ravel()
        starts = self.offsets[:-1].reshape(-1, self.num_fields)[rows].ravel()
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        places = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Ragged(self.values[places], offsets, self.num_fields)

    def means(self, values: np.ndarray) -> np.ndarray:
        """float64 [n, F], the mean in each list of something that there is of each value, [V]."""
        return np.add.reduceat(values.astype(np.float64), self.offsets[:-1]).reshape(-1, self.num_fields) / self.lengths

    def tolist(self) -> list[list[list[int]]]:
        """Nested lists [n][F]."""
        lists = [self.values[start:stop].tolist() for start, stop in itertools.pairwise(self.offsets)]
        return [lists[at : at + self.num_fields] for at in range(0, len(lists), self.num_fields)]


Ids = np.ndarray | Ragged


def flat(ids: Ids) -> np.ndarray:
    """[V], all numbers, row by row; without a copy where they lie so."""
    return ids.values if isinstance(ids, Ragged) else ids.ravel()


def alike(ids: Ids, values: np.ndarray) -> Ids:
    """Other numbers, [V], in the same rows and fields."""
    return replace(ids, values=values) if isinstance(ids, Ragged) else values.reshape(ids.shape)


def mapped(ids: Ids, places: np.ndarray) -> Ids:
    """``places[ids]``."""
    return replace(ids, values=places[ids.values]) if isinstance(ids, Ragged) else places[ids]


def by_field(ids: Ids, of_field: np.ndarray) -> np.ndarray:
    """What there is of each field, [F], beside each of the numbers: [V]."""
    return of_field[ids.fields] if isinstance(ids, Ragged) else np.broadcast_to(of_field, ids.shape).ravel()


def joined(parts: Sequence[Any]) -> Any:
    """Rows one after the other; `np.concatenate` for arrays of any kind."""
    lists = [part for part in parts if isinstance(part, Ragged)]
    if not lists:
        return np.concatenate(parts)
    ends = np.cumsum([0, *(len(part.values) for part in lists)])
    offsets = [part.offsets[:-1] + end for part, end in zip(lists, ends, strict=False)]
    values = np.concatenate([part.values for part in lists])
    return Ragged(values, np.concatenate([*offsets, ends[-1:]]), lists[0].num_fields)


def side_by_side(parts: Sequence[Ids]) -> Ids:
    """The fields of some parts beside each other, all of the same n rows: `np.concatenate` along fields for arrays."""
    if not any(isinstance(part, Ragged) for part in parts):
        return np.concatenate(parts, axis=1)  # type: ignore[arg-type]
    lists = [part if isinstance(part, Ragged) else _single(part) for part in parts]
    lengths = np.concatenate([part.lengths for part in lists], axis=1)
    offsets = np.concatenate([[0], np.cumsum(lengths.ravel())])
    starts = offsets[:-1].reshape(lengths.shape)
    values, field = np.empty(offsets[-1], lists[0].values.dtype), 0
    for part in lists:
        shift = starts[:, field : field + part.num_fields].ravel() - part.offsets[:-1]
        values[np.repeat(shift, part.lengths.ravel()) + np.arange(len(part.values))] = part.values
        field += part.num_fields
    return Ragged(values, offsets, field)


def _single(ids: np.ndarray) -> Ragged:
    return Ragged(ids.ravel(), np.arange(ids.size + 1), ids.shape[1])
