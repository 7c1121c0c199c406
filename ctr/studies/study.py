"""What a study is asked (`Options`), whom it asks (`Ask`) and what it hands back (`Findings`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from ctr.errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The overrides of one training run (``{"dataset": "criteo", "opt.lambda21": 1e-3, "seed": 0}``).
Job = Mapping[str, object]

# Runs what is missing and returns one row per job, in the jobs' order: the jobs' keys, every scalar of ``result.json``
# (NaN where the job failed), ``command``, ``error`` (None or one line) and ``folder``.
Ask = Callable[[Sequence[Job]], pd.DataFrame]


POINTS = ["method", "lambda21", "seed", "auc", "feature_rate"]


@dataclass(frozen=True)
class Options:
    """What a study is run on.

    Attributes:
        dataset: criteo, avazu, ipinyou or csv.
        model: dcn, mlp or opnn.
        seeds: one run each.
        lambda21, lambda1, lambda2: regularisation terms to go through.
        finetune: shares of the training rows used to fine-tune after pruning, in [0, 1).
        lrs: learning rates to choose from (paper: powers of ten); a search goes on where an end of several is best.
        dims: embedding dimensions.
        scores: what pruning ranks the features by: norm, effect.
        select: where the best learning rate, schedule and regularisers are chosen: "test" (as the paper does) or
            "validation" (the last tenth of the training rows, which these runs do not train on).
        lr: "auto" (the paper's rule, on the data at hand), "paper" (table 5) or a number.
        steps: lengths of stream, in batches of 512 rows.
        common: overrides for every run.

    Raises:
        ArgumentError: a value out of range, or one that stands twice in its list.
    """

    dataset: str
    model: str
    seeds: list[int]
    lambda21: list[float]
    lambda1: list[float]
    lambda2: list[float]
    finetune: list[float]
    lrs: list[float]
    dims: list[int]
    scores: list[str]
    select: Literal["test", "validation"]
    lr: Literal["auto", "paper"] | float
    steps: list[int]
    common: dict[str, object]

    def __post_init__(self) -> None:
        for name, (expected, fits) in LISTS.items():
            values = getattr(self, name)
            if not all(map(fits, values)):
                raise ArgumentError(f"{name}={values}; expected {expected}")
            twice = next((value for value in values if values.count(value) > 1), None)
            if twice is not None:
                raise ArgumentError(f"{name}={values}; {twice} stands there twice")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# What may stand in each list of `Options`: in words, and as a test.
_LAMBDAS = ("numbers from 0 on", lambda value: _number(value) and value >= 0)
_COUNTS = ("whole numbers from 1 on", lambda value: isinstance(value, int) and _number(value) and value >= 1)
LISTS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "lambda21": _LAMBDAS,
    "lambda1": _LAMBDAS,
    "lambda2": _LAMBDAS,
    "finetune": ("shares from 0 to below 1", lambda value: _number(value) and 0 <= value < 1),
    "lrs": ("numbers above 0", lambda value: _number(value) and value > 0),
    "dims": _COUNTS,
    "steps": _COUNTS,
    "scores": ("norm, effect", lambda value: value in ("norm", "effect")),
}


@dataclass(frozen=True)
class Findings:
    """What a study found.

    Attributes:
        table: one row per cell.
        text: the same as Markdown in the paper's layout, beside the paper's numbers, and what agrees in words.
        figures: name -> figure.
        runs: all runs, as `Ask` returned them, and how each ended (``outcome``).
        points: method, lambda21, seed, auc, feature_rate of single runs; may be empty.
    """

    table: pd.DataFrame
    text: str
    figures: dict[str, Figure]
    runs: pd.DataFrame
    points: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=POINTS))


Study = Callable[[Ask, Options], Findings]
