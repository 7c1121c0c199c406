"""DeepFM (Guo et al., IJCAI 2017, arXiv:1703.04247): a factorization machine and a deep net on the same vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ctr.models.embedding import FeatureEmbedding
from ctr.models.mlp import flat_inputs, hidden_layers, linear


def pair_sums(vectors: Tensor) -> Tensor:
    """The sum of the products v_i * v_j over all pairs of fields i < j: [B, F, k] -> [B, k]."""
    return (vectors.sum(1).square() - vectors.square().sum(1)) / 2


class DeepFM(nn.Module):
    """Weights of first order + products of all pairs of vectors + deep net (Guo et al., arXiv:1703.04247, Eqs. 1 to 4).

    A feature has two tables there: a weight of first order and a vector. Here they are number 0 and the rest of one
    row, so that they form one group, which lives and dies as a whole. Dense columns enter the weights of first order
    and the deep net.

    Args:
        num_features: number of feature ids.
        num_fields: ids per row, F.
        num_dense: dense columns per row, K.
        embedding: the table, with rows of length d, at least 2; made with ``embedding_dim`` if not given.
        embedding_dim: d: the weight of first order, and a vector of d - 1.
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
        embedding_dim: int = 9,
        hidden: Sequence[int] = (64, 64),
        embedding: FeatureEmbedding | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.embedding = embedding or FeatureEmbedding(num_features, embedding_dim, generator=generator)
        if (dim := self.embedding.weight.shape[1]) < 2:
            raise ValueError(f"model.embedding_dim={dim}; expected at least 2: a weight and a vector")
        self.dense = nn.Parameter(torch.zeros(num_dense)) if num_dense else None
        self.deep = hidden_layers(num_fields * (dim - 1) + num_dense, hidden, generator)
        self.output = linear(hidden[-1], 1, generator)

    def forward(self, ids: Tensor, dense: Tensor | None = None) -> Tensor:
        return self.from_rows(self.embedding(ids), dense)

    def from_rows(self, rows: Tensor, dense: Tensor | None = None) -> Tensor:
        """Logits [B] from embedding rows [B, F, d]."""
        weights, vectors = rows[..., 0], rows[..., 1:]
        logits = weights.sum(1) + pair_sums(vectors).sum(1)
        if self.dense is not None and dense is not None:
            logits = logits + dense @ self.dense
        return logits + self.output(self.deep(flat_inputs(vectors, dense))).squeeze(1)
