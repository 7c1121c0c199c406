"""The name of a run in MLflow: first what tells it from the others of a study or a sweep, last what they share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ctr import parts

if TYPE_CHECKING:
    from ctr.training.settings import Settings

# What runs are often compared by, beside the optimizer's options, with the value that a name leaves out.
USUAL = {
    "train_rows": None, "epochs": 1, "holdout": 0.0, "retrain": False, "init": None, "admit": 1, "average": 0.0,
    "batch_size": 512, "dataset.encoding": "onehot", "dataset.min_count": 1, "dataset.unseen": "zero",
}  # fmt: skip


def run_name(settings: Settings) -> str:
    """The optimizer with its learning rate, whatever else is not as usual, the seed, the data and the model: "adam
    lr=0.001 prune.feature_rate=0.0123 prune.score=norm seed=0 criteo dcn embedding_dim=8"."""
    values, optimizer = settings.values, settings.optimizer
    usual = parts.options("opt", parts.find("opt", optimizer.name, optimizer.module))
    shown = {"lr": optimizer.options["lr"]}
    shown |= {key: value for key, value in optimizer.options.items() if not _same(value, usual[key].default)}
    shown |= {key: values["opt"][key] for key in ("budget",) if optimizer.budget is not None}
    shown |= {"lambda_schedule": optimizer.schedule} if optimizer.schedule != "constant" else {}
    if settings.pruning is not None:
        pruning = settings.pruning
        shown |= {"prune.feature_rate": pruning.feature_rate, "prune.score": pruning.score}
        shown |= {"prune.finetune": pruning.finetune} if pruning.finetune else {}
    given = {key: _at(values, key) for key in USUAL}
    shown |= {key.removeprefix("dataset."): value for key, value in given.items() if value not in (None, USUAL[key])}
    if given["dataset.encoding"] == "hash":
        shown["num_buckets"] = values["dataset"]["num_buckets"]
    shown["seed"] = settings.seed
    told = " ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in shown.items()
    )
    model = settings.model
    return f"{optimizer.name} {told} {settings.data.name} {model.name} embedding_dim={model.embedding_dim}"


def _at(values: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key; None where a dataset has no such key."""
    group, _, name = key.rpartition(".")
    return (values[group] if group else values).get(name)


def _same(value: Any, default: Any) -> bool:
    return bool(list(value) == list(default)) if isinstance(default, tuple) else bool(value == default)
