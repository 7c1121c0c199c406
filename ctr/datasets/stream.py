"""Prepared rows -> batches, in their own order; the position is all there is to save."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any

import torch
from torch import Tensor

from ctr.datasets.ragged import Ids, Ragged, joined
from ctr.datasets.rows import RowSource
from ctr.models.embedding import Bags

READ_ROWS = 8192  # at a time: cutting batches out of them costs less than reading each by itself


@dataclass(frozen=True)
class Batch:
    """Consecutive rows.

    Attributes:
        ids: int32 [B, F], or bags of them where a field is multi-valued.
        dense: float32 [B, K]; None where K = 0.
        label: float32 [B], 0 or 1.
        weight: float32 [B], how much each row counts; None: 1 each.
    """

    ids: Tensor | Bags
    dense: Tensor | None
    label: Tensor
    weight: Tensor | None = None

    def __len__(self) -> int:
        return len(self.label)


class RowStream:
    """Some rows in batches, in their order; can be stopped after any batch and taken up there.

    Args:
        rows: the prepared rows.
        ranges: half-open row ranges, streamed one after the other; one may be there again, for another pass.
        batch_size: rows per batch; the last batch of the stream may be smaller. Batches cross ranges.

    Attributes:
        position: rows handed out so far.
        upcoming: the batch after the one that was handed out last; None: the stream ends.
    """

    def __init__(self, rows: RowSource, ranges: Sequence[tuple[int, int]], batch_size: int) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}; expected at least 1")
        self.rows, self.ranges, self.batch_size = rows, list(ranges), batch_size
        self.position = 0
        self.upcoming: Batch | None = None

    @property
    def num_rows(self) -> int:
        """Rows of the whole stream."""
        return sum(stop - start for start, stop in self.ranges)

    @property
    def num_batches(self) -> int:
        """Batches of the whole stream."""
        return -(-self.num_rows // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Batches from the current position on. The position moves past a batch before it is handed out."""
        together = max(READ_ROWS // self.batch_size, 1) * self.batch_size
        starts = range(self.position, self.num_rows, together)
        blocks = (self._batches(start, min(start + together, self.num_rows)) for start in starts)
        coming = chain.from_iterable(blocks)
        self.upcoming = next(coming, None)
        while (batch := self.upcoming) is not None:
            self.upcoming = next(coming, None)
            self.position += len(batch)
            yield batch

    def _batches(self, start: int, stop: int) -> Iterator[Batch]:
        parts = []
        offset = 0  # rows of the pass before this range
        for first, last in self.ranges:
            low, high = max(start - offset, 0), min(stop - offset, last - first)
            if low < high:
                parts.append(self.rows[first + low : first + high])
            offset += last - first
        ids, dense, label, *weight = (joined(columns) for columns in zip(*parts, strict=True))
        size = self.batch_size
        return map(
            Batch,
            _split(ids, size),
            torch.from_numpy(dense).split(size) if dense.shape[1] else repeat(None),
            torch.from_numpy(label).float().split(size),
            torch.from_numpy(weight[0]).split(size) if weight else repeat(None),
        )

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if not 0 <= state["position"] <= self.num_rows:
            raise ValueError(f"position {state['position']:,} is not within a pass of {self.num_rows:,} rows")
        self.position = state["position"]


def as_tensors(ids: Ids) -> Tensor | Bags:
    """Ids as a model takes them."""
    if isinstance(ids, Ragged):
        return Bags(torch.from_numpy(ids.values), torch.from_numpy(ids.offsets), ids.num_fields)
    return torch.from_numpy(ids)


def _split(ids: Ids, size: int) -> Iterable[Tensor | Bags]:
    if isinstance(ids, Ragged):
        return (as_tensors(ids[start : start + size]) for start in range(0, len(ids), size))
    return torch.from_numpy(ids).split(size)
