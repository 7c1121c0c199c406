"""p-values against scipy and against values worked out by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from ctr.report.statistics import compare, paired, student, summary, welch

NAN = math.nan


def test_against_scipy() -> None:
    generator = np.random.default_rng(0)
    for n in (2, 3, 5):
        a, b = generator.normal(0.75, 1e-3, n), generator.normal(0.751, 3e-3, n)
        assert student(a, b) == pytest.approx(stats.ttest_ind(a, b).pvalue, rel=1e-10)
        assert welch(a, b) == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue, rel=1e-10)
        assert paired(a, b) == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-8)


def test_by_hand() -> None:
    # Means 2 and 5, variances 1 and 4: t = -3 / sqrt(5 / 3) on 4 degrees of freedom, whose distribution has a closed
    # form: P(|T| > t) = 1 - (t / sqrt(4 + t^2)) (1 + 2 / (4 + t^2)).
    a, b = [1.0, 2.0, 3.0], [3.0, 5.0, 7.0]
    t = 3 / math.sqrt(5 / 3)
    expected = 1 - t / math.sqrt(4 + t * t) * (1 + 2 / (4 + t * t))
    assert student(a, b) == pytest.approx(expected, rel=1e-12)
    # Differences 2, 3, 4: t = 3 / sqrt(1 / 3) on 2 degrees of freedom, P = 1 - t / sqrt(2 + t^2).
    t = 3 / math.sqrt(1 / 3)
    assert paired(b, a) == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-12)
    assert compare(a, b).difference == -3
    assert summary(b).std == 2
    assert summary(b).standard_error == pytest.approx(2 / math.sqrt(3))


def test_a_missing_run_is_left_out_and_its_pair_with_it() -> None:
    a, b = [1.0, NAN, 3.0, 5.0], [2.0, 9.0, NAN, 8.0]
    assert summary(a).n == 3
    assert summary(a).mean == 3
    assert student(a, b) == pytest.approx(stats.ttest_ind([1, 3, 5], [2, 9, 8]).pvalue)
    assert compare(a, b).pairs == 2
    assert paired(a, b) == pytest.approx(stats.ttest_rel([1, 5], [2, 8]).pvalue)


@pytest.mark.parametrize(
    ("a", "b"),
    [([], []), ([0.7], [0.8]), ([NAN, NAN], [0.7, 0.8]), ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0]), ([0.1] * 3, [0.7] * 3)],
)
def test_what_cannot_be_tested_is_nan(a: list[float], b: list[float]) -> None:
    for test in (student, welch, paired):
        assert math.isnan(test(a, b))


def test_differences_that_are_the_same_but_for_rounding_have_no_p_value() -> None:
    a = [0.7, 0.71, 0.73]
    assert math.isnan(paired([x + 0.1 for x in a], a))
    assert not math.isnan(student([x + 0.1 for x in a], a))


def test_one_constant_side_is_enough_to_test() -> None:
    constant, rates = [1.0, 1.0, 1.0], [0.1, 0.2, 0.15]
    assert welch(constant, rates) == pytest.approx(stats.ttest_1samp(rates, 1.0).pvalue)


def test_spread_of_one_and_of_none() -> None:
    assert math.isnan(summary([0.5]).std)
    assert summary([0.5]).mean == 0.5
    assert math.isnan(summary([]).mean)


def test_lengths_must_agree() -> None:
    with pytest.raises(ValueError, match="2 and 1 values"):
        compare([1.0, 2.0], [1.0])


def test_a_comparison_never_mixes_seeds() -> None:
    """Seed 1 is far above the others: with it in one of the two only, the difference would be that of seeds."""
    test = compare([0.70, NAN, 0.71], [0.69, 0.80, 0.70])
    assert test.difference == pytest.approx(0.01)
    assert test.student == pytest.approx(stats.ttest_ind([0.70, 0.71], [0.69, 0.70]).pvalue)
    assert test.pairs == 2
