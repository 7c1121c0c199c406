"""What a study is asked (`Options`), whom it asks (`Ask`) and what it hands back (`Findings`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import pandas as pd

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
        lrs: learning rates to choose from (paper: powers of ten).
        dims: embedding dimensions.
        scores: what pruning ranks the features by: norm, effect.
        select: where the best learning rate, schedule and regularisers are chosen: "test" (as the paper does) or
            "validation" (the last tenth of the training rows, which these runs do not train on).
        lr: "auto" (the paper's rule, on the data at hand), "paper" (table 5) or a number.
        steps: lengths of stream, in batches of 512 rows.
        common: overrides for every run.
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


@dataclass(frozen=True)
class Findings:
    """What a study found.

    Attributes:
        table: one row per cell.
        text: the same as Markdown in the paper's layout, beside the paper's numbers, and what agrees in words.
        figures: name -> figure.
        runs: all runs, as `Ask` returned them.
        points: method, lambda21, seed, auc, feature_rate of single runs; may be empty.
    """

    table: pd.DataFrame
    text: str
    figures: dict[str, Figure]
    runs: pd.DataFrame
    points: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=POINTS))


Study = Callable[[Ask, Options], Findings]
