"""A log's features under the ids of a known vocabulary: known values keep their ids, new ones get the next.

Prepared rows do not depend on a model: their ids are the log's own, in order of first appearance. The map from these
ids to the model's costs four bytes a feature, and one look-up per id when a batch is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ctr.datasets.columns import HEX32
from ctr.datasets.encode import BLANK, VALUE_BITS, Keys, key_index
from ctr.datasets.prepared import Prepared, Vocabulary
from ctr.datasets.rows import MappedRows
from ctr.datasets.schema import Field, Kind
from ctr.errors import CtrError

REST = "\0"  # in place of a value: its row is the field's own (`ctr.datasets.rare`). No reader yields it.
REST_KEY = BLANK | np.uint64(1)  # below the field's number; no value has it


class Batches:
    """A vocabulary in memory, or memory-mapped, as record batches."""

    def __init__(self, batches: Sequence[pa.RecordBatch]) -> None:
        self._batches = list(batches)

    def __len__(self) -> int:
        return len(self._batches)

    def batch(self, number: int) -> pa.RecordBatch:
        return self._batches[number]


def batches(vocabulary: Vocabulary) -> Iterator[pa.RecordBatch]:
    return (vocabulary.batch(number) for number in range(len(vocabulary)))


def filtered(vocabulary: Vocabulary, keep: np.ndarray) -> Batches:
    """The features with ``keep``, bool [N], in the same order."""
    found, start = [], 0
    for batch in batches(vocabulary):
        found.append(batch.filter(pa.array(keep[start : start + len(batch)])))
        start += len(batch)
    return Batches(found)


def under(known: Vocabulary, fields: Sequence[Field], data: Prepared) -> Prepared:
    """One-hot rows with the ids of a known vocabulary.

    Args:
        known: columns field (number) and value (text; null: blank), one row per id.
        fields: the categorical columns of the rows.
        data: the rows, with ids of their own.

    Returns:
        The rows with other ids, whose vocabulary is the known one and behind it the new values in order of first
        appearance.

    Raises:
        CtrError: the known vocabulary holds a value twice, or one that is none of its field.
    """
    assert data.vocabulary is not None, "hashed ids have no vocabulary"
    keys, index = Keys(fields), key_index()
    found, places = [], []
    for batch in batches(known):
        _, new = index.ids(keys_of(keys, batch["field"].to_numpy(), batch["value"]))
        if len(new) != len(batch):
            raise CtrError("the known vocabulary holds a value twice")
        found.append(batch)
    count = index.count
    for batch in batches(data.vocabulary):
        ids, _ = index.ids(keys_of(keys, batch["field"].to_numpy(), batch["value"]))
        found.append(batch.filter(pa.array(ids >= count)))
        places.append(ids)
    per_field = np.sum([np.bincount(batch["field"].to_numpy(), minlength=len(fields)) for batch in found], axis=0)
    manifest = replace(data.manifest, num_features=index.count, values_per_field=per_field.tolist())
    rows = MappedRows(data.rows, np.concatenate(places))
    return replace(data, manifest=manifest, rows=rows, vocabulary=Batches(found))


def keys_of(keys: Keys, fields: np.ndarray, values: pa.Array) -> np.ndarray:
    """uint64 [n] keys of values as text, null for blank, each of its field: the inverse of `Keys.vocabulary`.

    `REST` has a key too, another one in each field.

    Raises:
        CtrError: a field that is not there, or a value that is none of its field.
    """
    found = fields.astype(np.uint64) << np.uint64(VALUE_BITS) | REST_KEY
    of_log = ~is_rest(values)
    for number in np.unique(fields).tolist():
        if number >= len(keys.fields):
            raise CtrError(f"a value of field number {number}; there are {len(keys.fields)}")
        field, places = keys.fields[number], np.flatnonzero((fields == number) & of_log)
        try:
            found[places] = keys.of_field(number, typed(field.kind, values.take(pa.array(places))))
        except ValueError as error:
            expected = {"hex32": "8 hexadecimal digits", "integer": "an integer", "text": "text"}[field.kind]
            raise CtrError(f"a value of field {field.name} is not {expected}: {error}") from None
    return found


def is_rest(values: pa.Array) -> np.ndarray:
    """bool [n]: which entries of a vocabulary are a field's own row."""
    return pc.equal(values, REST).fill_null(False).to_numpy(zero_copy_only=False)


def typed(kind: Kind, texts: pa.Array) -> pa.Array:
    """Values of a field as a reader yields them, from their text in a vocabulary.

    Raises:
        ValueError (Arrow's errors are some): a text that is none of the kind.
    """
    if kind == "hex32":
        return HEX32.parse(pc.cast(texts, pa.binary()))
    return pc.cast(texts, pa.int64()) if kind == "integer" else texts
