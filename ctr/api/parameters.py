"""From the parameters of the estimator to the settings of its run."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ctr.api.checks import InputError, plain
from ctr.config.compose import compose, resolve
from ctr.training.settings import Settings

# Where each parameter is in the configuration of ctr.train; None there is the command's own default.
KEYS = {
    "model": ("embedding_dim", "hidden", "dropout"),
    "opt": (
        *("lr", "lambda1", "lambda21", "lambda2", "norm", "threshold", "lambda_schedule"),
        *("budget", "budget_schedule"),
    ),
    "dataset": (
        *("categorical", "dense", "ignore", "time", "time_format", "order", "transforms", "transform_default"),
        *("encoding", "num_buckets", "min_count", "unseen", "negative_rate", "multi", "pool"),
    ),
    "": ("admit", "average", "batch_size", "epochs", "seed", "device", "backend", "threads", "compile", "precision"),
}


def settings_of(parameters: Mapping[str, Any], log: Path, columns: Sequence[str], origin: Path | None) -> Settings:
    """Of ``python -m ctr.train`` with these parameters, on all rows of a log.

    Args:
        parameters: of the estimator, by name.
        log: a Parquet file; its rows are prepared beside it.
        columns: the names of those of labels and, if there are any, of weights.
        origin: the run or model to go on with; None: a new one.

    Raises:
        InputError: the model or optimizer does not have a parameter.
    """
    config = copy.deepcopy(_composed(parameters["model"], parameters["opt"]))
    for group, names in KEYS.items():
        part = config[group] if group else config
        for name in names:
            if (value := parameters[name]) is None:
                continue
            key = "transform" if name == "transforms" else name
            if key not in part:
                raise InputError(f"{name}={value}: {group}={parameters[group]} has no such option")
            part[key] = plain(value)
    label, weight = (*columns, None)[:2]
    config.dataset.update(raw=str(log), prepared=str(log.with_name("prepared")), test_fraction=0.0)
    config.dataset.update(label=label, weight=weight)
    config.checkpoint.update(every_minutes=None, final=True)
    config.report = False
    config.init, config.progressive = None if origin is None else str(origin), False
    return resolve(config)


@functools.cache
def _composed(model: str, opt: str) -> DictConfig:
    return compose("train", ["dataset=csv", f"model={model}", f"opt={opt}", "tracking=none"])
