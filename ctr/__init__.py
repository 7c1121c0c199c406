"""Click-through-rate experiments with sparse-group-lasso optimizers.

Reproduces "Adaptive Optimizers with Sparse Group Lasso for Neural Networks in CTR Prediction"
(Yue et al.) end to end: raw logs -> one-hot ids -> embeddings -> one streaming pass with optimizers that
set whole embedding rows to exactly zero.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from ctr.api.classifier import SparseCTRClassifier
    from ctr.artifact.saved import SavedModel

__all__ = ["SparseCTRClassifier", "load"]

__version__ = version("sparse-ctr")


def load(
    path: Path | str,
    *,
    allow_module: bool = False,
    backend: Literal["auto", "native", "torch"] | None = None,
    threads: int | None = None,
) -> SavedModel:
    """Loads a saved model; see `ctr.artifact.saved.load`."""
    from ctr.artifact.saved import load  # torch takes seconds to load, and --help needs none

    return load(path, allow_module=allow_module, backend=backend, threads=threads)


def __getattr__(name: str) -> Any:
    if name == "SparseCTRClassifier":
        from ctr.api.classifier import SparseCTRClassifier  # loaded when it is asked for: --help needs no torch

        return SparseCTRClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
