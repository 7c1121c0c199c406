"""What a run leaves: its figures, as ``result.json`` and as a table for a reader."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ctr.datasets.prepared import Prepared
from ctr.metrics import nonzero_features
from ctr.provenance import git_sha
from ctr.training import memory
from ctr.training.diagnosis import diagnose, unseen_by_field
from ctr.training.identity import CODE
from ctr.training.settings import Settings
from ctr.training.trainer import Evaluation, TrainingRun


@dataclass(frozen=True)
class Result:
    """The figures of one run, as in ``result.json``.

    ``opt_options`` is what the optimizer was given: learning rate, lambdas, ... The figures of pruning are None without
    it, ``auc_retrained`` without ``retrain``. With a holdout the test figures are those of the rows held out.
    ``peak_rss_bytes`` counts from the start of the run, or of its family (`ctr.train.jobs`), to its end; where the
    system cannot tell (`ctr.training.memory`), from the start of the process. ``values_unseen`` is the share of the
    test values that do not occur in training; ``warnings`` are those of `ctr.training.diagnosis`.
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
    logloss: float
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
    values_unseen: float
    warnings: list[str]
    calibration: float | None
    normalised_entropy: float | None
    auc_by_day: dict[str, float | None]
    opt_options: dict[str, object]
    prune_feature_rate: float | None
    finetune: float | None
    score: str | None
    holdout: float
    auc_retrained: float | None


def summarise(
    settings: Settings,
    data: Prepared,
    training: TrainingRun,
    figures: Evaluation,
    *,
    auc_retrained: float | None,
) -> Result:
    """The figures of a trained run."""
    pruning, seconds = settings.pruning, training.seconds
    embedding = training.model.embedding
    present = int(embedding.seen.sum())
    nonzero = nonzero_features(embedding.weight, embedding.seen)
    split = data.split
    unseen = unseen_by_field(data.rows, split.test, embedding.seen.cpu().numpy())
    warnings = diagnose(
        *(settings, data.manifest, split, figures),
        steps=training.steps,
        present=present,
        nonzero=nonzero,
        unseen=unseen,
    )
    return Result(
        dataset=settings.data.name,
        model=settings.model.name,
        opt=settings.optimizer.name,
        seed=settings.seed,
        rows_train=split.rows_train,
        rows_test=figures.rows,
        features_present=present,
        features_nonzero=nonzero,
        feature_rate=nonzero / present,
        auc=_defined(figures.auc),
        logloss=figures.logloss,
        positives_train=sum(data.rows.positives(slice(start, stop)) for start, stop in split.train),
        positives_test=figures.positives,
        samples_per_second=split.rows_train / seconds,
        train_seconds=seconds,
        peak_rss_bytes=memory.peak(),
        config_hash=settings.config_hash,
        data_hash=data.manifest.data_hash,
        code_hash=CODE,
        git_sha=git_sha(),
        source=data.manifest.recipe.source,
        rows_skipped=data.manifest.rows_skipped,
        collision_rate=data.manifest.collision_rate,
        values_unseen=sum(unseen) / len(unseen),
        warnings=warnings,
        calibration=_defined(figures.calibration),
        normalised_entropy=_defined(figures.normalised_entropy),
        auc_by_day={str(day): _defined(auc) for day, auc in figures.auc_by_day.items()},
        opt_options={name: value for name, value in settings.values["opt"].items() if name != "name"},
        prune_feature_rate=None if pruning is None else pruning.feature_rate,
        finetune=None if pruning is None else pruning.finetune,
        score=None if pruning is None else pruning.score,
        holdout=settings.holdout,
        auc_retrained=None if auc_retrained is None else _defined(auc_retrained),
    )


def _defined(figure: float) -> float | None:
    """None for NaN, which JSON does not know."""
    return None if figure != figure else figure


def table(result: Result, folder: Path) -> str:
    """The figures for a reader."""
    generated = "  (generated rows: says nothing about real clicks)" if result.source == "generated" else ""
    auc = "undefined: the test rows are all of one class" if result.auc is None else f"{result.auc:.4f}"
    lines = {
        "dataset": result.dataset + generated,
        "model, optimizer": f"{result.model}, {result.opt}, seed {result.seed}",
        "rows": f"{result.rows_train:,} to train on, {result.rows_test:,} "
        + ("of the training rows held out to test on" if result.holdout else "to test on"),
        "test AUC": auc,
        "test logloss": f"{result.logloss:.4f}",
        "calibration": f"{_shown(result.calibration)}   (clicks predicted / clicks observed; 1 is best)",
        "norm. entropy": f"{_shown(result.normalised_entropy)}   (logloss / that of the click rate alone; lower is "
        "better)",
        "feature rate": f"{result.feature_rate:.4f}   ({result.features_nonzero:,} of {result.features_present:,} "
        "features kept)",
        "speed": f"{result.samples_per_second:,.0f} rows/s, {result.train_seconds:.1f} s",
        "peak memory": f"{result.peak_rss_bytes / 2**30:.2f} GiB",
    }
    if result.prune_feature_rate is not None:
        lines["pruned"] = f"by {result.score}, the last {result.finetune:.0%} of the rows for fine-tuning"
    if result.auc_retrained is not None:
        lines["retrained AUC"] = f"{result.auc_retrained:.4f} on the features kept, without lambdas"
    if len(result.auc_by_day) > 1:
        lines["AUC by day"] = "  ".join(f"{day} {_shown(auc)}" for day, auc in result.auc_by_day.items())
    if result.rows_skipped:
        lines["bad rows"] = f"{result.rows_skipped:,} left out"
    if result.collision_rate:
        lines["hash collisions"] = f"{result.collision_rate:.4f} of the distinct values"
    lines["result"] = os.path.relpath(folder / "result.json")
    rows = [*lines.items(), *(("warning", warning) for warning in result.warnings)]
    return "\n".join(f"  {name:<17} {value}" for name, value in rows)


def _shown(figure: float | None) -> str:
    return "undefined" if figure is None else f"{figure:.4f}"
