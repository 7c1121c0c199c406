"""Learning rates chosen on the data at hand (paper, table 5), kept beside the prepared rows for ``opt.lr=auto``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from ctr.config.command_line import command_line
from ctr.errors import ArgumentError, DataError
from ctr.files import atomic_write_text, read_sealed, sealed

RATES = "learning_rates.json"
AUTO = "auto"
SEARCHED = ("adam", "adagrad")  # what study=table5 chooses rates for
VALUES = ("min_count", "unseen")
SPLIT = ("test_fraction", "test_days")
ROWS = ("batch_size", "train_rows", "holdout", "epochs", "admit")
LATER = ("epochs", "admit")  # rates were recorded before there were these: 1 is not mentioned


def family(opt: str) -> str:
    """Optimizers that share a learning rate: a grouped one is its plain one where all lambdas are 0 (theorem 2)."""
    return opt.removeprefix("group_").replace("amsgrad", "adam").replace("adaembed", "adam")


def circumstances(config: Mapping[str, Any]) -> dict[str, object]:
    """What a learning rate is chosen for, beside the prepared rows: the model, and which rows it learns from how.

    Args:
        config: a whole training configuration as plain values.
    """
    return {
        "optimizer": family(config["opt"]["name"]),
        "model": config["model"],
        "values": {key: config["dataset"][key] for key in VALUES},
        "split": {key: config["dataset"][key] for key in SPLIT},
        **_rows(config),
    }


def _rows(config: Mapping[str, Any]) -> dict[str, object]:
    return {key: config[key] for key in ROWS if key not in LATER or config[key] > 1}


def record(prepared: Path, config: Mapping[str, Any], lr: float) -> None:
    """Keeps a chosen rate beside the prepared rows, in place of an older one for the same circumstances."""
    path = prepared / RATES
    with FileLock(prepared.with_name(f"{prepared.name}.rates.lock")):
        where = circumstances(config)
        others = [entry for entry in _read(path) if {**entry, "lr": None} != {**where, "lr": None}]
        atomic_write_text(path, sealed({"rates": [*others, {**where, "lr": lr}]}))


def recorded(prepared: Path, config: Mapping[str, Any]) -> float:
    """The rate that was chosen for these rows.

    Raises:
        ArgumentError: none was; the message says how to choose one.
    """
    where = circumstances(config)
    for entry in _read(prepared / RATES):
        if {**entry, "lr": None} == {**where, "lr": None}:
            return float(entry["lr"])
    if where["optimizer"] not in SEARCHED:
        raise ArgumentError(
            f"opt.lr=auto: rates are chosen for {', '.join(SEARCHED)} and their kin alone, not for "
            f"{where['optimizer']}; give a number"
        )
    raise ArgumentError(
        f"opt.lr=auto: no learning rate was chosen for these rows yet; choose one with {_command(config)}"
    )


def _command(config: Mapping[str, Any]) -> str:
    """The study that chooses the rate: for the same rows and circumstances."""
    dataset, model = config["dataset"], config["model"]
    needless = {"name", "lr"}
    needless |= set() if dataset["source"] == "sample" else {"sample_rows", "sample_seed"}
    needless |= set() if dataset["encoding"] == "hash" else {"num_buckets"}
    overrides = {"study": "table5", "dataset": dataset["name"]}
    overrides |= {f"dataset.{key}": value for key, value in dataset.items() if key not in needless}
    overrides |= {"model": model["name"], **{f"model.{key}": model[key] for key in model if key != "name"}}
    overrides |= {f"+train.{key}": value for key, value in _rows(config).items() if value}
    return command_line("ctr.reproduce", {key: value for key, value in overrides.items() if value is not None})


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        return read_sealed(path)["rates"]
    except FileNotFoundError:
        return []
    except DataError as error:
        raise DataError(path, None, f"{error.problem}; delete it and choose the rates again (study=table5)") from error
