"""In which precision a training step computes the net's products."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

Precision = Literal["float32", "bfloat16"]
FULL: Precision = "float32"


def logits_of(model: Any, precision: Precision, rows: Tensor, *others: Tensor | None) -> Tensor:
    """Logits [B], of the dtype of the rows, by ``model.from_rows(rows, *others)``.

    With ``"bfloat16"`` matrix products have factors of bfloat16 (`torch.autocast`); weights and gradients keep their
    dtype.
    """
    if precision == FULL:
        logits: Tensor = model.from_rows(rows, *others)
        return logits
    with torch.autocast(rows.device.type, torch.bfloat16, cache_enabled=False):
        return model.from_rows(rows, *others).to(rows.dtype)
