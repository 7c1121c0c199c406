"""From values to the rows of a saved model: through the same index as in training, which here takes up nothing new."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ctr.artifact.format import Manifest, SavedField
from ctr.datasets.encode import Keys, hash_ids, key_index
from ctr.datasets.hashing import splitmix64
from ctr.datasets.schema import Field
from ctr.datasets.vocabulary import keys_of, typed
from ctr.errors import CtrError

_SALTS = np.uint64(0x6A09E667F3BCC908), np.uint64(0xBB67AE8584CAA73B)  # fractions of the roots of 2 and 3


def typed_columns(fields: Sequence[Field | SavedField], texts: Sequence[Sequence[str | None]]) -> list[pa.Array]:
    """`typed` for each field."""
    return [typed(field.kind, pa.array(column, pa.string())) for field, column in zip(fields, texts, strict=True)]


def hidden(keys: np.ndarray) -> np.ndarray:
    """uint64 hashes of stable keys: the exclusive or of two mixes, either of which alone could be inverted."""
    first, second = (splitmix64(keys ^ salt) for salt in _SALTS)
    return first ^ second


class Lookup:
    """Row numbers of values: 1 and up for those of the vocabulary, 0 for all others.

    Args:
        manifest: says how values become keys.
        vocabulary: as in `ctr.artifact.format.Contents`.

    Raises:
        CtrError: a value of the vocabulary is none of its field's, or there twice.
    """

    def __init__(self, manifest: Manifest, vocabulary: pa.Table) -> None:
        self._buckets, self._hashed = manifest.num_buckets, manifest.keys == "hash"
        self._keys = Keys(manifest.typed_fields, stable=self._buckets is not None or self._hashed)
        rows = vocabulary.num_rows
        self._index = key_index(1 << max((2 * rows - 1).bit_length(), 4))
        values = vocabulary["value"].combine_chunks()
        if pa.types.is_integer(values.type):
            keys = values.to_numpy()
        else:
            keys = keys_of(self._keys, vocabulary["field"].to_numpy(), values)
        ids, _ = self._index.ids(keys)
        if not np.array_equal(ids, np.arange(rows, dtype=np.int32)):
            raise CtrError("a value is there twice")

    def keys(self, columns: Sequence[pa.Array], first: int = 0) -> np.ndarray:
        """uint64 [n, len(columns)] keys of one array per field, from field ``first`` on."""
        keys = self._keys.of(columns, first, grow=False)
        if self._buckets is not None:
            return hash_ids(keys, self._buckets).astype(np.uint64)
        return hidden(keys) if self._hashed else keys

    def rows(self, columns: Sequence[pa.Array], first: int = 0) -> np.ndarray:
        """int32 [n, len(columns)] row numbers of one array per field, from field ``first`` on."""
        keys = self.keys(columns, first)
        found = self._index.find(keys.ravel()).reshape(keys.shape)
        found += 1
        return found
