"""Which rows of a batch the workers of a run need from each other: the batch in slices, and who asks whom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ctr.datasets.stream import Batch
from ctr.models.embedding import Bags
from ctr.training.distributed import Group


@dataclass(frozen=True)
class Cut:
    """A batch in slices, of which each worker has some that follow each other.

    Attributes:
        bounds: the first row of each slice, and the number of rows.
        shares: the first slice of each worker, and the number of slices.
        rank: this worker.
    """

    bounds: list[int]
    shares: list[int]
    rank: int

    @classmethod
    def of(cls, rows: int, slices: int, group: Group) -> Cut:
        ranks = range(group.size + 1)
        bounds = [rows * number // slices for number in range(slices + 1)]
        return cls(bounds, [slices * rank // group.size for rank in ranks], group.rank)

    @property
    def sizes(self) -> list[int]:
        """Rows of each slice."""
        return [stop - start for start, stop in pairwise(self.bounds)]

    @property
    def mine(self) -> list[tuple[int, int]]:
        """First and last row of each slice of this worker."""
        return [(self.bounds[s], self.bounds[s + 1]) for s in self.own]

    @property
    def own(self) -> range:
        """The slices of this worker."""
        return range(*self.shares[self.rank : self.rank + 2])

    @property
    def counts(self) -> list[int]:
        """Slices of each worker."""
        return [last - first for first, last in pairwise(self.shares)]

    @property
    def rows(self) -> list[int]:
        """Rows of each worker."""
        return [self.bounds[last] - self.bounds[first] for first, last in pairwise(self.shares)]


@dataclass(frozen=True)
class Asked:
    """The rows of a batch that the workers need from each other.

    Attributes:
        cut: of the batch.
        ids: int64, those whose rows this worker asks for, by the worker that they belong to.
        place: int64 [b, F], or bags of them: where each id of this worker's part of the batch is among the rows that it
            asks for.
        given: how many rows it asks of each worker; they come in the order of the workers.
        used: of each of its slices, which of the rows that it asks for are in it, int64, ascending.
        of_owner: of each of its slices, how many of those belong to each worker.
        rows: int64, the rows of this worker that are asked for, by worker.
        taken: how many of these each worker asks for.
        summed: of each worker and each of its slices, which of ``rows`` are in the slice.
    """

    cut: Cut
    ids: Tensor
    place: Tensor | Bags
    given: list[int]
    used: list[Tensor]
    of_owner: list[list[int]]
    rows: Tensor
    taken: list[int]
    summed: list[list[Tensor]]


class Asking:
    """Tells each worker which of its rows are needed, in two exchanges beside other work: how many, and which.

    Args:
        group: the workers, which all ask.
        batch: all of it.
        cut: its slices.
        device: of the rows.
        training: gradients will follow: the slices that rows are in are told too.
    """

    def __init__(self, group: Group, batch: Batch, cut: Cut, device: torch.device, *, training: bool) -> None:
        self.batch, self._group, self._cut, self._training = batch, group, cut, training
        size, first = group.size, sum(cut.rows[: group.rank])
        mine = batch.ids[first : first + cut.rows[group.rank]].to(device)
        wanted, place = torch.unique(values_of(mine), return_inverse=True)
        order = torch.cat([(wanted % size == rank).nonzero().squeeze(1) for rank in range(size)])
        where = torch.empty_like(order)
        where[order] = torch.arange(len(order), device=device)
        wanted = self._ids = wanted[order].long()
        places = Bags(where[place], mine.offsets, mine.num_fields) if isinstance(mine, Bags) else where[place]
        owner, self._rows = wanted % size, wanted // size
        counts, used = [torch.bincount(owner, minlength=size)], []
        for start, stop in cut.mine if training else ():
            within = torch.zeros(len(wanted), dtype=torch.bool, device=device)
            within.index_fill_(0, values_of(places[start - first : stop - first]).flatten(), value=True)
            used.append(within.nonzero().squeeze(1))
            counts.append(torch.bincount(owner[used[-1]], minlength=size))
        self._table = table = torch.stack(counts)  # [1 + slices, workers]
        self._places, self._owner, self._used = places, owner, used
        lengths = [1 + count if training else 1 for count in cut.counts]
        self._lengths, self._told = lengths, group.begin(table.t().flatten(), [len(counts)] * size, lengths)
        self._received: Callable[[], Tensor] | None = None
        self._asked: Asked | None = None

    def send(self) -> None:
        """Begins the second exchange, when the first one has ended."""
        table, size = self._table, self._group.size
        self._sizes = [count.tolist() for count in self._told().split(self._lengths)]
        starts = table[0].cumsum(0) - table[0]
        lists = [self._rows, *(its - starts[self._owner[its]] for its in self._used)]
        split = [values.int().split(count.tolist()) for values, count in zip(lists, table, strict=True)]
        message = torch.cat([values[rank] for rank in range(size) for values in split])
        self._received = self._group.begin(message, table.sum(0).tolist(), [sum(its) for its in self._sizes])

    def finish(self) -> Asked:
        """What came out, when all has ended."""
        if self._asked is None:
            if self._received is None:
                self.send()
            assert self._received is not None
            self._asked = self._found(self._received().long())
        return self._asked

    def _found(self, received: Tensor) -> Asked:
        rows, summed, before = [], [], 0
        for its, values in zip(self._sizes, received.split([sum(its) for its in self._sizes]), strict=True):
            here, *slices = values.split(its)
            rows.append(here)
            summed.append([places + before for places in slices])
            before += len(here)
        return Asked(
            cut=self._cut,
            ids=self._ids,
            place=self._places,
            given=self._table[0].tolist(),
            used=self._used,
            of_owner=self._table[1:].tolist(),
            rows=torch.cat(rows),
            taken=[its[0] for its in self._sizes],
            summed=summed,
        )


def values_of(ids: Tensor | Bags) -> Tensor:
    """The ids themselves."""
    return ids.values if isinstance(ids, Bags) else ids
