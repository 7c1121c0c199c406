"""Finished runs by what they computed: a run that was done once is not done again.

Sweeps and studies share one cache: a folder for each run, named by its key (`ctr.training.identity.run_key`). A run of
other code is another run: it is done again.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ctr.errors import CtrError, warn_once
from ctr.files import atomic_folder, expect_writable
from ctr.training.folder import CHECKPOINTS, CONFIG, LOG, MODEL, PAGE, RESULT, UNTRACKED, read_result
from ctr.training.identity import confirm

log = logging.getLogger("ctr")


class Cache:
    """The folder ``root`` of finished runs.

    A run is finished once its ``result.json`` is there, which is written last and at once. What a killed run left in
    its folder is overwritten by the next.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def folder(self, key: str) -> Path:
        return self.root / key

    def checkpoints(self, key: str) -> Path:
        """Where a job of a sweep, whose own folder is another in each sweep, has its checkpoints."""
        return self.folder(key) / CHECKPOINTS

    def result(self, key: str) -> dict[str, Any] | None:
        """The figures of a finished run; None if it is not finished.

        A result that is damaged, or of another run than the folder's name says, counts as none, with a warning.
        """
        path = self.folder(key) / RESULT
        try:
            result = read_result(path)
            if key != (its := "-".join(str(result.get(f"{part}_hash")) for part in ("config", "data", "code"))):
                raise CtrError(f"{path}: is of the run {its}")
        except FileNotFoundError:
            return None
        except CtrError as error:
            warn_once(f"{error}; it does not count as finished")
            return None
        return result

    def done(self, key: str, model: bool) -> bool:
        """Whether a run is finished, and where a model is asked for, has left one."""
        return self.result(key) is not None and (not model or (self.folder(key) / MODEL).exists())

    def lock(self, key: str) -> FileLock:
        """To be held by the process that runs the job. The system releases it when that process dies."""
        self.root.mkdir(parents=True, exist_ok=True)
        return FileLock(self.root / f".{key}.lock")

    def busy(self, key: str) -> bool:
        """Whether a process runs the job just now."""
        try:
            with self.lock(key).acquire(timeout=0):
                return False
        except Timeout:
            return True

    def expect_writable(self) -> None:
        """Makes the folder. CtrError, with its name, if nothing can be written there."""
        expect_writable(self.root, f"jobs={self.root}")

    def once(
        self, key: str, folder: Path, run: Callable[[], object], *, force: bool = False, model: bool = False
    ) -> bool:
        """Runs a job that leaves its files in ``folder``, and keeps them, unless it was finished earlier.

        A process that runs the same job just now is waited for. With ``model`` one that left no model is run again.

        Returns:
            Whether the job was run.

        Raises:
            CtrError: it computed something else than the key says (`confirm`).
        """
        with self.lock(key):
            if not force and self.done(key, model):
                return False
            try:
                run()
            except KeyboardInterrupt:
                if (folder / RESULT).exists():  # it came after the result, while the page was drawn
                    self._keep(key, folder)
                raise
            self._keep(key, folder)
        return True

    def _keep(self, key: str, folder: Path) -> None:
        self._confirm(key, folder)
        with atomic_folder(self.folder(key)) as kept:
            for name in (CONFIG, LOG, UNTRACKED, PAGE, RESULT):
                if (folder / name).exists():
                    (kept / name).parent.mkdir(exist_ok=True)
                    shutil.copy2(folder / name, kept / name)
            if (folder / MODEL).exists():
                shutil.copytree(folder / MODEL, kept / MODEL)

    def _confirm(self, key: str, folder: Path) -> None:
        result = read_result(folder / RESULT)
        try:
            confirm(key, result["config_hash"], result["data_hash"])
        except CtrError:
            (folder / RESULT).unlink()
            raise
