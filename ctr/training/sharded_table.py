"""A table of embedding rows that is spread over the workers of a run.

Feature i belongs to worker i mod R, of R workers, and is row i div R there. Ids follow the order of first appearance,
so that frequent and rare features are spread evenly over the workers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ctr.models.embedding import Bags, FeatureEmbedding
from ctr.optim.core import CHUNK
from ctr.training.distributed import Group


class ShardedEmbedding(FeatureEmbedding):
    """The rows of one worker, and what it needs to speak of all.

    They start with the values that they have in a table of one process: each worker draws them all, a piece at a time.
    `whole` and `kept` are exchanges: all workers call them together.

    Args:
        group: the workers.
        num_features: of all workers.
        others: as of :class:`FeatureEmbedding`.
    """

    def __init__(self, group: Group, num_features: int, embedding_dim: int, **others: Any) -> None:
        self.group = group
        super().__init__(num_features, embedding_dim, **others)

    def _initial(self, dim: int, scale: float, generator: torch.Generator | None) -> Tensor:
        own = torch.empty(self._counts()[self.group.rank], dim)
        filled = 0
        for start in range(0, self.num_features, CHUNK):
            rows = torch.empty(min(CHUNK, self.num_features - start), dim)
            rows.uniform_(-scale, scale, generator=generator)
            mine = rows[(self.group.rank - start) % self.group.size :: self.group.size]
            own[filled : filled + len(mine)] = mine
            filled += len(mine)
        return own

    def forward(self, ids: Tensor | Bags) -> Tensor:
        raise TypeError("a table that is spread over several workers is read by their step alone")

    def narrowed(self, ids: Tensor) -> ShardedEmbedding:
        """An exchange, as the rows of both tables are spread by their ids."""
        table = ShardedEmbedding(self.group, len(ids) + 1, self.weight.shape[1], **self._for_narrowed())
        rank, size = self.group.rank, self.group.size
        narrow = torch.arange(len(ids))
        of, to = ids % size, narrow % size
        given, taken = ([(a == rank) & (b == other) for other in range(size)] for a, b in ((of, to), (to, of)))
        rows = torch.cat([self.weight.data[ids[moved] // size] for moved in given])
        counts = [int(moved.sum()) for moved in taken]
        received = self.group.exchange(rows, [int(moved.sum()) for moved in given], counts)
        for moved, values in zip(taken, received.split(counts), strict=True):
            table.weight.data[narrow[moved] // size] = values.to(table.weight.device)
        return table

    @property
    def workers(self) -> int:
        return self.group.size

    @property
    def first(self) -> bool:
        return self.group.first

    def whole(self, values: Tensor) -> Tensor:
        parts = self.group.gather(values, self._counts())
        found = values.new_empty(self.num_features, *values.shape[1:])
        for rank, part in enumerate(parts):
            found[rank :: self.group.size] = part
        return found

    def own(self, values: Tensor) -> Tensor:
        return values[self.group.rank :: self.group.size]

    @property
    def place(self) -> tuple[int, int]:
        return self.group.rank, self.group.size

    def owned(self, ids: Tensor) -> tuple[Tensor | None, Tensor]:
        mine = ids % self.group.size == self.group.rank
        return mine, ids[mine] // self.group.size

    def kept(self, values: Tensor, alive: Tensor) -> Tensor:
        marked = self.whole(alive)
        ids = [marked[rank :: self.group.size].nonzero().squeeze(1) for rank in range(self.group.size)]
        parts = self.group.to_first(values, [len(its) for its in ids])
        found = values.new_empty(int(marked.sum()) if parts else 0, *values.shape[1:])
        if not parts:
            return found
        places = marked.cumsum(0).sub_(1)  # 8 bytes for each feature of all workers
        for rank, part in enumerate(parts):
            found[places[ids[rank] * self.group.size + rank]] = part
        return found

    def mean_of(self, rows: Tensor, values: Tensor) -> Tensor:
        """See :class:`~ctr.optim.group_adaembed.Spread`; taken in the order of ids, as in one process."""
        counts = torch.cat(self.group.gather(torch.tensor([len(rows)], device=rows.device), [1] * self.group.size))
        ids = torch.cat(self.group.gather(rows * self.group.size + self.group.rank, counts.tolist()))
        return torch.cat(self.group.gather(values, counts.tolist()))[ids.argsort()].mean()

    def summed(self, values: Tensor) -> Tensor:
        return torch.stack(self.group.gather(values, [len(values)] * self.group.size)).sum(dim=0)

    def _counts(self) -> list[int]:
        return [len(range(rank, self.num_features, self.group.size)) for rank in range(self.group.size)]
