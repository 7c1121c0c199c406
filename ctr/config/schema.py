"""The types of all keys of the configuration, and the one place where values are checked against them.

The keys of a command, and those that all choices of a group share, are declared here. The options of a model, dataset
or optimizer are read from its signature (`ctr.parts`). Values and what they mean are in the YAML files of ``configs/``.
Only entry points import this; below them functions take plain typed arguments.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from omegaconf import MISSING, DictConfig, OmegaConf

from ctr import parts
from ctr.errors import ArgumentError

T = TypeVar("T")


@dataclass
class LearningRates:
    adam: float
    adagrad: float
    sgd: float
    momentum: float
    adahessian: float


@dataclass
class DatasetConfig:
    """The keys that all datasets share; beside them the arguments of its ``make``."""

    name: str
    source: Literal["raw", "sample"]
    raw: Any  # a path, or a list of paths
    prepared: str
    encoding: Literal["onehot", "hash"]
    num_buckets: int
    bad_rows: Literal["error", "skip"]
    sample_rows: int
    sample_seed: int
    lr: LearningRates
    min_count: int = 1
    unseen: Literal["zero", "row", "init"] = "zero"
    test_fraction: float | None = None
    test_days: list[int] | None = None


@dataclass
class ModelConfig:
    """The keys that all models share; beside them the arguments of its class."""

    name: str
    embedding_dim: int
    embedding_init: float


@dataclass
class OptConfig:
    """The keys that all optimizers share; beside them the arguments of its class, or of the class's plain twin."""

    name: str
    lr: int | float | str  # a number or auto: `ctr.training.learning_rates`


@dataclass
class GroupedConfig(OptConfig):
    """With ``group_`` in its name."""

    lambda_schedule: Literal["constant", "linear", "cubic"] = "constant"
    budget: int | float | str | None = None  # `ctr.training.budget`
    budget_schedule: Literal["constant", "linear", "geometric"] = "constant"


@dataclass
class PruneConfig:
    """Beside it the fields of `ctr.training.pruning.Pruning`, unless it is ``none``."""

    name: str


@dataclass
class TrackingConfig:
    name: str
    uri: str
    experiment: str
    tags: dict[str, str] = field(default_factory=dict)
    log_model: bool = False
    registered_model: str | None = None


@dataclass
class CheckpointConfig:
    every_minutes: float | None
    every_steps: int | None
    keep: int
    final: bool


@dataclass
class SaveConfig:
    name: Literal["model", "none"]
    keys: Literal["raw", "hash"] = "raw"


@dataclass
class PrepareConfig:
    dataset: DatasetConfig
    workers: int = 1
    memory: str | None = None
    launcher: Literal["local", "ray"] = "local"
    ray: dict[str, Any] = field(default_factory=dict)
    model: Any = None  # a dataset picks one; only training has use for it


@dataclass
class ExportConfig:
    model: str
    to: Literal["onnx"]
    out: str
    rows: Literal["float32", "float16", "int8"]
    raw: str | None
    allow_module: bool


@dataclass
class TrainConfig:
    dataset: DatasetConfig
    model: ModelConfig
    opt: OptConfig
    prune: PruneConfig
    tracking: TrackingConfig
    checkpoint: CheckpointConfig
    resume: str | None
    save: SaveConfig
    report: bool
    train_rows: int | None
    epochs: int
    holdout: float
    retrain: bool
    init: str | None
    evict: Literal["none", "dead"]
    evict_after: int
    progressive: bool | str  # a truth value or auto
    admit: int
    average: float
    batch_size: int
    slices: int
    seed: int
    device: str
    backend: Literal["auto", "native", "rows", "torch"]
    threads: int
    compile: bool | str  # a truth value or auto
    precision: Literal["float32", "bfloat16"]
    window: int
    run_dir: str
    jobs: str
    ray: dict[str, Any]
    launcher: Literal["local", "ray"]
    ranks: int | None
    force: bool  # the last key is a plain value: so a configuration that was cut is known (`ctr.config.resume`)


@dataclass
class PredictConfig:
    model: str
    raw: Any  # a path, or a list of paths
    out: str
    bad_rows: Literal["error", "skip"]
    negative_rate: float | None
    backend: Literal["auto", "native", "torch"] | None
    threads: int | None
    allow_module: bool


@dataclass
class FeaturesConfig:
    model: str
    out: str
    allow_module: bool


@dataclass
class ReproduceConfig:
    """What all studies have; a study adds options of its own (`typed`)."""

    name: str
    dataset: DatasetConfig
    model: ModelConfig
    tracking: TrackingConfig
    seeds: Any
    select: Literal["test", "validation"] | None
    lr: int | float | str
    lrs: list[float]
    workers: int | None
    launcher: Literal["local", "slurm", "ray"]
    jobs: str
    folder: str | None
    slurm: dict[str, Any] = field(default_factory=dict)
    ray: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)


GROUPS: dict[str, type] = {"dataset": DatasetConfig, "model": ModelConfig, "opt": OptConfig, "prune": PruneConfig}
MODULE = "_module"  # key of a part of another package: where it is


def typed(config: DictConfig, command: type[T], own: Mapping[str, Any] | None = None) -> T:
    """Checks every key and value of a composed configuration against its declaration.

    Args:
        config: as composed.
        command: the declaration of the command's keys.
        own: further keys by name, and their types: those of a study.

    Returns:
        A copy of plain values, each of its declared type; interpolations stay.

    Raises:
        OmegaConfBaseException: a key that is not declared, or a value of another type.
        ArgumentError: a part that is not there, or not as expected.
    """
    declared = _declared(command)
    chosen = {
        group: _part(group, config[group])
        for group, shared in GROUPS.items()
        if declared.get(group, (None,))[0] is shared
    }
    more = tuple((own or {}).items())
    checked = OmegaConf.merge(_schema(cast(type, command), (*chosen.items(), *more)), config)
    OmegaConf.copy_cache(config, checked)  # ${now:...} stays the same
    return cast(T, checked)


@cache
def _schema(command: type, chosen: tuple[tuple[str, Any], ...]) -> DictConfig:
    declared = {**_declared(command), **{group: (part, NO_DEFAULT) for group, part in chosen}}
    return OmegaConf.structured(_checkable(command.__name__, declared))


Declared = dict[str, tuple[Any, Any]]  # type and default by key; NO_DEFAULT where a value is needed


def _declared(cls: type) -> Declared:
    """The keys of one of the dataclasses above."""
    types = get_type_hints(cls)
    return {
        key.name: (types[key.name], key.default if key.default_factory is NO_DEFAULT else key.default_factory())
        for key in fields(cls)
    }


def _part(group: str, chosen: DictConfig) -> type:
    """The schema of a part: the keys that its group shares, and its own options."""
    name, module = chosen.get("name"), chosen.get(MODULE)
    if not isinstance(name, str):
        raise ArgumentError(f"{group}.name={name}; expected a name: the YAML of each {group} begins with it")
    if group != "prune":
        return _of_part(group, name.startswith(parts.GROUPED), parts.find(group, name, module), MODULE in chosen)
    from ctr.training.pruning import Pruning

    return _of_part(group, False, _no_pruning if name == "none" else Pruning, False)


def _no_pruning() -> None:
    """Has no options."""


@cache
def _of_part(group: str, grouped: bool, part: Any, outside: bool) -> type:
    shared = _declared(GroupedConfig if group == "opt" and grouped else GROUPS[group])
    own = {
        name: (parameter.annotation, NO_DEFAULT if parameter.default is inspect.Parameter.empty else parameter.default)
        for name, parameter in parts.options(group, part).items()
        if name not in shared
    }
    module: Declared = {MODULE: (str, NO_DEFAULT)} if outside else {}
    return _checkable(f"{part.__module__}.{part.__qualname__}", {**shared, **module, **own})


def _checkable(name: str, declared: Declared) -> type:
    """A dataclass by which OmegaConf checks values."""
    made = []
    for key, (type_, default) in declared.items():
        type_ = _checkable_type(type_, f"{name}: {key}")
        if is_dataclass(type_):
            default = type_
        made.append((key, type_, field(default_factory=_constant(default))))
    return make_dataclass(name.rpartition(".")[2], made)


def _constant(value: Any) -> Any:
    """What gives a field its default: ``???`` where a value is needed; the schema of a part is made anew."""
    if isinstance(value, type):
        return value
    value = MISSING if value is NO_DEFAULT else list(value) if isinstance(value, tuple) else value
    return lambda: value


def _checkable_type(type_: Any, where: str) -> Any:
    """A declared type as OmegaConf has it: a Literal as Enum, a Sequence as list, a dataclass as one of its own."""
    origin, inner = get_origin(type_), get_args(type_)
    if type_ in (int, float, bool, str, Any, NoneType):
        return type_
    if origin is Literal and all(isinstance(value, str) for value in inner):
        return StrEnum("Choice", {value: value for value in inner})  # its text is the value, in interpolations too
    if origin in (Union, UnionType):
        return Union[tuple(_checkable_type(of, where) for of in inner)]  # noqa: UP007  # not known before
    if origin in (list, Sequence):
        return list[_checkable_type(inner[0], where)]  # type: ignore[misc]
    if origin is tuple and Ellipsis not in inner:
        return tuple[tuple(_checkable_type(of, where) for of in inner)]  # type: ignore[misc]
    if origin is dict:
        return type_
    if isinstance(type_, type) and is_dataclass(type_):
        return _checkable(type_.__name__, _declared(type_)) if type_.__module__ == __name__ else type_
    shown = "no type" if type_ is inspect.Parameter.empty else inspect.formatannotation(type_)
    raise ArgumentError(
        f"{where} has {shown}; expected int, float, bool, str, Literal of texts, Sequence or tuple of these, or | None"
    )


def dotted(config: DictConfig) -> dict[str, object]:
    """Every key by its dotted name, as a command line has it, with its value as written there: ``???`` where one is
    to be given. Hydra's own are left out."""
    found: dict[str, object] = {}

    def add(values: dict[Any, Any], prefix: str) -> None:
        for key, value in values.items():
            if isinstance(value, dict) and value:
                add(value, f"{prefix}{key}.")
            else:
                found[f"{prefix}{key}"] = value

    values = OmegaConf.to_container(config, resolve=False)
    assert isinstance(values, dict)
    add({key: value for key, value in values.items() if key != "hydra"}, "")
    return found


def plain_dict(config: object) -> dict[str, Any]:
    """A composed configuration, or a part of it, as nested dictionaries of plain values, interpolations resolved."""
    resolved = OmegaConf.to_container(cast(DictConfig, config), resolve=True, throw_on_missing=True, enum_to_str=True)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}
