"""Learning rates chosen on the data at hand (paper, table 5), kept beside the prepared rows for ``opt.lr=auto``."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

import ctr.config
from ctr.cli import ArgumentError, open_data
from ctr.config import TrainConfig
from ctr.errors import CtrError
from ctr.files import atomic_write_text

RATES = "learning_rates.json"
AUTO = "auto"


def family(opt: str) -> str:
    """Optimizers that share a learning rate: a grouped one is its plain one where all lambdas are 0 (theorem 2)."""
    return opt.removeprefix("group_").replace("amsgrad", "adam")


def circumstances(config: Mapping[str, Any]) -> dict[str, object]:
    """What a learning rate is chosen for.

    Args:
        config: a whole training configuration as plain values.
    """
    return {
        "model": config["model"]["name"],
        "optimizer": family(config["opt"]["name"]),
        "embedding_dim": config["model"]["embedding_dim"],
        "batch_size": config["batch_size"],
        "train_rows": config.get("train_rows"),
        "holdout": config.get("holdout", 0.0),
    }


def record(prepared: Path, config: Mapping[str, Any], lr: float) -> None:
    """Keeps a chosen rate beside the prepared rows, in place of an older one for the same circumstances."""
    path = prepared / RATES
    with FileLock(prepared.with_name(f"{prepared.name}.rates.lock")):
        where = circumstances(config)
        others = [entry for entry in _read(path) if {**entry, "lr": None} != {**where, "lr": None}]
        atomic_write_text(path, json.dumps([*others, {**where, "lr": lr}], indent=2) + "\n")


def recorded(prepared: Path, config: Mapping[str, Any]) -> float:
    """The rate that was chosen for these rows.

    Raises:
        CtrError: none was; the message says how to choose one.
    """
    where = circumstances(config)
    for entry in _read(prepared / RATES):
        if {**entry, "lr": None} == {**where, "lr": None}:
            return float(entry["lr"])
    raise CtrError(f"opt.lr=auto: no learning rate was chosen for these rows yet; choose one with {_command(config)}")


def provisional(config: TrainConfig) -> TrainConfig:
    """The configuration with some number in the place of ``opt.lr=auto``, to check everything else.

    Raises:
        ArgumentError: ``opt.lr`` is neither a number nor ``auto``.
    """
    if not isinstance(config.opt.lr, str):
        return config
    if config.opt.lr != AUTO:
        raise ArgumentError(f"opt.lr={config.opt.lr}; expected a number or auto")
    config = copy.deepcopy(config)
    config.opt.lr = 1.0
    return config


def settle(config: TrainConfig) -> None:
    """Puts the recorded rate in the place of ``opt.lr=auto``; opens the data for it, prepared first if need be.

    Raises:
        CtrError: no rate was chosen for these rows yet; the message says how to choose one.
    """
    if config.opt.lr == AUTO:
        config.opt.lr = recorded(open_data(config.dataset).folder, ctr.config.plain_dict(config))


def _command(config: Mapping[str, Any]) -> str:
    dataset, model, where = config["dataset"], config["model"], circumstances(config)
    given = [f"study=table5 dataset={dataset['name']} dataset.source={dataset['source']} dataset.raw={dataset['raw']}"]
    given += [f"model={model['name']} model.embedding_dim={model['embedding_dim']}"]
    for key in ("batch_size", "train_rows", "holdout"):
        if where[key]:
            given.append(f"+train.{key}={where[key]}")
    return f"python -m ctr.reproduce {' '.join(given)}"


def _read(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text()) if path.exists() else []
