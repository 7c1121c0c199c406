"""What one run is made with: plain, checked values, settled once from the configuration (`ctr.config.compose`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ctr.datasets.source import DataSettings
from ctr.provenance import digest
from ctr.training.budget import Budget
from ctr.training.compiled_net import Compile
from ctr.training.precision import FULL, Precision
from ctr.training.pruning import Pruning
from ctr.training.step import Backend

if TYPE_CHECKING:
    from ctr.training.known import Known

# Keys that do not change what a run computes: where its files are, what is kept, and who watches.
PLACES = (
    *("run_dir", "tracking", "save", "report", "jobs", "force", "checkpoint", "resume", "init"),
    *("launcher", "ranks", "ray"),
)
DATASET_PLACES = ("raw", "prepared")
# Keys in which runs may differ that share their first part (`ctr.training.experiment`).
OWN = ("prune", "retrain")
OF_INIT = ("evict", "evict_after")  # keys without effect unless the run goes on with a known model
LAMBDAS = ("lambda1", "lambda21", "lambda2")


@dataclass(frozen=True)
class ModelSettings:
    """The model: its table's options, and its own; the module that it is in, None for this package.

    ``unseen``: what a row that training has not touched reads as.
    """

    name: str
    embedding_dim: int
    embedding_init: float
    unseen: Literal["zero", "init"] = "zero"
    options: Mapping[str, Any] = field(default_factory=dict)
    module: str | None = None


@dataclass(frozen=True)
class OptimizerSettings:
    """The optimizer by its command-line name, its arguments, the shape of the lambdas' schedule, its module, and the
    budget that sets lambda21."""

    name: str
    options: Mapping[str, Any]
    schedule: str = "constant"
    module: str | None = None
    budget: Budget | None = None


@dataclass(frozen=True)
class TrackingSettings:
    """Where MLflow keeps the run; whether with its saved model, and under which name that is registered."""

    uri: str
    experiment: str
    tags: Mapping[str, str] = field(default_factory=dict)
    log_model: bool = False
    registered_model: str | None = None


@dataclass(frozen=True)
class CheckpointSettings:
    """When a run's state is written (by the first of the two that is due), how many of them stay, and whether the last.

    Attributes:
        every_minutes, every_steps: None: not by this.
        keep: the newest ones that stay while the run goes on.
        final: keep the state at the end of training when the run is done.
    """

    every_minutes: float | None = 10.0
    every_steps: int | None = None
    keep: int = 2
    final: bool = False


@dataclass(frozen=True)
class InitSettings:
    """The model that a run goes on with.

    Attributes:
        path: of a run, or of a saved model.
        identity: hash of what is there.
        evict_after: rows that are zero, or never trained, and were in no training row of as many of the last logs,
            are dropped first; None keeps every row.
        load: reads it.
    """

    path: Path
    identity: str
    evict_after: int | None
    load: Callable[[Settings], Known]


@dataclass(frozen=True)
class SaveSettings:
    """What the saved model keeps of the values: themselves, or 64-bit hashes of them."""

    keys: Literal["raw", "hash"] = "raw"


@dataclass(frozen=True)
class Settings:
    """One training run.

    Attributes:
        data, model, optimizer: of what, with what, by what.
        pruning: None for ``prune=none``.
        tracking: None for ``tracking=none``.
        train_rows: the first training rows to use; None for all.
        holdout: share of the training rows, at their end, that is evaluated on in place of the test part.
        retrain: train again on the surviving features alone.
        average: share of the steps, at their end, over which the net's weights are averaged; 0: not at all.
        epochs: passes over the training rows.
        batch_size, seed, device, backend, threads, window: as in ``configs/train.yaml``; never ``auto``.
        compile: ``"auto"`` is decided by the number of steps (`ctr.training.compiled_net`).
        precision: of the net's products in a training step.
        progressive: score each batch before it is learned from.
        init: None starts from the seed.
        values: the whole configuration as nested plain values; it is recorded with the run and never read otherwise.
        code: hash of each module of another package that the run uses.
        checkpoint: None: no checkpoints.
        save: None for ``save=none``.
        report: draw the run's page.
        slices: of each batch, computed one by one (`ctr.training.sharded`); None: one process, without them.
    """

    data: DataSettings
    model: ModelSettings
    optimizer: OptimizerSettings
    pruning: Pruning | None
    tracking: TrackingSettings | None
    train_rows: int | None
    holdout: float
    retrain: bool
    average: float
    epochs: int
    batch_size: int
    seed: int
    device: str
    backend: Backend
    threads: int
    compile: Compile
    precision: Precision
    window: int
    progressive: bool
    values: Mapping[str, Any]
    code: Mapping[str, str] = field(default_factory=dict)
    checkpoint: CheckpointSettings | None = None
    init: InitSettings | None = None
    save: SaveSettings | None = None
    report: bool = False
    slices: int | None = None

    @property
    def config_hash(self) -> str:
        """Identifies what the run computes, wherever it runs: the configuration without paths and tracking."""
        kept = self.computed
        return digest({**kept, "code": self.code} if self.code else kept)

    @property
    def family(self) -> str:
        """Equal for runs that differ in `OWN` keys alone: they can share their first part."""
        shared = {key: value for key, value in self.computed.items() if key not in OWN}
        return digest({**shared, "dataset": self.values["dataset"]})

    @property
    def computed(self) -> dict[str, Any]:
        """The configuration without the keys that do not change what a run computes, and with what is at ``init`` in
        place of where that is."""
        kept = {key: value for key, value in self.values.items() if key not in PLACES}
        if self.init is None:
            kept = {key: value for key, value in kept.items() if key not in OF_INIT}
        else:
            kept["started_from"] = self.init.identity
        if self.slices is None:
            kept.pop("slices", None)
        if self.precision == FULL:
            kept.pop("precision", None)  # what a run without the key computes
        dataset = {key: value for key, value in self.values["dataset"].items() if key not in DATASET_PLACES}
        return {**kept, "dataset": dataset}
