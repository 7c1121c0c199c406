"""What an exported file computes behind its look-up, as one torch module: row numbers and raw numbers to logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctr.errors import ArgumentError

RowType = Literal["float32", "float16", "int8"]


def _log_count(x: Tensor) -> Tensor:
    return torch.log(x.clamp(min=0) + 1)


# What a reader does to a dense column (`ctr.datasets.schema.Dataset.transforms`), and how to undo it.
TRANSFORMS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "none": (lambda x: x, lambda x: x),
    "log_count": (_log_count, torch.expm1),
}


class Transforms(nn.Module):
    """The dense columns as the model takes them.

    Args:
        dense: name and transform of each.

    Shapes:
        float64 [B, K] numbers of the log, NaN where blank -> float32 [B, K].

    Raises:
        ArgumentError: a transform that is not known here.
    """

    def __init__(self, dense: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        for name, transform in dense:
            if transform not in TRANSFORMS:
                raise ArgumentError(
                    f"column {name}: its transform {transform} has no ONNX form; those that have one: "
                    f"{', '.join(TRANSFORMS)}"
                )
        self.names = [transform for _, transform in dense]

    def forward(self, numbers: Tensor) -> Tensor:
        return self._each(numbers.nan_to_num(nan=0.0), 0).float()

    def undo(self, dense: Tensor) -> Tensor:
        """Numbers of a log, float64 [B, K], of which these dense columns are made."""
        return self._each(dense.double(), 1)

    def _each(self, x: Tensor, way: int) -> Tensor:
        for transform in sorted(set(self.names) - {"none"}):
            chosen = torch.tensor([name == transform for name in self.names])
            x = torch.where(chosen, TRANSFORMS[transform][way](x), x)
        return x


class Scorer(nn.Module):
    """A model with its rows stored as they are in the file.

    A row of int8 is ``q * scale`` with a float16 scale of its own, by its largest number: rows that the optimizer
    shrank keep their precision.

    Args:
        net: has ``from_rows(rows, dense)``; in evaluation mode.
        rows: float32 [R, d].
        kind: what they are stored as.
        dense: name and transform of each dense column.

    Shapes:
        ids int64 [B, F], numbers float64 [B, K] (none where K = 0) -> logits float32 [B].
    """

    def __init__(self, net: nn.Module, rows: Tensor, kind: RowType, dense: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self.net, self.kind, self.transforms = net, kind, Transforms(dense)
        self.scale: Tensor | None
        scale = None
        if kind == "float16":
            rows = rows.half()
        elif kind == "int8":
            rows, scale = quantise(rows)
        self.register_buffer("rows", rows)
        self.register_buffer("scale", scale)
        self.eval()

    @property
    def bytes(self) -> int:
        """Of all that it holds; the net's own table is not used."""
        return sum(x.nbytes for name, x in self.state_dict().items() if not name.startswith("net.embedding."))

    def forward(self, ids: Tensor, numbers: Tensor | None = None) -> Tensor:
        rows = F.embedding(ids, cast(Tensor, self.rows)).float()
        if self.scale is not None:
            rows = rows * F.embedding(ids, self.scale).float()
        dense = None if numbers is None else self.transforms(numbers)
        return cast(Tensor, self.net.from_rows(rows, dense))  # type: ignore[operator]


def quantise(rows: Tensor) -> tuple[Tensor, Tensor]:
    """int8 [R, d] and their float16 [R, 1] scales, of float32 [R, d]."""
    exact = rows.abs().amax(1, keepdim=True) / 127
    scale = (exact * (1 + 2**-10) + 2**-24).half()  # never rounded down: the row's largest number must fit
    return (rows / scale.float()).round().to(torch.int8), scale
