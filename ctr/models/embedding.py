"""Embedding table of one-hot features: one row per feature, one id space over all fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Bags:
    """Ids of a batch in which a row may have several of a field; no bag is empty.

    Attributes:
        values: int [V], those of the first row's first field, of its second, ...
        offsets: int [B F + 1], where each bag begins in them, and V.
        num_fields: F.
    """

    values: Tensor
    offsets: Tensor
    num_fields: int

    def __len__(self) -> int:
        return (len(self.offsets) - 1) // self.num_fields

    def __getitem__(self, rows: slice) -> Bags:
        start, stop, _ = rows.indices(len(self))
        offsets = self.offsets[start * self.num_fields : stop * self.num_fields + 1]
        return Bags(self.values[int(offsets[0]) : int(offsets[-1])], offsets - offsets[0], self.num_fields)

    def to(self, device: torch.device | str) -> Bags:
        return Bags(self.values.to(device), self.offsets.to(device), self.num_fields)


class FeatureEmbedding(nn.Module):
    """Looks up one row per id; knows which rows training has touched.

    In training mode a forward pass marks its rows as seen, and ``weight`` gets a sparse gradient. In evaluation
    mode a row never seen in training reads as zero, as a serving look-up would find nothing under its key
    (``unseen="zero"``), or as it was initialised (``unseen="init"``).

    Of several ids in a bag the rows become one (``pool``), before a model sees them. An id that is there twice counts
    twice, and one that reads as zero counts in the mean.

    Args:
        num_features: number of ids, N.
        embedding_dim: length of a row, d.
        init_scale: rows start uniform in [-init_scale, init_scale].
        unseen: what an untrained row reads as at evaluation.
        pool: ``"mean"`` or ``"sum"`` of the rows in a bag; None: each field has one id.
        generator: source of the initial values.

    Shapes:
        ids int [...] -> rows float [..., d]; bags of [B, F] -> [B, F, d]. ``weight`` float32 [N, d], ``seen`` bool [N].
    """

    seen: Tensor

    def __init__(
        self,
        num_features: int,
        embedding_dim: int,
        *,
        init_scale: float = 0.01,
        unseen: Literal["zero", "init"] = "zero",
        pool: Literal["mean", "sum"] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if num_features < 1 or embedding_dim < 1:
            raise ValueError(f"num_features={num_features}, embedding_dim={embedding_dim}; both must be at least 1")
        if unseen not in ("zero", "init"):
            raise ValueError(f"unseen={unseen!r}; expected 'zero' or 'init'")
        if pool not in (None, "mean", "sum"):
            raise ValueError(f"pool={pool!r}; expected 'mean', 'sum' or None")
        self.num_features, self.unseen, self.pool = num_features, unseen, pool
        self.weight = nn.Parameter(self._initial(embedding_dim, init_scale, generator))
        self.register_buffer("seen", torch.zeros(len(self.weight), dtype=torch.bool))

    def _initial(self, dim: int, scale: float, generator: torch.Generator | None) -> Tensor:
        return torch.empty(self.num_features, dim).uniform_(-scale, scale, generator=generator)

    def forward(self, ids: Tensor | Bags) -> Tensor:
        if isinstance(ids, Bags):
            return self.pooled(self(ids.values), ids)
        if self.training:
            self.seen[ids.reshape(-1).long()] = True
            return F.embedding(ids, self.weight, sparse=True)
        rows = F.embedding(ids, self.weight)
        if self.unseen == "zero":
            rows = rows * self.seen[ids.long()].unsqueeze(-1)
        return rows

    def pooled(self, rows: Tensor, ids: Tensor | Bags) -> Tensor:
        """Rows [B, F, d] of those that were looked up for each id: [V, d] of bags; others are returned as they are."""
        if not isinstance(ids, Bags):
            return rows
        if self.pool is None:
            raise ValueError("bags of ids for an embedding without pool='mean' or 'sum'")
        lengths = ids.offsets.diff().long()
        bag = torch.repeat_interleave(lengths, output_size=len(rows)).unsqueeze(1)
        sums = rows.new_zeros(len(lengths), rows.shape[1]).scatter_add(0, bag.expand_as(rows), rows)
        if self.pool == "mean":
            sums = sums / lengths.unsqueeze(1)
        return sums.unflatten(0, (-1, ids.num_fields))

    def narrowed(self, ids: Tensor) -> FeatureEmbedding:
        """A table of some features alone, int64 [n], with their present rows, and one row of zeros behind them."""
        table = FeatureEmbedding(len(ids) + 1, self.weight.shape[1], **self._for_narrowed())
        table.weight.data[: len(ids)] = self.weight.data[ids.to(self.weight.device)]
        return table

    def _for_narrowed(self) -> dict[str, Any]:
        """Options of a table of zeros; its generator is its own: dropout must draw what it draws beside another one."""
        return {"init_scale": 0, "unseen": self.unseen, "pool": self.pool, "generator": torch.Generator()}

    @property
    def workers(self) -> int:
        """How many processes hold the table."""
        return 1

    @property
    def first(self) -> bool:
        """Whether this process writes what is kept of the table; all do that hold a whole one."""
        return True

    def whole(self, values: Tensor) -> Tensor:
        """Values of the rows of ``weight``, [len(weight), ...], as those of all features, [N, ...]."""
        return values

    def own(self, values: Tensor) -> Tensor:
        """Of values of all features those of the rows of ``weight``: the inverse of :meth:`whole`."""
        return values

    @property
    def place(self) -> tuple[int, int]:
        """(r, R): row i of ``weight`` is that of feature r + R i."""
        return 0, 1

    def owned(self, ids: Tensor) -> tuple[Tensor | None, Tensor]:
        """Which of some features have a row in ``weight``, bool [n] (None: all), and where."""
        return None, ids

    def kept(self, values: Tensor, alive: Tensor) -> Tensor:
        """Values of the rows of ``weight`` that are marked, as those of all marked features, where `first`.

        Args:
            values: [marked rows, ...].
            alive: bool [len(weight)].
        """
        return values

    def summed(self, values: Tensor) -> Tensor:
        """Numbers that each worker has found of its own rows, as those of all rows."""
        return values

    def extra_repr(self) -> str:
        pool = "" if self.pool is None else f", pool={self.pool}"
        return f"{self.num_features:,} x {self.weight.shape[1]}, unseen={self.unseen}{pool}"
