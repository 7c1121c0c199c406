"""The course of a run: a point for each window of its steps, and at some of them how many rows live."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ctr.metrics import alive_rows
from ctr.models import FeatureEmbedding

COLUMNS = ("step", "rows", "loss", "auc", "lambda21", "living")
SAMPLE, LOOKS = 1 << 14, 32  # rows of the table that are looked at; how often, at least, in a run of as many windows


class Curve:
    """The points of one run so far, each with the values of `COLUMNS`.

    Args:
        embedding: the table; of a sharded one the rows of this worker are looked at.
        windows: how many points there will be.

    Attributes:
        living: share of the touched rows that were not zero at the last look, of every k-th row of the table; NaN
            before the first one.
    """

    def __init__(self, embedding: FeatureEmbedding, windows: int) -> None:
        self._embedding, self._every = embedding, max(windows // LOOKS, 1)
        self._points: list[tuple[float, ...]] = []
        self.living = math.nan

    def add(self, step: int, rows: int, loss: float, auc: float, lambda21: float) -> None:
        """A window's end: steps and rows so far, its mean loss and its AUC, and the present lambda21."""
        looks = len(self._points) % self._every == 0
        if looks:
            self.living = self._look()
        self._points.append((step, rows, loss, auc, lambda21, self.living if looks else math.nan))

    def _look(self) -> float:
        by = -(-len(self._embedding.seen) // SAMPLE) or 1
        seen = self._embedding.seen[::by]
        touched = int(seen.sum())
        return int(alive_rows(self._embedding.weight[::by], seen).sum()) / touched if touched else math.nan

    @property
    def points(self) -> np.ndarray:
        """float64 [n, 6]; NaN in ``living`` where nobody looked."""
        return np.array(self._points, np.float64).reshape(-1, len(COLUMNS))

    def state_dict(self) -> Tensor | None:
        """None before the first point."""
        return torch.from_numpy(self.points) if self._points else None

    def load_state_dict(self, state: Tensor | None) -> None:
        self._points = [] if state is None else [tuple(point) for point in state.tolist()]
        looks = [point[-1] for point in self._points if point[-1] == point[-1]]
        self.living = looks[-1] if looks else math.nan
