"""Columns that the tables of several studies share: what they mean, and their values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from ctr.report import markdown
from ctr.report.findings import Column
from ctr.report.statistics import Comparison, Values, summary
from ctr.studies.runs import Run

LAMBDA21 = Column("lambda21", "regularisation term of whole rows", markdown.power)
LR = Column("lr", "learning rate", markdown.power)
GAP = Column("gap", "why runs are missing")
SCORE = Column("score", "what pruning ranks features by: norm (the paper) or effect")
FINETUNE = Column("finetune", "share of the training rows used to fine-tune after pruning", markdown.share)
APART = Column(
    "features_apart", "largest difference in features between the two methods, over the seeds", markdown.count
)


def spread(name: str, of: str, form: Callable[[Any], str]) -> list[Column]:
    """The columns of `mean_std`."""
    return [
        Column(f"{name}_mean", f"{of}, mean over the seeds", form),
        Column(f"{name}_std", f"{of}, standard deviation over the seeds", form),
    ]


def mean_std(name: str, values: Values) -> dict[str, object]:
    """Mean and standard deviation of a figure over the seeds."""
    of = summary(values)
    return {f"{name}_mean": of.mean, f"{name}_std": of.std}


def differences(of: str) -> list[Column]:
    """The columns of `tests`."""
    return [
        Column("difference", f"{of}: difference of the mean AUCs, over the seeds that both have", markdown.difference),
        *p_values(),
    ]


def p_values() -> list[Column]:
    kinds = {"student": "Student's t-test", "welch": "Welch's t-test", "paired": "the t-test paired by seed"}
    return [
        Column(f"p_{name}", f"p-value of the difference by {test}", markdown.p_value) for name, test in kinds.items()
    ]


def tests(of: Comparison) -> dict[str, object]:
    """A difference and its p-values."""
    return {"difference": of.difference, "p_student": of.student, "p_welch": of.welch, "p_paired": of.paired}


def features_apart(a: Iterable[Run], b: Iterable[Run]) -> float | None:
    """The largest difference in features between two runs of a seed; None where no pair finished."""
    apart = [abs(x.features_nonzero - y.features_nonzero) for x, y in zip(a, b, strict=True)]
    return max((value for value in apart if not math.isnan(value)), default=None)


def known(value: float | None) -> bool:
    """Whether a table has a number here."""
    return value is not None and not math.isnan(value)
