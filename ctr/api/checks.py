"""What comes into the estimator: labels, parameters, and what is wrong with them as scikit-learn expects to hear it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_array, check_consistent_length, column_or_1d

from ctr.cli import message
from ctr.config.messages import CONFIG_ERRORS
from ctr.errors import ArgumentError, DataError

LABEL, WEIGHT = "label", "sample_weight"


class InputError(ArgumentError, ValueError):
    """A parameter or input that cannot work: of ctr's errors, and the ValueError that scikit-learn expects."""


def labels_of(X: Any, y: Any) -> np.ndarray:
    """[n] labels, of at most two values."""
    labels = column_or_1d(check_array(np.asarray(y), ensure_2d=False, dtype=None), warn=True)
    check_consistent_length(X, labels)
    check_classification_targets(labels)
    if (kind := type_of_target(labels)) != "binary":
        raise InputError(f"Only binary classification is supported. The type of the target is {kind}.")
    return labels


def weights_of(X: Any, sample_weight: Any) -> np.ndarray | None:
    """float64 [n] weights, finite and at least 0; None for None."""
    if sample_weight is None:
        return None
    weights = column_or_1d(check_array(np.asarray(sample_weight), ensure_2d=False, dtype=np.float64))
    check_consistent_length(X, weights)
    if len(weights) and weights.min() < 0:
        raise InputError(f"sample_weight: row {weights.argmin()} has {weights.min():g}; expected at least 0")
    return weights


def name_of_label(y: Any, frame: Any) -> str:
    """The name of the labels' column in the log: y's own, where it has one that no column has."""
    columns = names_of(frame)
    name = getattr(y, "name", None)
    return unused(columns, name if isinstance(name, str) and name and name not in columns else LABEL)


def names_of(frame: Any) -> set[str]:
    """The names of a frame's columns."""
    return set(frame.columns if isinstance(frame, pd.DataFrame) else pa.table(frame).schema.names)


def unused(columns: set[str], name: str) -> str:
    """The name, or with underscores behind it, so that no column has it."""
    while name in columns:
        name += "_"
    return name


def plain(value: Any) -> Any:
    """A parameter as a configuration has it: numpy's numbers, as grids of a search give them, and tuples."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


@contextmanager
def as_input_error(shown: dict[str, str] | None = None, but: type | None = None) -> Iterator[None]:
    """Raises what a parameter or the frame caused as `InputError`; ``shown``: texts to be replaced in its message."""
    try:
        yield
    except InputError:
        raise
    except (ArgumentError, DataError, *CONFIG_ERRORS) as error:
        if but is not None and isinstance(error, but):
            raise
        text = message(error)
        for found, replacement in (shown or {}).items():
            text = text.replace(found, replacement)
        raise InputError(text) from error
