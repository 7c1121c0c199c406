"""The name of a run in MLflow: first what tells it from the others of a study or a sweep, last what they share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ctr import parts

if TYPE_CHECKING:
    from ctr.training.settings import Settings

MAX_NAME = 250  # characters that MLflow's databases take
# What runs are often compared by, beside the optimizer's options, with the value that a name leaves out.
USUAL = {
    "train_rows": None, "epochs": 1, "holdout": 0.0, "retrain": False, "init": None, "admit": 1, "average": 0.0,
    "batch_size": 512, "dataset.encoding": "onehot", "dataset.min_count": 1, "dataset.unseen": "zero",
}  # fmt: skip


def run_name(settings: Settings) -> str:
    """The optimizer, whatever is not as usual, learning rate and seed, then the data and the model: "adam pruned=0.0123
    by=norm lr=0.001 seed=0 criteo dcn embedding_dim=8". Lists cut names, so that what differs comes first."""
    values, optimizer = settings.values, settings.optimizer
    usual = parts.options("opt", parts.find("opt", optimizer.name, optimizer.module))
    shown = {
        key.replace("lambda", "λ"): value
        for key, value in optimizer.options.items()
        if key != "lr" and not _same(value, usual[key].default)
    }
    if optimizer.budget is not None:
        shown = {"budget": values["opt"]["budget"], **shown}
    if optimizer.schedule != "constant":
        shown["λ_schedule"] = optimizer.schedule
    if settings.pruning is not None:
        shown |= {"pruned": settings.pruning.feature_rate, "by": settings.pruning.score}
        shown |= {"finetune": settings.pruning.finetune} if settings.pruning.finetune else {}
    given = {key: _at(values, key) for key in USUAL}
    shown |= {key.removeprefix("dataset."): value for key, value in given.items() if value not in (None, USUAL[key])}
    if given["dataset.encoding"] == "hash":
        shown["num_buckets"] = values["dataset"]["num_buckets"]
    shown |= {"lr": optimizer.options["lr"], "seed": settings.seed}
    told = [f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in shown.items()]
    model = settings.model
    name = " ".join([optimizer.name, *told, settings.data.name, model.name, f"embedding_dim={model.embedding_dim}"])
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"


def _at(values: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key; None where a dataset has no such key."""
    group, _, name = key.rpartition(".")
    return (values[group] if group else values).get(name)


def _same(value: Any, default: Any) -> bool:
    return bool(list(value) == list(default)) if isinstance(default, tuple) else bool(value == default)
