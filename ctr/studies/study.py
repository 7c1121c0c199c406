"""What a study is asked (`Options` and its own keyword arguments) and whom it asks (`Ask`).

A study is a module of this package with a function ``study``; ``study=NAME`` finds it by its name. Its keyword-only
parameters are the options that it adds to those that all studies have: their names and types are read from the
signature, their defaults and comments are in ``configs/study/NAME.yaml``.

    def study(ask: Ask, options: Options, *, lambda21: Lambdas, scores: Scores) -> Findings: ...
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, Literal, get_args, get_type_hints

import pandas as pd

from ctr.errors import ArgumentError
from ctr.report.findings import Findings
from ctr.studies import paper

# The overrides of one training run (``{"dataset": "criteo", "opt.lambda21": 1e-3, "seed": 0}``).
Job = Mapping[str, object]

# Runs what is missing and returns one row per job, in the jobs' order: the jobs' keys, every scalar of ``result.json``
# and the blocks of its AUCs (NaN where the job failed), ``model_bytes`` (NaN where it was to leave no model),
# ``command``, ``error`` (None or one line) and ``folder``.
Ask = Callable[[Sequence[Job]], pd.DataFrame]

Study = Callable[..., Findings]  # (ask, options, *, options of its own)


@dataclass(frozen=True)
class Each:
    """What each value of a list must be: in words, and as a test."""

    expected: str
    fits: Callable[[Any], bool]

    def check(self, name: str, values: Sequence[Any]) -> None:
        """Raises:
        ArgumentError: the list is empty, a value is out of range, or one is there twice.
        """
        if not values:
            raise ArgumentError(f"{name}=[]; expected at least one value")
        if not all(map(self.fits, values)):
            raise ArgumentError(f"{name}={values}; expected {self.expected}")
        for value in values:
            if values.count(value) > 1:
                raise ArgumentError(f"{name}={values}: duplicate value {value}")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# Types of options. A list holds at least one value and no duplicates.
Lambdas = Annotated[list[float], Each("numbers, at least 0", lambda value: _number(value) and value >= 0)]
Shares = Annotated[list[float], Each("shares from 0 to below 1", lambda value: _number(value) and 0 <= value < 1)]
Rates = Annotated[list[float], Each("numbers above 0", lambda value: _number(value) and value > 0)]
Counts = Annotated[
    list[int], Each("whole numbers, at least 1", lambda value: isinstance(value, int) and _number(value) and value >= 1)
]
Scores = Annotated[list[str], Each("norm, effect", lambda value: value in ("norm", "effect"))]


@dataclass(frozen=True)
class Options:
    """What every study is run on.

    Attributes:
        dataset: criteo, avazu, ipinyou or csv.
        model: dcn, mlp or opnn.
        seeds: one run each.
        select: where the best learning rate, schedule and regularisers are chosen: "test" (as the paper does) or
            "validation" (the last tenth of the training rows, which these runs do not train on).
        lr: "auto" (the paper's rule, on the data at hand), "paper" (table 5) or a number.
        lrs: learning rates to choose from (paper: powers of ten); where an end of several is best, more are tried.
        common: overrides for every run.
        commit: of the code that writes the report; None where it is not known.

    Raises:
        ArgumentError: a value out of range, or a duplicate in a list.
    """

    dataset: str
    model: str
    seeds: list[int]
    select: Literal["test", "validation"]
    lr: Literal["auto", "paper"] | float
    lrs: Rates
    common: dict[str, object]
    commit: str | None = None

    def __post_init__(self) -> None:
        check({"lrs": Rates}, {"lrs": self.lrs})

    @property
    def in_paper(self) -> bool:
        """Whether the paper has numbers for this dataset with this model."""
        return paper.covers(self.dataset, self.model)


def find(name: str) -> Study:
    """The study of a module of this package."""
    study: Study = import_module(f"ctr.studies.{name}").study
    return study


def own_options(study: Study) -> dict[str, Any]:
    """The options that a study adds to `Options`: name -> type."""
    hints = get_type_hints(study, include_extras=True)
    parameters = inspect.signature(study).parameters.values()
    return {one.name: hints[one.name] for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY}


def check(types: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Checks options against their types.

    Raises:
        ArgumentError: a list is empty, holds a duplicate or a value out of range.
    """
    for name, kind in types.items():
        for rule in get_args(kind)[1:]:
            rule.check(name, values[name])
