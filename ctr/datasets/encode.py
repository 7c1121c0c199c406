"""Values -> ids: exact one-hot in order of first appearance, or hashed into a fixed number of buckets.

A value of a field is one 64-bit key: the field's number in the high 8 bits, the value below (blank is a value of its
own). Integers are their own key; strings get the running number of their first appearance in the field.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ctr.datasets.hashing import splitmix64
from ctr.datasets.multi import lengths_of
from ctr.datasets.ragged import Ids, Ragged, alike, flat, side_by_side
from ctr.datasets.schema import Field
from ctr.errors import CtrError
from ctr.native.keys import NativeKeyIndex
from ctr.native.library import available

FIELD_BITS = 8
VALUE_BITS = 64 - FIELD_BITS
BLANK = np.uint64(1 << (VALUE_BITS - 1))
MAX_IDS = np.iinfo(np.int32).max
TOO_MANY = f"more than {MAX_IDS:,} distinct features; use dataset.encoding=hash"
VALUE_MASK = np.uint64((1 << VALUE_BITS) - 1)
UNKNOWN = (1 << VALUE_BITS) - 1  # of a text: more than any running number


class KeyIndex:
    """A growing exact map from uint64 keys to 0, 1, 2, ... in order of first appearance.

    Open addressing with linear probing, in whole-array steps: all keys of a call are probed together, so that a
    lookup costs tens of nanoseconds without compiled code. 12 bytes a slot, at most half of the slots in use.
    """

    def __init__(self, capacity: int = 1 << 20) -> None:
        self._allocate(capacity)
        self.count = 0

    def _allocate(self, capacity: int) -> None:
        self._keys = np.zeros(capacity, np.uint64)
        self._ids = np.full(capacity, -1, np.int32)  # -1: the slot is free
        self._shift = np.uint64(65 - capacity.bit_length())
        self._mask = capacity - 1

    def ids(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Looks keys up, adding those not yet present.

        Args:
            keys: uint64 [n].

        Returns:
            int32 [n] ids, and the new keys in the order of their ids (uint64 [m]).
        """
        slots, missing = self._find(keys)
        if 2 * (self.count + len(missing)) > len(self._ids):  # an upper bound: new keys may repeat
            needed = self.count + np.unique(keys[missing]).size
            if 2 * needed > len(self._ids):
                self._grow(2 * needed)
                slots, missing = self._find(keys)
        return self._insert(keys, slots, missing)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """int32 [n] ids of keys (uint64 [n]), -1 for those that are not there; adds none."""
        slots, _ = self._find(keys)
        return self._ids[slots]

    def _home(self, keys: np.ndarray) -> np.ndarray:
        # Fibonacci hashing of the mixed key: neighbouring values must not share a neighbourhood.
        return (splitmix64(keys) >> self._shift).astype(np.int64)

    def _find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The slot of each key, or the free slot that ends its probe; and the positions of the absent keys."""
        slots = self._home(keys)
        missing = []
        active = np.arange(len(keys))
        while active.size:
            at = slots[active]
            free = self._ids[at] < 0
            hit = ~free & (self._keys[at] == keys[active])
            missing.append(active[free])
            active = active[~(free | hit)]
            slots[active] = (slots[active] + 1) & self._mask
        return slots, np.concatenate(missing) if missing else active

    def _insert(self, keys: np.ndarray, slots: np.ndarray, missing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        missing = np.sort(missing)
        pending = missing
        claimed = []
        while pending.size:
            at = slots[pending]
            free = self._ids[at] < 0
            # Several keys may want one free slot. The earliest writes last, so it wins; its duplicates match it.
            first = pending[free][::-1]
            self._keys[slots[first]] = keys[first]
            won = self._keys[at] == keys[pending]
            self._ids[at[won & free]] = 0
            claimed.append(pending[won & free])
            pending = pending[~won]
            slots[pending] = (slots[pending] + 1) & self._mask
        if claimed:
            # Ids follow the first appearance in ``keys``: the earliest of the positions that share a slot.
            candidates = np.sort(np.concatenate(claimed))
            _, first = np.unique(slots[candidates], return_index=True)
            winners = np.sort(candidates[first])
            if self.count + len(winners) > MAX_IDS:
                raise CtrError(TOO_MANY)
            self._ids[slots[winners]] = np.arange(self.count, self.count + len(winners), dtype=np.int32)
            self.count += len(winners)
            new = keys[winners]
        else:
            new = keys[:0]
        return self._ids[slots], new

    def _grow(self, slots_needed: int) -> None:
        used = self._ids >= 0
        keys, ids = self._keys[used], self._ids[used]
        self._allocate(1 << (slots_needed - 1).bit_length())
        pending = np.arange(len(keys))
        slots = self._home(keys)
        while pending.size:
            at = slots[pending]
            free = self._ids[at] < 0
            self._keys[at[free]] = keys[pending[free]]
            won = free & (self._keys[at] == keys[pending])
            self._ids[at[won]] = ids[pending[won]]
            pending = pending[~won]
            slots[pending] = (slots[pending] + 1) & self._mask


def key_index(capacity: int = 1 << 20) -> KeyIndex | NativeKeyIndex:
    """The compiled index, or where that is not built this module's own: they give the same ids.

    Args:
        capacity: slots to begin with, a power of two; half of them can be in use before it grows.
    """
    return NativeKeyIndex(capacity) if available() else KeyIndex(capacity)


class Keys:
    """Turns typed columns into keys, and keys back into text for the vocabulary.

    Args:
        fields: the categorical columns.
        stable: keys of strings are hashes (the same in every log) instead of running numbers (exact).
    """

    def __init__(self, fields: Sequence[Field], stable: bool = False) -> None:
        if len(fields) > 1 << FIELD_BITS:
            raise CtrError(f"{len(fields)} categorical fields; at most {1 << FIELD_BITS} are supported")
        self.fields, self.stable = fields, stable
        self._codes: list[dict[str, int]] = [{} for _ in fields]
        self._texts: list[list[str]] = [[] for _ in fields]

    def of(self, columns: Sequence[pa.Array], first: int = 0, *, grow: bool = True) -> Ids:
        """uint64 [n, len(columns)] keys of one array per field, from field ``first`` on; ragged if one is of lists.

        Args:
            columns: as a reader yields them.
            first: number of the first column's field.
            grow: give a text that is new the next number; else all of them share a key that no known one has, and
                nothing is kept of them.
        """
        if any(isinstance(values, pa.ListArray) for values in columns):
            return side_by_side([self._of_lists(first + place, values, grow) for place, values in enumerate(columns)])
        keys = np.empty((len(columns[0]), len(columns)), np.uint64)
        for place, values in enumerate(columns):
            keys[:, place] = self.of_field(first + place, values, grow=grow)
        return keys

    def _of_lists(self, field: int, values: pa.Array, grow: bool) -> Ids:
        if not isinstance(values, pa.ListArray):
            return self.of_field(field, values, grow=grow)[:, None]
        offsets = np.concatenate([[0], np.cumsum(lengths_of(values))])
        return Ragged(self.of_field(field, values.flatten(), grow=grow), offsets, 1)

    def of_field(self, field: int, values: pa.Array, *, grow: bool = True) -> np.ndarray:
        """uint64 [n] keys of one field's values; see `of`."""
        is_text = self.fields[field].kind == "text"
        numbers = self._text_codes(field, values, grow) if is_text else _integers(values)
        return numbers | np.uint64(field << VALUE_BITS)

    def _text_codes(self, field: int, values: pa.Array, grow: bool) -> np.ndarray:
        codes, texts = self._codes[field], self._texts[field]
        encoded = values.dictionary_encode()
        code_of = np.empty(len(encoded.dictionary) + 1, np.uint64)
        code_of[-1] = BLANK
        for position, text in enumerate(encoded.dictionary.to_pylist()):
            if self.stable:
                code_of[position] = _text_hash(text)
                continue
            if not grow:
                code_of[position] = codes.get(text, UNKNOWN)
                continue
            code = codes.setdefault(text, len(texts))
            if code == len(texts):
                texts.append(text)
            code_of[position] = code
        return code_of[encoded.indices.fill_null(len(code_of) - 1).to_numpy()]

    def take(self, keys: np.ndarray, texts: pa.Array) -> None:
        """Takes over the texts of keys that another object of this class made, so that `vocabulary` has them.

        Args:
            keys: uint64 [n], all that were made.
            texts: of each key; null where it is of no text.
        """
        present = texts.is_valid().to_numpy(zero_copy_only=False)
        fields = (keys >> np.uint64(VALUE_BITS)).astype(np.int64)
        for field in np.unique(fields[present]).tolist():
            places = np.flatnonzero(present & (fields == field))
            ordered = np.empty(len(places), object)
            ordered[keys[places] & VALUE_MASK] = texts.take(pa.array(places)).to_pylist()
            self._texts[field] = ordered.tolist()

    @property
    def num_texts(self) -> int:
        """How many texts it keeps."""
        return sum(map(len, self._texts))

    def vocabulary(self, keys: np.ndarray) -> pa.RecordBatch:
        """The (field, value) of each key as text; the value is null for blank. Not for stable keys."""
        numbers = (keys >> np.uint64(VALUE_BITS)).astype(np.int64)
        values = keys & VALUE_MASK
        order = np.argsort(numbers, kind="stable")
        present = np.unique(numbers)
        bounds = np.searchsorted(numbers[order], [*present, len(self.fields)])
        shown = [
            self._shown(number, values[order[start:stop]])
            for number, start, stop in zip(present, bounds, bounds[1:], strict=False)
        ]
        place = np.empty(len(keys), np.int64)
        place[order] = np.arange(len(keys))
        texts = pa.concat_arrays([pa.array([], pa.string()), *shown]).take(pa.array(place))
        return pa.record_batch(
            {
                "field": pa.array(numbers, pa.uint8()),
                "value": pc.if_else(pa.array(values == BLANK), pa.scalar(None, pa.string()), texts),
            }
        )

    def _shown(self, field: int, values: np.ndarray) -> pa.Array:
        kind = self.fields[field].kind
        if kind == "hex32":
            digits = values.astype(">u4").tobytes().hex().encode()
            offsets = np.arange(0, len(digits) + 1, 8, dtype=np.int32)
            return pa.Array.from_buffers(pa.string(), len(values), [None, pa.py_buffer(offsets), pa.py_buffer(digits)])
        if kind == "integer":
            return pc.cast(pa.array(_signed(values)), pa.string())
        texts = self._texts[field]
        return pa.array(["" if code == BLANK else texts[code] for code in values], pa.string())


def _text_hash(text: str) -> int:
    """55 bits that depend on the text alone."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> (FIELD_BITS + 1)


def _integers(values: pa.Array) -> np.ndarray:
    """Integers as the low bits of a key, uint64 [n]; negative ones wrap within the value bits."""
    filled = values.fill_null(0) if values.null_count else values
    if values.type == pa.uint32():
        filled = filled.to_numpy().astype(np.int64)
    else:
        filled = pc.cast(filled, pa.int64()).to_numpy()
        if len(filled) and (filled.min() < -(1 << (VALUE_BITS - 2)) or filled.max() >= 1 << (VALUE_BITS - 2)):
            raise CtrError(f"an integer category is beyond {VALUE_BITS - 1} bits")
    numbers = filled.view(np.uint64) & (BLANK - np.uint64(1))
    if values.null_count:
        numbers[values.is_null().to_numpy(zero_copy_only=False)] = BLANK
    return numbers


def _signed(values: np.ndarray) -> np.ndarray:
    shift = np.int64(FIELD_BITS + 1)
    return (values << np.uint64(shift)).view(np.int64) >> shift


def hash_ids(keys: np.ndarray, num_buckets: int) -> np.ndarray:
    """int32 buckets of keys (uint64): splitmix64 of the value, salted by the hash of its field.

    The same value in two fields falls into unrelated buckets. The result depends on nothing but the key and
    ``num_buckets``: models and logs hashed years apart fit together.
    """
    salt = splitmix64((keys >> np.uint64(VALUE_BITS)) + np.uint64(1))
    return (splitmix64((keys & VALUE_MASK) ^ salt) % np.uint64(num_buckets)).astype(np.int32)


class Encoder:
    """Ids for the rows of one log, block by block.

    Args:
        fields: the categorical columns.
        num_buckets: None for exact one-hot ids in order of first appearance, one id space over all fields; else the
            number of buckets that all fields are hashed into together.
        count_hit: keep which buckets are hit, a byte for each, for `collision_rate`.

    Attributes:
        index: all distinct (field, value) pairs seen, which also counts the collisions of a hashed encoding.
        values_per_field: int64 [F], distinct values seen in each field.
    """

    def __init__(self, fields: Sequence[Field], num_buckets: int | None = None, *, count_hit: bool = True) -> None:
        if num_buckets is not None and not 1 <= num_buckets <= MAX_IDS:
            raise CtrError(f"dataset.num_buckets={num_buckets}; expected 1 to {MAX_IDS:,}")
        self.num_buckets = num_buckets
        self.keys = Keys(fields, stable=num_buckets is not None)
        self.index = key_index()
        self.values_per_field = np.zeros(len(fields), np.int64)
        self._known = 0
        self._hit = np.zeros(num_buckets if num_buckets and count_hit else 0, bool)

    def go_on_from(self, values_per_field: np.ndarray, hit: np.ndarray) -> None:
        """Counts values that were seen elsewhere, and that will not be encoded here: the next ids follow theirs.

        Args:
            values_per_field: int64 [F], distinct values of each field.
            hit: int32 [m], buckets that they are in.

        Raises:
            CtrError: more values than there are ids.
        """
        self._known = int(values_per_field.sum())
        self.values_per_field += values_per_field
        self._hit[hit] = True
        self._expect_ids()

    def _expect_ids(self) -> None:
        if self._known + self.index.count > MAX_IDS and self.num_buckets is None:
            raise CtrError(TOO_MANY)

    def encode(self, columns: Sequence[pa.Array], first: int = 0) -> tuple[Ids, np.ndarray]:
        """int32 [n, len(columns)] ids of one array per field, from field ``first`` on (ragged if one is of lists), and
        the keys (uint64 [m]) seen for the first time, in order."""
        keys = self.keys.of(columns, first)
        ids, new = self.index.ids(flat(keys))
        numbers = (new >> np.uint64(VALUE_BITS)).astype(np.int64)
        self.values_per_field += np.bincount(numbers, minlength=len(self.values_per_field))
        if self.num_buckets is None:
            self._expect_ids()
            return alike(keys, ids + np.int32(self._known) if self._known else ids), new
        if len(self._hit):
            self._hit[hash_ids(new, self.num_buckets)] = True
        return alike(keys, hash_ids(flat(keys), self.num_buckets)), new

    @property
    def num_features(self) -> int:
        """Rows that an embedding table for these ids needs."""
        return self._known + self.index.count if self.num_buckets is None else self.num_buckets

    @property
    def collision_rate(self) -> float:
        """Share of the distinct values that found their bucket taken: 1 - buckets hit / distinct values."""
        values = self._known + self.index.count
        if self.num_buckets is None or values == 0:
            return 0.0
        return 1.0 - int(self._hit.sum()) / values
