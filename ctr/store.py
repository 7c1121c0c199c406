"""Finished runs, by what they computed: a run that was done once is not done again.

Sweeps and studies share one store: a folder for each run, named by the hashes of its configuration and its data.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from ctr.files import atomic_folder

RESULT, CONFIG, LOG = "result.json", ".hydra/config.yaml", "train.log"

log = logging.getLogger("ctr")


class Store:
    """The folder ``root`` of finished runs.

    A run is finished once its ``result.json`` is there, which is written last and at once. What a killed run left in
    its folder is overwritten by the next.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def folder(self, key: str) -> Path:
        return self.root / key

    def result(self, key: str) -> dict[str, Any] | None:
        """The figures of a finished run; None if it is not finished."""
        try:
            return json.loads((self.folder(key) / RESULT).read_text())
        except FileNotFoundError:
            return None

    def lock(self, key: str) -> FileLock:
        """To be held by the process that runs the job. The system releases it when that process dies."""
        self.root.mkdir(parents=True, exist_ok=True)
        return FileLock(self.root / f".{key}.lock")

    def once(self, key: str, folder: Path, run: Callable[[], object], *, force: bool = False) -> bool:
        """Runs a job that leaves its files in ``folder``, and keeps them, unless it was finished earlier.

        A process that runs the same job just now is waited for.

        Returns:
            Whether the job was run.
        """
        with self.lock(key):
            if not force and self.result(key) is not None:
                earlier = os.path.relpath(self.folder(key) / RESULT)
                print(f"  finished earlier: {earlier} (force=true runs it again)")
                return False
            run()
            with atomic_folder(self.folder(key)) as kept:
                for name in (CONFIG, LOG, RESULT):
                    if (folder / name).exists():
                        (kept / name).parent.mkdir(exist_ok=True)
                        shutil.copy2(folder / name, kept / name)
        return True


def job_key(config_hash: str, data_hash: str) -> str:
    """The name of a run in the store."""
    return f"{config_hash}-{data_hash}"
