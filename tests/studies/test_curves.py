import math
from collections.abc import Sequence

import numpy as np
import pytest

from ctr.studies.curves import auc_at

NAN = math.nan


def read(rate: float, rates: Sequence[float], aucs: Sequence[float]) -> float:
    """The AUC; what the test rows contribute, here twice the AUC, is read in the same way."""
    auc, twice = auc_at(rate, rates, np.array([[auc, 2 * auc] for auc in aucs]).reshape(-1, 2))
    assert twice == pytest.approx(2 * auc, nan_ok=True)
    return float(auc)


def test_linear_in_the_logarithm_of_the_rate() -> None:
    rates, aucs = [0.1, 0.001, 0.01], [0.75, 0.70, 0.72]
    assert read(math.sqrt(0.1 * 0.01), rates, aucs) == pytest.approx(0.735)
    assert read(0.001 * 10**0.25, rates, aucs) == pytest.approx(0.705)
    assert read(0.01, rates, aucs) == pytest.approx(0.72)


def test_nothing_is_extrapolated() -> None:
    for rate in (0.2, 0.0009, 0.0, NAN):
        assert math.isnan(read(rate, [0.1, 0.001], [0.75, 0.70]))


def test_points_without_rate_or_auc_are_left_out_and_equal_rates_averaged() -> None:
    rates, aucs = [0.0, 0.01, 0.05, 0.1, 0.1, NAN], [0.5, 0.72, NAN, 0.74, 0.76, 0.9]
    assert read(math.sqrt(0.01 * 0.1), rates, aucs) == pytest.approx(0.735)
    assert read(0.1, [0.1], [0.75]) == 0.75
    assert math.isnan(read(0.1, [], []))
