"""Jobs: from the overrides of a training run to its configuration, its key in the store and its command line."""

from __future__ import annotations

import copy
import hashlib
import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

import ctr.config
from ctr import rates
from ctr.cli import open_data
from ctr.config import TrainConfig
from ctr.datasets.prepared import Prepared
from ctr.store import job_key
from ctr.studies.options import Job

GROUPS = frozenset(entry.name for entry in resources.files("ctr.conf").iterdir() if entry.is_dir())


@dataclass(frozen=True)
class Planned:
    """A job that can be run.

    Attributes:
        key: its name in the store.
        family: the same for jobs that differ in ``prune`` alone: they share their first phase.
        config: the composed configuration.
        command: the line that runs it by itself.
        rows_train, rows_test: rows of one pass, and of the evaluation.
    """

    key: str
    family: str
    config: TrainConfig
    command: str
    rows_train: int
    rows_test: int


class Planner:
    """Composes jobs, each distinct choice of groups once: composing takes about 0.1 s.

    Args:
        always: overrides for every job, which the job's own go before.
        tags: for the runs in MLflow, beside those that every run carries.
    """

    def __init__(self, always: Mapping[str, object], tags: Mapping[str, str]) -> None:
        self._always = dict(always)
        self._tags = dict(tags)
        self._composed: dict[str, DictConfig] = {}
        self._data: dict[str, Prepared] = {}

    def plan(self, job: Job) -> Planned:
        """Composes a job; generates and prepares its data first where they are not yet.

        Raises:
            HydraException, OmegaConfBaseException, ArgumentError: an override that cannot work.
            CtrError: no raw log there, or no learning rate recorded for ``opt.lr=auto``.
        """
        overrides = {**self._always, **job}
        config = self._compose(overrides)
        data = self._open(config)
        values = ctr.config.plain_dict(config)
        if values["opt"]["lr"] == rates.AUTO:
            config.opt.lr = values["opt"]["lr"] = rates.recorded(data.folder, values)
        _check(config)
        if "tags" in config.tracking:
            term = {"lambda21": str(values["opt"]["lambda21"])} if "lambda21" in values["opt"] else {}
            config.tracking.tags = {**values["tracking"]["tags"], **term, **self._tags}
        split = data.split
        return Planned(
            key=job_key(ctr.config.config_hash(config), data.manifest.data_hash),
            family=_family(config, data.manifest.data_hash),
            config=cast(TrainConfig, config),
            command=command_line(overrides),
            rows_train=split.rows_train,
            rows_test=split.rows_test,
        )

    def _compose(self, overrides: Mapping[str, object]) -> DictConfig:
        groups = {key: value for key, value in overrides.items() if key in GROUPS}
        chosen = override_list(groups)
        config = copy.deepcopy(self._composed.setdefault(json.dumps(chosen), _compose(chosen)))
        for key, value in overrides.items():
            if key not in groups:
                OmegaConf.update(config, key, value, force_add=False)
        return config

    def _open(self, config: DictConfig) -> Prepared:
        asked = json.dumps(ctr.config.plain_dict(config.dataset), sort_keys=True)
        if asked not in self._data:
            self._data[asked] = open_data(config.dataset)
        return self._data[asked]
