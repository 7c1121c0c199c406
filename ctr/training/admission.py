"""Which row each occurrence of a training stream reads, where values are admitted as they come."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ctr.datasets.admission import Admitted
from ctr.datasets.stream import Batch


class Admission:
    """Counts the values of a stream, and says which row each occurrence reads.

    Later passes over the same rows show nothing new: the first one alone is counted.

    Args:
        data: whose training rows are streamed with the ids of ``data.log``.

    Attributes:
        counts: uint8 [N], how often each value has occurred so far, at most k.
    """

    def __init__(self, data: Admitted) -> None:
        self._own, self._k, self._first = data.own, data.min_count, data.unseen == "row"
        self._rows = data.split.rows_train
        self.counts = data.sighted.copy()

    def scored(self, batch: Batch) -> Batch:
        """A batch of the stream as the model reads it before it learns from it."""
        ids = _numbers(batch)
        counts = self.counts[ids]
        held = (counts < self._k) & (self._first | (counts > 0))
        return replace(batch, ids=torch.from_numpy(np.where(held, self._own, ids)))

    def trained(self, batch: Batch, end: int) -> Batch:
        """A batch of the stream as it is learned from; its occurrences are counted, one after the other.

        Args:
            batch: its rows.
            end: rows of the stream so far, those of the batch included.
        """
        ids = _numbers(batch).copy()
        new = min(max(self._rows - (end - len(ids)), 0), len(ids))
        self._count_(ids[:new])
        if new < len(ids):
            later = ids[new:]
            later[:] = np.where(self.counts[later] < self._k, self._own, later)
        return replace(batch, ids=torch.from_numpy(ids))

    def _count_(self, ids: np.ndarray) -> None:
        """Counts int32 [n, F] ids in their order; those before the k-th of a value become its field's row."""
        flat = ids.reshape(-1)
        young = np.flatnonzero(self.counts[flat] < self._k)
        young = young[np.argsort(flat[young], kind="stable")]  # by value, those of one value in their order
        values = flat[young]
        starts = np.flatnonzero(np.diff(values, prepend=-1))
        sizes = np.diff(starts, append=len(values))
        occurrence = self.counts[values] + (np.arange(1, len(values) + 1) - np.repeat(starts, sizes))
        held = young[occurrence < self._k]
        flat[held] = self._own[held % ids.shape[1]]
        self.counts[values[starts]] = np.minimum(occurrence[starts + sizes - 1], self._k)

    def state_dict(self) -> dict[str, Any]:
        return {"counts": self.counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.counts[:] = state["counts"]


def _numbers(batch: Batch) -> np.ndarray:
    assert isinstance(batch.ids, torch.Tensor)  # `ctr.datasets.admission.admit` refuses rows of several values
    return batch.ids.numpy()
