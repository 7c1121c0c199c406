"""Logistic regression: a weight for each feature (the wide part of McMahan et al., KDD 2013)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ctr.models.embedding import FeatureEmbedding


class LR(nn.Module):
    """The sum of the features' weights, a linear function of the dense columns, and a bias.

    With rows that start at zero and Group Adagrad with ``lambda1`` (and ``lambda21=0``) it is trained as by
    FTRL-Proximal (docs/optimizers.md): the baseline of McMahan et al., "Ad Click Prediction: a View from the Trenches".
    A group of one weight makes ``lambda21`` the same as ``lambda1``.

    Args:
        num_features: number of feature ids.
        num_fields: ids per row, F; any number is taken.
        num_dense: dense columns per row, K.
        embedding: the table, with rows of length 1; made if not given.
        embedding_dim: length of a row, which can only be 1.
        generator: not used: all weights beside the table start at 0.

    Shapes:
        ids int [B, F], dense float [B, K] or None -> logits [B].
    """

    def __init__(
        self,
        num_features: int,
        num_fields: int,
        num_dense: int = 0,
        *,
        embedding_dim: int = 1,
        embedding: FeatureEmbedding | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.embedding = embedding or FeatureEmbedding(num_features, embedding_dim, init_scale=0.0)
        if (dim := self.embedding.weight.shape[1]) != 1:
            raise ValueError(f"model.embedding_dim={dim}; expected 1: a weight for each feature")
        self.dense = nn.Parameter(torch.zeros(num_dense)) if num_dense else None
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, ids: Tensor, dense: Tensor | None = None) -> Tensor:
        return self.from_rows(self.embedding(ids), dense)

    def from_rows(self, rows: Tensor, dense: Tensor | None = None) -> Tensor:
        """Logits [B] from embedding rows [B, F, 1]."""
        logits = rows.sum((1, 2)) + self.bias
        return logits if self.dense is None or dense is None else logits + dense @ self.dense
