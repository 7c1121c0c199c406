"""Jobs: from the overrides of a training run to its configuration, its key in the store and its command line."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import cast

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from ctr.cli import open_data
from ctr.config import schema
from ctr.config.command_line import command_line, override
from ctr.config.schema import TrainConfig
from ctr.datasets.prepared import Prepared
from ctr.errors import TooFewRows
from ctr.jobs.cache import Store, job_key
from ctr.training import learning_rates

Job = Mapping[str, object]  # the overrides of one training run

GROUPS = frozenset(entry.name for entry in resources.files("ctr.conf").iterdir() if entry.is_dir())


@dataclass(frozen=True)
class Planned:
    """A job that can be run.

    Attributes:
        key: its name in the store.
        family: the same for jobs that differ in ``prune`` and ``retrain`` alone: they share their first phase.
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
        store: where each run's files go.
        always: overrides for every job; the job's own win over them.
        tags: for the runs in MLflow, beside those that every run carries.
        check: raises for values that cannot work, before any data is read.
    """

    def __init__(
        self,
        store: Store,
        always: Mapping[str, object],
        tags: Mapping[str, str],
        check: Callable[[TrainConfig], None],
    ) -> None:
        self._store = store
        self._check = check
        self._always = dict(always)
        self._tags = dict(tags)
        self._composed: dict[tuple[str, ...], DictConfig] = {}
        self._data: dict[str, Prepared] = {}

    def plan(self, job: Job) -> Planned:
        """Composes a job; generates and prepares its data first where they are not yet.

        Raises:
            HydraException, OmegaConfBaseException, ArgumentError: an override that cannot work, no raw log there, or
                more ``train_rows`` than there are.
            CtrError: a raw log that is not as expected, or no learning rate recorded for ``opt.lr=auto``.
        """
        overrides = {**self._always, **job}
        config = self._compose(overrides)
        self._check(config)
        data = self._open(config)
        if config.opt.lr == learning_rates.AUTO:
            config.opt.lr = learning_rates.recorded(data.folder, schema.plain_dict(config))
        config.tracking.tags = {**config.tracking.tags, **self._tags}
        key = job_key(schema.config_hash(config), data.manifest.data_hash)
        config.run_dir = str(self._store.folder(key))
        rows_train = data.split.rows_train
        if config.train_rows is not None:
            if config.train_rows > rows_train:
                raise TooFewRows(config.train_rows, rows_train)
            rows_train = config.train_rows
        held_out = round(config.holdout * rows_train)
        return Planned(
            key=key,
            family=f"{schema.family(config)}-{data.manifest.data_hash}",
            config=config,
            command=command_line("ctr.train", overrides),
            rows_train=rows_train - held_out,
            rows_test=held_out or data.split.rows_test,
        )

    def record_rate(self, job: Job, lr: float) -> None:
        """Keeps a learning rate for such jobs beside their data (`ctr.training.learning_rates`)."""
        config = self._compose({**self._always, **job})
        learning_rates.record(self._open(config).folder, schema.plain_dict(config), lr)

    def _compose(self, overrides: Mapping[str, object]) -> TrainConfig:
        chosen = tuple(override(key, value) for key, value in overrides.items() if key in GROUPS)
        if chosen not in self._composed:
            self._composed[chosen] = _composed(chosen)
        config = copy.deepcopy(self._composed[chosen])
        for key, value in overrides.items():
            if key not in GROUPS:
                OmegaConf.update(config, key, value)
        return cast(TrainConfig, config)

    def _open(self, config: TrainConfig) -> Prepared:
        asked = json.dumps(schema.plain_dict(config.dataset), sort_keys=True)
        if asked not in self._data:
            self._data[asked] = open_data(config.dataset)
        return self._data[asked]


def _composed(overrides: tuple[str, ...]) -> DictConfig:
    """The configuration of ``python -m ctr.train`` with these overrides."""
    schema.register()
    # Within a command that Hydra started its search path stands already, and there is only one.
    if GlobalHydra.instance().is_initialized():
        return compose("train", list(overrides))
    with initialize_config_module("ctr.conf", version_base="1.3"):
        return compose("train", list(overrides))
