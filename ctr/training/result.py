"""What a run leaves: its figures, as ``result.json`` and as a table for a reader."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ctr import __version__
from ctr.datasets.admission import Admitted
from ctr.datasets.prepared import Prepared
from ctr.datasets.rare import Gathered
from ctr.datasets.rows import RowSource
from ctr.metrics import alive_rows
from ctr.optim import BudgetSchedule
from ctr.provenance import git_sha
from ctr.training import memory
from ctr.training.diagnosis import diagnose, unseen_by_field
from ctr.training.history import History
from ctr.training.identity import CODE
from ctr.training.machine import machine
from ctr.training.settings import Settings
from ctr.training.trainer import Evaluation, TrainingRun

GENERATED = "generated rows: says nothing about real clicks"
LISTS = ("auc_blocks", "auc_retrained_blocks")  # figures of a run that are lists of numbers


@dataclass(frozen=True)
class Result:
    """The figures of one run, as in ``result.json``.

    ``opt_options`` is what the optimizer was given: learning rate, lambdas, ... ``lambda21`` is that of the last step;
    with a ``budget``, which is a number of features, the value that the weakest of them exceeds. The figures of pruning
    are None without it, ``auc_retrained`` without ``retrain``. With a holdout the test figures are those of the rows
    held out; where no row tests they are None. ``auc_progressive``, its logloss and its AUC by day are those of all
    training rows, each scored before it was learned from; None or empty without ``progressive``.

    ``weight_train`` is the sum of the weights of the training rows, ``weight_test`` that of the rows that the test
    figures are of, in which each negative of a log with a share r of them counts 1 / r times its own; None where each
    row counts 1. ``negative_rate`` is r. Rows and positives are numbers of rows all the same.

    With ``init`` the features are those of all ``logs`` that the model has been trained on: present are those that were
    in training rows of any of them, without the ``features_evicted`` that were dropped before this log.
    ``features_known`` had a row when it began; ``started_from`` is the hash of the known model. ``table_rows`` are
    those of the embedding table.

    ``admit`` is the occurrence from which on a value has a row of its own, ``not_admitted`` the share of the
    occurrences in training rows before that, which read their field's row; None with ``admit=1``.

    ``auc_blocks`` and ``auc_retrained_blocks`` are what each block of test rows contributes to the sampling error of
    the AUC (`ctr.metrics.auc_blocks`), empty where there is none. ``machine`` is what the run was made on.

    ``peak_rss_bytes`` counts from the start of the run, or of its family (`ctr.train.jobs`), to its end; where the
    system cannot tell (`ctr.training.memory`), from the start of the process. ``values_unseen`` is the share of the
    test values that do not occur in training, None where no row tests; ``warnings`` are those of
    `ctr.training.diagnosis`.
    """

    dataset: str
    model: str
    opt: str
    seed: int
    rows_train: int
    rows_test: int
    features_present: int
    features_nonzero: int
    feature_rate: float
    auc: float | None
    logloss: float | None
    positives_train: int
    positives_test: int
    samples_per_second: float
    train_seconds: float
    peak_rss_bytes: int
    config_hash: str
    data_hash: str
    code_hash: str
    git_sha: str | None
    source: str
    rows_skipped: int
    collision_rate: float
    values_unseen: float | None
    warnings: list[str]
    calibration: float | None
    normalised_entropy: float | None
    auc_by_day: dict[str, float | None]
    auc_blocks: list[float]
    opt_options: dict[str, object]
    lambda21: float
    budget: int | None
    prune_feature_rate: float | None
    finetune: float | None
    score: str | None
    holdout: float
    average: float
    epochs: int
    admit: int
    not_admitted: float | None
    auc_retrained: float | None
    auc_retrained_blocks: list[float]
    auc_progressive: float | None
    logloss_progressive: float | None
    auc_progressive_by_day: dict[str, float | None]
    started_from: str | None
    logs: int
    features_known: int
    features_evicted: int
    table_rows: int
    weight_train: float | None
    weight_test: float | None
    negative_rate: float
    machine: str


def summarise(
    settings: Settings,
    data: Prepared,
    training: TrainingRun,
    figures: Evaluation | None,
    progressive: Evaluation | None,
    history: History | None,
    *,
    retrained: Evaluation | None,
) -> Result:
    """The figures of a trained run, on its test rows and its training rows, where there are such."""
    pruning, seconds = settings.pruning, training.seconds
    embedding = training.model.embedding
    seen = embedding.whole(embedding.seen)
    present = int(seen.sum())
    nonzero = int(embedding.whole(alive_rows(embedding.weight, embedding.seen)).sum())
    split = data.split
    if isinstance(data, Gathered):  # of the values themselves, whatever row they read
        unseen = unseen_by_field(data.log.rows, split.test, data.seen)
    else:
        unseen = unseen_by_field(data.rows, split.test, seen.cpu().numpy())
    warnings = diagnose(
        *(settings, data.manifest, split, figures),
        steps=training.steps,
        present=present,
        nonzero=nonzero,
        lambda21=training.lambda21,
        unseen=unseen,
        several=[field.name for field in data.dataset.fields if field.multi],
    )
    return Result(
        dataset=settings.data.name,
        model=settings.model.name,
        opt=settings.optimizer.name,
        seed=settings.seed,
        rows_train=split.rows_train,
        rows_test=figures.rows if figures else 0,
        features_present=present,
        features_nonzero=nonzero,
        feature_rate=nonzero / present,
        auc=_defined(figures.auc if figures else None),
        logloss=_defined(figures.logloss if figures else None),
        positives_train=sum(data.rows.positives(slice(start, stop)) for start, stop in split.train),
        positives_test=figures.positives if figures else 0,
        # A loop of the user's own is not measured.
        samples_per_second=training.stream.num_rows / seconds if seconds else 0.0,
        train_seconds=seconds,
        peak_rss_bytes=memory.peak(),
        config_hash=settings.config_hash,
        data_hash=data.manifest.data_hash,
        code_hash=CODE,
        git_sha=git_sha(),
        source=data.manifest.recipe.source,
        rows_skipped=data.manifest.rows_skipped,
        collision_rate=data.manifest.collision_rate,
        values_unseen=sum(unseen) / len(unseen) if unseen else None,
        warnings=warnings,
        calibration=_defined(figures.calibration if figures else None),
        normalised_entropy=_defined(figures.normalised_entropy if figures else None),
        auc_by_day=_by_day(figures),
        auc_blocks=_blocks(figures),
        opt_options={name: value for name, value in settings.values["opt"].items() if name != "name"},
        lambda21=training.lambda21,
        budget=int(training.schedule.budget) if isinstance(training.schedule, BudgetSchedule) else None,
        prune_feature_rate=None if pruning is None else pruning.feature_rate,
        finetune=None if pruning is None else pruning.finetune,
        score=None if pruning is None else pruning.score,
        holdout=settings.holdout,
        average=settings.average,
        epochs=settings.epochs,
        admit=settings.data.admit,
        not_admitted=_not_admitted(data),
        auc_retrained=_defined(retrained.auc if retrained else None),
        auc_retrained_blocks=_blocks(retrained),
        auc_progressive=_defined(progressive.auc if progressive else None),
        logloss_progressive=_defined(progressive.logloss if progressive else None),
        auc_progressive_by_day=_by_day(progressive),
        started_from=settings.init.identity if settings.init else None,
        logs=history.logs if history else 1,
        features_known=history.known if history else 0,
        features_evicted=history.evicted if history else 0,
        table_rows=embedding.num_features,
        weight_train=_weight(data.rows, split.train),
        weight_test=figures.weight if figures else None,
        negative_rate=data.dataset.negative_rate,
        machine=machine(settings.threads, settings.device, embedding.workers),
    )


def _weight(rows: RowSource, ranges: Sequence[tuple[int, int]]) -> float | None:
    """The sum of the weights of some rows; None where each counts 1."""
    sums = [rows.weight(slice(start, stop)) for start, stop in ranges]
    return None if None in sums else sum(cast(list[float], sums))


def _not_admitted(data: Prepared) -> float | None:
    if not isinstance(data, Admitted):
        return None
    return int(data.held.sum()) / (data.split.rows_train * len(data.held))


def _defined(figure: float | None) -> float | None:
    """None for NaN, which JSON does not know."""
    return None if figure is None or figure != figure else figure


def _by_day(figures: Evaluation | None) -> dict[str, float | None]:
    return {str(day): _defined(auc) for day, auc in figures.auc_by_day.items()} if figures else {}


def _blocks(figures: Evaluation | None) -> list[float]:
    """To six digits: enough for a standard error. Empty where the AUC is not defined."""
    return [float(f"{value:.6g}") for value in figures.auc_blocks] if figures and figures.auc == figures.auc else []


def table(result: Result, folder: Path) -> str:
    """The figures for a reader, where they are, and what is probably wrong."""
    rows = [*readable(result).items(), ("result", os.path.relpath(folder / "result.json"))]
    rows += [("warning", warning) for warning in result.warnings]
    return "\n".join(line(*row) for row in rows)


def line(name: str, value: str) -> str:
    """One of the table."""
    return f"  {name:<17} {value}"


def versions(result: Result) -> str:
    """What a run was made with: this package and its commit, Python, and what `machine` says."""
    commit = f" ({result.git_sha[:12]}{'-dirty' * result.git_sha.endswith('-dirty')})" if result.git_sha else ""
    return f"ctr {__version__}{commit}, Python {platform.python_version()}; {result.machine}"


def readable(result: Result) -> dict[str, str]:
    """The same without where they are and the warnings, by what they are."""
    generated = f"  ({GENERATED})" if result.source == "generated" else ""
    auc = "undefined: the test rows are all of one class" if result.auc is None else f"{result.auc:.4f}"
    passes = f" in {result.epochs:,} passes" if result.epochs > 1 else ""
    lines = {
        "dataset": result.dataset + generated,
        "model, optimizer": f"{result.model}, {result.opt}, seed {result.seed}",
        "rows": f"{result.rows_train:,} to train on{passes}, {result.rows_test:,} "
        + ("of the training rows held out to test on" if result.holdout else "to test on"),
    }
    if result.weight_train is not None:
        tested = "" if result.weight_test is None else f", {result.weight_test:,.2f} to test on"
        lines["sum of weights"] = f"{result.weight_train:,.2f} to train on{tested}"
    if result.negative_rate != 1:
        lines["negatives"] = f"{result.negative_rate:g} of all; probabilities and figures are those of the whole log"
    if result.logloss is not None:
        lines |= {
            "test AUC": auc,
            "test logloss": f"{result.logloss:.4f}",
            "calibration": f"{_shown(result.calibration)}   (clicks predicted / clicks observed; 1 is best)",
            "norm. entropy": f"{_shown(result.normalised_entropy)}   (logloss / that of the click rate alone; lower is "
            "better)",
        }
    if result.logloss_progressive is not None:
        lines["progressive AUC"] = (
            f"{_shown(result.auc_progressive)}   (training rows, each scored before it was learned from)"
        )
    if result.started_from is not None:
        evicted = f", {result.features_evicted:,} others dropped" if result.features_evicted else ""
        lines["went on with"] = f"{result.features_known:,} features of {_logs(result.logs - 1)}{evicted}"
    lines |= {
        "feature rate": f"{result.feature_rate:.4f}   ({result.features_nonzero:,} of {result.features_present:,} "
        "features kept)",
        "speed": f"{result.samples_per_second:,.0f} rows/s, {result.train_seconds:.1f} s",
        "peak memory": f"{result.peak_rss_bytes / 2**30:.2f} GiB",
    }
    if result.budget is not None:
        lines["budget"] = f"{result.budget:,} features; lambda21 at the end {result.lambda21:.3g}"
    if result.prune_feature_rate is not None:
        lines["pruned"] = f"by {result.score}, the last {result.finetune:.0%} of the rows for fine-tuning"
    if result.average:
        lines["averaged"] = f"the net, over the last {result.average:.0%} of the steps"
    if result.not_admitted is not None:
        lines["not admitted"] = (
            f"{result.not_admitted:.4f}   (share of the occurrences in training rows: before their value's no. "
            f"{result.admit}, they read their field's row)"
        )
    if result.auc_retrained is not None:
        lines["retrained AUC"] = f"{result.auc_retrained:.4f} on the features kept, without lambdas"
    for name, by_day in (("AUC by day", result.auc_by_day), ("progr. by day", result.auc_progressive_by_day)):
        if len(by_day) > 1:
            lines[name] = "  ".join(f"{day} {_shown(auc)}" for day, auc in by_day.items())
    if result.rows_skipped:
        lines["bad rows"] = f"{result.rows_skipped:,} left out"
    if result.collision_rate:
        lines["hash collisions"] = f"{result.collision_rate:.4f} of the distinct values"
    return lines


def _logs(count: int) -> str:
    return "an earlier log" if count == 1 else f"{count:,} earlier logs"


def _shown(figure: float | None) -> str:
    return "undefined" if figure is None else f"{figure:.4f}"
