"""Measures against scikit-learn and small cases worked by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from ctr.metrics import (
    StreamingAUC,
    auc_blocks,
    auc_by_day,
    calibration,
    calibration_bins,
    exact_auc,
    feature_rate,
    logloss,
    nonzero_features,
    normalised_entropy,
    of_whole_log,
    weights_of_whole_log,
)

PAIRS = st.lists(st.tuples(st.sampled_from([-2.0, -0.5, 0.0, 0.25, 3.0]), st.integers(0, 1)), min_size=2)


@given(PAIRS)
def test_exact_auc_with_ties(pairs: list[tuple[float, int]]) -> None:
    scores, labels = (np.array(column) for column in zip(*pairs, strict=True))
    if len(set(labels.tolist())) == 1:
        assert math.isnan(exact_auc(scores, labels))
    else:
        assert exact_auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-15)


def test_exact_auc_on_many_rows() -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, 200_000)
    scores = (draw.normal(size=200_000) + 0.5 * labels).astype(np.float32)
    assert exact_auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_exact_auc_needs_no_order_and_no_type() -> None:
    scores = np.array([3, 1, 2, 2], np.int64)
    for dtype in (np.uint8, bool, np.float32):
        # Pairs: 3 > 1, 3 > 2, 2 > 1 and one tie of four.
        assert exact_auc(scores, np.array([1, 0, 1, 0], dtype)) == 3.5 / 4


def test_streaming_auc_is_close_to_exact_and_merges() -> None:
    draw = np.random.default_rng(1)
    labels = (draw.random(100_000) < 0.2).astype(np.float32)
    logits = (draw.normal(size=100_000) + labels).astype(np.float32)
    whole, one, two = StreamingAUC(), StreamingAUC(), StreamingAUC()
    whole.update(torch.from_numpy(logits), torch.from_numpy(labels))
    one.update(logits[:30_000], labels[:30_000])
    two.update(logits[30_000:], labels[30_000:])
    one.merge(two)
    assert whole.compute() == pytest.approx(roc_auc_score(labels, logits), abs=1e-7)
    assert one.compute() == whole.compute()
    other = StreamingAUC(bins=2)
    other.load_state_dict(whole.state_dict())
    assert other.compute() == whole.compute()


def test_streaming_auc_refuses_what_it_cannot_count() -> None:
    auc = StreamingAUC()
    assert math.isnan(auc.compute())
    with pytest.raises(ValueError, match="NaN"):
        auc.update(np.array([np.nan]), np.array([1]))
    with pytest.raises(ValueError, match="neither 0 nor 1"):
        auc.update(np.array([0.0]), np.array([2]))
    with pytest.raises(ValueError, match="same bins"):
        auc.merge(StreamingAUC(bins=4))


def test_logloss() -> None:
    draw = np.random.default_rng(2)
    logits = draw.normal(size=1000)
    labels = draw.integers(0, 2, 1000)
    assert logloss(logits, labels) == pytest.approx(log_loss(labels, 1 / (1 + np.exp(-logits))), rel=1e-12)
    assert logloss(np.array([1000.0, -1000.0]), np.array([0, 1])) == pytest.approx(1000.0)


def components(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """DeLong's, centred and over their class's number, from all pairs."""
    x, y = scores[labels == 1], scores[labels == 0]
    order = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    found = np.empty(len(scores))
    found[labels == 1] = (order.mean(axis=1) - order.mean()) / len(x)
    found[labels == 0] = (order.mean(axis=0) - order.mean()) / len(y)
    return found


@pytest.mark.parametrize("steps", [None, 6], ids=["few ties", "many ties"])
def test_blocks_of_an_auc_are_sums_of_delongs_components(steps: int | None) -> None:
    generator = np.random.default_rng(0)
    labels = (generator.random(900) < 0.2).astype(np.float32)
    scores = (generator.normal(size=900) + labels).astype(np.float32)
    scores = scores if steps is None else np.round(scores * steps) / steps
    expected = components(scores, labels)
    m, n = int(labels.sum()), int((1 - labels).sum())
    got = auc_blocks(scores, labels, blocks=900)
    assert got == pytest.approx(expected, abs=1.01 / (m * n)), "but for two pairs that share a bin"
    assert auc_blocks(scores, labels, blocks=7) == pytest.approx(
        [part.sum() for part in np.split(expected, [900 * b // 7 for b in range(1, 7)])], abs=3 / (m * n)
    )
    variance = expected[labels == 1].var(ddof=1) * m + expected[labels == 0].var(ddof=1) * n  # S10 / m + S01 / n
    assert got @ got == pytest.approx(variance, rel=0.01)


def test_variances_of_a_hundred_blocks_are_delongs_on_average() -> None:
    """Of the difference of two models on the same rows: 40 logs, each estimate with an error of 14 %."""
    generator, ratios = np.random.default_rng(1), []
    for _ in range(40):
        labels = (generator.random(1000) < 0.3).astype(np.float32)
        a = (generator.normal(size=1000) + labels).astype(np.float32)
        b = (a + generator.normal(size=1000)).astype(np.float32)
        exact = components(a, labels) - components(b, labels)
        grouped = auc_blocks(a, labels) - auc_blocks(b, labels)
        ratios.append(100 / 99 * (grouped @ grouped) / (exact @ exact))
    assert np.mean(ratios) == pytest.approx(1, abs=0.06)
    assert 0.6 < min(ratios) < max(ratios) < 1.6


@pytest.mark.parametrize("outliers", [(), (-1e30, 1e30)])
def test_scores_far_out_and_scores_that_are_all_the_same_have_blocks(outliers: tuple[float, ...]) -> None:
    labels = np.arange(500) % 3 == 0
    scores = np.zeros(500, np.float32)
    scores[: len(outliers)] = outliers
    with np.errstate(all="raise", under="ignore"):
        got = auc_blocks(scores, labels)
    assert got.sum() == pytest.approx(0, abs=1e-12)
    assert np.abs(got).max() < 0.01


def test_a_row_of_weight_k_contributes_what_k_rows_do() -> None:
    generator = np.random.default_rng(3)
    labels = generator.random(300) < 0.3
    scores = np.round(generator.normal(size=300) + labels, 1).astype(np.float32)
    times = generator.integers(0, 4, 300)
    got = auc_blocks(scores, labels, times, blocks=300)
    repeated = components(np.repeat(scores, times), np.repeat(labels, times))
    expected = [part.sum() for part in np.split(repeated, np.cumsum(times)[:-1])]
    assert got == pytest.approx(expected, abs=1e-12)
    assert np.isnan(auc_blocks(scores, labels, (~labels).astype(float))).all(), "no positive counts"


def test_rows_of_one_class_have_no_blocks() -> None:
    assert np.isnan(auc_blocks(np.zeros(5, np.float32), np.ones(5))).all()


def test_auc_by_day() -> None:
    """Days in any order, one without clicks."""
    draw = np.random.default_rng(3)
    days = draw.choice(np.array([20141030, 20141029, 20141028], np.int32), 3000)
    labels = np.where(days == 20141029, 0, draw.integers(0, 2, 3000)).astype(np.float32)
    scores = (draw.normal(size=3000) + labels).round(1).astype(np.float32)
    got = auc_by_day(scores, labels, days)
    assert list(got) == [20141028, 20141029, 20141030]
    assert math.isnan(got.pop(20141029))
    for day, auc in got.items():
        assert auc == pytest.approx(roc_auc_score(labels[days == day], scores[days == day]), abs=1e-14)


def test_calibration() -> None:
    # Probabilities 1/2, 1/4, 1/5, 9/10: 1.85 clicks predicted, 2 observed.
    logits = np.array([0.0, -math.log(3), -math.log(4), math.log(9)])
    assert calibration(logits, np.array([1, 0, 0, 1])) == pytest.approx(1.85 / 2, rel=1e-12)
    assert calibration(np.array([1000.0, -1000.0]), np.array([1, 0])) == 1.0
    assert math.isnan(calibration(logits, np.zeros(4)))


def test_normalised_entropy() -> None:
    # The click rate is 1/4: ln 4 / 4 + 3/4 ln(4/3). The predictions are 1/2 for all rows: the logloss is ln 2.
    labels = np.array([1, 0, 0, 0], np.float32)
    entropy = math.log(4) / 4 + 0.75 * math.log(4 / 3)
    assert normalised_entropy(np.zeros(4), labels) == pytest.approx(math.log(2) / entropy, rel=1e-12)
    assert normalised_entropy(np.full(4, -math.log(3)), labels) == pytest.approx(1.0, rel=1e-12)
    assert math.isnan(normalised_entropy(np.zeros(4), np.zeros(4)))
    draw = np.random.default_rng(4)
    labels = (draw.random(1000) < 0.1).astype(np.float32)
    logits = draw.normal(-2, 1, 1000).astype(np.float32)
    rate = np.full(1000, labels.mean(dtype=float))
    expected = log_loss(labels, 1 / (1 + np.exp(-logits.astype(float)))) / log_loss(labels, rate)
    assert normalised_entropy(logits, labels) == pytest.approx(expected, rel=1e-9)


def weighted_rows(n: int = 300, weights: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits with ties, labels, and whole weights of which some are 0."""
    draw = np.random.default_rng(5)
    labels = draw.integers(0, 2, n).astype(np.float32)
    return (draw.normal(size=n) + labels).round(1).astype(np.float32), labels, draw.integers(0, weights, n) * 1.0


def test_weighted_figures_are_those_of_pairs_and_sums() -> None:
    logits, labels, weights = weighted_rows()
    weights = weights * np.random.default_rng(6).random(len(weights))
    pairs = [
        (w * v, (z > x) + (z == x) / 2)
        for z, w in zip(logits[labels == 1], weights[labels == 1], strict=True)
        for x, v in zip(logits[labels == 0], weights[labels == 0], strict=True)
    ]
    expected = sum(weight * share for weight, share in pairs) / sum(weight for weight, _ in pairs)
    assert exact_auc(logits, labels, weights) == pytest.approx(expected, rel=1e-12)
    p = 1 / (1 + np.exp(-logits.astype(float)))
    assert logloss(logits, labels, weights) == pytest.approx(log_loss(labels, p, sample_weight=weights), rel=1e-12)
    clicks = weights @ labels
    assert calibration(logits, labels, weights) == pytest.approx(weights @ p / clicks, rel=1e-12)
    rate = np.full(len(p), clicks / weights.sum())
    assert normalised_entropy(logits, labels, weights) == pytest.approx(
        log_loss(labels, p, sample_weight=weights) / log_loss(labels, rate, sample_weight=weights), rel=1e-12
    )


def test_a_whole_weight_counts_as_so_many_rows() -> None:
    logits, labels, weights = weighted_rows()
    days = np.arange(len(labels)) // 100
    times = weights.astype(int)
    repeated = [np.repeat(column, times) for column in (logits, labels, days)]
    assert exact_auc(logits, labels, weights) == exact_auc(*repeated[:2])
    assert auc_by_day(logits, labels, days, weights) == auc_by_day(*repeated)
    for figure in (logloss, calibration, normalised_entropy):
        assert figure(logits, labels, weights) == pytest.approx(figure(*repeated[:2]), rel=1e-12)


def test_weights_of_1_change_no_digit() -> None:
    logits, labels, _ = weighted_rows(3000)
    for figure in (exact_auc, logloss, calibration, normalised_entropy):
        assert figure(logits, labels, np.ones(3000, np.float32)) == figure(logits, labels)


def test_a_weight_of_one_class_cancels_in_the_auc() -> None:
    logits, labels, _ = weighted_rows()
    assert exact_auc(logits, labels, np.where(labels == 1, 3.0, 10.0)) == exact_auc(logits, labels)


def test_figures_of_rows_that_all_weigh_nothing_are_undefined() -> None:
    logits, labels, _ = weighted_rows()
    for figure in (exact_auc, logloss, calibration, normalised_entropy):
        assert math.isnan(figure(logits, labels, np.zeros(len(labels))))
    assert math.isnan(exact_auc(logits, labels, labels))  # of one class alone


def test_probabilities_of_the_whole_log() -> None:
    """He et al. (2014), section 6.3: p / (p + (1 - p) / w)."""
    logits = np.linspace(-5, 5, 101).astype(np.float32)
    q = 1 / (1 + np.exp(-logits.astype(float)))
    found = 1 / (1 + np.exp(-of_whole_log(logits, 0.025).astype(float)))
    np.testing.assert_allclose(found, q / (q + (1 - q) / 0.025), rtol=1e-6)
    assert of_whole_log(logits, 0.025).dtype == np.float32
    assert of_whole_log(logits, 1) is logits
    weights = weights_of_whole_log(np.array([0, 1, 0]), 0.25, np.array([2.0, 3, 0.5]))
    assert weights is not None
    assert weights.tolist() == [8, 3, 2]
    assert weights_of_whole_log(np.array([0, 1]), 1) is None


def test_feature_rate() -> None:
    weight = torch.tensor([[0.0, 0.0], [0.0, 1e-30], [1.0, 2.0], [0.0, 0.0], [3.0, 0.0]])
    present = torch.tensor([True, True, False, True, True])
    assert nonzero_features(weight, present) == 2
    assert feature_rate(weight, present) == 0.5
    assert feature_rate(weight) == 0.6
    assert math.isnan(feature_rate(weight, torch.zeros(5, dtype=torch.bool)))


@pytest.mark.parametrize("weighted", [False, True])
def test_calibration_bins_hold_equal_numbers_of_rows_in_order_of_their_predictions(weighted: bool) -> None:
    draw = np.random.default_rng(4)
    logits = draw.normal(-2, 1, 10_000).astype(np.float32)
    labels = (draw.random(10_000) < 0.2).astype(np.float32)
    weights = draw.integers(1, 4, 10_000).astype(np.float32) if weighted else None
    bins = calibration_bins(logits, labels, weights, 20)
    assert [each.rows for each in bins] == [500] * 20
    for each, rows in zip(bins, np.argsort(logits).reshape(20, 500), strict=True):
        w = np.ones(500) if weights is None else weights[rows].astype(float)
        assert each.predicted == pytest.approx(np.average(1 / (1 + np.exp(-logits[rows].astype(float))), weights=w))
        assert each.observed == pytest.approx(np.average(labels[rows], weights=w))
        assert each.effective == pytest.approx(w.sum() ** 2 / (w**2).sum())


def test_calibration_bins_of_few_equal_or_weightless_rows() -> None:
    few = calibration_bins(np.array([0.0, 1.0], np.float32), np.array([0, 1]))
    assert [(each.rows, each.observed) for each in few] == [(2, 0.5)]
    equal = calibration_bins(np.zeros(1000, np.float32), np.arange(1000) % 4 == 0)
    assert [(each.rows, each.predicted, each.observed) for each in equal] == [(1000, 0.5, 0.25)]
    assert calibration_bins(np.zeros(60, np.float32), np.ones(60), np.zeros(60)) == ()
