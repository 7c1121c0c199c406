"""Schemas of the configuration: they give every key its type, and Hydra refuses any other key or type by name.

Only entry points import this; below them functions take plain typed arguments. The values and what they mean stand
in ``configs/``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass
from enum import Enum
from typing import Any, cast

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf


class Source(Enum):
    raw = "raw"
    sample = "sample"


class EncodingName(Enum):
    onehot = "onehot"
    hash = "hash"


class OnBadRows(Enum):
    error = "error"
    skip = "skip"


class HourName(Enum):
    of_day = "of_day"
    raw = "raw"


class BackendName(Enum):
    auto = "auto"
    native = "native"
    torch = "torch"


class Unseen(Enum):
    zero = "zero"
    init = "init"


class NormName(Enum):
    s = "s"
    s_tilde = "s_tilde"
    s_tilde_eq10 = "s_tilde_eq10"


class KernelName(Enum):
    mat = "mat"
    sum = "sum"


class ThresholdName(Enum):
    soft = "soft"
    hard = "hard"


class ScheduleName(Enum):
    constant = "constant"
    linear = "linear"
    cubic = "cubic"


class ScoreName(Enum):
    norm = "norm"
    effect = "effect"


class SelectName(Enum):
    test = "test"
    validation = "validation"


@dataclass
class LearningRates:
    adam: float = MISSING
    adagrad: float = MISSING
    sgd: float = MISSING
    momentum: float = MISSING
    adahessian: float = MISSING


@dataclass
class DatasetConfig:
    name: str = MISSING
    source: Source = MISSING
    raw: str = MISSING
    prepared: str = MISSING
    encoding: EncodingName = MISSING
    num_buckets: int = MISSING
    test_fraction: float | None = None
    test_days: list[int] | None = None
    bad_rows: OnBadRows = MISSING
    sample_rows: int = MISSING
    sample_seed: int = MISSING
    lr: LearningRates = field(default_factory=LearningRates)


@dataclass
class AvazuConfig(DatasetConfig):
    hour: HourName = MISSING


@dataclass
class CsvConfig(DatasetConfig):
    label: str = MISSING
    categorical: list[str] = MISSING
    dense: list[str] = MISSING
    delimiter: str = MISSING


@dataclass
class ModelConfig:
    name: str = MISSING
    embedding_dim: int = MISSING
    embedding_init: float = MISSING
    unseen: Unseen = MISSING
    hidden: list[int] = MISSING


@dataclass
class DCNConfig(ModelConfig):
    cross_layers: int = MISSING


@dataclass
class OPNNConfig(ModelConfig):
    kernel: KernelName = MISSING
    dropout: float = MISSING


@dataclass
class OptConfig:
    name: str = MISSING
    lr: int | float | str = MISSING  # a number or auto: `ctr.training.learning_rates`


@dataclass
class MomentumConfig(OptConfig):
    momentum: float = MISSING
    nesterov: bool = MISSING


@dataclass
class AdagradConfig(OptConfig):
    eps: float = MISSING
    initial_accumulator_value: float = MISSING


@dataclass
class AdamConfig(OptConfig):
    betas: tuple[float, float] = MISSING
    eps: float = MISSING


@dataclass
class AdaHessianConfig(AdamConfig):
    hessian_power: float = MISSING


@dataclass
class GroupConfig:
    lambda1: float = MISSING
    lambda21: float = MISSING
    lambda2: float = MISSING
    norm: NormName = MISSING
    threshold: ThresholdName = MISSING
    lambda_schedule: ScheduleName = MISSING


@dataclass
class GroupSGDConfig(GroupConfig, OptConfig):
    pass


@dataclass
class GroupMomentumConfig(GroupConfig, MomentumConfig):
    pass


@dataclass
class GroupAdagradConfig(GroupConfig, AdagradConfig):
    pass


@dataclass
class GroupAdamConfig(GroupConfig, AdamConfig):
    eps_hat: bool = MISSING


@dataclass
class GroupAdaHessianConfig(GroupConfig, AdaHessianConfig):
    pass


@dataclass
class PruneConfig:
    name: str = MISSING


@dataclass
class MagnitudeConfig(PruneConfig):
    feature_rate: float = MISSING
    finetune: float = MISSING
    score: ScoreName = MISSING


@dataclass
class TrackingConfig:
    name: str = MISSING
    uri: str = MISSING
    experiment: str = MISSING
    tags: dict[str, str] = field(default_factory=dict)


@dataclass
class PrepareConfig:
    dataset: Any = MISSING
    model: Any = None  # a dataset picks one; only training has use for it


@dataclass
class TrainConfig:
    dataset: Any = MISSING
    model: Any = MISSING
    opt: Any = MISSING
    prune: Any = MISSING
    tracking: TrackingConfig = MISSING
    train_rows: int | None = None
    holdout: float = MISSING
    retrain: bool = MISSING
    batch_size: int = MISSING
    seed: int = MISSING
    device: str = MISSING
    backend: BackendName = MISSING
    threads: int = MISSING
    window: int = MISSING
    run_dir: str = MISSING
    jobs: str = MISSING
    force: bool = MISSING


@dataclass
class ReproduceConfig:
    """What all studies have; a study adds options of its own (`typed`)."""

    name: str = MISSING
    dataset: Any = MISSING
    model: Any = MISSING
    tracking: TrackingConfig = MISSING
    seeds: Any = MISSING
    select: SelectName = MISSING
    lr: int | float | str = MISSING
    lrs: list[float] = MISSING
    train: dict[str, Any] = field(default_factory=dict)
    workers: int | None = None
    jobs: str = MISSING
    folder: str | None = None


# Group -> name in ``<group>=<name>`` -> schema.
SCHEMAS: dict[str, dict[str, type]] = {
    "dataset": {
        "criteo": DatasetConfig,
        "avazu": AvazuConfig,
        "ipinyou": DatasetConfig,
        "csv": CsvConfig,
    },
    "model": {
        "dcn": DCNConfig,
        "mlp": ModelConfig,
        "opnn": OPNNConfig,
    },
    "opt": {
        "sgd": OptConfig,
        "momentum": MomentumConfig,
        "adagrad": AdagradConfig,
        "adam": AdamConfig,
        "amsgrad": AdamConfig,
        "adahessian": AdaHessianConfig,
        "group_sgd": GroupSGDConfig,
        "group_momentum": GroupMomentumConfig,
        "group_adagrad": GroupAdagradConfig,
        "group_adam": GroupAdamConfig,
        "group_amsgrad": GroupAdamConfig,
        "group_adahessian": GroupAdaHessianConfig,
    },
    "prune": {
        "none": PruneConfig,
        "magnitude": MagnitudeConfig,
    },
}


def register() -> None:
    """Makes the schemas known to Hydra under the names that the YAML files build on."""
    store = ConfigStore.instance()
    store.store("train", TrainConfig, group="schema")
    store.store("prepare", PrepareConfig, group="schema")
    open_to_studies = OmegaConf.structured(ReproduceConfig, flags={"struct": False})
    store.store("reproduce", open_to_studies, group="schema")
    store.store("tracking", TrackingConfig, group="schema")
    for group, schemas in SCHEMAS.items():
        for name, schema in schemas.items():
            store.store(name, schema, group=f"schema/{group}")


def typed(config: DictConfig, own: Mapping[str, type]) -> ReproduceConfig:
    """A study's configuration with the options of its own, name -> type, checked and converted as the others are.

    Raises:
        OmegaConfBaseException: a value of another type, or a key that neither the study nor all of them have.
    """
    values = plain_dict(config)
    _refuse_unknown_parts(values)
    fields = [(name, kind, MISSING) for name, kind in own.items()]
    schema = make_dataclass("StudyConfig", fields, bases=(ReproduceConfig,))
    return cast(ReproduceConfig, OmegaConf.merge(OmegaConf.structured(schema), values))


def dotted(config: DictConfig) -> dict[str, object]:
    """Every key by its dotted name, as a command line has it, with its value as it stands there: ``???`` where one is
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


def refuse_unknown(config: DictConfig, schema: type) -> None:
    """Raises for a key that no schema has, by name: Hydra itself lets ``+opt.lamda21=1e-3`` pass."""
    values = plain_dict(config)
    _refuse_unknown_parts(values)
    OmegaConf.merge(OmegaConf.structured(schema), values)


def _refuse_unknown_parts(values: Mapping[str, Any]) -> None:
    for part, schemas in SCHEMAS.items():
        if values.get(part) is not None:
            name = values[part]["name"]
            OmegaConf.merge({part: OmegaConf.structured(schemas[name](name=name))}, {part: values[part]})


def plain_dict(config: object) -> dict[str, Any]:
    """A composed configuration, or a part of it, as nested dictionaries of plain values, interpolations resolved."""
    resolved = OmegaConf.to_container(cast(DictConfig, config), resolve=True, throw_on_missing=True, enum_to_str=True)
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


# What does not change what a run computes: where things lie and who watches.
_PLACES = ("run_dir", "tracking", "jobs", "force")
_DATASET_PLACES = ("raw", "prepared")


def config_hash(config: object) -> str:
    """Identifies what a run computes, wherever it runs: the configuration without paths and tracking."""
    kept = {key: value for key, value in plain_dict(config).items() if key not in _PLACES}
    kept["dataset"] = {key: value for key, value in kept["dataset"].items() if key not in _DATASET_PLACES}
    return _digest(kept)


def family(config: object) -> str:
    """Equal for runs that differ in ``prune`` and ``retrain`` alone, which can share their first part (`ctr.train`)."""
    values = OmegaConf.to_container(cast(DictConfig, config), resolve=True, enum_to_str=True)  # also if one is missing
    assert isinstance(values, dict)
    return _digest({str(key): value for key, value in values.items() if key not in (*_PLACES, "prune", "retrain")})


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
