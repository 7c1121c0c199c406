"""Embedding table of one-hot features: one row per feature, one id space over all fields."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FeatureEmbedding(nn.Module):
    """Looks up one row per id; knows which rows training has touched.

    In training mode a forward pass marks its rows as seen, and ``weight`` gets a sparse gradient. In evaluation
    mode a row never seen in training reads as zero, as a serving look-up would find nothing under its key
    (``unseen="zero"``), or as it was initialised (``unseen="init"``).

    Args:
        num_features: number of ids, N.
        embedding_dim: length of a row, d.
        init_scale: rows start uniform in [-init_scale, init_scale].
        unseen: what an untrained row reads as at evaluation.
        generator: source of the initial values.

    Shapes:
        ids int [...] -> rows float [..., d]. ``weight`` float32 [N, d], ``seen`` bool [N].
    """

    seen: Tensor

    def __init__(
        self,
        num_features: int,
        embedding_dim: int,
        *,
        init_scale: float = 0.01,
        unseen: Literal["zero", "init"] = "zero",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if num_features < 1 or embedding_dim < 1:
            raise ValueError(f"num_features={num_features}, embedding_dim={embedding_dim}; both must be at least 1")
        if unseen not in ("zero", "init"):
            raise ValueError(f"unseen={unseen!r}; expected 'zero' or 'init'")
        self.num_features, self.unseen = num_features, unseen
        self.weight = nn.Parameter(self._initial(embedding_dim, init_scale, generator))
        self.register_buffer("seen", torch.zeros(len(self.weight), dtype=torch.bool))

    def _initial(self, dim: int, scale: float, generator: torch.Generator | None) -> Tensor:
        return torch.empty(self.num_features, dim).uniform_(-scale, scale, generator=generator)

    def forward(self, ids: Tensor) -> Tensor:
        if self.training:
            self.seen[ids.reshape(-1).long()] = True
            return F.embedding(ids, self.weight, sparse=True)
        rows = F.embedding(ids, self.weight)
        if self.unseen == "zero":
            rows = rows * self.seen[ids.long()].unsqueeze(-1)
        return rows

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

    def extra_repr(self) -> str:
        return f"{self.num_features:,} x {self.weight.shape[1]}, unseen={self.unseen}"
