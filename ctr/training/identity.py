"""The name of a run: what it computes.

Two runs with the same `run_key` compute the same figures: same configuration, data, code, versions of torch and numpy,
and vector width.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ctr.errors import CtrError
from ctr.provenance import PACKAGE, code_hash

# The code that a run's figures depend on. (How rows are prepared is part of the data's hash.)
SOURCES = (
    "metrics.py", "training/*.py", "training/compiled/*.py", "datasets/stream.py", "datasets/rows.py",
    "datasets/ragged.py", "datasets/split.py", "datasets/vocabulary.py", "datasets/rare.py", "artifact/init.py",
    "models/*.py", "optim/*.py", "native/*.py", "native/src/*.cpp", "native/src/*.h",
)  # fmt: skip


def arithmetic() -> tuple[str, ...]:
    """What rounding depends on beside the code: versions of torch and numpy, and the width of the vector unit."""
    return (f"torch {torch.__version__}", f"numpy {np.__version__}", torch.backends.cpu.get_cpu_capability())


def training_code(package: Path = PACKAGE) -> str:
    """The hash of the code that trains and measures, as it is on the disk now, with `arithmetic`."""
    return code_hash((path for pattern in SOURCES for path in package.glob(pattern)), arithmetic())


CODE = training_code()  # Computed at import: files may change later.


def run_key(config_hash: str, data_hash: str) -> str:
    """The name of a run in the cache of finished runs, as this code computes it."""
    return f"{config_hash}-{data_hash}-{CODE}"


def confirm(key: str, config_hash: str, data_hash: str) -> None:
    """Compares what a run computes with the key that it was planned under; called before a result is left there.

    Raises:
        CtrError: they differ, as something changed meanwhile.
    """
    now = run_key(config_hash, data_hash)
    if now != key:
        parts = zip(("configuration", "data", "code"), key.split("-"), now.split("-"), strict=True)
        changed = " and ".join(name for name, planned, is_now in parts if planned != is_now)
        raise CtrError(
            f"the run was planned as {key}, but is {now} (configuration-data-code): "
            f"its {changed} changed meanwhile; start it again"
        )


def expect_unchanged() -> None:
    """CtrError if the sources have changed since this module was imported: the modules that were imported after it may
    be made of either."""
    if training_code() != CODE:
        raise CtrError("the sources of ctr changed while a process loaded them; start the command again")
