"""A checkpoint: the whole state of a run in a folder, to go on from to the last bit; found, checked and taken up.

``checkpoints/000003/`` holds ``state.safetensors``, the rows in ``rows-0.safetensors`` and further parts
(`ctr.training.snapshot`, `ctr.training.tensors`), and ``manifest.json``: what run it is of, where it was, the checksums
of the tensors' bytes, and one of itself. `ctr.training.checkpointing` writes them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ctr.datasets.checked import Checksum
from ctr.errors import CtrError, DataError, warn_once
from ctr.files import read_sealed
from ctr.training import snapshot
from ctr.training.folder import CHECKPOINTS, MODEL
from ctr.training.snapshot import Stored
from ctr.training.step import TorchStep
from ctr.training.tensors import verify
from ctr.training.trainer import TrainingRun

# Before the first pruning; after it; when training is done; the retraining, which is a run of its own.
Phase = Literal["train", "fine-tune", "trained", "retrain"]
FORMAT = 2
MANIFEST, STATE = "manifest.json", "state.safetensors"
PARTS = "parts"  # in the manifest: the files of the rows, with their checksums
RETRAIN, FINAL = "retrain", "final"  # beside the numbered ones
WITHIN_ROUNDING = "The figures are equal within rounding only"
EAGER = "eager"  # how the net is computed, unless it is compiled


@dataclass(frozen=True)
class Checkpoint:
    """One that is whole: its manifest has been read, and the bytes of its tensors were checked."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def phase(self) -> Phase:
        return self.manifest["phase"]

    @property
    def steps(self) -> int:
        return int(self.manifest["steps"])

    def stored(self) -> AbstractContextManager[Stored]:
        """What it holds, to be read within the context."""
        parts = [self.path / name for name in self.manifest[PARTS]]
        return snapshot.opened(self.path / STATE, self.manifest["state"], self.manifest["columns"], parts)

    def restore(self, run: TrainingRun) -> None:
        """Takes a run, built as the recorded one and at its first row, to where that was.

        Raises:
            CtrError: it does not fit the run.
        """
        try:
            with self.stored() as stored:
                snapshot.restore(run, stored)
        except (ValueError, KeyError) as error:
            raise CtrError(f"{self.path} cannot be taken up by this version of ctr: {error}") from error
        run.seconds = self.manifest["seconds"]
        if (then := self.manifest.get("net", EAGER)) != (now := net_of(run)):
            warn_once(f"since the checkpoint changed: the net was {then}, is {now}. {WITHIN_ROUNDING}")


def read(path: Path) -> Mapping[str, Any]:
    """The manifest of a checkpoint.

    Raises:
        DataError: it is absent, damaged or of another version.
    """
    try:
        manifest = read_sealed(path / MANIFEST)
    except OSError as error:
        raise DataError(path / MANIFEST, None, os.strerror(error.errno or 0)) from error
    if manifest.get("format") != FORMAT:
        raise DataError(path / MANIFEST, None, f"format {manifest.get('format')}; expected {FORMAT}")
    return manifest


def read_final(folder: Path) -> Mapping[str, Any]:
    """The manifest of the state at the end of a run; errors are those of `read`, with what to do."""
    with _advising(folder):
        return read(folder / CHECKPOINTS / FINAL)


@contextmanager
def _advising(folder: Path) -> Iterator[None]:
    """Adds to an error what to do about a damaged final state."""
    try:
        yield
    except DataError as damage:
        advice = f"train it again with checkpoint.final=true, or go on with its saved model: init={folder / MODEL}"
        raise damage.advised(advice) from None


def whole(path: Path, manifest: Mapping[str, Any]) -> Checkpoint:
    """A checkpoint with this manifest; DataError if a byte of its tensors is not as it was written."""
    for name, blocks in {STATE: manifest["blocks"], **manifest[PARTS]}.items():
        verify(path / name, [Checksum(**block) for block in blocks])
    return Checkpoint(path, manifest)


def load_final(folder: Path) -> Checkpoint:
    """The state at the end of training of a run with ``checkpoint.final=true``.

    Its ``stored()`` has the touched rows with their ids: those of the prepared rows whose ``data_hash`` is in
    ``manifest["identity"]``.

    Raises:
        CtrError: the run has left none, or it is damaged.
    """
    path = folder / CHECKPOINTS / FINAL
    if not path.is_dir():
        raise CtrError(f"{path}: no such folder; a run leaves it with checkpoint.final=true")
    with _advising(folder):
        return whole(path, read(path))


def complete(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the newest first; they may be damaged."""
    return sorted((path for path in folder.glob("[0-9]*") if path.name.isdecimal()), key=lambda p: -int(p.name))


def tracked(folder: Path) -> Mapping[str, str] | None:
    """Where the run of the newest checkpoint is recorded: ``uri`` and ``run_id``; None where nothing says that."""
    for path in complete(folder):
        with suppress(DataError):
            return read(path)["tracked"]
    return None


def net_of(run: TrainingRun) -> str:
    """How its net is computed; with ``compile=auto`` that depends on whether it can be compiled here."""
    net = run.learner.net if isinstance(run.learner, TorchStep) else None
    return EAGER if net is None else str(net)
