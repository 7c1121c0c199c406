"""A run within the user's own process: what it sets for all of the process, and the folder that it leaves."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import torch

_one_run = threading.RLock()


class Kept:
    """The folder of a run whose state `partial_fit` goes on with; removed with the estimator that has it."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="ctr-"))
        weakref.finalize(self, _remove, self.path, os.getpid())


def _remove(path: Path, process: int) -> None:
    if os.getpid() == process:  # a forked one has the object, but not the folder
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def process_state() -> Iterator[None]:
    """Lets one run at a time set what is of the whole process, as torch's generator, and gives it back at the end."""
    with _one_run, torch.random.fork_rng(devices=[]):
        threads, cpus = torch.get_num_threads(), pa.cpu_count()
        strict, warns = (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        )
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            pa.set_cpu_count(cpus)
            torch.use_deterministic_algorithms(strict, warn_only=warns)
