"""Neural factorization machine (He and Chua, SIGIR 2017, arXiv:1708.05027) on one embedding table."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ctr.models.deepfm import pair_sums
from ctr.models.embedding import FeatureEmbedding
from ctr.models.mlp import hidden_layers, linear


class NFM(nn.Module):
    """A deep net on the sum of all products of two vectors. Of a row, number 0 is the weight, the rest the vector.

    Args:
        num_features: number of feature ids.
        num_fields: ids per row, F.
        num_dense: dense columns per row, K.
        embedding: the table, with rows of length d, at least 2.
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
        embedding: FeatureEmbedding,
        hidden: Sequence[int] = (64, 32),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        dim = embedding.weight.shape[1]
        if dim < 2:
            raise ValueError(f"model.embedding_dim={dim}; expected at least 2")
        self.embedding = embedding
        self.deep = hidden_layers(dim - 1 + num_dense, hidden, generator)
        self.output = linear(hidden[-1], 1, generator)

    def forward(self, ids: Tensor, dense: Tensor | None = None) -> Tensor:
        return self.from_rows(self.embedding(ids), dense)

    def from_rows(self, rows: Tensor, dense: Tensor | None = None) -> Tensor:
        """Logits [B] from embedding rows [B, F, d]."""
        weights, vectors = rows[..., 0], rows[..., 1:]
        pairs = pair_sums(vectors)  # [B, d - 1]
        inputs = pairs if dense is None else torch.cat([pairs, dense], dim=1)
        return weights.sum(1) + self.output(self.deep(inputs)).squeeze(1)
