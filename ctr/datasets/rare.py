"""Rare values: those that training rows hold fewer than k times share one row per field.

They are counted in the rows that a run trains on, without those that it holds out, and get their ids when the rows are
read: the prepared rows serve every k. That takes 13 bytes of memory for each value of the log, and one look-up per id.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa

from ctr.datasets.prepared import VOCABULARY_SCHEMA, Prepared
from ctr.datasets.rows import MappedRows
from ctr.datasets.split import occurrences
from ctr.datasets.vocabulary import REST, Batches, batches, filtered, is_rest

Unseen = Literal["zero", "row", "init"]


@dataclass(frozen=True)
class Gathered(Prepared):
    """Rows in which rare values have the id of their field's own row.

    Ids of values with a row of their own keep their order. Behind them are the own rows, in order of the fields; their
    value in the vocabulary is `REST`. Those of a known model are where they were.

    Attributes:
        log: the same rows with an id for each value: N of them.
        places: int32 [N], the id here of each of the log's.
        own: int32 [F], the id of each field's own row; -1: it needs none.
        seen: bool [N], which values training sees, that of earlier logs included.
        min_count, unseen: see `gather`.
    """

    log: Prepared
    places: np.ndarray
    own: np.ndarray
    seen: np.ndarray
    min_count: int
    unseen: Unseen

    @property
    def rare(self) -> np.ndarray:
        """bool [N]: which of the log's values read their field's own row."""
        return self.places == self.own[fields_of(self.log)]


def gather(data: Prepared, min_count: int, unseen: Unseen, trained: np.ndarray | None = None) -> Prepared:
    """Rows in which rare values have the id of their field's own row; the same rows where min_count is 1.

    Args:
        data: one-hot rows.
        min_count: a value that training rows hold at least once, but fewer than ``min_count`` times, is rare.
        unseen: ``"row"``: so is one that does not occur there. Else it keeps an id, which training never touches.
        trained: bool [K], of which of the first K features a known model has trained the row: none of them is rare.
            All K keep their ids.
    """
    if min_count == 1:
        return data
    counts = occurrences(data.rows, data.split.train, data.manifest.num_features)
    known = np.zeros(0, bool) if trained is None else trained
    seen = counts > 0
    seen[: len(known)] |= known
    fields, owned = fields_of(data), own_rows(data)
    rare = counts < min_count
    rare[: len(known)] &= ~known
    rare &= ~owned
    if unseen != "row":
        rare &= seen
    keep = ~rare
    keep[: len(known)] = True
    own = np.full(len(data.manifest.fields), -1, np.int32)
    own[fields[owned]] = np.flatnonzero(owned)
    new = np.setdiff1d(fields[rare], fields[owned])
    own[new] = int(keep.sum()) + np.arange(len(new))
    places = np.cumsum(keep, dtype=np.int32) - np.int32(1)
    places[rare] = own[fields[rare]]
    per_field = np.bincount(fields[keep], minlength=len(own))
    per_field[new] += 1
    touched = np.zeros(per_field.sum(), bool)
    touched[places[counts > 0]] = True
    assert data.vocabulary is not None
    return Gathered(
        folder=data.folder,
        dataset=data.dataset,
        manifest=replace(data.manifest, num_features=len(touched), values_per_field=per_field.tolist()),
        split=replace(data.split, features_train=int(touched.sum())),
        rows=MappedRows(data.rows, places),
        vocabulary=Batches([*batches(filtered(data.vocabulary, keep)), rest_of(new)]),
        reused=data.reused,
        log=data,
        places=places,
        own=own,
        seen=seen,
        min_count=min_count,
        unseen=unseen,
    )


def log_of(data: Prepared) -> Prepared:
    """The rows with an id for each value."""
    return data.log if isinstance(data, Gathered) else data


def fields_of(data: Prepared) -> np.ndarray:
    """uint8 [N], the field of each feature."""
    assert data.vocabulary is not None, "hashed ids have no vocabulary"
    return np.concatenate([batch["field"].to_numpy() for batch in batches(data.vocabulary)])


def own_rows(data: Prepared) -> np.ndarray:
    """bool [N], which features are a field's own row: those of a known model may be."""
    assert data.vocabulary is not None
    return np.concatenate([is_rest(batch["value"]) for batch in batches(data.vocabulary)])


def rest_of(fields: np.ndarray) -> pa.RecordBatch:
    """The entries of a vocabulary for the own rows of some fields, by their numbers."""
    columns = [pa.array(fields, pa.uint8()), pa.array([REST] * len(fields), pa.string())]
    return pa.record_batch(columns, schema=VOCABULARY_SCHEMA)
