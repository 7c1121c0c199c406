"""Running the commands as a user does, and composing their configuration as they do."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from ctr.config import help, schema, search


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
    search.register()
    with initialize_config_module("ctr.conf", version_base="1.3"):
        return schema.typed(compose(name, list(overrides)), help.COMMANDS[name])


def result(folder: Path) -> dict[str, Any]:
    """The one ``result.json`` below a folder."""
    (path,) = folder.rglob("result.json")
    return json.loads(path.read_text())
