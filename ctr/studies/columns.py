"""Columns that the tables of several studies share: what they mean, and their values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ctr.report import markdown
from ctr.report.findings import Column, Row
from ctr.report.statistics import LEAST_SEEDS, LEVEL, Comparison, Values, holm, summary
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


def differences(of: str, name: str = "difference", p: str = "p", over: str = "seeds and test rows") -> list[Column]:
    """The columns of `compared`, once `adjust` is done."""
    return [
        Column(name, f"{of}: mean over the seeds that both have", markdown.difference),
        Column(f"{name}_low", f"lower end of its {LEVEL:.0%} interval over {over}", markdown.difference),
        Column(f"{name}_high", f"upper end of its {LEVEL:.0%} interval over {over}", markdown.difference),
        Column(p, f"its p-value over {over}; none with fewer than {LEAST_SEEDS} seeds", markdown.p_value),
        Column(f"{p}_holm", f"{p}, corrected by Holm's method for all {p} of this table", markdown.p_value),
    ]


def compared(of: Comparison, name: str = "difference", p: str = "p") -> dict[str, object]:
    """A difference, its interval and its p-value, as yet without correction."""
    low, high = f"{name}_low", f"{name}_high"
    return {name: of.difference, low: of.low, high: of.high, p: of.p, f"{p}_holm": math.nan}


def adjust(table: Sequence[Row], *ps: str) -> Sequence[Row]:
    """Fills in the corrected p-values of a table: each of ``ps`` is a family."""
    for p in ps:
        for row, value in zip(table, holm([row[p] if known(row[p]) else math.nan for row in table]), strict=True):
            row[f"{p}_holm"] = value
    return table


def interval(name: str = "difference") -> Callable[[Row], str]:
    """Writes a difference's interval for a reader."""
    return lambda row: markdown.interval(row[f"{name}_low"], row[f"{name}_high"])


TIED = Column("tied", "schedules whose AUC cannot be told from that one's: the interval of the difference holds 0")
TIES = Column("ties_best", "whether its AUC cannot be told from the best one's: the interval of the difference holds 0")


def features_apart(a: Iterable[Run], b: Iterable[Run]) -> float | None:
    """The largest difference in features between two runs of a seed; None where no pair finished."""
    apart = [abs(x.features_nonzero - y.features_nonzero) for x, y in zip(a, b, strict=True)]
    return max((value for value in apart if not math.isnan(value)), default=None)


def known(value: float | None) -> bool:
    """Whether a table has a number here."""
    return value is not None and not math.isnan(value)
