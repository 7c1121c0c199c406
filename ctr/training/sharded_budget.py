"""A budget of features over the shards of a table: lambda21 from all workers' histograms, and a joint last choice."""

from __future__ import annotations

import torch

from ctr.optim import BudgetSchedule, GroupOptimizer
from ctr.optim.histogram import StrengthHistogram
from ctr.optim.ranking import strengths, top_rows
from ctr.training.distributed import Group
from ctr.training.sharded_table import ShardedEmbedding


class ShardedBudget(BudgetSchedule):
    """As :class:`~ctr.optim.BudgetSchedule`, with the features of all workers; `step` and `finish` are exchanges.

    Args:
        optimizer: of this worker's rows, which are its only parameter.
        budget: a number of features.
        total_steps, shape: as there.
        embedding: the rows.
    """

    def __init__(
        self, optimizer: GroupOptimizer, budget: int, total_steps: int, shape: str, embedding: ShardedEmbedding
    ) -> None:
        super().__init__(optimizer, budget, total_steps, shape)
        self._embedding = embedding
        self.histogram = optimizer.histogram = _OfAll(self.histogram, embedding.group)

    @torch.no_grad()
    def finish(self) -> int:
        (rows,) = self.params
        mine = strengths(self.optimizer, rows)
        assert mine is not None  # the step makes the state at once
        ranks = self._embedding.whole(mine)
        ranks.masked_fill_(ranks == 0, -1)
        keep = top_rows(ranks, int(self.budget))
        living = int(keep.sum())
        # Below the weakest by more than the step's rounding, as in `ctr.optim.ranking.keep_strongest_`.
        lambda21 = float(ranks[keep].min()) * (1 - 2**-20) if 0 < living < int((ranks > 0).sum()) else 0.0
        self.optimizer.keep_(rows, self._embedding.own(keep), lambda21)
        self._set(lambda21)
        return living


class _OfAll(StrengthHistogram):
    """A worker's histogram whose answers are those of all workers together."""

    def __init__(self, own: StrengthHistogram, group: Group) -> None:
        self.roots, self.buckets, self.counts, self._group = own.roots, own.buckets, own.counts, group

    def __len__(self) -> int:
        return len(self._sum())

    def lambda21(self, survivors: float) -> float:
        return self._sum().lambda21(survivors)

    def _sum(self) -> StrengthHistogram:
        total = StrengthHistogram({})
        parts = self._group.gather(self.counts, [len(self.counts)] * self._group.size)
        total.counts = torch.stack(parts).sum(0)
        return total
