"""Asking for runs by name: a study makes a plan (key -> job) and gets the runs back under the same keys."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Real
from typing import Generic, TypeVar

import numpy as np
import pandas as pd

from ctr.errors import DIVERGED, ArgumentError
from ctr.metrics import BLOCKS
from ctr.report.findings import POINTS
from ctr.report.statistics import best, summary, ties
from ctr.studies.study import Ask, Job, Options
from ctr.training.result import LISTS

Key = TypeVar("Key", bound=Hashable)

FINISHED, FAILED = "finished", "failed"

# Share of the training rows that choices are made on with ``select=validation``.
HOLDOUT = 0.1


@dataclass(frozen=True)
class Run:
    """The figures of one run; NaN, with `error`, where it failed.

    The blocks are those of its test rows (`ctr.metrics.auc_blocks`); empty where a run has none.
    """

    auc: float = math.nan
    feature_rate: float = math.nan
    features_nonzero: float = math.nan
    rows_train: float = math.nan
    auc_retrained: float = math.nan
    logloss: float = math.nan
    calibration: float = math.nan
    features_present: float = math.nan
    model_bytes: float = math.nan
    train_seconds: float = math.nan
    auc_blocks: tuple[float, ...] = ()
    auc_retrained_blocks: tuple[float, ...] = ()
    source: str | None = None
    error: str | None = None

    @property
    def diverged(self) -> bool:
        return self.error is not None and self.error.startswith(DIVERGED)

    @property
    def prunable(self) -> bool:
        """Whether another run can be pruned to its rate: it finished and kept a feature."""
        return self.error is None and self.feature_rate > 0


@dataclass(frozen=True)
class Choice(Generic[Key]):
    """The best of several by mean AUC over the seeds, None where none has one, and what cannot be told from it."""

    best: Key | None
    ties: tuple[Key, ...]


NO_RUN = Run()  # in the place of a run that was not made


class Runs:
    """All runs of a study. A job is asked for once."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._known: dict[str, dict[str, object]] = {}
        self._excused: set[str] = set()

    def __call__(self, plan: Mapping[Key, Job]) -> dict[Key, Run]:
        """Runs a plan in one call, so that all that is missing can run in parallel.

        A job whose learning rate is NaN, because none could be chosen, is not asked for: it comes back as failed.
        """
        names = {key: _name(job) for key, job in plan.items() if _has_rate(job)}
        missing = {name: plan[key] for key, name in names.items() if name not in self._known}
        if missing:
            answers = self._ask(list(missing.values())).to_dict("records")
            for name, answer in zip(missing, answers, strict=True):
                self._known[name] = {str(column): value for column, value in answer.items()}
        without = Run(error="no learning rate could be chosen")
        return {key: _run(self._known[names[key]]) if key in names else without for key in plan}

    def excuse(self, jobs: Iterable[Job]) -> None:
        """Counts those of these jobs that diverged as answered, not as failed: the learning rate is too large."""
        self._excused.update(map(_name, jobs))

    def frame(self) -> pd.DataFrame:
        """Every run, in the order in which they were first asked for; ``outcome``: finished, diverged or failed."""
        rows = [{**answer, "outcome": self._outcome(name)} for name, answer in self._known.items()]
        return pd.DataFrame.from_records(rows).drop(columns=list(LISTS), errors="ignore")

    def counts(self, column: str) -> dict[str | None, int]:
        """The number of finished runs by a text of their results (``git_sha``, ``machine``), None without it."""
        return dict(Counter(_text(answer.get(column)) for answer in self._finished()))

    def without_blocks(self) -> int:
        """The number of finished runs with an AUC whose uncertainty over test rows is not known."""
        runs = map(_run, self._finished())
        return sum(len(run.auc_blocks) != BLOCKS and not math.isnan(run.auc) for run in runs)

    def _finished(self) -> list[dict[str, object]]:
        return [answer for name, answer in self._known.items() if self._outcome(name) == FINISHED]

    def failures(self) -> dict[str, list[str]]:
        """The commands of the failed runs by error."""
        commands: dict[str, list[str]] = {}
        for name, answer in self._known.items():
            if self._outcome(name) == FAILED:
                commands.setdefault(str(answer["error"]), []).append(str(answer.get("command")))
        return commands

    def _outcome(self, name: str) -> str:
        run = _run(self._known[name])
        if run.error is None:
            return FINISHED
        return DIVERGED if run.diverged and name in self._excused else FAILED


def job(options: Options, opt: str, seed: int, lr: float, overrides: Mapping[str, object] | None = None) -> Job:
    """The overrides of one run of a study.

    Args:
        lr: learning rate; NaN where none could be chosen (`Runs`).

    Raises:
        ArgumentError: ``options.common`` has another value for one that the study sets.
    """
    for key, value in (overrides or {}).items():
        if key in options.common and options.common[key] != value:
            raise ArgumentError(
                f"{key}={options.common[key]}: this study sets it itself, here to {value}; leave it out"
            )
    base = {"dataset": options.dataset, "model": options.model}
    return {**base, **options.common, "opt": opt, "opt.lr": lr, "seed": seed, **(overrides or {})}


def lambdas(lambda1: float = 0.0, lambda21: float = 0.0, lambda2: float = 0.0) -> dict[str, object]:
    """The overrides for the regularisers of a group optimizer."""
    return {"opt.lambda1": lambda1, "opt.lambda21": lambda21, "opt.lambda2": lambda2}


def held_out(options: Options) -> dict[str, object]:
    """The overrides for runs that a choice is made on: with ``select=validation`` they leave rows out to test on."""
    return {"holdout": HOLDOUT} if options.select == "validation" else {}


def aucs(runs: Iterable[Run]) -> list[float]:
    return [run.auc for run in runs]


def measured(runs: Iterable[Run]) -> np.ndarray:
    """The AUCs with the contributions of the test rows to their sampling error (`ctr.report.statistics.Values`)."""
    return _with_blocks((run.auc, run.auc_blocks) for run in runs)


def measured_retrained(runs: Iterable[Run]) -> np.ndarray:
    """The same of the retrained AUCs."""
    return _with_blocks((run.auc_retrained, run.auc_retrained_blocks) for run in runs)


def _with_blocks(figures: Iterable[tuple[float, Sequence[float]]]) -> np.ndarray:
    unknown = (math.nan,) * BLOCKS
    rows = [(figure, *(blocks if len(blocks) == BLOCKS else unknown)) for figure, blocks in figures]
    return np.array(rows).reshape(len(rows), 1 + BLOCKS)


def choose(tried: Mapping[Key, Sequence[Run]]) -> Choice[Key]:
    """Of runs by seed, the same seeds in all; of equal means the first."""
    chosen = best({key: summary(aucs(of)) for key, of in tried.items()})
    return Choice(chosen, ties({key: measured(of) for key, of in tried.items()}, chosen))


def rates(runs: Iterable[Run]) -> list[float]:
    return [run.feature_rate for run in runs]


def gap(runs: Iterable[Run]) -> str | None:
    """Why runs failed, each error once; None where none did."""
    return "; ".join(dict.fromkeys(run.error for run in runs if run.error)) or None


def points(runs: Iterable[tuple[str, float, int, Run]]) -> pd.DataFrame:
    """Finished runs, each with its method, lambda21 and seed, as ``Findings.points``."""
    rows = [(*of, run.auc, run.feature_rate) for *of, run in runs if not math.isnan(run.auc)]
    return pd.DataFrame(rows, columns=POINTS)


def _name(job: Job) -> str:
    return repr(sorted(job.items()))


def _has_rate(job: Job) -> bool:
    lr = job.get("opt.lr")
    return not (isinstance(lr, float) and math.isnan(lr))


def _run(answer: Mapping[str, object]) -> Run:
    def number(column: str) -> float:
        value = answer.get(column)
        return float(value) if isinstance(value, Real) else math.nan

    def numbers(column: str) -> tuple[float, ...]:
        value = answer.get(column)
        return tuple(value) if isinstance(value, list) else ()

    figures = {of.name: number(of.name) for of in fields(Run) if of.name not in (*LISTS, "source", "error")}
    return Run(
        **figures,
        auc_blocks=numbers("auc_blocks"),
        auc_retrained_blocks=numbers("auc_retrained_blocks"),
        source=_text(answer.get("source")),
        error=_text(answer.get("error")),
    )


def _text(value: object) -> str | None:
    # pandas has NaN for what is missing among texts
    return value if isinstance(value, str) else None
