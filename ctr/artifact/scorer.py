"""What an exported file computes behind its look-up, as one torch module: row numbers and raw numbers to logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, cast

import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctr.artifact.saved import SavedModel
from ctr.datasets.ragged import flat
from ctr.datasets.transforms import Transform
from ctr.errors import ArgumentError

RowType = Literal["float32", "float16", "int8"]


def _log_count(x: Tensor) -> Tensor:
    return torch.log(x.clamp(min=0) + 1)


# What a reader does to a dense column (`ctr.datasets.schema.Dataset.scaling`), and how to undo it.
SCALINGS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "none": (lambda x: x, lambda x: x),
    "log_count": (_log_count, torch.expm1),
}


class Scaled(nn.Module):
    """The dense columns of a format whose reader makes the model's inputs.

    Args:
        dense: name of each, and what the reader does to it.

    Shapes:
        float64 [B, K] numbers of the log, NaN where blank -> no row numbers, and inputs float32 [B, K].

    Raises:
        ArgumentError: something that is not known here.
    """

    def __init__(self, dense: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        for name, transform in dense:
            if transform not in SCALINGS:
                raise ArgumentError(
                    f"column {name}: its transform {transform} has no ONNX form; those that have one: "
                    f"{', '.join(SCALINGS)}"
                )
        self.names = [transform for _, transform in dense]

    def forward(self, numbers: Tensor) -> tuple[list[Tensor], Tensor]:
        return [], self._each(numbers.nan_to_num(nan=0.0), 0).float()

    def undo(self, dense: Tensor) -> Tensor:
        """Numbers of a log, float64 [B, K], of which these dense columns are made."""
        return self._each(dense.double(), 1)

    def _each(self, x: Tensor, way: int) -> Tensor:
        for transform in sorted(set(self.names) - {"none"}):
            chosen = torch.tensor([name == transform for name in self.names])
            x = torch.where(chosen, SCALINGS[transform][way](x), x)
        return x


class Transformed(nn.Module):
    """The dense columns of a format with fitted transforms (`ctr.datasets.transforms`), in the same arithmetic.

    Args:
        transforms: one for each column.
        buckets: of each that is a bucket, the row number of each interval and, last, of a missing number.

    Shapes:
        float64 [B, K] numbers of the log, NaN where missing -> int64 [B, 1] row numbers of each bucket, and inputs
        float32 [B, `Manifest.num_dense`].
    """

    def __init__(self, transforms: Sequence[Transform], buckets: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.transforms = list(transforms)
        rows = iter(buckets)
        for number, transform in enumerate(transforms):
            self.register_buffer(f"knots_{number}", torch.tensor(transform.knots, dtype=torch.float64))
            self.register_buffer(f"levels_{number}", torch.tensor(transform.levels, dtype=torch.float64))
            if transform.kind == "bucket":
                self.register_buffer(f"rows_{number}", torch.tensor(list(next(rows)), dtype=torch.int64))

    def forward(self, numbers: Tensor) -> tuple[list[Tensor], Tensor]:
        rows, inputs = [], []
        for number, transform in enumerate(self.transforms):
            x = numbers[:, number : number + 1].float().double()  # a reader's numbers are float32
            missing = torch.isnan(x)
            x = torch.where(missing, torch.zeros_like(x), x)
            knots, levels = self.get_buffer(f"knots_{number}"), self.get_buffer(f"levels_{number}")
            if transform.kind == "bucket":
                place = torch.where(missing, torch.full_like(x, len(knots) + 1).long(), _below(x, knots))
                rows.append(F.embedding(place.squeeze(1), self.get_buffer(f"rows_{number}").unsqueeze(1)))
                continue
            at_missing = transform.mean if transform.kind == "log" else 0.0
            x = torch.where(missing, torch.full_like(x, at_missing), _transformed(transform, x, knots, levels))
            inputs += [x, missing.double()] if transform.indicator else [x]
        return rows, torch.cat(inputs, dim=1).float() if inputs else numbers[:, :0].float()


def _transformed(transform: Transform, x: Tensor, knots: Tensor, levels: Tensor) -> Tensor:
    """`Transform.apply` to numbers float64 [B, 1], none missing."""
    if transform.kind == "quantile":
        if len(knots) == 1:
            return levels.expand_as(x)
        x = torch.minimum(torch.maximum(x, knots[0]), knots[-1])
        low = (_below(x, knots) - 1).clamp(max=len(knots) - 2)
        slopes = (levels[1:] - levels[:-1]) / (knots[1:] - knots[:-1])
        start, level, slope = (F.embedding(low.squeeze(1), table.unsqueeze(1)) for table in (knots, levels, slopes))
        return level + slope * (x - start)
    if transform.kind in ("log", "log_standard"):
        x = torch.sign(x) * torch.log(x.abs() + 1)
    return (x - transform.mean) / transform.scale if transform.kind in ("standard", "log_standard") else x


def _below(x: Tensor, knots: Tensor) -> Tensor:
    """int64 [B, 1]: how many knots are at most each of x, float64 [B, 1]."""
    return (knots <= x).long().sum(dim=1, keepdim=True)


class Scorer(nn.Module):
    """A model with its rows stored as they are in the file.

    A row of int8 is ``q * scale`` with a float16 scale of its own, by its largest number: rows that the optimizer
    shrank keep their precision.

    Args:
        net: has ``from_rows(rows, dense)``; in evaluation mode.
        rows: float32 [R, d].
        kind: what they are stored as.
        inputs: makes row numbers of buckets, and dense inputs, of the log's numbers.
        negative_rate: share of the negatives that the model has learned from; the logits are those of the whole log.

    Shapes:
        ids int64 [B, F] without buckets, numbers float64 [B, K] (none where K = 0) -> logits float32 [B].
    """

    def __init__(
        self, net: nn.Module, rows: Tensor, kind: RowType, inputs: Scaled | Transformed, negative_rate: float = 1.0
    ) -> None:
        super().__init__()
        self.net, self.kind, self.inputs, self.shift = net, kind, inputs, math.log(negative_rate)
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
        dense = None
        if numbers is not None:
            buckets, dense = self.inputs(numbers)
            ids = torch.cat([ids, *buckets], dim=1)
            dense = dense if dense.shape[1] else None
        rows = F.embedding(ids, cast(Tensor, self.rows)).float()
        if self.scale is not None:
            rows = rows * F.embedding(ids, self.scale).float()
        logits = cast(Tensor, self.net.from_rows(rows, dense))  # type: ignore[operator]
        return logits + self.shift if self.shift else logits


def scorer_of(model: SavedModel, kind: RowType) -> Scorer:
    """What a file of a saved model computes.

    Raises:
        ArgumentError: its reader does something to numbers that has no form here.
    """
    return Scorer(model.net, model.rows, kind, inputs_of(model), model.dataset.negative_rate)


def inputs_of(model: SavedModel) -> Scaled | Transformed:
    """What makes the model's inputs of the log's numbers; see `scorer_of`."""
    manifest = model.manifest
    if not manifest.transforms:
        return Scaled(manifest.dense)
    buckets: list[list[int]] = []
    first = len(manifest.read_fields)
    for transform in manifest.transforms:
        if transform.kind == "bucket":
            names = pa.array([*transform.intervals, None], pa.string())
            buckets.append(flat(model.encode([names], first + len(buckets))).tolist())
    return Transformed(manifest.transforms, buckets)


def quantise(rows: Tensor) -> tuple[Tensor, Tensor]:
    """int8 [R, d] and their float16 [R, 1] scales, of float32 [R, d]."""
    exact = rows.abs().amax(1, keepdim=True) / 127
    scale = (exact * (1 + 2**-10) + 2**-24).half()  # never rounded down: the row's largest number must fit
    return (rows / scale.float()).round().to(torch.int8), scale
