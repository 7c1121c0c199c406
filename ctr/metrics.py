"""Measures of click prediction: AUC (exact, per day, streaming), logloss, calibration, entropy, feature rate."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

BLOCKS = 100  # of test rows, by which the sampling error of an AUC is kept (`auc_blocks`)
CHUNK = 1 << 18  # rows that are taken at a time where many figures of each are needed
LEAST_OF_BIN = 50  # rows of a bin of `calibration_bins`


def exact_auc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Area under the ROC curve, equal to ``sklearn.metrics.roc_auc_score``: ties count one half.

    The probability that a random positive scores above a random negative (Mann-Whitney), by two sorts: each positive
    counts the negatives below it. Sorting values is several times as fast as the usual sorting of row numbers.

    Args:
        scores: float [n], any monotone score (logits will do).
        labels: [n], 0 or 1.
        weights: [n], at least 0; a pair of rows then counts the product of theirs. Weights that are the same within
            each class cancel. None: 1 each.

    Returns:
        The AUC; NaN where only one class is present, or has weights above 0.
    """
    positive = np.asarray(labels) == 1
    if weights is not None:
        return _weighted_auc(scores, positive, weights.astype(np.float64))
    positives, negatives = np.sort(scores[positive]), np.sort(scores[~positive])
    if len(positives) == 0 or len(negatives) == 0:
        return float("nan")
    below = np.searchsorted(negatives, positives)
    tied = positives[negatives[np.minimum(below, len(negatives) - 1)] == positives]
    ties = np.searchsorted(negatives, tied, "right") - np.searchsorted(negatives, tied)
    # Twice the number of pairs in order, as a whole number.
    pairs = 2 * int(below.sum()) + int(ties.sum())
    return pairs / (2 * len(positives) * len(negatives))


def _weighted_auc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(scores[~positive])
    negatives, weight_below = scores[~positive][order], np.concatenate([[0.0], np.cumsum(weights[~positive][order])])
    positives, of_positives = scores[positive], weights[positive]
    total = of_positives.sum() * weight_below[-1]
    if not total > 0:
        return float("nan")
    # Twice the weight of the negatives below each positive, ties by half: exact for weights that are whole numbers.
    below = sum(weight_below[np.searchsorted(negatives, positives, side)] for side in ("left", "right"))
    return float((of_positives * below).sum() / (2 * total))


def auc_blocks(
    scores: np.ndarray,
    labels: np.ndarray,
    weights: np.ndarray | None = None,
    blocks: int = BLOCKS,
    bins: int = 1 << 16,
) -> np.ndarray:
    """What each block of consecutive rows contributes to the sampling error of the AUC.

    The AUC of m positives and n negatives is, to first order, its expectation plus the sum over the rows of
    (V10 - AUC) / m for a positive and (V01 - AUC) / n for a negative; V10 is the share of the negatives below it, V01
    the share of the positives above it. These are DeLong's components, and the sum of their squares is his variance.
    Here they are summed within blocks, the groups of a grouped (infinitesimal) jackknife: B / (B - 1) times the sum of
    the B squares estimates the same variance, also where rows of a block depend on each other, as those of one minute
    do. The contributions of a difference of AUCs on the same rows are the differences of the contributions, and those
    of a mean are the means. They sum to 0.

    The shares are read from a histogram; scores of one bin, and the 0.1 % at either end, count as ties: the standard
    error changes by less than 1 %, and the time is a fifth of what sorting the rows takes.

    Source: DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988); groups: Efron, "The Jackknife, the Bootstrap and
    Other Resampling Plans" (1982), chapters 3 and 6.

    Args:
        scores: float [n], finite.
        labels: [n], 0 or 1.
        weights: [n], how much each row counts; None: 1. Shares, m, n and the rows of the sum are then weighted.
        blocks: how many, of n / blocks rows each in their order.
        bins: of the histogram, evenly between the ends.

    Returns:
        float64 [blocks]; NaN where only one class is present, or has a weight above 0.
    """
    positive = np.asarray(labels) == 1
    weights = None if weights is None else np.asarray(weights, np.float64)
    m = float(positive.sum() if weights is None else weights[positive].sum())
    n = (len(positive) if weights is None else float(weights.sum())) - m
    if not (m > 0 and n > 0):
        return np.full(blocks, np.nan)
    low, high = np.quantile(scores[:: max(1, len(scores) >> 16)], [0.001, 0.999])
    width = (high - low) or 1e-6 * (abs(low) or 1.0)
    start, step = scores.dtype.type(low - width / 2), scores.dtype.type(bins / (2 * width))
    edges = [len(scores) * block // blocks for block in range(blocks + 1)]
    place = bins * positive.astype(np.int32)  # of each row: the bins of the positives are behind those of the negatives
    for a, b in pairwise(edges):  # a block at a time stays in the processor's cache
        place[a:b] += ((scores[a:b] - start) * step).clip(0, bins - 1).astype(np.int32)
    negatives, positives = np.bincount(place, weights, 2 * bins).reshape(2, bins)
    below = (np.cumsum(negatives) - negatives / 2) / n
    above = 1 - (np.cumsum(positives) - positives / 2) / m
    auc = float(positives @ below) / m
    contribution = np.concatenate([(above - auc) / n, (below - auc) / m])
    parts = ((contribution[place[a:b]], 1.0 if weights is None else weights[a:b]) for a, b in pairwise(edges))
    return np.array([(each * counts).sum() for each, counts in parts])


def auc_by_day(
    scores: np.ndarray, labels: np.ndarray, days: np.ndarray, weights: np.ndarray | None = None
) -> dict[int, float]:
    """`exact_auc` within each day, in order of the days: day (YYYYMMDD) -> AUC.

    Args:
        scores, labels, weights: [n], as for `exact_auc`.
        days: int [n], the day of each row; a day's rows need not be together.
    """
    aucs = {}
    for day in np.unique(days):
        here = days == day
        aucs[int(day)] = exact_auc(scores[here], labels[here], None if weights is None else weights[here])
    return aucs


def weighted_mean(values: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Mean of [n] values in double precision, by [n] weights if there are any; NaN where these are all 0."""
    if weights is None:
        return float(np.mean(values, dtype=np.float64))
    total = float(np.sum(weights, dtype=np.float64))
    return float(np.sum(values * weights.astype(np.float64))) / total if total else float("nan")


def logloss(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Mean (`weighted_mean`) binary cross-entropy of float [n] logits, in nats, without overflow at any logit."""
    z = logits.astype(np.float64)
    return weighted_mean(np.logaddexp(0.0, z) - z * labels, weights)


def calibration(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Predicted clicks per observed click: the sum of sigmoid(logit) over the sum of the labels.

    1 is best; above, the model promises more clicks than come. NaN where no label is positive. With weights [n] each
    row counts as often as its weight says, in both sums.
    """
    w = 1.0 if weights is None else weights.astype(np.float64)
    clicks = float(np.sum(w * labels, dtype=np.float64))
    z = logits.astype(np.float64)
    return float((w * np.exp(-np.logaddexp(0.0, -z))).sum()) / clicks if clicks else float("nan")


@dataclass(frozen=True)
class CalibrationBin:
    """Rows whose predictions are alike.

    Attributes:
        predicted, observed: mean probability and share of the clicks, by the rows' weights.
        rows: how many.
        effective: rows of weight 1 that would say as much: the sum of the weights squared over that of their squares.
    """

    predicted: float
    observed: float
    rows: int
    effective: float


def calibration_bins(
    logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None, bins: int = 20
) -> tuple[CalibrationBin, ...]:
    """Rows in order of their predictions, in bins of about equal numbers of rows; the lowest bin first.

    The limits are quantiles of up to 131,071 rows, evenly spread; equal logits are in one bin, so that there may be
    fewer.

    Args:
        logits, labels: [n].
        weights: [n]; None: 1 each. A bin whose weights are all 0 is left out.
        bins: at most; each is to have at least `LEAST_OF_BIN` rows.
    """
    bins = max(min(bins, len(logits) // LEAST_OF_BIN), 1)
    limits = np.quantile(logits[:: max(1, len(logits) >> 16)], np.arange(1, bins) / bins).astype(logits.dtype)
    sums = np.zeros((5, bins))
    for start in range(0, len(logits), CHUNK):  # a piece at a time: few temporary arrays, in the processor's cache
        z, y = logits[start : start + CHUNK], labels[start : start + CHUNK]
        w = np.ones(len(z)) if weights is None else weights[start : start + CHUNK].astype(np.float64)
        place = np.searchsorted(limits, z, side="right")
        p = np.exp(-np.logaddexp(0.0, -z.astype(np.float64)))
        sums += [np.bincount(place, of, bins) for of in (None, w, w * w, w * p, w * y)]
    return tuple(
        CalibrationBin(float(predicted / total), float(clicks / total), int(rows), float(total**2 / squares))
        for rows, total, squares, predicted, clicks in sums.T
        if total
    )


def normalised_entropy(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Logloss over that of the constant prediction p = mean(labels), which is -p ln p - (1 - p) ln(1 - p).

    With weights [n] logloss and p are weighted means.

    Unlike the logloss it compares logs of different click rates: 1 is as good as knowing the rate alone, smaller is
    better. NaN where only one class is present. Source: He et al., "Practical Lessons from Predicting Clicks on Ads at
    Facebook" (ADKDD 2014), section 3.
    """
    p = weighted_mean(labels, weights)
    if not 0 < p < 1:
        return float("nan")
    return logloss(logits, labels, weights) / -(p * np.log(p) + (1 - p) * np.log1p(-p))


def of_whole_log(logits: np.ndarray, negative_rate: float) -> np.ndarray:
    """Logits of the whole log, of a model that has learned from its clicks and a share r of its negatives.

    The odds of a click in such a sample are 1 / r times as high: p = q / (q + (1 - q) / r), that is logit + ln r.
    Source: He et al. (see `normalised_entropy`), section 6.3.

    Args:
        logits: float32 [n], of the sample.
        negative_rate: r, above 0 and at most 1.
    """
    return logits if negative_rate == 1 else logits + np.float32(np.log(negative_rate))


def weights_of_whole_log(
    labels: np.ndarray, negative_rate: float, weights: np.ndarray | None = None
) -> np.ndarray | None:
    """Weights [n] by which rows of such a sample count as the whole log: 1 / r times their own for each negative."""
    if negative_rate == 1:
        return weights
    whole = np.where(np.asarray(labels) == 1, 1.0, 1 / negative_rate)
    return whole if weights is None else whole * weights


def feature_rate(weight: Tensor, present: Tensor | None = None) -> float:
    """Share of features whose embedding row is not all zero, among those present in training (the paper's "sparsity").

    Args:
        weight: [N, d] embedding rows, one per feature.
        present: bool [N], features that occurred in training (``FeatureEmbedding.seen``); all if None.
    """
    if present is None:
        present = torch.ones(len(weight), dtype=torch.bool, device=weight.device)
    total = int(present.sum())
    return nonzero_features(weight, present) / total if total else float("nan")


def nonzero_features(weight: Tensor, present: Tensor) -> int:
    """Number of features present in training whose row is not all zero; arguments as for `feature_rate`."""
    return int(alive_rows(weight, present).sum())


def alive_rows(weight: Tensor, present: Tensor) -> Tensor:
    """Which features present in training have a row that is not all zero, bool [N]; arguments as for `feature_rate`."""
    # A chunk at a time: a table of tens of millions of rows must not be copied.
    chunks = zip(weight.detach().split(1 << 20), present.split(1 << 20), strict=True)
    return torch.cat([(rows != 0).any(dim=1) & here for rows, here in chunks])


class StreamingAUC:
    """AUC of a stream in constant memory, by two histograms over the logit.

    With 2^20 bins on [-20, 20] it differs from the exact AUC by about 1e-9 on millions of rows. Instances can be
    merged, so that workers may each count their part.

    Args:
        bins: number of bins.
        limit: logits beyond +-limit fall into the outermost bins.
    """

    def __init__(self, bins: int = 1 << 20, limit: float = 20.0) -> None:
        if bins < 2 or limit <= 0:
            raise ValueError(f"bins={bins}, limit={limit}; expected at least 2 bins and a positive limit")
        self.bins, self.limit = bins, limit
        self._counts = np.zeros((2, bins), np.int64)  # negatives, positives

    def update(self, logits: Tensor | np.ndarray, labels: Tensor | np.ndarray) -> None:
        """Adds rows: logits [n] and labels [n] (0 or 1)."""
        z = np.asarray(logits.detach().cpu() if isinstance(logits, Tensor) else logits, np.float64)
        y = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else labels).astype(np.int64)
        if not np.isfinite(z).all():
            raise ValueError("a logit is NaN or infinite")
        if ((y != 0) & (y != 1)).any():
            raise ValueError("a label is neither 0 nor 1")
        scaled = (z + self.limit) * (self.bins / (2 * self.limit))
        np.add.at(self._counts, (y, scaled.clip(0, self.bins - 1).astype(np.int64)), 1)

    def merge(self, other: StreamingAUC) -> None:
        """Adds the rows that ``other`` has counted."""
        if (other.bins, other.limit) != (self.bins, self.limit):
            raise ValueError("only instances with the same bins and limit can be merged")
        self._counts += other._counts

    def compute(self) -> float:
        """The AUC so far; NaN until both classes have been seen."""
        negatives, positives = self._counts
        n, p = int(negatives.sum()), int(positives.sum())
        if n == 0 or p == 0:
            return float("nan")
        below = np.cumsum(negatives) - negatives
        return float(np.dot(positives, below + negatives / 2)) / (n * p)

    def state_dict(self) -> dict[str, Any]:
        return {"bins": self.bins, "limit": self.limit, "counts": self._counts.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.bins, self.limit = state["bins"], state["limit"]
        self._counts = np.array(state["counts"])
