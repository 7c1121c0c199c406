"""Progress over the last steps of the training stream."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ctr.datasets.stream import Batch
from ctr.metrics import exact_auc


@dataclass(frozen=True)
class Window:
    """Progress over the last steps of the training stream, measured before each batch is learned from.

    Attributes:
        step, rows: steps and rows trained so far.
        loss: mean logloss over the window, by the rows' weights.
        auc: exact AUC over the window, by the rows' weights; NaN if it holds one class only.
        living: `Curve.living`.
    """

    step: int
    rows: int
    loss: float
    auc: float
    living: float


class _Column:
    """Arrays of some steps, in one place: kept one by one they, or the batch that they are of, leave holes in the heap
    when they go, of GBs in the end.

    Attributes:
        parts: those that there are.
    """

    def __init__(self, steps: int) -> None:
        self.parts: list[np.ndarray] = []
        self._steps, self._place, self._filled = steps, np.empty(0), 0

    def add(self, values: np.ndarray) -> None:
        end = self._filled + len(values)
        if end > len(self._place) or self._place.dtype != values.dtype:
            self._place, self._filled, end = np.empty(self._steps * len(values), values.dtype), 0, len(values)
        part = self._place[self._filled : end]
        part[:] = values
        self.parts.append(part)
        self._filled = end

    def take(self) -> np.ndarray:
        """All as one, which leaves none."""
        whole = np.concatenate(self.parts)
        self.clear()
        return whole

    def clear(self) -> None:
        self.parts, self._filled = [], 0


class WindowMetrics:
    """Collects predictions of ``steps`` steps at a time."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._logits, self._labels = _Column(steps), _Column(steps)
        self._weights = _Column(steps)  # no parts where each row counts 1
        self._loss = 0.0  # sum over the rows

    def update(self, logits: Tensor, batch: Batch, loss: float) -> tuple[float, float] | None:
        """Adds a batch, its logits and its loss; returns (logloss, AUC) at the end of each window."""
        self._loss += loss * len(batch)
        self._logits.add(logits.detach().cpu().numpy())
        self._labels.add(batch.label.cpu().numpy())
        if batch.weight is not None:
            self._weights.add(batch.weight.cpu().numpy())
        if len(self._logits.parts) < self.steps:
            return None
        scores, truth = self._logits.take(), self._labels.take()
        weights = self._weights.take() if self._weights.parts else None
        total = len(truth) if weights is None else float(weights.sum(dtype=np.float64))
        mean = self._loss / total if total else math.nan
        self._loss = 0.0
        return mean, exact_auc(scores, truth, weights)

    def state_dict(self) -> dict[str, Any]:
        columns = {"logits": self._logits, "labels": self._labels, "weights": self._weights}
        return {**{name: list(column.parts) for name, column in columns.items()}, "loss": self._loss}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        columns = {"logits": self._logits, "labels": self._labels, "weights": self._weights}
        for name, column in columns.items():
            column.clear()
            for part in state.get(name, ()):  # earlier versions had no weights
                column.add(part)
        self._loss = state["loss"]
