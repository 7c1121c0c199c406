"""From values to the rows of a saved model: through the same index as in training, which here takes up nothing new."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ctr.artifact.format import Contents, SavedField
from ctr.datasets.encode import Keys, hash_ids, key_index
from ctr.datasets.hashing import splitmix64
from ctr.datasets.ragged import Ids, alike, by_field, flat
from ctr.datasets.schema import Field
from ctr.datasets.vocabulary import keys_of, typed
from ctr.errors import CtrError

_SALTS = np.uint64(0x6A09E667F3BCC908), np.uint64(0xBB67AE8584CAA73B)  # fractions of the roots of 2 and 3


def typed_columns(fields: Sequence[Field | SavedField], texts: Sequence[Sequence[Any]]) -> list[pa.Array]:
    """`typed` for each field; of lists of texts where a field is multi-valued."""
    return [
        pa.array(column, pa.list_(pa.string()))
        if isinstance(field, Field) and field.multi
        else typed(field.kind, pa.array(column, pa.string()))
        for field, column in zip(fields, texts, strict=True)
    ]


def hidden(keys: np.ndarray) -> np.ndarray:
    """uint64 hashes of stable keys: the exclusive or of two mixes, either of which alone could be inverted."""
    first, second = (splitmix64(keys ^ salt) for salt in _SALTS)
    return first ^ second


class Lookup:
    """Row numbers of values: 1 and up for those of the vocabulary, 0 for all others, or what `Others` says.

    Args:
        contents: of the saved model.

    Attributes:
        own: int32 [F], the row number of each field's own row, 0 where there is none.
        default: int32 [F], that of a value of which nothing is known.

    Raises:
        CtrError: a value of the vocabulary is none of its field's, or there twice.
    """

    def __init__(self, contents: Contents) -> None:
        manifest, vocabulary, others = contents.manifest, contents.vocabulary, contents.others
        self._buckets, self._hashed = manifest.num_buckets, manifest.keys == "hash"
        self._keys = Keys(manifest.typed_fields, stable=self._buckets is not None or self._hashed)
        tables = [vocabulary] if others is None else [vocabulary, others]
        total = sum(table.num_rows for table in tables)
        self._index = key_index(1 << max((2 * total - 1).bit_length(), 4))
        ids, _ = self._index.ids(np.concatenate([self._keys_in(table) for table in tables]))
        if not np.array_equal(ids, np.arange(total, dtype=np.int32)):
            raise CtrError("a value is there twice")
        self.own, self.default = np.zeros((2, len(manifest.fields)), np.int32)
        self._reads: np.ndarray | None = None  # int32 [total + 1]: the row number of each, behind that of no value
        if manifest.others is not None and others is not None:
            self.own = np.array(manifest.others.rows, np.int32)
            read = self.own[others["field"].to_numpy()]
            if manifest.others.unseen == "row":
                self.default, read = self.own, np.zeros_like(read)
            self._reads = np.concatenate([np.arange(vocabulary.num_rows + 1, dtype=np.int32), read])

    def _keys_in(self, table: pa.Table) -> np.ndarray:
        """uint64 keys of the values of a table."""
        values = table["value"].combine_chunks()
        if pa.types.is_integer(values.type):
            return values.to_numpy()
        return keys_of(self._keys, table["field"].to_numpy(), values)

    def keys(self, columns: Sequence[pa.Array], first: int = 0) -> Ids:
        """uint64 [n, len(columns)] keys of one array per field, from field ``first`` on; ragged if one is of lists."""
        keys = self._keys.of(columns, first, grow=False)
        if self._buckets is not None:
            return alike(keys, hash_ids(flat(keys), self._buckets).astype(np.uint64))
        return alike(keys, hidden(flat(keys))) if self._hashed else keys

    def rows(self, columns: Sequence[pa.Array], first: int = 0) -> Ids:
        """int32 [n, len(columns)] row numbers of one array per field, from field ``first`` on; ragged as `keys`."""
        keys = self.keys(columns, first)
        found = self._index.find(flat(keys))
        found += 1
        if self._reads is not None:
            default = by_field(keys, self.default[first : first + len(columns)])
            found = np.where(found == 0, default, self._reads[found])
        return alike(keys, found)
