"""Finished runs, by what they computed: a run that was done once is not done again.

Sweeps and studies share one store: a folder for each run, named by the hashes of its configuration, its data and the
code that trains and measures (`SOURCES`). A run of other code is another run: it is done again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ctr.errors import CtrError, warn_once
from ctr.files import atomic_folder, expect_writable

# What a run's figures depend on beside its configuration and its data. (How rows are prepared is in the data's hash.)
SOURCES = (
    "train.py", "run.py", "result.py", "trainer.py", "step.py", "forking.py", "pruning.py", "metrics.py",
    "datasets/stream.py", "datasets/rows.py", "datasets/split.py",
    "models/*.py", "optim/*.py", "native/*.py", "native/src/*.cpp", "native/src/*.h",
)  # fmt: skip
RESULT, CONFIG, LOG = "result.json", ".hydra/config.yaml", "train.log"
UNTRACKED = "untracked.jsonl"  # what a run's tracking store did not take (`ctr.tracking.LastingTracker`)
LOCK = ".lock"  # of a folder in use
CHECKSUM = "checksum"  # the last key of a result: of all the others

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

    def once(self, key: str, folder: Path, run: Callable[[], object], *, force: bool = False) -> bool:
        """Runs a job that leaves its files in ``folder``, and keeps them, unless it was finished earlier.

        A process that runs the same job just now is waited for.

        Returns:
            Whether the job was run.

        Raises:
            CtrError: it computed something else than the key says (`confirm`).
        """
        with self.lock(key):
            if not force and self.result(key) is not None:
                return False
            run()
            self._confirm(key, folder)
            with atomic_folder(self.folder(key)) as kept:
                for name in (CONFIG, LOG, UNTRACKED, RESULT):
                    if (folder / name).exists():
                        (kept / name).parent.mkdir(exist_ok=True)
                        shutil.copy2(folder / name, kept / name)
        return True

    def _confirm(self, key: str, folder: Path) -> None:
        result = read_result(folder / RESULT)
        try:
            confirm(key, result["config_hash"], result["data_hash"])
        except CtrError:
            (folder / RESULT).unlink()
            raise


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
    """Takes a folder for the run that is to `claim` it next in this process."""
    _reserved[folder.resolve()] = claim(folder)


_reserved: dict[Path, FileLock] = {}


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


def job_key(config_hash: str, data_hash: str) -> str:
    """The name of a run in the store, as this code computes it."""
    return f"{config_hash}-{data_hash}-{CODE}"


def confirm(key: str, config_hash: str, data_hash: str) -> None:
    """Holds what a run computes against the key that it was planned under; to be done before it leaves a result there.

    Raises:
        CtrError: they differ, as something changed meanwhile.
    """
    now = job_key(config_hash, data_hash)
    if now != key:
        parts = zip(("configuration", "data", "code"), key.split("-"), now.split("-"), strict=True)
        changed = " and ".join(name for name, planned, is_now in parts if planned != is_now)
        raise CtrError(
            f"the run was planned as {key}, but is {now} (configuration-data-code): "
            f"its {changed} changed meanwhile; start it again"
        )


def expect_code(key: str) -> None:
    """CtrError if another process planned a run by other code than this one has loaded."""
    planned = key.rpartition("-")[2]
    if planned != CODE:
        raise CtrError(
            f"the sources of ctr changed while the study ran: the run was planned by code {planned}, "
            f"this worker has {CODE}; start the study again"
        )


def expect_unchanged() -> None:
    """CtrError if the sources are not those any more that lay there when this module was loaded: then nobody knows
    which ones the modules that were loaded since are made of."""
    if code_hash(PACKAGE) != CODE:
        raise CtrError("the sources of ctr changed while a worker loaded them; start the study again")


def code_hash(package: Path) -> str:
    """Hash of the sources that a run's figures depend on. The compiled library is taken to be built from them."""
    found = hashlib.sha256()
    for path in sorted(path for pattern in SOURCES for path in package.glob(pattern)):
        found.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]


PACKAGE = Path(__file__).parent
CODE = code_hash(PACKAGE)  # now: what this process has loaded may soon lie there no more
