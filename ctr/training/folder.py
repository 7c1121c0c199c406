"""A run's folder: the names of its files, who may write there, and figures that are checked when read again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ctr.errors import CtrError
from ctr.files import TMP_PREFIX, read_sealed

RESULT, CONFIG, LOG = "result.json", ".hydra/config.yaml", "train.log"
OVERRIDES = ".hydra/overrides.yaml"  # what the command line gave, by Hydra
HYDRA = ".hydra/hydra.yaml"  # Hydra's own settings
CHECKPOINTS = "checkpoints"  # `ctr.training.checkpoint`
MODEL, MANIFEST = "model", "manifest.json"  # the folder of the saved model (`ctr.artifact`), and the file that marks it
PAGE = "report.html"  # of the run, for a reader (`ctr.report.run_page`)
UNTRACKED = "untracked.jsonl"  # what a run's tracking store did not take (`ctr.training.tracking.LastingTracker`)
LOCK = ".lock"  # of a folder in use

_reserved: dict[Path, FileLock] = {}


def claim(folder: Path, name: str = LOCK) -> FileLock:
    """Takes a folder, made if missing, for one run: until the lock is released, or the process dies.

    Raises:
        CtrError: another run has it.
    """
    if lock := _reserved.pop(folder.resolve(), None):
        return lock
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / name, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise CtrError(f"{folder} is in use by another run; wait for its end, or give another run_dir=PATH") from error
    return lock


def reserve(folder: Path) -> None:
    """Takes a folder for the run that will `claim` it next in this process."""
    _reserved[folder.resolve()] = claim(folder)


def clear_model(folder: Path) -> None:
    """Removes the model that an older run left in a folder.

    Raises:
        CtrError: there is something else of that name.
    """
    for left in folder.glob(f"{TMP_PREFIX}*-{MODEL}"):  # by one that was killed while it saved
        shutil.rmtree(left)
    model = folder / MODEL
    if (model / MANIFEST).is_file():
        shutil.rmtree(model)
    elif model.exists():
        raise CtrError(
            f"{model} is there, and is no saved model; move it away, give another run_dir=PATH, or save=none"
        )


def model_bytes(folder: Path) -> int | None:
    """The size of a run's saved model, its dictionary included; None if it has left none."""
    if not (folder / MODEL / MANIFEST).is_file():
        return None
    return sum(path.stat().st_size for path in (folder / MODEL).iterdir())


def read_result(path: Path) -> dict[str, Any]:
    """The figures in a ``result.json``.

    Raises:
        FileNotFoundError: there is none.
        DataError: it is cut, changed or something else.
    """
    try:
        return read_sealed(path)
    except (NotADirectoryError, IsADirectoryError) as error:
        raise FileNotFoundError(path) from error
