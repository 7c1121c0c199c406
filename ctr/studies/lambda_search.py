"""Searching, seed by seed, for the regulariser that leaves a given number of features.

The logarithm of the number of features is read as linear in that of lambda between two values that were tried. Numbers
of features alone decide; no AUC is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import pairwise
from typing import TypeVar

from ctr.studies.runs import Runs
from ctr.studies.study import Job

Line = TypeVar("Line", bound=Hashable)  # what the numbers of features depend on beside lambda: a method and a seed

FIRST = (1e-4, 1e-3, 1e-2)
BEYOND = 4.0  # factor by which a search leaves the values that were tried
NEAR = 0.02  # of the number asked for: near enough
ROUNDS = 6  # after the first


def search(
    runs: Runs, job: Callable[[Line, float], Job], lines: Sequence[Line], counts: Sequence[int]
) -> dict[tuple[Line, int], float]:
    """The lambda that left the number of features next to each count; NaN where no run of its line finished.

    All lines and counts are searched together, in at most 1 + `ROUNDS` rounds; each of them uses what the others of its
    line have found.

    Args:
        runs: of the study.
        job: the run of a line at a lambda.
    """
    found: dict[Line, dict[float, float]] = {line: {} for line in lines}
    todo = [(line, value) for line in lines for value in FIRST]
    for _ in range(1 + ROUNDS):
        answers = runs({(line, value): job(line, value) for line, value in todo})
        for (line, value), run in answers.items():
            if not math.isnan(run.features_nonzero):
                found[line][value] = run.features_nonzero
        todo = [
            (line, further)
            for line in lines
            for count in counts
            if (further := following(found[line], count)) is not None
        ]
        if not todo:
            break
    return {
        (line, count): min(found[line], key=lambda value: abs(found[line][value] - count), default=math.nan)
        for line in lines
        for count in counts
    }


def following(found: Mapping[float, float], count: int) -> float | None:
    """The lambda to try next, to three digits; None if one is near enough, or nothing is known.

    Args:
        found: numbers of features by lambda.
        count: the number to find; at least 1.
    """
    tried = sorted(found.items())
    if not tried or any(abs(number - count) <= NEAR * count for _, number in tried):
        return None
    (first, most), (last, _) = tried[0], tried[-1]
    value = first / BEYOND if most < count else last * BEYOND
    for (low, more), (high, fewer) in pairwise(tried):
        if more > count > fewer:
            share = math.log(more / count) / math.log(more / max(fewer, 0.5))
            value = low * (high / low) ** min(max(share, 0.1), 0.9)
            break
    value = float(f"{value:.3g}")
    return None if value in found else value
