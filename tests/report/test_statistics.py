"""Intervals and p-values against scipy, values worked out by hand, and simulations with a known truth."""

import math

import numpy as np
import pytest
from scipy import stats

from ctr.metrics import auc_blocks, exact_auc
from ctr.report.statistics import compare, holm, summary, ties

NAN = math.nan


def test_without_rows_it_is_the_paired_t_test() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(0.75, 1e-3, 6), generator.normal(0.751, 3e-3, 6)
    got, expected = compare(a, b), stats.ttest_rel(a, b)
    assert got.p == pytest.approx(expected.pvalue, rel=1e-8)
    assert (got.low, got.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert got.difference == pytest.approx(a.mean() - b.mean())
    # Rows without number: they add nothing.
    rowless = [np.column_stack([of, np.zeros((6, 4))]) for of in (a, b)]
    assert compare(*rowless).p == pytest.approx(expected.pvalue, rel=1e-8)


@pytest.mark.parametrize("seeds", [1, 2, 3, 4])
def test_fewer_than_five_seeds_have_no_p_value(seeds: int) -> None:
    generator = np.random.default_rng(1)
    a, b = generator.normal(size=(2, seeds, 1 + 10))
    got = compare(a, b)
    assert math.isnan(got.p)
    assert got.low < got.difference < got.high


def test_seeds_and_rows_by_hand() -> None:
    """Two blocks. Differences 1, 2, 3, 4, 5: s2 / n = 2.5 / 5 = .5. Contributions +-c of the blocks with c = 1 but for
    1.5 and .5: at the mean +-1, V = 2 (1 + 1) = 4. Deviations .5 and -.5: J = (2 (.25 + .25) x 2) / 4 = .5, J / n = .1.
    """
    c = np.array([1.0, 1.5, 0.5, 1.0, 1.0])
    a = np.column_stack([[1.0, 2.0, 3.0, 4.0, 5.0], c, -c])
    got = compare(a, np.zeros_like(a))
    variance = 0.5 + 4 - 0.1
    freedom = variance**2 / (0.5**2 / 4 + 4**2 / 1 + 0.1**2 / 4)
    reach = stats.t.ppf(0.975, freedom) * math.sqrt(variance)
    assert (got.low, got.high) == pytest.approx((3 - reach, 3 + reach))
    assert got.p == pytest.approx(2 * stats.t.sf(3 / math.sqrt(variance), freedom))


def test_one_seed_has_an_interval_of_the_rows_alone() -> None:
    a = np.array([[0.7, 0.01, -0.02, 0.01]])
    error = math.sqrt(3 / 2 * 0.0006)
    got = compare(a, np.zeros_like(a))
    assert got.high - got.difference == pytest.approx(stats.t.ppf(0.975, 2) * error)
    assert math.isnan(compare([0.7], [0.8]).low)


def test_more_seeds_do_not_take_away_the_rows() -> None:
    """The rows' share is the same in all seeds; that of noise of single runs falls with their number."""
    rows = np.random.default_rng(2).normal(0, 1e-4, 100)
    rows -= rows.mean()
    generator = np.random.default_rng(3)

    def half(seeds: int, noise: float) -> float:
        own = generator.normal(0, noise, (seeds, 100))
        a = np.column_stack([generator.normal(0, 1e-6, seeds), rows + own - own.mean(axis=1, keepdims=True)])
        got = compare(a, np.zeros_like(a))
        return got.high - got.difference

    alone = stats.t.ppf(0.975, 99) * math.sqrt(100 / 99 * (rows @ rows))
    assert half(5, 0) == pytest.approx(alone, rel=0.01)
    assert half(200, 0) == pytest.approx(alone, rel=0.01)
    assert half(400, 3e-4) == pytest.approx(alone, rel=0.05)


def test_intervals_over_seeds_and_rows_hold_the_truth_as_often_as_they_say() -> None:
    """Seeds, rows and both have effects; an interval over seeds alone misses the rows' part and is far too short."""
    generator, blocks, seeds = np.random.default_rng(4), 100, 5
    both = alone = 0
    for _ in range(600):
        rows = generator.normal(0, 0.1, blocks)  # in sum a standard deviation of 1
        own = rows + generator.normal(0, 0.07, (seeds, blocks))
        a = np.column_stack(
            [3 + generator.normal(0, 1, seeds) + own.sum(axis=1), own - own.mean(axis=1, keepdims=True)]
        )
        whole, of_seeds = compare(a, np.zeros_like(a)), compare(a[:, 0], np.zeros(seeds))
        both += whole.low < 3 < whole.high
        alone += of_seeds.low < 3 < of_seeds.high
    assert 0.92 < both / 600 < 0.98
    assert alone / 600 < 0.8


def test_the_interval_of_a_difference_of_aucs_holds_the_truth() -> None:
    """Scores of two models on the same rows, correlated .8; positives are 1.0 and 0.9 standard deviations higher."""
    generator, n, held = np.random.default_rng(5), 800, 0
    truth = stats.norm.cdf(1 / math.sqrt(2)) - stats.norm.cdf(0.9 / math.sqrt(2))
    for _ in range(150):
        labels = generator.random(n) < 0.3
        scores = generator.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], n) + np.outer(labels, [1, 0.9])
        a, b = ([[exact_auc(of, labels), *auc_blocks(of, labels)]] for of in scores.T)
        got = compare(np.array(a), np.array(b))
        held += got.low < truth < got.high
    assert 0.89 < held / 150 < 0.99


def test_rows_that_are_not_known_leave_no_interval() -> None:
    a, b = np.full((5, 4), NAN), np.zeros((5, 4))
    a[:, 0] = [1.0, 2.0, 3.0, 4.0, 6.0]
    got = compare(a, b)
    assert got.difference == pytest.approx(3.2)
    assert all(map(math.isnan, (got.low, got.high, got.p)))


def test_a_missing_run_is_left_out_and_its_pair_with_it() -> None:
    """Seed 1 is far above the others: with it in one of the two only, the difference would be that of seeds."""
    got = compare([0.70, NAN, 0.71, 0.8], [0.69, 0.80, 0.70, NAN])
    assert got.difference == pytest.approx(0.01)
    assert got.pairs == 2
    assert summary([1.0, NAN, 3.0]).n == 2


@pytest.mark.parametrize(
    ("a", "b"), [([], []), ([NAN, NAN], [0.7, 0.8]), ([1.0] * 5, [1.0] * 5), ([0.1] * 5, [0.7] * 5)]
)
def test_what_cannot_be_tested_is_nan(a: list[float], b: list[float]) -> None:
    assert math.isnan(compare(a, b).p)


def test_differences_that_are_the_same_but_for_rounding_have_no_p_value() -> None:
    a = [0.7, 0.71, 0.73, 0.74, 0.76]
    got = compare([x + 0.1 for x in a], a)
    assert math.isnan(got.p)
    assert got.low == got.high == got.difference


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"shape \(2,\) and \(1,\)"):
        compare([1.0, 2.0], [1.0])


def test_holm_by_hand() -> None:
    # Holm (1979) on four: .005 x 4, .01 x 3, .03 x 2, .04 x 1, raised to the one before; NaN is not in the family.
    assert holm([0.01, 0.04, NAN, 0.03, 0.005]) == pytest.approx([0.03, 0.06, NAN, 0.06, 0.02], nan_ok=True)
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_ties_are_those_that_the_interval_cannot_tell_apart() -> None:
    noise = np.array([0.0, 0.001, -0.001, 0.0005, -0.0005])
    values = {"a": 0.75 + noise, "b": 0.7499 - noise, "c": 0.74 + noise / 2, "none": np.full(5, NAN)}
    assert ties(values, "a") == ("b",)
    assert ties(values, None) == ()


def test_spread_of_one_and_of_none() -> None:
    assert math.isnan(summary([0.5]).std)
    assert summary([0.5]).mean == 0.5
    assert math.isnan(summary([]).mean)
    assert summary([3.0, 5.0, 7.0]).standard_error == pytest.approx(2 / math.sqrt(3))
