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


class WindowMetrics:
    """Collects predictions of ``steps`` steps at a time."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._logits: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []
        self._weights: list[np.ndarray] = []  # none where each row counts 1
        self._loss = 0.0  # sum over the rows

    def update(self, logits: Tensor, batch: Batch, loss: float) -> tuple[float, float] | None:
        """Adds a batch, its logits and its loss; returns (logloss, AUC) at the end of each window."""
        self._loss += loss * len(batch)
        self._logits.append(logits.detach().cpu().numpy())
        self._labels.append(batch.label.cpu().numpy())
        if batch.weight is not None:
            self._weights.append(batch.weight.cpu().numpy())
        if len(self._logits) < self.steps:
            return None
        scores, truth = np.concatenate(self._logits), np.concatenate(self._labels)
        weights = np.concatenate(self._weights) if self._weights else None
        total = len(truth) if weights is None else float(weights.sum(dtype=np.float64))
        mean = self._loss / total if total else math.nan
        self._logits, self._labels, self._weights, self._loss = [], [], [], 0.0
        return mean, exact_auc(scores, truth, weights)

    def state_dict(self) -> dict[str, Any]:
        columns = {"logits": list(self._logits), "labels": list(self._labels), "weights": list(self._weights)}
        return {**columns, "loss": self._loss}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._logits, self._labels, self._loss = list(state["logits"]), list(state["labels"]), state["loss"]
        self._weights = list(state.get("weights", ()))  # earlier versions had none
