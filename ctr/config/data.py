"""From a dataset's configuration to its settings; nothing here loads torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ctr.config import schema
from ctr.config.schema import MODULE, DatasetConfig, PrepareConfig
from ctr.datasets import source
from ctr.datasets.manifest import SplitRule
from ctr.datasets.source import DataSettings
from ctr.datasets.together import Limits, limits
from ctr.errors import ArgumentError

SHARED_KEYS = {field.name for field in fields(DatasetConfig)} | {MODULE}


def resolve_data(config: DictConfig) -> DataSettings:
    """The settings of ``python -m ctr.prepare``.

    Raises:
        ArgumentError, OmegaConfBaseException: a key or value that cannot work.
    """
    return data_settings(schema.plain_dict(schema.typed(config, PrepareConfig))["dataset"])


def resolve_limits(config: DictConfig) -> Limits | None:
    """How ``python -m ctr.prepare`` divides a log.

    Raises:
        ArgumentError: a value that cannot work.
    """
    memory = config.memory
    found = limits(config.workers, None if memory is None else bytes_of(str(memory), "memory"))
    if config.launcher == "ray" and found is None:
        raise ArgumentError("launcher=ray workers=1; expected the number of tasks at a time: workers=8")
    return found


def bytes_of(text: str, key: str) -> int:
    """``"2GiB"`` -> 2147483648.

    Raises:
        ArgumentError: not a number and a unit.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT])(i?)B", text)
    if found is None:
        raise ArgumentError(f"{key}={text}; expected a number of bytes with its unit: 512MiB, 2GiB")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** (1 + "KMGT".index(found[2])))


def data_settings(values: Mapping[str, Any], admit: int = 1) -> DataSettings:
    """The settings of a dataset's configuration as plain values, and of a run's ``admit``, checked.

    Raises:
        ArgumentError: a value that cannot work, or no raw log.
    """
    if not values["prepared"]:
        raise ArgumentError("dataset.prepared must not be empty")
    settings = DataSettings(
        name=values["name"],
        module=values.get(MODULE),
        options={key: value for key, value in values.items() if key not in SHARED_KEYS},
        raw=paths(values["raw"], "dataset.raw"),
        prepared=Path(values["prepared"]),
        num_buckets=values["num_buckets"] if values["encoding"] == "hash" else None,
        split=SplitRule(values["test_fraction"], values["test_days"]),
        admit=admit,
        **{key: values[key] for key in ("source", "min_count", "unseen", "bad_rows", "sample_rows", "sample_seed")},
    )
    source.check(settings)
    return settings


def paths(raw: Any, key: str) -> tuple[Path, ...]:
    """The value of a key that takes a path or a list of paths.

    Raises:
        ArgumentError: it is neither.
    """
    names = raw if isinstance(raw, list) else [raw]
    if not names or not all(isinstance(name, str | int | float) and str(name) for name in names):
        raise ArgumentError(f"{key}={raw}; expected a path, or a list of paths: {key}=[a.csv,b.csv]")
    return tuple(Path(str(name)) for name in names)
