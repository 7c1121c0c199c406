"""Ids against a dictionary and against splitmix64 written out."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctr.datasets.encode import Encoder, KeyIndex, Keys, hash_ids
from ctr.datasets.schema import Field
from ctr.errors import CtrError

FIELDS = [Field("a", "integer"), Field("b", "text"), Field("c", "hex32")]
ROWS = st.lists(
    st.tuples(
        st.none() | st.integers(-3, 3) | st.integers(-(2**53), 2**53),
        st.none() | st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=2),
        st.none() | st.integers(0, 3) | st.integers(0, 2**32 - 1),
    ),
    min_size=1,
    max_size=30,
)


def arrow(rows: list[tuple[int | None, str | None, int | None]]) -> list[pa.Array]:
    a, b, c = zip(*rows, strict=True)
    return [pa.array(a, pa.int64()), pa.array(b, pa.string()), pa.array(c, pa.uint32())]


@given(st.lists(ROWS, min_size=1, max_size=4))
def test_onehot_equals_a_dictionary(blocks: list[list[tuple[int | None, str | None, int | None]]]) -> None:
    """Exact ids in order of first appearance, row by row, one id space; the vocabulary leads back."""
    encoder = Encoder(FIELDS)
    known: dict[tuple[int, object], int] = {}
    vocabulary = []
    for rows in blocks:
        ids, new = encoder.encode(arrow(rows))
        assert ids.dtype == np.int32
        assert ids.tolist() == [[known.setdefault((f, v), len(known)) for f, v in enumerate(row)] for row in rows]
        vocabulary += encoder.keys.vocabulary(new).to_pylist()
    shown = [lambda v: str(v), lambda v: v, lambda v: f"{v:08x}"]
    assert vocabulary == [{"field": f, "value": None if v is None else shown[f](v)} for f, v in known]
    assert encoder.num_features == len(known)
    assert encoder.values_per_field.tolist() == [sum(f == field for f, _ in known) for field in range(3)]


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 200), st.integers(1, 60))
def test_key_index_while_it_grows(seed: int, calls: int, distinct: int) -> None:
    draw = np.random.default_rng(seed)
    pool = draw.integers(0, 2**64, distinct, dtype=np.uint64)
    pool[0] = 0  # the value that free slots hold
    index = KeyIndex(capacity=4)
    known: dict[int, int] = {}
    for _ in range(calls // 10 + 1):
        keys = draw.choice(pool, draw.integers(0, 40))
        ids, new = index.ids(keys)
        before = len(known)
        assert ids.tolist() == [known.setdefault(int(key), len(known)) for key in keys]
        assert new.tolist() == list(known)[before:]
    assert index.count == len(known)


def test_key_index_with_many_keys() -> None:
    keys = np.random.default_rng(0).permutation(np.arange(300_000, dtype=np.uint64).repeat(2))
    ids, new = KeyIndex().ids(keys)
    _, first = np.unique(keys, return_index=True)
    np.testing.assert_array_equal(new, keys[np.sort(first)])
    np.testing.assert_array_equal(new[ids], keys)


def splitmix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def test_hashed_ids_are_what_they_have_always_been() -> None:
    """Salted splitmix64 of the value alone, whatever else is in the log: written out in plain integers."""
    values = [None, 0, 1, 0xFFFFFFFF, 0x1E501234]
    fields = [Field("a", "hex32"), Field("b", "hex32")]
    encoder = Encoder(fields, num_buckets=1000)
    ids, _ = encoder.encode([pa.array(values, pa.uint32()), pa.array(values[::-1], pa.uint32())])
    blank = 1 << 55
    expected = [
        [splitmix((blank if v is None else v) ^ splitmix(field + 1)) % 1000 for field, v in enumerate(pair)]
        for pair in zip(values, values[::-1], strict=True)
    ]
    assert ids.tolist() == expected
    assert encoder.num_features == 1000


def test_hashed_text_does_not_depend_on_the_log() -> None:
    field = [Field("a", "text")]
    one, _ = Encoder(field, 10**6).encode([pa.array(["x", "y", None])])
    other, _ = Encoder(field, 10**6).encode([pa.array([None, "z", "y", "x"])])
    assert one[:, 0].tolist() == [other[3, 0], other[2, 0], other[0, 0]]


def test_collisions_are_counted() -> None:
    values = np.arange(1000, dtype=np.uint32)
    encoder = Encoder([Field("a", "hex32")], num_buckets=300)
    ids, _ = encoder.encode([pa.array(values)])
    encoder.encode([pa.array(values)])  # seen before: no new collisions
    assert encoder.collision_rate == pytest.approx(1 - len(set(ids[:, 0].tolist())) / 1000)
    assert encoder.values_per_field.tolist() == [1000]


def test_same_value_in_two_fields() -> None:
    keys = np.array([[5, 5 | 1 << 56]], np.uint64)
    assert len(np.unique(hash_ids(keys, 2**31 - 1))) == 2


@pytest.mark.parametrize("num_buckets", [0, -1, 2**31])
def test_number_of_buckets_is_checked(num_buckets: int) -> None:
    with pytest.raises(CtrError, match="num_buckets"):
        Encoder(FIELDS, num_buckets)


def test_integers_too_large_for_a_key() -> None:
    with pytest.raises(CtrError, match="beyond 55 bits"):
        Encoder([Field("a", "integer")]).encode([pa.array([2**54])])


def test_known_keys_are_found_and_texts_that_are_not_known_leave_nothing() -> None:
    fields = [Field("a", "text"), Field("b", "integer")]
    keys, index = Keys(fields), KeyIndex()
    ids, _ = index.ids(keys.of([pa.array(["x", "y", None]), pa.array([1, None, 3])]).ravel())
    assert ids.tolist() == [0, 1, 2, 3, 4, 5]
    for _ in range(2):
        asked = keys.of([pa.array(["new", "y", None, "x"]), pa.array([3, 1, None, 2])], grow=False)
        assert index.find(asked.ravel()).tolist() == [-1, 5, 2, 1, 4, 3, 0, -1]
    assert keys.of([pa.array(["z"]), pa.array([1])])[0, 0] == 2  # the next number
