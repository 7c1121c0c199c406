"""Magnitude pruning with fine-tuning, the baseline of the paper (section 4.2): the best rows stay, others become 0.

Its three steps: train on the first part of the stream and keep the N best rows; fine-tune on the rest, where pruned
rows may come back and new ones appear; keep the N best again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from ctr.datasets.admission import row_counts
from ctr.datasets.prepared import Prepared
from ctr.datasets.split import first_rows
from ctr.datasets.stream import RowStream
from ctr.errors import CtrError
from ctr.metrics import alive_rows
from ctr.models import FeatureEmbedding
from ctr.optim import GroupOptimizer
from ctr.optim.core import CHUNK
from ctr.optim.ranking import top_rows
from ctr.training.history import History

Score = Literal["norm", "effect", "count"]


@dataclass(frozen=True)
class Pruning:
    """How one run is pruned.

    Attributes:
        feature_rate: R, the share of the features present in training that stays, over 0 and at most 1.
        finetune: K, the share of the training stream, at its end, that is trained on after the first pruning; in
            [0, 1). With 0 there is one pruning, after the whole stream.
        score: what rows are ranked by, see :func:`prune_`.
    """

    feature_rate: float
    finetune: float = 0.0
    score: Score = "norm"

    def count(self, present: int) -> int:
        """N, the number of rows that stay, of the features present in the training data of the whole run."""
        return round(self.feature_rate * present)

    def first_phase(self, num_batches: int) -> int:
        """Steps before the first pruning: (1 - K) of the pass, rounded to a whole batch."""
        return round((1 - self.finetune) * num_batches)


def sightings(data: Prepared, stream: RowStream, history: History | None) -> np.ndarray:
    """How often the run has trained on each feature so far, int64 [N]; rows of earlier logs count too.

    Args:
        data: what is trained on.
        stream: its training rows, at the row that comes next.
        history: of the features after the whole log, if there were earlier ones.
    """
    counts = row_counts(data, first_rows(stream.ranges, stream.position)[0])
    if history is not None and history.known:
        counts += history.counts - row_counts(data, data.split.train)
    return counts


@torch.no_grad()
def prune_(
    embedding: FeatureEmbedding,
    optimizer: GroupOptimizer,
    count: int,
    score: Score = "norm",
    counts: np.ndarray | None = None,
) -> int:
    """Sets all rows that training has touched to exactly zero, but for the ``count`` best.

    A row that is zero already is never among those that stay, so that fewer may stay. Of equal rows the one with the
    lower id stays. Rows that training has not touched keep their initial values: they are not in the model yet.

    A pruned row has u = 0 as well, so that its next touch is the plain optimizer's step from w = 0. The moments m and v
    stay as they are, as in any PyTorch program that sets ``weight.data`` to zero.

    Args:
        embedding: the table, [N, d].
        optimizer: that of the table, all lambdas 0.
        count: how many rows stay.
        score: ``"norm"`` ranks by ||w||; ``"effect"`` by ||D w||, D the row's present adaptive denominator
            (:meth:`~ctr.optim.GroupOptimizer.stored_rows`). Without lambdas that is ||z||, by which the grouped
            optimizer with ``norm="s"`` would rank. ``"count"`` ranks by ``counts``.
        counts: int64 [N], how often training has seen each row (`sightings`); for ``"count"``.

    Returns:
        How many rows stay.

    Raises:
        CtrError: a weight is NaN; nothing has been changed.
    """
    weight, u = embedding.weight.detach(), optimizer.ensure_state(embedding.weight)["u"]
    alive = alive_rows(weight, embedding.seen)
    # A chunk at a time: a table of tens of millions of rows must not be copied.
    ranked = (
        (D(None) * w for w, _, _, D in optimizer.stored_rows(embedding.weight))
        if score == "effect"
        else weight.split(CHUNK)
    )
    ranks = torch.cat([torch.linalg.vector_norm(rows, dim=1) for rows in ranked]).masked_fill_(~alive, -1)
    ranks = embedding.whole(ranks)
    if bool(ranks.isnan().any()):
        raise CtrError("an embedding row is NaN and cannot be ranked for pruning; lower the learning rate")
    if score == "count":
        assert counts is not None
        ranks = torch.from_numpy(counts).to(ranks.device).masked_fill(~embedding.whole(alive), -1)
    best = top_rows(ranks, count)
    keep = embedding.own(best)
    for table in (weight, u):
        for rows, drop in zip(table.split(CHUNK), (embedding.seen & ~keep).split(CHUNK), strict=True):
            rows.masked_fill_(drop.unsqueeze(1), 0)
    return int(best.sum())


@torch.no_grad()
def clear_row_(embedding: FeatureEmbedding, optimizer: GroupOptimizer, row: int) -> None:
    """Sets one row to exactly zero, as :func:`prune_` does."""
    embedding.weight[row] = 0
    optimizer.ensure_state(embedding.weight)["u"][row] = 0
