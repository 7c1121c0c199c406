"""Admission in the stream: a value reads its field's row until training has seen it k times, then a row of its own.

It knows the rows so far alone, so that it serves logs that follow each other; counts of a whole log are those of
`ctr.datasets.rare`. Every field has a row, in front of its first log's values; every value has an id, whose row nobody
reads before the k-th occurrence. Ids and counts are thus as in one run over the logs, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from ctr.datasets.prepared import Prepared
from ctr.datasets.rare import Gathered, Unseen, fields_of, own_rows, rest_of
from ctr.datasets.rows import MappedRows
from ctr.datasets.split import occurrences
from ctr.datasets.vocabulary import Batches, batches
from ctr.errors import ArgumentError

MOST = 255  # of k: a byte counts


@dataclass(frozen=True)
class Admitted(Gathered):
    """Rows as they are read after training: a value that it has seen fewer than k times has its field's row.

    ``log`` has the ids that training counts: each value its own, in the same table. k is ``min_count``.

    Attributes:
        sighted: uint8 [N], how often earlier logs held each value, at most k - 1; k where they trained its row.
        held: int64 [F], how many occurrences in training rows read the field's row.
    """

    sighted: np.ndarray
    held: np.ndarray


def admit(
    data: Prepared, k: int, unseen: Unseen, counts: np.ndarray | None = None, trained: np.ndarray | None = None
) -> Admitted:
    """Rows in which a value has a row of its own from its k-th occurrence in training rows on.

    Args:
        data: one-hot rows.
        k: 2 to 255.
        unseen: what a value that no training row holds reads after training: ``"row"``: its field's row.
        counts: int64 [K], how often the first K features occurred in earlier logs.
        trained: bool [K], of which of them a known model has trained the row: they keep it, however rare they are.

    Raises:
        ArgumentError: a field has several values.
    """
    if data.dataset.pool is not None:
        raise ArgumentError(f"admit={k} is for logs whose fields have one value; dataset.min_count serves lists too")
    known = 0 if trained is None else len(trained)
    log = _with_own_rows(data, known)
    fields, owned, size = fields_of(log), own_rows(log), log.manifest.num_features
    sighted, learned = np.zeros(size, np.uint8), np.zeros(size, bool)
    if counts is not None and trained is not None:
        learned[:known] = trained
        sighted[:known] = np.where(trained, k, np.minimum(counts, k - 1))
    counted = occurrences(log.rows, log.split.train, size)
    rare = ~(owned | (sighted + counted >= k))
    seen = learned | (sighted > 0) | (counted > 0)
    if unseen != "row":
        rare &= seen
    own = np.flatnonzero(owned)[np.argsort(fields[owned])].astype(np.int32)
    places = np.where(rare, own[fields], np.arange(size, dtype=np.int32))
    held = _held(counted, sighted, rare, fields, k)
    touched = learned | (~rare & (counted > 0))
    touched[own[held > 0]] = True
    return Admitted(
        folder=log.folder,
        dataset=log.dataset,
        manifest=log.manifest,
        split=replace(log.split, features_train=int(touched.sum())),
        rows=MappedRows(log.rows, places),
        vocabulary=log.vocabulary,
        reused=log.reused,
        log=log,
        places=places,
        own=own,
        seen=seen,
        min_count=k,
        unseen=unseen,
        sighted=sighted,
        held=held,
    )


def row_counts(
    data: Prepared, ranges: Sequence[tuple[int, int]], on_rows: Callable[[int], object] = lambda rows: None
) -> np.ndarray:
    """How often each feature occurs in some rows at the beginning of the stream, int64 [N]; a field's row: how often it
    is read."""
    if not isinstance(data, Admitted):
        return occurrences(data.rows, ranges, data.manifest.num_features, on_rows=on_rows)
    counted = occurrences(data.log.rows, ranges, data.manifest.num_features, on_rows=on_rows)
    counted[data.own] = _held(counted, data.sighted, data.rare, fields_of(data.log), data.min_count)
    return counted


def _held(counted: np.ndarray, sighted: np.ndarray, rare: np.ndarray, fields: np.ndarray, k: int) -> np.ndarray:
    """int64 [F]: how many of the counted occurrences read their field's row."""
    before = np.maximum(k - 1 - sighted.astype(np.int64), 0)
    return np.bincount(fields, np.where(rare, counted, np.minimum(counted, before))).astype(np.int64)


def _with_own_rows(data: Prepared, known: int) -> Prepared:
    """The rows with a row for each field; new ones are behind the first ``known`` features, which have batches of their
    own in the vocabulary (`ctr.datasets.vocabulary.under`)."""
    manifest = data.manifest
    new = np.setdiff1d(np.arange(len(manifest.fields)), fields_of(data)[own_rows(data)])
    places = np.arange(manifest.num_features, dtype=np.int32)
    places[known:] += np.int32(len(new))
    assert data.vocabulary is not None
    parts: list[pa.RecordBatch] = list(batches(data.vocabulary))
    at = int(np.searchsorted(np.cumsum([0, *map(len, parts)]), known))
    per_field = np.array(manifest.values_per_field)
    per_field[new] += 1
    size = manifest.num_features + len(new)
    return replace(
        data,
        manifest=replace(manifest, num_features=size, values_per_field=per_field.tolist()),
        rows=MappedRows(data.rows, places),
        vocabulary=Batches([*parts[:at], rest_of(new), *parts[at:]]),
    )
