"""A run's folder: the names of its files, who may write there, and figures that are checked when read again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ctr.errors import CtrError

RESULT, CONFIG, LOG = "result.json", ".hydra/config.yaml", "train.log"
UNTRACKED = "untracked.jsonl"  # what a run's tracking store did not take (`ctr.training.tracking.LastingTracker`)
LOCK = ".lock"  # of a folder in use
CHECKSUM = "checksum"  # the last key of a result: of all the others

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


def result_text(figures: Mapping[str, object]) -> str:
    """A run's figures as ``result.json`` has them, with a checksum."""
    return json.dumps({**figures, CHECKSUM: _checksum(figures)}, indent=2) + "\n"


def read_result(path: Path) -> dict[str, Any]:
    """The figures in a ``result.json``.

    Raises:
        FileNotFoundError: there is none.
        CtrError: it is cut, changed or something else.
    """
    try:
        figures = json.loads(path.read_bytes())
        if figures.pop(CHECKSUM) != _checksum(figures):
            raise ValueError
    except NotADirectoryError as error:
        raise FileNotFoundError(path) from error
    except (ValueError, TypeError, AttributeError, KeyError, IsADirectoryError) as error:
        raise CtrError(f"{path}: is damaged, or not a run's result") from error
    return figures


def _checksum(figures: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(figures).encode()).hexdigest()[:16]
