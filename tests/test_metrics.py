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
    exact_auc,
    feature_rate,
    logloss,
    nonzero_features,
    normalised_entropy,
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


def test_feature_rate() -> None:
    weight = torch.tensor([[0.0, 0.0], [0.0, 1e-30], [1.0, 2.0], [0.0, 0.0], [3.0, 0.0]])
    present = torch.tensor([True, True, False, True, True])
    assert nonzero_features(weight, present) == 2
    assert feature_rate(weight, present) == 0.5
    assert feature_rate(weight) == 0.6
    assert math.isnan(feature_rate(weight, torch.zeros(5, dtype=torch.bool)))
