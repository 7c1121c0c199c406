"""Reading a line of measured points at a rate that was not measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise


def auc_at(rate: float, rates: Sequence[float], aucs: Sequence[float]) -> float:
    """AUC at a feature rate, linear in log10 of the rate between the two nearest points.

    NaN beyond the measured rates: nothing is extrapolated. Points without a rate above 0 or without AUC are left out;
    of points at one rate the mean counts.
    """
    if math.isnan(rate) or rate <= 0:
        return math.nan
    at: dict[float, list[float]] = {}
    for x, y in zip(rates, aucs, strict=True):
        if x > 0 and not math.isnan(y):
            at.setdefault(x, []).append(y)
    points = sorted((x, sum(ys) / len(ys)) for x, ys in at.items())
    for (x, y), (next_x, next_y) in pairwise(points):
        if x <= rate <= next_x:
            return y + (next_y - y) * math.log(rate / x) / math.log(next_x / x)
    return next((y for x, y in points if x == rate), math.nan)
