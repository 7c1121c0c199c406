"""Mean, spread and t-tests of a figure over seeds.

A missing figure is NaN and is left out. A result that cannot be computed is NaN, without a warning: the spread of one
value, a test with fewer than two values, a test of values that do not vary at all (rates of exactly 1, say).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy.special import stdtr

Values = Sequence[float] | np.ndarray
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation (n - 1) of n values."""

    mean: float
    std: float
    n: int

    @property
    def standard_error(self) -> float:
        """Of the mean; NaN for fewer than two values."""
        return self.std / math.sqrt(self.n) if self.n else math.nan


@dataclass(frozen=True)
class Comparison:
    """a against b, on the pairs that have both: difference of the means, and two-sided p-values."""

    difference: float
    student: float
    welch: float
    paired: float
    pairs: int


def summary(values: Values) -> Summary:
    known = _known(values)
    mean = float(known.mean()) if len(known) else math.nan
    return Summary(mean, math.sqrt(_variance(known)), len(known))


def best(means: Mapping[Key, Summary]) -> Key | None:
    """The key with the highest mean, of those with the most values (a failed run must not help); None without any."""
    most = max((mean.n for mean in means.values()), default=0)
    return max((key for key in means if means[key].n == most), key=lambda key: means[key].mean) if most else None


def compare(a: Values, b: Values) -> Comparison:
    """Tests whether a and b have one mean.

    Where one of the two is missing for a seed, that seed counts in neither: seeds differ by more than methods do.

    Args:
        a, b: [seeds], the same seed at the same place in both; NaN where a run is missing.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} values; expected one for each seed in both")
    x, y = _pairs(a, b)
    return Comparison(summary(x).mean - summary(y).mean, student(x, y), welch(x, y), paired(x, y), len(x))


def student(a: Values, b: Values) -> float:
    """p-value of Student's t-test: assumes equal variances (the paper's test)."""
    x, y = _known(a), _known(b)
    if len(x) < 2 or len(y) < 2:
        return math.nan
    freedom = len(x) + len(y) - 2
    pooled = ((len(x) - 1) * _variance(x) + (len(y) - 1) * _variance(y)) / freedom
    return _p_value(x.mean() - y.mean(), pooled * (1 / len(x) + 1 / len(y)), freedom)


def welch(a: Values, b: Values) -> float:
    """p-value of Welch's t-test: variances may differ."""
    x, y = _known(a), _known(b)
    if len(x) < 2 or len(y) < 2:
        return math.nan
    of_x, of_y = _variance(x) / len(x), _variance(y) / len(y)
    if of_x + of_y == 0:
        return math.nan
    freedom = (of_x + of_y) ** 2 / (of_x**2 / (len(x) - 1) + of_y**2 / (len(y) - 1))
    return _p_value(x.mean() - y.mean(), of_x + of_y, freedom)


def paired(a: Values, b: Values) -> float:
    """p-value of the t-test on the differences seed by seed; seeds with only one of the two are left out."""
    x, y = _pairs(a, b)
    if len(x) < 2:
        return math.nan
    # The scale of x and y: equal differences vary only by rounding.
    variance = _variance(x - y, scale=float(np.abs([x, y]).max()))
    return _p_value(float((x - y).mean()), variance / len(x), len(x) - 1)


def _p_value(difference: float, squared_error: float, freedom: float) -> float:
    if squared_error == 0:
        return math.nan
    return float(2 * stdtr(freedom, -abs(difference) / math.sqrt(squared_error)))


def _variance(values: np.ndarray, scale: float | None = None) -> float:
    """With n - 1; 0 where the values differ by no more than rounding, NaN for fewer than two."""
    if len(values) < 2:
        return math.nan
    spread, largest = float(np.ptp(values)), float(np.abs(values).max()) if scale is None else scale
    return 0.0 if spread <= 1e-14 * len(values) * largest else float(values.var(ddof=1))


def _pairs(a: Values, b: Values) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    both = ~(np.isnan(x) | np.isnan(y))
    return x[both], y[both]


def _known(values: Values) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    return array[~np.isnan(array)]
