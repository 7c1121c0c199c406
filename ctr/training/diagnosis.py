"""What is probably wrong with a run that ended without an error: each warning names the cause and the remedy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ctr.datasets.manifest import Manifest, Split
from ctr.datasets.ragged import Ragged, flat
from ctr.datasets.rows import RowSource
from ctr.training.settings import Settings
from ctr.training.trainer import Evaluation

LARGE = 100.0  # absolute value of an input from which it drowns the others
ID_SHARE, ID_ROWS = 0.8, 1000  # values per row from which a field is an id, in at least this many rows
NEW_OF_FIELD, NEW_OF_ALL = 0.9, 0.5  # share of test values that training has not seen
TOO_GOOD, ENOUGH = 0.98, 1000  # an AUC that no log of clicks reaches, on at least this many test rows
_CHUNK = 1 << 18


def diagnose(
    settings: Settings,
    manifest: Manifest,
    split: Split,
    figures: Evaluation | None,
    *,
    steps: int,
    present: int,
    nonzero: int,
    lambda21: float,
    unseen: Sequence[float],
    several: Sequence[str] = (),
) -> list[str]:
    """All warnings of a run; of one that goes on with a known model, those that its log alone can give.

    Args:
        settings: of the run.
        manifest, split: its data.
        figures: of the test rows; None where no row tests.
        steps: of training.
        present, nonzero: features in the training rows, and those whose row is not zero after training.
        lambda21: at the end.
        unseen: of each field, the share of its test values that training has not seen (`unseen_by_field`);
            empty where no row tests.
        several: fields that have several values in a row.
    """
    optimizer, budget, first = settings.optimizer, settings.optimizer.budget, settings.init is None
    train, test = (_days(manifest, ranges) for ranges in (split.train, split.test))
    rate = of_learning_rate(optimizer.name, optimizer.options["lr"], steps, settings.model.embedding_init)
    return [
        *(of_predictions(figures, bool(manifest.dense)) if figures else []),
        # A budget keeps all of fewer features, and its lambda21 is not the user's to choose.
        *((first and rate) or ([] if budget else of_features(present, nonzero, lambda21))),
        *(of_ids(manifest.fields, manifest.values_per_field, manifest.rows, several) if first else []),
        *of_numbers(manifest.dense, manifest.largest),
        *(of_unseen(manifest.fields, unseen) if unseen else []),
        *of_days(train, test),
        *of_epochs(settings.epochs),
    ]


def of_predictions(figures: Evaluation, numbers: bool) -> list[str]:
    """AUC and normalised entropy that a constant prediction reaches, or no log of clicks; ``numbers``: the model has
    numeric inputs."""
    if math.isnan(figures.auc):
        if 0 < figures.positives < figures.rows:
            return ["AUC is undefined: all test rows of one label have weight 0; look at dataset.weight"]
        clicks = f"{figures.positives:,} of {figures.rows:,} test rows have label 1"
        return [f"AUC is undefined: {clicks}; choose a test part with both labels (dataset.test_days, test_fraction)"]
    found = []
    if figures.auc == 0.5:
        found.append("AUC is exactly .5: all test rows get the same prediction; lower lambda21, or look at the fields")
    elif figures.normalised_entropy > 1:
        remedy = "scale the numeric columns, or try another opt.lr" if numbers else "try another opt.lr"
        entropy = figures.normalised_entropy
        found.append(f"normalised entropy is {entropy:.4g}, above 1: worse than the click rate alone; {remedy}")
    if figures.auc > TOO_GOOD and figures.rows >= ENOUGH:
        found.append(
            f"AUC is {figures.auc:.4f}, too good for clicks: a column probably knows the click, such as what comes "
            "after it; leave such a column out (of your own log: dataset.ignore=[NAME])"
        )
    return found


def of_features(present: int, nonzero: int, lambda21: float) -> list[str]:
    """All features removed, or none although some should be."""
    if not nonzero:
        return [f"no feature is left of {present:,}: opt.lambda21={lambda21:g} is too large; lower it"]
    if lambda21 > 0 and nonzero == present:
        return [
            f"all {present:,} features are kept at opt.lambda21={lambda21:g}: it is too small for a log of this "
            "length; raise it"
        ]
    return []


def of_learning_rate(opt: str, lr: float, steps: int, init: float) -> list[str]:
    """Steps that together are smaller than the initial weights.

    Each step of Adam and AMSGrad moves a weight by about lr at most; T steps of Adagrad by lr (1 + 1/sqrt(2) + ... +
    1/sqrt(T)), about 2 lr sqrt(T). Other optimizers have no such bound.
    """
    reach = {"adam": lr * steps, "amsgrad": lr * steps, "adagrad": 2 * lr * math.sqrt(steps)}.get(
        opt.removeprefix("group_"), math.inf
    )
    if reach >= init:
        return []
    return [
        f"opt.lr={lr:g} is too small for {steps:,} steps: no weight moves by more than about {reach:.2g}, less than "
        f"model.embedding_init={init:g}; raise opt.lr, lower batch_size, or train on more rows"
    ]


def of_ids(fields: Sequence[str], values: Sequence[int], rows: int, several: Sequence[str] = ()) -> list[str]:
    """Fields with nearly one value per row.

    Args:
        fields: their names.
        values: distinct values of each.
        rows: of the whole log.
        several: fields that have several values in a row, of which their number says nothing.
    """
    if rows < ID_ROWS:
        return []
    return [
        f"field {name} has nearly one value per row ({count:,} in {rows:,}): an id or a time teaches nothing of other "
        "rows; leave it out"
        for name, count in zip(fields, values, strict=True)
        if count >= ID_SHARE * rows and name not in several
    ]


def of_numbers(names: Sequence[str], largest: Sequence[float]) -> list[str]:
    """Inputs beyond +-100; ``largest``: the largest absolute value of each."""
    return [
        f"numeric column {name} goes up to {value:.4g}: inputs beyond {LARGE:g} drown the others; transform it, for "
        f"example \"dataset.transform=['{name}:quantile']\""
        for name, value in zip(names, largest, strict=True)
        if value > LARGE
    ]


def of_unseen(fields: Sequence[str], unseen: Sequence[float]) -> list[str]:
    """Fields whose test values are new; ``unseen``: the share of each."""
    new = [f"{name} {share:.0%}" for name, share in zip(fields, unseen, strict=True) if share >= NEW_OF_FIELD]
    if new:
        return [f"nearly all test values are new to the model in: {', '.join(new)}; leave such fields out"]
    if len(unseen) and (share := float(np.mean(unseen))) >= NEW_OF_ALL:
        return [f"{share:.0%} of the test values are new to the model; train on more rows, or test nearer to them"]
    return []


def of_days(train: Sequence[int], test: Sequence[int]) -> list[str]:
    """Days (YYYYMMDD) trained on that are later than one that tests."""
    if train and test and max(train) > min(test):
        return [
            f"test rows of {min(test)} come before training rows of {max(train)}: the model knows the future; "
            "let the last days test (dataset.test_days)"
        ]
    return []


def of_epochs(epochs: int) -> list[str]:
    """More than one pass. The rows of rare values overfit from the second on: Zhang et al., "Towards Understanding the
    Overfitting Phenomenon of Deep Click-Through Rate Models" (CIKM 2022)."""
    if epochs == 1:
        return []
    return [
        f"epochs={epochs}: from the second pass on the rows of rare values learn their labels by heart; compare the "
        "test figures with those of epochs=1"
    ]


def unseen_by_field(rows: RowSource, ranges: Sequence[tuple[int, int]], seen: np.ndarray) -> list[float]:
    """The share of each field's values in some rows that training has not seen; of several in a row, their mean share.

    Args:
        rows: the prepared rows.
        ranges: half-open, of the rows that test.
        seen: bool [N], which ids occurred in training, in that of earlier logs too.

    Returns:
        One share for each field; none where there are no rows.
    """
    new: np.ndarray | int = 0
    for first, last in ranges:
        for start in range(first, last, _CHUNK):
            ids = rows[start : min(start + _CHUNK, last)][0]
            unseen = ~seen[flat(ids)]
            here = ids.means(unseen) if isinstance(ids, Ragged) else unseen.reshape(ids.shape)
            new = new + here.sum(axis=0)
    total = sum(stop - start for start, stop in ranges)
    return [float(count) / total for count in np.atleast_1d(new)] if total else []


def _days(manifest: Manifest, ranges: Sequence[tuple[int, int]]) -> list[int]:
    return [day for day, start, stop in manifest.days if any(start < last and first < stop for first, last in ranges)]
