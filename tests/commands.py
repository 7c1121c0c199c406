"""Running the commands as a user does, and composing their configuration as they do."""

import json
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from omegaconf import DictConfig

import ctr.config


LIBRARIES = ["ctr.environment", "ctr.train", "ctr.prepare", "ctr.reproduce"]  # the first before torch
Done = subprocess.CompletedProcess[str]


def command(folder: Path, module: str, *overrides: str) -> Done:
    """``python -m <module> <overrides>`` in a folder, forked from a process that has loaded the libraries: that takes
    seconds. `new_process` is for tests of the loading itself, and of commands that start processes of their own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    with tempfile.TemporaryDirectory() as place:
        streams = [Path(place, name) for name in ("stdout", "stderr")]
        process = context.Process(target=_run, args=(folder, module, overrides, dict(os.environ), streams))
        process.start()
        process.join(300)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired([module, *overrides], 300)
        return Done([module, *overrides], process.exitcode, *(path.read_text() for path in streams))


def _run(
    folder: Path, module: str, overrides: Sequence[str], environment: Mapping[str, str], streams: Sequence[Path]
) -> None:
    """What the fork does."""
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:] = overrides
    sys.modules.pop(module, None)  # to be executed as `__main__`
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def new_process(folder: Path, module: str, *overrides: str) -> Done:
    """``python -m <module> <overrides>`` in a folder."""
    return subprocess.run(
        [sys.executable, "-m", module, *overrides],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def composed(name: str, *overrides: str) -> DictConfig:
    """The configuration that the command ``ctr.<name>`` would run with."""
    ctr.config.register()
    with initialize_config_module("ctr.conf", version_base="1.3"):
        return compose(name, list(overrides))


def result(folder: Path) -> dict[str, Any]:
    """The one ``result.json`` below a folder."""
    (path,) = folder.rglob("result.json")
    return json.loads(path.read_text())
