"""Small runs, alone and in families, and what is compared of their results."""

import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from tests.commands import composed, jobs
from tests.datasets.criteo_text import arguments

TIMES = ("samples_per_second", "train_seconds", "peak_rss_bytes", "checksum")


def configuration(folder: Path, *overrides: str) -> DictConfig:
    return composed("train", *arguments(folder, "tracking=none", "batch_size=32", *overrides))


def run_family(folder: Path, *members: list[str]) -> list[dict[str, Any]]:
    configs = [configuration(folder, *overrides) for overrides in members]
    folders = [folder / f"family-{number}" for number in range(len(members))]
    assert jobs(configs, folders, lambda rows: None) == [None] * len(members)
    return [json.loads((place / "result.json").read_text()) for place in folders]


def run_one(folder: Path, *overrides: str) -> dict[str, Any]:
    return run_family(folder, list(overrides))[0]


def magnitude(rate: float, finetune: float = 0.0, score: str = "norm") -> list[str]:
    return ["prune=magnitude", f"prune.feature_rate={rate}", f"prune.finetune={finetune}", f"prune.score={score}"]


def untimed(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key not in TIMES}


def present(made: list[str]) -> int:
    return len({(f, v) for line in made for f, v in enumerate(line.split("\t")[14:])})
