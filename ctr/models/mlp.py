"""Fully connected layers, and the model made of nothing else (the paper's for Avazu)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ctr.models.embedding import FeatureEmbedding


def linear(inputs: int, outputs: int, generator: torch.Generator | None) -> nn.Linear:
    """A linear layer, Xavier uniform with bias 0."""
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def check_hidden(sizes: Sequence[int]) -> None:
    """Raises ValueError where ``hidden=`` names no layers, or layers without units."""
    if not sizes or min(sizes) < 1:
        raise ValueError(f"hidden={list(sizes)}; expected at least one layer, each of at least one unit")


def hidden_layers(inputs: int, sizes: Sequence[int], generator: torch.Generator | None) -> nn.Sequential:
    """Linear + ReLU for each size; [B, inputs] -> [B, sizes[-1]]."""
    check_hidden(sizes)
    layers: list[nn.Module] = []
    for size in sizes:
        layers += [linear(inputs, size, generator), nn.ReLU()]
        inputs = size
    return nn.Sequential(*layers)


def flat_inputs(rows: Tensor, dense: Tensor | None) -> Tensor:
    """Embedding rows [B, F, d] and dense columns [B, K] side by side: [B, F * d + K]."""
    flat = rows.flatten(1)
    return flat if dense is None else torch.cat([flat, dense], dim=1)


class MLP(nn.Module):
    """Embeddings -> FC 64, 32, 16 with ReLU -> FC 1 (Yue et al., section 4.1 a).

    Args:
        num_features: number of feature ids.
        num_fields: ids per row, F.
        num_dense: dense columns per row, K.
        embedding: the table; made with ``embedding_dim`` if not given.
        embedding_dim: length d of an embedding row.
        hidden: sizes of the hidden layers.
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
        embedding_dim: int = 16,
        hidden: Sequence[int] = (64, 32, 16),
        embedding: FeatureEmbedding | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.embedding = embedding or FeatureEmbedding(num_features, embedding_dim, generator=generator)
        width = num_fields * self.embedding.weight.shape[1] + num_dense
        self.deep = hidden_layers(width, hidden, generator)
        self.output = linear(hidden[-1], 1, generator)

    def forward(self, ids: Tensor, dense: Tensor | None = None) -> Tensor:
        return self.from_rows(self.embedding(ids), dense)

    def from_rows(self, rows: Tensor, dense: Tensor | None = None) -> Tensor:
        """Logits [B] from embedding rows [B, F, d]."""
        return self.output(self.deep(flat_inputs(rows, dense))).squeeze(1)
