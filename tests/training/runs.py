"""Small runs, alone and in families, and what is compared of their results and states."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from ctr.datasets.prepared import Prepared
from ctr.datasets.stream import RowStream
from ctr.models import DCN, OPNN, FeatureEmbedding
from ctr.optim import LambdaSchedule
from ctr.training.optimizers import make_optimizers
from ctr.training.step import make_step
from ctr.training.trainer import TrainingRun
from tests.commands import composed, jobs
from tests.datasets.criteo_text import arguments

TIMES = ("samples_per_second", "train_seconds", "peak_rss_bytes", "checksum")


def configuration(folder: Path, *overrides: str) -> DictConfig:
    """Without a saved model, unless it is asked for: saving takes as long as such a run."""
    return composed("train", *arguments(folder, "tracking=none", "save=none", "batch_size=32", *overrides))


def run_family(folder: Path, *members: list[str]) -> list[dict[str, Any]]:
    configs = [configuration(folder, *overrides) for overrides in members]
    folders = [folder / f"family-{number}" for number in range(len(members))]
    assert jobs(configs, folders) == [None] * len(members)
    return [json.loads((place / "result.json").read_text()) for place in folders]


def run_one(folder: Path, *overrides: str) -> dict[str, Any]:
    return run_family(folder, list(overrides))[0]


def magnitude(rate: float, finetune: float = 0.0, score: str = "norm") -> list[str]:
    return ["prune=magnitude", f"prune.feature_rate={rate}", f"prune.finetune={finetune}", f"prune.score={score}"]


def untimed(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key not in TIMES}


def present(made: list[str]) -> int:
    return len({(f, v) for line in made for f, v in enumerate(line.split("\t")[14:])})


def new_run(
    data: Prepared,
    opt: str = "group_adam",
    *,
    model: str = "dcn",
    hidden: tuple[int, ...] = (5, 3),
    batch_size: int = 32,
    schedule: bool = False,
    backend: Any = "torch",
    device: str = "cpu",
    **options: Any,
) -> TrainingRun:
    """A run on Criteo's fields that has not begun: the same weights each time, windows of 4 steps."""
    torch.manual_seed(7)
    generator = torch.Generator().manual_seed(3)
    count = data.manifest.num_features
    embedding = FeatureEmbedding(count, 4, generator=generator)
    made = {"dcn": DCN, "opnn": OPNN}[model](count, 26, 13, hidden=hidden, embedding=embedding, generator=generator)
    made.to(device)
    rows, net = make_optimizers(made, opt, {"lr": 0.01, **options})
    stream = RowStream(data.rows, data.split.train, batch_size)
    ramp = LambdaSchedule(rows, stream.num_batches, "cubic") if schedule else None
    return TrainingRun(made, make_step(backend, made, rows, net, threads=2), stream, schedule=ramp, window=4)


def equal(a: Any, b: Any) -> bool:
    """The same values to the last bit, through containers."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    return bool(a == b)
