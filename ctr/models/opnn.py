"""Outer Product-based Neural Network (Qu et al., ICDM 2016, arXiv:1611.00144): the paper's model for iPinYou."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctr.models.dropout import draw_bits, half_dropout, words
from ctr.models.embedding import FeatureEmbedding
from ctr.models.mlp import check_hidden, linear


class PairProducts(nn.Module):
    """p_ij = f_i^T W_ij f_j for every pair of fields i < j, with a matrix W_ij of its own.

    Args:
        num_fields: F.
        dim: length k of a field's vector.
        generator: source of the initial values.

    Shapes:
        rows [B, F, k] -> [B, F (F - 1) / 2], pairs in the order (0, 1), (0, 2), ..., (1, 2), ... ``weight``
        [k, pairs, k]: the matrices of the pairs (i, ...) lie side by side, one matrix product serves them all.
    """

    def __init__(self, num_fields: int, dim: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.num_fields = num_fields
        self.weight = nn.Parameter(torch.empty(dim, num_fields * (num_fields - 1) // 2, dim))
        bound = (6 / (2 * dim)) ** 0.5  # Xavier of each dim x dim matrix
        nn.init.uniform_(self.weight, -bound, bound, generator=generator)

    def forward(self, rows: Tensor) -> Tensor:
        dim = rows.shape[2]
        counts = [self.num_fields - 1 - i for i in range(self.num_fields - 1)]
        products = []
        for i, weight in enumerate(self.weight.split(counts, dim=1)):
            left = (rows[:, i] @ weight.flatten(1)).unflatten(1, (-1, dim))  # f_i^T W_ij for all j > i
            products.append((left * rows[:, i + 1 :]).sum(2))
        # One field has no pairs: [B, 0], with gradients (none) for all the same.
        return torch.cat(products, dim=1) if products else rows[:, 0] @ self.weight.flatten(1)


def superposition(rows: Tensor) -> Tensor:
    """(sum_i f_i) (sum_i f_i)^T: [B, F, k] -> [B, k * k]."""
    total = rows.sum(1)
    return (total.unsqueeze(2) * total.unsqueeze(1)).flatten(1)


class OPNN(nn.Module):
    """Embeddings and their products -> FC 512, 256, 128 with ReLU and dropout -> FC 1 (Qu et al., arXiv:1611.00144).

    Sizes: Yue et al., section 4.1 b.

    Args:
        num_features: number of feature ids.
        num_fields: ids per row, F.
        num_dense: dense columns per row, K.
        embedding: the table; made with ``embedding_dim`` if not given.
        embedding_dim: length k of an embedding row.
        hidden: sizes of the hidden layers.
        kernel: ``"mat"`` takes ``PairProducts`` (the authors' code), ``"sum"`` ``superposition`` (their text).
        dropout: rate after each activation, 0.5 or 0; see ``ctr.models.dropout``.
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
        embedding_dim: int = 10,
        hidden: Sequence[int] = (512, 256, 128),
        kernel: Literal["mat", "sum"] = "mat",
        dropout: float = 0.5,
        embedding: FeatureEmbedding | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if kernel not in ("mat", "sum"):
            raise ValueError(f"kernel={kernel!r}; expected 'mat' or 'sum'")
        if dropout not in (0, 0.5):
            raise ValueError(f"dropout={dropout}; expected 0.5 (one random bit per unit) or 0")
        check_hidden(hidden)
        self.embedding = embedding or FeatureEmbedding(num_features, embedding_dim, generator=generator)
        dim = self.embedding.weight.shape[1]
        self.pairs = PairProducts(num_fields, dim, generator) if kernel == "mat" else None
        products = num_fields * (num_fields - 1) // 2 if kernel == "mat" else dim * dim
        sizes = [num_fields * dim + products + num_dense, *hidden]
        self.dropout = dropout
        self.words = [words(size) for size in hidden]
        self.hidden = nn.ModuleList(linear(n, m, generator) for n, m in zip(sizes, hidden, strict=False))
        self.output = linear(hidden[-1], 1, generator)

    def forward(self, ids: Tensor, dense: Tensor | None = None) -> Tensor:
        return self.from_rows(self.embedding(ids), dense)

    def from_rows(self, rows: Tensor, dense: Tensor | None = None, bits: Tensor | None = None) -> Tensor:
        """Logits [B] from embedding rows [B, F, d]; the random ``bits`` are drawn here (:meth:`draw`) if not given."""
        products = superposition(rows) if self.pairs is None else self.pairs(rows)
        x = torch.cat([rows.flatten(1), products, *([] if dense is None else [dense])], dim=1)
        bits = self.draw(rows.shape[0]) if bits is None else bits
        drops = None if bits is None else bits.split(self.words, dim=1)
        for number, layer in enumerate(self.hidden):
            x = F.relu(layer(x))
            if drops is not None:
                x = half_dropout(x, drops[number])
        return self.output(x).squeeze(1)

    def draw(self, batch: int) -> Tensor | None:
        """The random bits of one training step, the layers' words side by side; None where nothing is dropped."""
        return draw_bits(batch, sum(self.words)) if self.training and self.dropout else None
