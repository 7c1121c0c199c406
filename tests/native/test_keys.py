"""The compiled key index against the numpy one."""

import numpy as np
import pytest

from ctr.datasets.encode import KeyIndex
from ctr.native.keys import NativeKeyIndex
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


def test_extreme_keys_and_repeats():
    keys = np.array([0, 2**64 - 1, 0, 1, 2**64 - 1], np.uint64)
    ids, new = NativeKeyIndex().ids(keys)
    assert ids.tolist() == [0, 1, 0, 2, 1]
    assert new.tolist() == [0, 2**64 - 1, 1]
