"""From a command line's overrides to the frozen settings of a run: composed by Hydra, checked and settled once."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import hydra
import torch
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from ctr import parts
from ctr.artifact import init
from ctr.config import learning_rates, schema, search
from ctr.config.data import data_settings
from ctr.config.schema import MODULE, ModelConfig, TrainConfig
from ctr.datasets.schema import Pool
from ctr.datasets.source import open_data, pool_of
from ctr.errors import ArgumentError, CtrError
from ctr.provenance import code_hash
from ctr.training import build, store
from ctr.training.budget import parse
from ctr.training.compiled.forward import MAX_THREADS
from ctr.training.compiled_net import Compile
from ctr.training.precision import FULL
from ctr.training.pruning import Pruning
from ctr.training.settings import (
    LAMBDAS,
    CheckpointSettings,
    InitSettings,
    ModelSettings,
    OptimizerSettings,
    SaveSettings,
    Settings,
    TrackingSettings,
)
from ctr.training.step import Backend

MODEL_KEYS = tuple(field.name for field in fields(ModelConfig))


def compose(command: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration of ``python -m ctr.<command>`` with these overrides."""
    search.register()
    # A command that Hydra started has its search path already, and there is only one.
    if GlobalHydra.instance().is_initialized():
        return hydra.compose(command, list(overrides))
    with initialize_config_module("ctr.conf", version_base="1.3"):
        return hydra.compose(command, list(overrides))


def resolve(config: DictConfig, *, several: bool = False) -> Settings:
    """The settings of ``python -m ctr.train``, all checked; nothing below reads or checks a configuration.

    ``backend=auto`` becomes the backend that serves the whole run. ``opt.lr=auto`` becomes the rate that was chosen for
    these rows, which are prepared first where that is not done yet; nothing else is read or written.

    Args:
        config: of the command.
        several: workers train it together, none of which has the whole table that the compiled step needs.

    Raises:
        ArgumentError, OmegaConfBaseException: a key or value that cannot work, by its name.
    """
    values = schema.plain_dict(schema.typed(config, TrainConfig))
    _check_numbers(values)
    _check_budget(values["opt"])
    pruning = _pruning(values)
    _check_device(values["device"])
    lr = values["opt"]["lr"]
    if isinstance(lr, str) and lr != learning_rates.AUTO:
        raise ArgumentError(f"opt.lr={lr}; expected a number or auto")
    provisional = {**values["opt"], "lr": 1.0 if lr == learning_rates.AUTO else lr}
    tried = (values["model"], provisional, values["device"], values["retrain"], values["backend"])
    values["backend"] = _settled_backend(tried, None)
    if several and values["backend"] == "native":
        values["backend"] = "rows"
    data = data_settings(values["dataset"], values["admit"])
    origin = _init(values)
    if origin is not None:
        data = init.as_known(data, origin)
    values["progressive"] = _progressive(values, origin is not None)
    watched, saved = _tracking(values["tracking"]), _save(values)
    if lr == learning_rates.AUTO:
        values["opt"]["lr"] = learning_rates.recorded(open_data(data).folder, values)
    settings = Settings(
        data=data,
        model=_model(values["model"], "init" if data.unseen == "init" else "zero"),
        optimizer=_optimizer(values["opt"]),
        pruning=pruning,
        tracking=watched,
        save=saved,
        values=values,
        code={module: code_hash([parts.source(module)]) for module in _modules(values)},
        checkpoint=_checkpoint(values["checkpoint"]),
        **{key: values[key] for key in ("train_rows", "holdout", "retrain", "batch_size", "seed", "device", "backend")},
        **{key: values[key] for key in ("average", "epochs", "threads", "window", "progressive", "report")},
        compile=_compile(values["compile"]),
        precision=values["precision"],
        init=origin,
    )
    if origin is not None:
        init.expect_fit(settings)
    if settings.backend == "native" and (pool := pool_of(data)) is not None:
        values["backend"] = _settled_backend(tried, pool)
        settings = replace(settings, backend=values["backend"])
    if settings.backend == "native" and settings.compile is True:
        raise ArgumentError(
            "compile=true is for backend=rows and torch; backend=native computes the net itself: give backend=rows, "
            "or compile=auto"
        )
    if settings.backend == "native" and settings.precision != FULL:
        raise ArgumentError(
            f"precision={settings.precision} is for backend=rows and torch; backend=native computes in float32: give "
            "backend=rows"
        )
    return settings


def _compile(asked: bool | str) -> Compile:
    if isinstance(asked, bool):
        return asked
    if asked != "auto":
        raise ArgumentError(f"compile={asked}; expected true, false or auto")
    return "auto"


def _model(values: Mapping[str, Any], unseen: Literal["zero", "init"] = "zero") -> ModelSettings:
    options = {key: value for key, value in values.items() if key not in (*MODEL_KEYS, MODULE)}
    shared = {key: values[key] for key in MODEL_KEYS}
    return ModelSettings(**shared, unseen=unseen, options=options, module=values.get(MODULE))


def _optimizer(values: Mapping[str, Any]) -> OptimizerSettings:
    shared = ("name", "lambda_schedule", "budget", "budget_schedule", MODULE)
    options = {key: value for key, value in values.items() if key not in shared}
    schedule, budget = values.get("lambda_schedule", "constant"), values.get("budget")
    asked = None if budget is None else parse(budget, values["budget_schedule"])
    return OptimizerSettings(values["name"], options, schedule, values.get(MODULE), asked)


def _modules(values: Mapping[str, Any]) -> list[str]:
    """The modules of other packages that the configuration names."""
    return sorted({part[MODULE] for part in values.values() if isinstance(part, Mapping) and MODULE in part})


def _tracking(values: Mapping[str, Any]) -> TrackingSettings | None:
    if values["name"] == "none":
        return None
    store.check_uri(values["uri"])
    settings = TrackingSettings(**{key: value for key, value in values.items() if key != "name"})
    if settings.registered_model is not None and not settings.log_model:
        raise ArgumentError(
            f"tracking.registered_model={settings.registered_model}: only a logged model can be registered; "
            "give tracking.log_model=true too"
        )
    return settings


def _checkpoint(values: Mapping[str, Any]) -> CheckpointSettings | None:
    settings = CheckpointSettings(**values)
    off = settings.every_minutes is None and settings.every_steps is None and not settings.final
    return None if off else settings


def _save(values: Mapping[str, Any]) -> SaveSettings | None:
    if values["save"]["name"] == "none":
        if values["tracking"]["log_model"]:
            raise ArgumentError("tracking.log_model=true: with save=none there is no model to log; give save=model")
        return None
    if values["dataset"]["unseen"] == "init":
        raise ArgumentError(
            "dataset.unseen=init: a saved model has no initial values; give save=none, or dataset.unseen=zero or row"
        )
    return SaveSettings(values["save"]["keys"])


def _pruning(values: Mapping[str, Any]) -> Pruning | None:
    options = {key: value for key, value in values["prune"].items() if key != "name"}
    if values["prune"]["name"] == "none":
        return None
    pruning, opt = Pruning(**options), values["opt"]
    plain = f"take opt={opt['name'].removeprefix('group_')} or prune=none"
    if not 0 < pruning.feature_rate <= 1:
        raise ArgumentError(f"prune.feature_rate={pruning.feature_rate}; expected a share above 0 and at most 1")
    if not 0 <= pruning.finetune < 1:
        raise ArgumentError(f"prune.finetune={pruning.finetune}; expected a share from 0 to below 1")
    if opt.get("budget") is not None:
        raise ArgumentError(
            f"prune=magnitude is for plain optimizers, but there is opt.budget={opt['budget']}; {plain}"
        )
    for name in LAMBDAS:
        if value := opt.get(name, 0):
            raise ArgumentError(
                f"prune=magnitude is for plain optimizers, but opt={opt['name']} has opt.{name}={value:g}; {plain}"
            )
    return pruning


def _init(values: Mapping[str, Any]) -> InitSettings | None:
    evict = values["evict"] != "none"
    if values["init"] is None:
        if evict:
            raise ArgumentError(f"evict={values['evict']} drops rows of a known model; it needs init=RUN_OR_MODEL")
        return None
    if values["retrain"]:
        raise ArgumentError("retrain=true trains from the first row of a model; it cannot have init")
    if evict and values["dataset"]["encoding"] == "hash":
        raise ArgumentError(
            f"evict={values['evict']} is for dataset.encoding=onehot: hashed ids have a fixed number of rows"
        )
    path = Path(values["init"])
    return InitSettings(path, init.find(path).identity, values["evict_after"] if evict else None, init.load)


def _progressive(values: Mapping[str, Any], continues: bool) -> bool:
    asked, dataset = values["progressive"], values["dataset"]
    if isinstance(asked, str) and asked != "auto":
        raise ArgumentError(f"progressive={asked}; expected true, false or auto")
    epochs = values["epochs"]
    progressive = continues and epochs == 1 if asked == "auto" else bool(asked)
    if progressive and epochs > 1:
        raise ArgumentError(
            f"progressive=true scores rows that were never learned from; with epochs={epochs} they were"
        )
    untested = dataset["test_fraction"] == 0 and dataset["test_days"] is None and not values["holdout"]
    if untested and asked == "auto" and not progressive:
        raise ArgumentError(
            "dataset.test_fraction=0 leaves no row to test on; progressive=true scores rows before it learns from "
            "them, progressive=false trains without figures"
        )
    return progressive


def _check_budget(opt: Mapping[str, Any]) -> None:
    if opt.get("budget") is None:
        return
    parse(opt["budget"])
    sets = f"opt.budget={opt['budget']} sets lambda21"
    if "lambda21" not in opt:
        raise ArgumentError(f"{sets}, which opt={opt['name']} does not have")
    if opt["lambda21"]:
        raise ArgumentError(f"{sets}, but there is opt.lambda21={opt['lambda21']:g}; leave one of both out")
    if (shape := opt["lambda_schedule"]) != "constant":
        raise ArgumentError(f"{sets}, but there is opt.lambda_schedule={shape}; take opt.budget_schedule")


def _at_least(least: float) -> tuple[str, Callable[[Any], bool]]:
    return f"at least {least:g}", lambda value: value >= least


def _from_one_to(most: int) -> tuple[str, Callable[[Any], bool]]:
    return f"1 to {most:,}", lambda value: 1 <= value <= most


# What a number may be: in words, and as a test. Types are checked by the schema.
NUMBERS = {
    "batch_size": _from_one_to(2**31 - 1),
    "window": _from_one_to(2**31 - 1),
    "slices": _from_one_to(1024),
    "threads": _from_one_to(MAX_THREADS),
    "seed": ("0 to 2^63 - 1", lambda value: 0 <= value < 2**63),
    "train_rows": _at_least(1),
    "epochs": _at_least(1),
    "evict_after": _at_least(0),
    "holdout": ("a share from 0 to below 1", lambda value: 0 <= value < 1),
    "average": ("a share from 0 to 1", lambda value: 0 <= value <= 1),
    "model.embedding_init": _at_least(0),
    "checkpoint.every_minutes": ("more than 0, or null", lambda value: value > 0),
    "checkpoint.every_steps": ("at least 1, or null", lambda value: value >= 1),
    "checkpoint.keep": _at_least(1),
}


def _check_numbers(values: Mapping[str, Any]) -> None:
    for key, (expected, fits) in NUMBERS.items():
        value = functools.reduce(lambda part, name: part[name], key.split("."), values)
        if value is not None and not fits(value):
            raise ArgumentError(f"{key}={value}; expected {expected}")


@functools.cache
def _check_device(device: str) -> None:
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ArgumentError(f"device={device}: {str(error).splitlines()[0]}") from error


def _settled_backend(tried: tuple[Any, ...], pool: Pool | None) -> Backend:
    """The backend for these values of model, optimizer, device, retrain and backend, and rows that are pooled so.

    Raises:
        ArgumentError: they cannot work.
    """
    settled = _tried(json.dumps([*tried, pool]))
    if isinstance(settled, str):
        raise ArgumentError(settled)
    return settled[0]


@functools.cache
def _tried(tried: str) -> tuple[Backend] | str:
    """`_settled_backend`, or why they cannot work.

    It builds the model and the optimizers at the smallest size, once for all runs of a study that share the values.
    """
    model, opt, device, retrain, backend, pool = json.loads(tried)
    try:
        return (build.settle_backend(_model(model), _optimizer(opt), device, backend, retrain=retrain, pool=pool),)
    except (ValueError, RuntimeError, CtrError) as error:
        return str(error)
