"""The compiled key index against the numpy one."""

import numpy as np
import pytest

from ctr.datasets.encode import KeyIndex
from ctr.native.keys import NativeKeyIndex, count_ids, mark_ids
from tests.native.built import needs_kernels

pytestmark = needs_kernels


@pytest.mark.parametrize("spread", [3, 1000, 2**63])
@pytest.mark.parametrize("capacity", [1, 16, 1 << 20])
def test_equals_the_numpy_index(spread, capacity):
    rng = np.random.default_rng(0)
    ours, theirs = NativeKeyIndex(capacity), KeyIndex(max(capacity, 2))
    for size in (0, 1, 1000, 50_000, 7):
        keys = rng.integers(0, spread, size, dtype=np.uint64)
        for mine, other in zip(ours.ids(keys), theirs.ids(keys), strict=True):
            np.testing.assert_array_equal(mine, other)
            assert mine.dtype == other.dtype
        assert ours.count == theirs.count
        some = rng.integers(0, spread, size, dtype=np.uint64)
        known = dict(zip(keys.tolist(), ours.ids(keys)[0].tolist(), strict=True))
        for index in (ours, theirs):
            before = index.count
            found = index.find(some)
            assert found.dtype == np.int32
            np.testing.assert_array_equal(index.ids(some[found >= 0])[0], found[found >= 0])
            assert all(key not in known for key in some[found < 0].tolist())
            assert index.count == before


def test_extreme_keys_and_repeats():
    keys = np.array([0, 2**64 - 1, 0, 1, 2**64 - 1], np.uint64)
    ids, new = NativeKeyIndex().ids(keys)
    assert ids.tolist() == [0, 1, 0, 2, 1]
    assert new.tolist() == [0, 2**64 - 1, 1]


def test_ids_are_marked(monkeypatch):
    ids = np.random.default_rng(0).integers(0, 90, (40, 3), dtype=np.int64)[:, ::2]
    expected = [id in ids or id == 95 for id in range(100)]
    for compiled in (True, False):
        marked = np.zeros(100, bool)
        marked[95] = True
        if not compiled:
            monkeypatch.setattr("ctr.native.keys.available", lambda: False)
        mark_ids(ids, marked)
        assert marked.tolist() == expected


def test_ids_are_counted_by_their_place(monkeypatch):
    rng = np.random.default_rng(0)
    places = rng.integers(0, 7, 50, dtype=np.int32)
    ids = rng.integers(0, 50, (40, 3), dtype=np.int32)[:, ::2]
    expected = [sum(places[id] == place for id in ids.ravel()) for place in range(7)]
    for compiled in (True, False):
        totals = np.ones(7, np.int64)
        if not compiled:
            monkeypatch.setattr("ctr.native.keys.available", lambda: False)
        count_ids(ids, places, totals)
        assert totals.tolist() == [count + 1 for count in expected]
