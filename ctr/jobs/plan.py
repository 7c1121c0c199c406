"""From the overrides of a training run to a job: its settings, its key in the cache, its command line."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import resources

from omegaconf import DictConfig, OmegaConf

from ctr.config import learning_rates, search
from ctr.config.command_line import command_line, override
from ctr.config.compose import compose, resolve
from ctr.config.schema import plain_dict
from ctr.datasets.prepared import Prepared
from ctr.datasets.source import open_data
from ctr.errors import TooFewRows
from ctr.jobs.cache import Cache
from ctr.training.identity import run_key
from ctr.training.settings import Settings

Overrides = Mapping[str, object]  # of one training run: ``{"dataset": "criteo", "opt.lambda21": 1e-3, "seed": 0}``

# Keys that decide which YAML files are read.
CHOSEN = {"hydra.searchpath", *(entry.name for entry in resources.files(search.OWN).iterdir() if entry.is_dir())}


@dataclass(frozen=True)
class Job:
    """A run that can be started.

    Attributes:
        key: its name in the cache (`ctr.training.identity.run_key`).
        family: equal for jobs on the same data that differ in ``prune`` and ``retrain`` alone: they share a first part.
        settings: what to run.
        command: the line that runs it by itself.
        rows_train, rows_test: rows of one pass, and of the evaluation.
    """

    key: str
    family: str
    settings: Settings
    command: str
    rows_train: int
    rows_test: int

    @property
    def saves(self) -> bool:
        """Whether it leaves a model."""
        return self.settings.save is not None


def sparing(settings: Settings, given: Iterable[str]) -> Settings:
    """One of many runs: without checkpoints, unless a key that was given asks for them."""
    asked = any(key == "checkpoint" or key.startswith("checkpoint.") for key in given)
    return settings if asked else replace(settings, checkpoint=None)


class Planner:
    """Plans jobs: composes each distinct choice of groups once (0.1 s each), and opens each dataset once.

    Args:
        cache: where each run's files go.
        always: overrides for every job; the job's own win over them.
        tags: for the runs in MLflow, beside those that every run has.
    """

    def __init__(self, cache: Cache, always: Overrides, tags: Mapping[str, str]) -> None:
        self._cache = cache
        self._always = dict(always)
        self._tags = dict(tags)
        self._composed: dict[tuple[str, ...], DictConfig] = {}
        self._data: dict[str, Prepared] = {}

    def plan(self, overrides: Overrides) -> Job:
        """Settles a job's settings; generates and prepares its data first where that is not done yet.

        Raises:
            HydraException, OmegaConfBaseException, ArgumentError: an override that cannot work, no raw log, or more
                ``train_rows`` than there are.
            CtrError: a raw log that is not as expected, or no learning rate recorded for ``opt.lr=auto``.
        """
        overrides = {**self._always, **overrides}
        # A study leaves models and pages only if it is told to.
        settings = sparing(resolve(self._compose({"save": "none", "report": False, **overrides})), overrides)
        data = self._open(settings)
        key = run_key(settings.config_hash, data.manifest.data_hash)
        rows_train = data.split.rows_train
        if settings.train_rows is not None:
            if settings.train_rows > rows_train:
                raise TooFewRows(settings.train_rows, rows_train)
            rows_train = settings.train_rows
        held_out = round(settings.holdout * rows_train)
        return Job(
            key=key,
            family=f"{settings.family}-{data.manifest.data_hash}",
            settings=self._placed(settings, str(self._cache.folder(key))),
            command=command_line("ctr.train", overrides),
            rows_train=rows_train - held_out,
            rows_test=held_out or data.split.rows_test,
        )

    def record_rate(self, overrides: Overrides, lr: float) -> None:
        """Keeps a learning rate for such jobs beside their data (`ctr.config.learning_rates`)."""
        values = plain_dict(self._compose({**self._always, **overrides, "opt.lr": lr}))
        settings = resolve(self._compose({**self._always, **overrides, "opt.lr": lr}))
        learning_rates.record(self._open(settings).folder, values, lr)

    def _placed(self, settings: Settings, folder: str) -> Settings:
        """With the folder and the tags that are recorded, neither of which changes what is computed."""
        values = {**settings.values, "run_dir": folder}
        tracking = settings.tracking
        if tracking is not None:
            tracking = replace(tracking, tags={**tracking.tags, **self._tags})
            values["tracking"] = {**settings.values["tracking"], "tags": dict(tracking.tags)}
        return replace(settings, values=values, tracking=tracking)

    def _compose(self, overrides: Overrides) -> DictConfig:
        chosen = tuple(override(key, value) for key, value in overrides.items() if key in CHOSEN)
        if chosen not in self._composed:
            self._composed[chosen] = compose("train", chosen)
        config = copy.deepcopy(self._composed[chosen])
        for key, value in overrides.items():
            if key not in CHOSEN:
                OmegaConf.update(config, key, value)
        return config

    def _open(self, settings: Settings) -> Prepared:
        known = None if settings.init is None else settings.init.identity
        asked = json.dumps([settings.values["dataset"], known], sort_keys=True)
        if asked not in self._data:
            self._data[asked] = open_data(settings.data)
        return self._data[asked]
