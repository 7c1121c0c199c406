"""The matrix products of the compiled step: both ways of multiplying, at the sizes and zeros that layers have."""

from __future__ import annotations

import numpy as np
import pytest

from ctr.native.library import loaded
from tests.native.built import needs_kernels

pytestmark = needs_kernels

SHAPES = [
    (1, 1, 1),
    (5, 17, 3),
    (12, 64, 16),
    (256, 280, 512),
    (100, 77, 130),
    (13, 33, 129),
    (7, 96, 256),
    (512, 31, 40),
]


def product(a: np.ndarray, b: np.ndarray, *, transposed: bool, lists: bool) -> np.ndarray:
    """A B in float32, A handed over as it is or as its transpose."""
    (m, k), n = a.shape, b.shape[1]
    c = np.full((m, n), np.nan, np.float32)
    left = np.ascontiguousarray(a.T if transposed else a)
    loaded().ctr_product(m, n, k, left.ctypes.data, transposed, b.ctypes.data, lists, c.ctypes.data)
    return c


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("density", [0.0, 0.25, 0.6, 1.0])
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
def test_lists_of_what_is_not_zero_give_the_same_bits(m: int, n: int, k: int, density: float, transposed: bool) -> None:
    rng = np.random.default_rng(m * n * k)
    a = (rng.normal(size=(m, k)) * (rng.random((m, k)) < density)).astype(np.float32)
    a[a == 0] *= -1  # -0
    b = rng.normal(size=(k, n)).astype(np.float32)
    dense = product(a, b, transposed=transposed, lists=False)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    bound = np.abs(a).astype(np.float64) @ np.abs(b).astype(np.float64) * k * np.finfo(np.float32).eps
    assert (np.abs(dense - exact) <= bound).all()
    by_lists = product(a, b, transposed=transposed, lists=True)
    np.testing.assert_array_equal(by_lists.view(np.int32), dense.view(np.int32))
