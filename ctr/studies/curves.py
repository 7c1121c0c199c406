"""Reading a line of measured points at a rate that was not measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np


def auc_at(rate: float, rates: Sequence[float], measured: np.ndarray) -> np.ndarray:
    """AUC, with the contributions of the test rows, at a feature rate: linear in log10 of the rate between the two
    nearest points.

    NaN beyond the measured rates: nothing is extrapolated. Points without a rate above 0 or without AUC are left out;
    of points at one rate the mean counts. The rates are taken as known: the test rows say nothing about them.

    Args:
        rates: of the points.
        measured: [points, 1 + B], AUC first (`ctr.studies.runs.measured`); the answer is one such row.
    """
    unknown = np.full(measured.shape[1:], math.nan)
    if math.isnan(rate) or rate <= 0:
        return unknown
    at: dict[float, list[np.ndarray]] = {}
    for x, y in zip(rates, measured, strict=True):
        if x > 0 and not math.isnan(y[0]):
            at.setdefault(x, []).append(y)
    points = [(x, np.mean(at[x], axis=0)) for x in sorted(at)]
    for (x, y), (next_x, next_y) in pairwise(points):
        if x <= rate <= next_x:
            return y + (next_y - y) * math.log(rate / x) / math.log(next_x / x)
    return next((y for x, y in points if x == rate), unknown)
