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
    """Loads a saved model and checks all of it, by its checksums and its golden rows.

    Nothing in the folder is executed. A model or dataset of another package is code of that package, which the folder
    only names: it is imported if you allow it.

    Args:
        path: the model's folder, or that of the run that left it.
        allow_module: import the module that the model names, from the packages that are installed here.
        backend: ``"auto"`` takes the compiled code where it serves the model; None: as the run, where that can be.
        threads: of the compiled code; None: as the run. The run's own backend and threads give its own digits.

    Raises:
        ArgumentError: no saved model there, or it needs a module that is not allowed or not installed.
        DataError: it is damaged, incomplete or of a newer version.
    """
    from ctr.artifact.saved import load  # torch takes seconds to load, and --help needs none

    return load(path, allow_module=allow_module, backend=backend, threads=threads)


def __getattr__(name: str) -> Any:
    if name == "SparseCTRClassifier":
        from ctr.api.classifier import SparseCTRClassifier  # loaded when it is asked for: --help needs no torch

        return SparseCTRClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
