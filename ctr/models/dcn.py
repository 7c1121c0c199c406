"""Deep & Cross Network (Wang et al., ADKDD 2017, arXiv:1708.05123): the paper's model for Criteo."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ctr.models.embedding import FeatureEmbedding
from ctr.models.mlp import flat_inputs, hidden_layers, linear


class CrossLayers(nn.Module):
    """x_{l+1} = x_0 (x_l . w_l) + b_l + x_l, for l = 0 .. num_layers - 1 (DCN, equation 3).

    Each layer raises the degree of the feature crosses by one at the cost of 2 * width parameters.

    Shapes:
        x_0 [B, width] -> x_L [B, width].
    """

    def __init__(self, width: int, num_layers: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if num_layers < 0:
            raise ValueError(f"cross_layers={num_layers}; expected at least 0")
        self.weight = nn.Parameter(torch.empty(num_layers, width))
        self.bias = nn.Parameter(torch.zeros(num_layers, width))
        for row in self.weight.data:  # each w_l is a (width, 1) matrix of its own
            nn.init.xavier_uniform_(row.unsqueeze(1), generator=generator)

    def forward(self, x0: Tensor) -> Tensor:
        x = x0
        for w, b in zip(self.weight, self.bias, strict=True):
            x = torch.addcmul(x + b, x0, (x @ w).unsqueeze(1))
        return x


class DCN(nn.Module):
    """Embeddings and dense columns -> 2 cross layers beside FC 64, 64 -> one linear over both.

    Source: Wang et al., arXiv:1708.05123; sizes: Yue et al., section 4.1 c.

    Args:
        num_features: number of feature ids.
        num_fields: ids per row, F.
        num_dense: dense columns per row, K.
        embedding: the table; made with ``embedding_dim`` if not given.
        embedding_dim: length d of an embedding row.
        cross_layers: number of cross layers.
        hidden: sizes of the deep layers.
        generator: source of the initial values.

    Shapes:
        ids int [B, F], dense float [B, K] or None -> logits [B].
    """

    def __init__(
        self,
        num_features: int,
        num_fields: int,
        num_dense: int = 0,
        *,
        embedding_dim: int = 8,
        cross_layers: int = 2,
        hidden: Sequence[int] = (64, 64),
        embedding: FeatureEmbedding | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.embedding = embedding or FeatureEmbedding(num_features, embedding_dim, generator=generator)
        width = num_fields * self.embedding.weight.shape[1] + num_dense
        self.cross = CrossLayers(width, cross_layers, generator)
        self.deep = hidden_layers(width, hidden, generator)
        self.output = linear(width + hidden[-1], 1, generator)

    def forward(self, ids: Tensor, dense: Tensor | None = None) -> Tensor:
        return self.from_rows(self.embedding(ids), dense)

    def from_rows(self, rows: Tensor, dense: Tensor | None = None) -> Tensor:
        """Logits [B] from embedding rows [B, F, d]."""
        x0 = flat_inputs(rows, dense)
        return self.output(torch.cat([self.cross(x0), self.deep(x0)], dim=1)).squeeze(1)
