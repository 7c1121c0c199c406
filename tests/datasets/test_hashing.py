"""splitmix64 against its published outputs and against a plain re-computation with Python's integers."""

import numpy as np
import pytest

from ctr.datasets.hashing import GAMMA, splitmix64

# Outputs of the reference splitmix64.c seeded with 1234567, the vectors that most implementations test
# against.
PUBLISHED = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]


def plain_splitmix64(x: int) -> int:
    mask = 2**64 - 1
    z = (x + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_published_vectors() -> None:
    states = np.array([(1234567 + i * GAMMA) % 2**64 for i in range(5)], dtype=np.uint64)
    assert splitmix64(states).tolist() == PUBLISHED


def test_equals_plain_integers_and_leaves_its_input_alone() -> None:
    values = [0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1, *range(10, 1000, 37)]
    x = np.array(values, dtype=np.uint64)
    assert splitmix64(x).tolist() == [plain_splitmix64(v) for v in values]
    assert x.tolist() == values


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64])
def test_negative_integers_count_modulo_2_to_the_64(dtype: type) -> None:
    assert splitmix64(np.array([-1, -7], dtype=dtype)).tolist() == [
        plain_splitmix64(2**64 - 1),
        plain_splitmix64(2**64 - 7),
    ]


def test_any_shape() -> None:
    square = np.arange(6, dtype=np.uint64).reshape(2, 3)
    assert splitmix64(square).tolist() == [[plain_splitmix64(3 * i + j) for j in range(3)] for i in range(2)]
    assert splitmix64(square[:, ::2]).tolist() == [[plain_splitmix64(3 * i + j) for j in (0, 2)] for i in range(2)]
    assert splitmix64(np.uint64(5)).shape == ()
    assert int(splitmix64(np.uint64(5))) == plain_splitmix64(5)
    assert splitmix64(np.empty((0, 4), dtype=np.int64)).shape == (0, 4)
