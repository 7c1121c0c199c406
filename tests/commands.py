"""Running the commands as a user does, and composing their configuration as they do."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ctr import train
from ctr.config import help, schema
from ctr.config.compose import compose, resolve
from ctr.config.data import data_settings
from ctr.datasets.prepared import Prepared
from ctr.datasets.source import open_data
from ctr.training.experiment import Run, run_family


def command(folder: Path, module: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    """``python -m <module> <overrides>`` in a folder."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    return subprocess.run(
        [sys.executable, "-m", module, *overrides],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def composed(name: str, *overrides: str) -> DictConfig:
    """The configuration that the command ``ctr.<name>`` would run with."""
    return schema.typed(compose(name, overrides), help.COMMANDS[name])


def job(config: DictConfig, folder: Path) -> None:
    """A run within this process, as ``ctr.train`` does it."""
    train.run(config, folder)


def jobs(
    configs: Sequence[DictConfig],
    folders: Sequence[Path],
    on_rows: Callable[[int], None],
    keys: Sequence[str | None] | None = None,
) -> list[BaseException | None]:
    """A family of runs within this process, as a worker does it; the error that ended each, or None."""
    planned = keys or [None] * len(configs)
    runs = [Run(resolve(config), *place) for config, *place in zip(configs, folders, planned, strict=True)]
    run_family(runs, on_rows)
    return [run.error for run in runs]


def prepared(config: DictConfig) -> Prepared:
    """The data that a command would open."""
    return open_data(data_settings(schema.plain_dict(config.dataset)))


def result(folder: Path) -> dict[str, Any]:
    """The one ``result.json`` below a folder."""
    (path,) = folder.rglob("result.json")
    return json.loads(path.read_text())
