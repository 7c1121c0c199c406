"""Mean and spread over seeds; differences with the uncertainty of seeds and of test rows in one interval; Holm.

A missing figure is NaN and is left out. A result that cannot be computed is NaN, without a warning: the spread of one
value, the interval of one value without rows, the p-value of values that do not vary at all (rates of exactly 1, say).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy.special import stdtr, stdtrit

LEVEL = 0.95  # of every interval
LEAST_SEEDS = 5  # for a p-value

# Figures by seed: [seeds]; or [seeds, 1 + B], each with the contributions of B blocks of test rows to its sampling
# error (`ctr.metrics.auc_blocks`). The same seed and the same block are at the same place in all that are compared.
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
    """a against b, on the pairs that have both: the difference of the means, its 95 % interval from ``low`` to
    ``high``, and its two-sided p-value (NaN for fewer than `LEAST_SEEDS` pairs)."""

    difference: float
    low: float
    high: float
    p: float
    pairs: int


def summary(values: Values) -> Summary:
    """Of [seeds] values."""
    array = np.asarray(values, dtype=float)
    known = array[~np.isnan(array)]
    mean = float(known.mean()) if len(known) else math.nan
    return Summary(mean, math.sqrt(_variance(known)), len(known))


def best(means: Mapping[Key, Summary]) -> Key | None:
    """The key with the highest mean, of those with the most values (a failed run must not help); None without any."""
    most = max((mean.n for mean in means.values()), default=0)
    return max((key for key in means if means[key].n == most), key=lambda key: means[key].mean) if most else None


def ties(values: Mapping[Key, Values], chosen: Key | None) -> tuple[Key, ...]:
    """The other keys whose mean cannot be told from that of the chosen one: the interval of the difference holds 0, or
    is not known. Those that lack a seed of the chosen one are left out, as `best` does."""
    if chosen is None:
        return ()
    tests = {key: compare(values[chosen], of) for key, of in values.items()}
    most = tests.pop(chosen).pairs
    return tuple(key for key, test in tests.items() if test.pairs == most and not (test.low > 0 or test.high < 0))


def compare(a: Values, b: Values) -> Comparison:
    """The difference of two means of paired values, and how sure it is, by seeds and test rows together.

    The differences d of n seeds, all on the same test rows, are taken as two-way random effects: the true difference,
    plus an effect of the rows that all seeds share (variance R), one of the seed (S), and one of both (I). The variance
    of the mean of d is R + S / n + I / n: more seeds do not make R smaller. Estimated are

    * S + I by s2, the variance of d over the seeds;
    * R + I / n by V = B / (B - 1) x the sum of squares of the blocks' contributions, averaged over the seeds;
    * I by J, 1 / (n - 1) x the sum over the seeds of the same of their deviations from that average.

    s2 / n + V counts I / n twice; the variance is s2 / n + V - J / n, but not less than s2 / n or V alone. Student's t
    gives interval and p-value, with Satterthwaite's degrees of freedom (those of s2: n - 1; of V: B - 1; of J:
    (n - 1)(B - 1)), which are at least n - 1 or B - 1. Without rows this is the paired t-test. One seed says nothing
    about seeds: its interval is of the rows alone.

    Assumed are independent seeds, blocks that are independent of each other, about normal means, and test rows like
    those that the difference is to hold for. A seed that one of the two lacks counts in neither: seeds differ by more
    than methods do.

    Sources: rows, DeLong et al. (`ctr.metrics.auc_blocks`); rows and seeds as crossed random effects, Owen, "The
    pigeonhole bootstrap", Annals of Applied Statistics 1 (2007); degrees of freedom, Satterthwaite, Biometrics
    Bulletin 2 (1946).

    Args:
        a, b: `Values`; NaN where a run is missing.

    Raises:
        ValueError: the shapes differ.
    """
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if x.shape != y.shape:
        raise ValueError(f"values of shape {x.shape} and {y.shape}; expected one for each seed in both")
    x, y = (of[:, None] if of.ndim == 1 else of for of in (x, y))
    both = ~(np.isnan(x[:, 0]) | np.isnan(y[:, 0]))
    x, y = x[both], y[both]
    if not len(x):
        return Comparison(math.nan, math.nan, math.nan, math.nan, 0)
    difference = float((x[:, 0] - y[:, 0]).mean())
    # The scale of x and y: equal differences vary only by rounding.
    over_seeds = _variance(x[:, 0] - y[:, 0], scale=float(np.abs([x[:, 0], y[:, 0]]).max())) / len(x)
    variance, freedom = _combined(over_seeds, (x - y)[:, 1:])
    error = math.sqrt(variance)
    reach = 0.0 if error == 0 else float(stdtrit(freedom, (1 + LEVEL) / 2)) * error
    tested = len(x) >= LEAST_SEEDS and error > 0
    p = float(2 * stdtr(freedom, -abs(difference) / error)) if tested else math.nan
    return Comparison(difference, difference - reach, difference + reach, p, len(x))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values of one family; those that are NaN count as not tested and stay NaN.

    The k-th smallest of m is multiplied by m - k + 1; none is smaller than one before it, or larger than 1. Below .05
    they are together wrong with a probability of at most .05, however they depend on each other.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6
    (1979).
    """
    adjusted, least = [math.nan] * len(p_values), 0.0
    known = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    for k, (p, place) in enumerate(known):
        least = max(least, min(1.0, p * (len(known) - k)))
        adjusted[place] = least
    return adjusted


def _combined(over_seeds: float, contributions: np.ndarray) -> tuple[float, float]:
    """The variance of a mean difference, and its degrees of freedom; see `compare`.

    Args:
        over_seeds: s2 / n; NaN for one seed.
        contributions: float [seeds, B] of the differences, B = 0 where there is no uncertainty over rows.
    """
    n, blocks = contributions.shape
    if blocks == 0:
        return over_seeds, n - 1
    mean = contributions.mean(axis=0)
    over_rows = _of_blocks(mean)
    if n == 1:
        return over_rows, blocks - 1
    joint = sum(map(_of_blocks, contributions - mean)) / (n - 1) / n
    variance = max(over_seeds + over_rows - joint, over_seeds, over_rows)
    if not variance > 0:
        return variance, n - 1
    spread = (over_seeds**2 + joint**2 / (blocks - 1)) / (n - 1) + over_rows**2 / (blocks - 1)
    return variance, max(variance**2 / spread, min(n, blocks) - 1)


def _of_blocks(contributions: np.ndarray) -> float:
    return len(contributions) / (len(contributions) - 1) * float(contributions @ contributions)


def _variance(values: np.ndarray, scale: float | None = None) -> float:
    """With n - 1; 0 where the values differ by no more than rounding, NaN for fewer than two."""
    if len(values) < 2:
        return math.nan
    spread, largest = float(np.ptp(values)), float(np.abs(values).max()) if scale is None else scale
    return 0.0 if spread <= 1e-14 * len(values) * largest else float(values.var(ddof=1))
